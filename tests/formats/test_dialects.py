"""Every way of naming tensors is read alike, module by module; the names are written out here as the tools write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lib_transfer.errors import TransferError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.formats.description import describe

from .builders import accounted, lora, random, save

# The tool, what it writes after the module's name for up and down, and the module as it is read.
LORAS: dict[str, tuple[str, str, str]] = {
    "kohya": ("lora_unet_a_b", ".lora_up.weight", ".lora_down.weight"),
    "OneTrainer, legacy": (
        "lora_transformer_single_transformer_blocks_0_proj_mlp",
        ".lora_up.weight",
        ".lora_down.weight",
    ),
    "SimpleTuner": ("lycoris_transformer_blocks_0_attn_to_q", ".lora_up.weight", ".lora_down.weight"),
    "ComfyUI": ("diffusion_model.double_blocks.0.img_attn.qkv", ".lora_up.weight", ".lora_down.weight"),
    "kohya names, PEFT's factors": ("lora_unet_a_b", ".lora_B.weight", ".lora_A.weight"),
    "PEFT": ("base_model.model.down_blocks.0.attentions.0.proj_in", ".lora_B.weight", ".lora_A.weight"),
    "PEFT, whole state": ("base_model.model.a.to_q", ".lora_B.default.weight", ".lora_A.default.weight"),
    "PEFT, another name": ("unet.base_model.model.a.to_q", ".lora_B.default_0.weight", ".lora_A.default_0.weight"),
    "diffusers": ("unet.a.0.transformer_blocks.0.attn1.to_out.0", ".lora_B.weight", ".lora_A.weight"),
    "diffusers, transformer": ("transformer.single_transformer_blocks.3.proj_mlp", ".lora_B.weight", ".lora_A.weight"),
    "diffusers, encoder": (
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ".lora_B.weight",
        ".lora_A.weight",
    ),
    "transformers 5": ("text_encoder.encoder.layers.0.self_attn.q_proj", ".lora_B.weight", ".lora_A.weight"),
    "Mochi": ("transformer_blocks.0.attn1.to_q", ".lora_B", ".lora_A"),
    "diffusers 0.17": ("unet.mid_block.attentions.0.attn1.to_q", ".lora.up.weight", ".lora.down.weight"),
    "diffusers 0.16": ("unet.a.attn1.processor.to_q_lora", ".up.weight", ".down.weight"),
    "diffusers 0.16, out": ("a.attn1.processor.to_out_lora", ".up.weight", ".down.weight"),
    "diffusers, old encoder": ("text_encoder.a.self_attn.to_q_lora", ".up.weight", ".down.weight"),
    "diffusers, later encoder": (
        "text_encoder.a.q_proj",
        ".lora_linear_layer.up.weight",
        ".lora_linear_layer.down.weight",
    ),
    "XLabs, picture": ("double_blocks.0.processor.qkv_lora1", ".up.weight", ".down.weight"),
    "XLabs, text": ("diffusion_model.double_blocks.0.processor.proj_lora2", ".up.weight", ".down.weight"),
    "XLabs, single": ("single_blocks.0.processor.qkv_lora", ".up.weight", ".down.weight"),
}
# What else can stand behind a module's name, with a tensor of it; the algorithm that it makes.
OTHERS: dict[str, tuple[dict[str, Tensor], str]] = {
    "LoHa": ({f"hada_w{half}_{side}": random(3, 3, seed=1) for half in "12" for side in "ab"}, "loha"),
    "LoHa of PEFT": ({f"hada_w{half}_{side}.default": random(3, 3, seed=1) for half in "12" for side in "ab"}, "loha"),
    "LoKr": ({"lokr_w1": random(3, 1), "lokr_w2": random(1, 3), "alpha": torch.tensor(1e10)}, "lokr"),
    "LoKr of PEFT": ({"lokr_w1.x": random(3, 1), "lokr_w2_a.x": random(1, 2), "lokr_w2_b.x": random(2, 3)}, "lokr"),
    "(IA)^3": ({"weight": random(3), "on_input": torch.tensor(0)}, "ia3"),
    "GLoRA": (
        {"a1.weight": random(3, 2), "a2.weight": random(2, 3), "b1.weight": random(3, 2), "b2.weight": random(2, 3)},
        "glora",
    ),
    "full": ({"diff": random(3, 3), "diff_b": random(3)}, "full"),
    "norm": ({"w_norm": random(3), "b_norm": random(3)}, "norm"),
    "OFT": ({"oft_blocks": random(1, 3, 3), "rescale": random(3, 1)}, "oft"),
    "OFT of PEFT": ({"oft_R.default.weight": random(1, 3)}, "peft-oft"),
    "DoRA of PEFT": (
        {"lora_A.weight": random(2, 3), "lora_B.weight": random(3, 2), "lora_magnitude_vector": random(3)},
        "dora-lora",
    ),
    "DoRA of diffusers": (
        {"lora_A.weight": random(2, 3), "lora_B.weight": random(3, 2), "lora_magnitude_vector.weight": random(3)},
        "dora-lora",
    ),
    "DoRA, whole state": (
        {
            "lora_A.default.weight": random(2, 3),
            "lora_B.default.weight": random(3, 2),
            "lora_magnitude_vector.default.weight": random(3),
        },
        "dora-lora",
    ),
    "DoRA of LyCORIS": (
        {"lora_A.weight": random(2, 3), "lora_B.weight": random(3, 2), "dora_scale": random(3, 1), "alpha": random(1)},
        "dora-lora",
    ),
    "DoRA of ai-toolkit": (
        {"lora_up.weight": random(3, 2), "lora_down.weight": random(2, 3), "magnitude": random(3)},
        "dora-lora",
    ),
}


def read(tensors: dict[str, Tensor], tmp_path: Path) -> Adapter:
    adapter = read_adapter(save(tmp_path / "a.safetensors", tensors))
    assert accounted(adapter)
    return adapter


@pytest.mark.parametrize("alpha", [None, 0.5])
@pytest.mark.parametrize(("name", "up", "down"), LORAS.values(), ids=LORAS.keys())
def test_factors_of_every_tool(name: str, up: str, down: str, alpha: float | None, tmp_path: Path) -> None:
    tensors = {name + up: random(5, 2, seed=1), name + down: random(2, 3, seed=2)}
    if alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
    adapter = read(tensors, tmp_path)
    assert list(adapter.groups) == [name]
    assert not adapter.unsupported
    update = adapter.groups[name].update()
    assert update.factors is not None
    expected = random(5, 2, seed=1).double() @ random(2, 3, seed=2).double() * (1.0 if alpha is None else alpha / 2)
    assert float((update.factors.up.double() @ update.factors.down.double() - expected).norm() / expected.norm()) < 1e-6
    assert set(adapter.groups[name].keys.values()) == set(tensors)


@pytest.mark.parametrize(("tensors", "algorithm"), OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("name", ["lora_unet_x", "diffusion_model.a.0.b", "unet.a.to_q", "x"])
def test_every_algorithm_under_every_kind_of_name(
    name: str, tensors: dict[str, Tensor], algorithm: str, tmp_path: Path
) -> None:
    adapter = read({f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}, tmp_path)
    assert not adapter.unsupported, adapter.unsupported
    assert {key: group.algorithm.id for key, group in adapter.groups.items()} == {name: algorithm}


def test_dialects_in_one_file(tmp_path: Path) -> None:
    """diffusers' own conversion mixes three of them."""
    tensors: dict[str, Tensor] = {}
    names = set()
    for number, (name, up, down) in enumerate(LORAS.values()):
        names.add(f"{number}{name}")
        tensors |= {f"{number}{name}{up}": random(5, 2), f"{number}{name}{down}": random(2, 3)}
    adapter = read(tensors, tmp_path)
    assert set(adapter.groups) == names
    assert not adapter.unsupported
    assert describe(adapter).ranks == {2: len(LORAS)}


@pytest.mark.parametrize("suffix", ["alpha", "dora_scale"])
def test_what_belongs_to_the_module_of_a_processor_may_stand_without_lora(suffix: str, tmp_path: Path) -> None:
    name = "unet.a.attn1.processor.to_q"
    tensors = {f"{name}_lora.up.weight": random(5, 2), f"{name}_lora.down.weight": random(2, 3)}
    number = torch.tensor(1.0) if suffix == "alpha" else random(5, 1)
    adapter = read({**tensors, f"{name}.{suffix}": number}, tmp_path)
    assert not adapter.unsupported
    assert adapter.groups[f"{name}_lora"].keys[suffix] == f"{name}.{suffix}"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("lora_up.weight", "lora_B.weight"),
        ("lora_B.weight", "lora_B.default.weight"),
        ("lora_B.one.weight", "lora_B.two.weight"),
        ("lora_B.weight", "lora.up.weight"),
    ],
)
def test_the_same_tensor_twice_is_reported(first: str, second: str, tmp_path: Path) -> None:
    tensors = {f"a.b.{suffix}": random(5, 2) for suffix in (first, second)}
    adapter = read({**tensors, "a.b.lora_A.weight": random(2, 3), **lora("lora_unet_good")}, tmp_path)
    assert set(adapter.groups) == {"lora_unet_good"}
    (unread,) = adapter.unsupported
    assert (unread.name, unread.kind, len(unread.tensors)) == ("a.b", "broken", 3)
    assert all(f"a.b.{suffix}" in unread.reason for suffix in (first, second))


def test_two_magnitudes_of_one_kind_are_reported(tmp_path: Path) -> None:
    tensors = {"a.lora_A.weight": random(2, 3), "a.lora_B.weight": random(5, 2)}
    magnitudes = {"a.lora_magnitude_vector": random(5), "a.lora_magnitude_vector.weight": random(5)}
    (unread,) = read({**tensors, **magnitudes}, tmp_path).unsupported
    assert "under two names" in unread.reason


def test_a_tensor_of_an_unknown_name_belongs_to_the_module_it_begins_with(tmp_path: Path) -> None:
    tensors = {"a.b.lora_A.weight": random(2, 3), "a.b.lora_B.weight": random(5, 2)}
    strangers = {
        "a.b.some.thing": random(2),
        "a.c.other": random(2),
        "a.b.bias": random(2),
        "a.b_lora.weight": random(2),
    }
    adapter = read({**tensors, **strangers}, tmp_path)
    assert list(adapter.groups) == ["a.b"]
    told = {unread.tensors: (unread.name, unread.kind) for unread in adapter.unsupported}
    assert told == {
        ("a.b.some.thing",): ("a.b", "extra"),
        ("a.b.bias",): ("a.b", "extra"),
        ("a.c.other",): ("a.c", "unknown"),
        ("a.b_lora.weight",): ("a.b_lora", "unknown"),
    }


def test_bundled_embeddings_stand_apart(tmp_path: Path) -> None:
    bundled = {"clip_l": random(2, 4), "clip_g": random(2, 6)}
    tensors = {f"bundle_emb.cat.{key}": value for key, value in bundled.items()}
    alone = {"bundle_emb.dog.string_to_param.*": random(3, 4)}
    adapter = read({**tensors, **alone, **lora("lora_unet_good")}, tmp_path)
    assert not adapter.unsupported
    assert {name: set(tensors) for name, tensors in adapter.embeddings.items()} == {
        "cat": {"clip_l", "clip_g"},
        "dog": {"string_to_param.*"},
    }
    assert torch.equal(adapter.embeddings["cat"]["clip_g"], bundled["clip_g"])
    only = read(alone, tmp_path)
    assert not only.groups
    assert set(only.embeddings) == {"dog"}


MODULES = st.sampled_from(
    ["lora_unet_a", "unet.a.to_q", "a.processor.to_q", "a.processor.to_q_lora", "x", "bundle_emb.e"]
)
SUFFIXES = st.sampled_from(
    sorted({suffix for _, up, down in LORAS.values() for suffix in (up, down)})
    + [f".{suffix}" for tensors, _ in OTHERS.values() for suffix in tensors]
    + [".alpha", ".scale", ".bias", ".lora_B.bias", ".lora_mid.weight", ".dyn_up", ".set_weight", ".lora_E", ".x", ""]
)
KEYS = st.tuples(MODULES, SUFFIXES).map("".join)
SIZES = st.sampled_from([(2, 2), (2,), (1,), ()])


@settings(max_examples=200)
@given(tensors=st.dictionaries(KEYS, SIZES, min_size=1, max_size=14))
def test_every_tensor_of_any_mixture_is_read_or_reported(tensors: dict[str, tuple[int, ...]], tmp_path: Path) -> None:
    try:
        adapter = read({key: torch.ones(shape) for key, shape in tensors.items()}, tmp_path)
    except TransferError:
        return
    assert all(
        group.name not in {unread.name for unread in adapter.unsupported if unread.kind != "extra"}
        for group in adapter.groups.values()
    )
    for group in adapter.groups.values():
        if group.misfit((2, 2)) is None:
            group.update(torch.ones(2, 2))
