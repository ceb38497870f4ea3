"""Every algorithm in every family of names on every base: read onto the right rows, or refused with its reason.

The names are stated here by hand, one or two modules of each family: the tables of docs/formats.md are these. The change of
the weight that each algorithm means is stated as a plain formula in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_transfer.architecture import architectures
from lib_transfer.conversion.carry import update_of
from lib_transfer.conversion.pairing import pairing
from lib_transfer.conversion.plan import plan
from lib_transfer.conversion.sketches import Sketches
from lib_transfer.conversion.weights import read_weight
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.library.base import Base, open_base
from lib_transfer.update import place
from tests import tiny
from tests.formats.builders import accounted

WIDTH = 16
Matrix = Tensor


@dataclass(frozen=True)
class Name:
    """A name, and what it means: rows (as fractions of the whole) of the weight under a key."""

    text: str
    key: str
    rows: tuple[float, float] = (0, 1)
    suffixes: str = "kohya"  # or peft, or old


# The two spellings of one place of a UNet, by base: diffusers', and the checkpoint's own.
PLACES = {
    "sd1": ("down_blocks.1.attentions.0", "input_blocks.4.1"),
    "sd2": ("down_blocks.1.attentions.0", "input_blocks.4.1"),
    "sdxl": ("down_blocks.1.attentions.0", "input_blocks.4.1"),
    "ssd-1b": ("down_blocks.1.attentions.0", "input_blocks.4.1"),
    "vega": ("down_blocks.1.attentions.0", "input_blocks.4.1"),
    "koala-700m": ("down_blocks.1.attentions.0", "input_blocks.3.1"),
    "koala-1b": ("down_blocks.1.attentions.0", "input_blocks.3.1"),
    "sdxl-refiner": ("down_blocks.1.attentions.0", "input_blocks.4.1"),
}
# Of the newer transformers: a place that is a share of a fused weight, in diffusers' words and its key, and one that is whole.
NEWER = {
    "cosmos-predict2-2b": (("transformer_blocks.1.attn1.to_k", "blocks.1.self_attn.k_proj", (0, 1)),),
    "anima": (
        ("transformer_blocks.1.attn1.to_k", "blocks.1.self_attn.k_proj", (0, 1)),
        ("transformer_blocks.1.ff.net.2", "blocks.1.mlp.layer2", (0, 1)),
    ),
    "z-image": (
        ("layers.1.attention.to_k", "layers.1.attention.qkv", (1 / 3, 2 / 3)),
        ("layers.1.feed_forward.w2", "layers.1.feed_forward.w2", (0, 1)),
    ),
    "lumina-2": (
        ("layers.1.attn.to_k", "layers.1.attention.qkv", (3 / 5, 4 / 5)),
        ("layers.1.feed_forward.linear_3", "layers.1.feed_forward.w3", (0, 1)),
    ),
}
NEWER |= dict.fromkeys(
    ("flux2-klein-4b", "flux2-klein-9b", "flux2-dev"),
    (
        ("transformer_blocks.1.attn.add_k_proj", "double_blocks.1.txt_attn.qkv", (1 / 3, 2 / 3)),
        ("single_transformer_blocks.1.attn.to_qkv_mlp_proj", "single_blocks.1.linear1", (0, 1)),
    ),
)
NEWER |= {
    "qwen-image": (("transformer_blocks.1.img_mlp.net.2", "transformer_blocks.1.img_mlp.net.2", (0, 1)),),
    **dict.fromkeys(("wan-1.3b", "wan-5b", "wan-14b"), (("blocks.1.attn2.to_k", "blocks.1.cross_attn.k", (0, 1)),)),
    "wan-i2v-14b": (("blocks.1.attn2.add_k_proj", "blocks.1.cross_attn.k_img", (0, 1)),),
    "ernie-image": (("layers.1.self_attention.to_k", "layers.1.self_attention.to_k", (0, 1)),),
    "krea-2": (("transformer_blocks.1.attn.to_k", "blocks.1.attn.wk", (0, 1)),),
    "auraflow": (
        ("joint_transformer_blocks.1.attn.to_k", "double_layers.1.attn.w2k", (0, 1)),
        ("single_transformer_blocks.1.attn.to_k", "single_layers.1.attn.w1k", (0, 1)),
    ),
}
SD3S, FLUXES = ("sd3-medium", "sd3.5-medium", "sd3.5-large"), ("flux-dev", "flux-schnell", "chroma")


def _unet(base: str) -> Iterator[tuple[str, Name]]:
    diffusers, ldm = (f"{place}.transformer_blocks.0.attn2.to_k" for place in PLACES[base])
    key = f"model.diffusion_model.{ldm}.weight"
    flat, native = diffusers.replace(".", "_"), ldm.replace(".", "_")
    processor = diffusers.replace(".to_k", ".processor.to_k_lora")
    yield "kohya, diffusers' path", Name(f"lora_unet_{flat}", key)
    yield "kohya, the checkpoint's path", Name(f"lora_unet_{native}", key)
    yield "kohya OFT", Name(f"oft_unet_{native}", key)
    yield "LyCORIS", Name(f"lycoris_{flat}", key)
    yield "diffusers", Name(f"unet.{diffusers}", key, suffixes="peft")
    yield "old diffusers", Name(f"unet.{processor}", key, suffixes="old")
    yield "old diffusers", Name(processor, key, suffixes="old")
    yield "PEFT", Name(f"base_model.model.{diffusers}", key, suffixes="peft")
    yield "ComfyUI", Name(f"diffusion_model.{ldm}", key, suffixes="peft")


def _sd3() -> Iterator[tuple[str, Name]]:
    key, third = "model.diffusion_model.joint_blocks.1.x_block.attn.qkv.weight", (1 / 3, 2 / 3)
    split = "transformer_blocks.1.attn.to_k"
    flat = split.replace(".", "_")
    yield "kohya", Name("lora_unet_joint_blocks_1_x_block_attn_qkv", key)
    yield "ComfyUI", Name("diffusion_model.joint_blocks.1.x_block.attn.qkv", key, suffixes="peft")
    yield "diffusers", Name(f"transformer.{split}", key, third, "peft")
    yield "PEFT", Name(f"base_model.model.{split}", key, third, "peft")
    yield "OneTrainer", Name(f"lora_transformer_{flat}", key, third)
    yield "LyCORIS", Name(f"lycoris_{flat}", key, third)


def _flux(base: str) -> Iterator[tuple[str, Name]]:
    double = "double_blocks.1.txt_attn.qkv"
    single = "single_blocks.1.linear1"
    for native in (double, single):
        key = f"{native}.weight"
        yield "kohya", Name("lora_unet_" + native.replace(".", "_"), key)
        yield "ComfyUI", Name(f"diffusion_model.{native}", key, suffixes="peft")
        yield "the checkpoint's own path", Name(native, key, suffixes="peft")
    split = {
        "transformer_blocks.1.attn.add_v_proj": (double, (2 / 3, 1)),
        "single_transformer_blocks.1.attn.to_q": (single, (0, 1 / 7)),
        "single_transformer_blocks.1.proj_mlp": (single, (3 / 7, 1)),
    }
    for path, (native, rows) in split.items():
        key, flat = f"{native}.weight", path.replace(".", "_")
        yield "diffusers", Name(f"transformer.{path}", key, rows, "peft")
        yield "PEFT", Name(f"base_model.model.{path}", key, rows, "peft")
        yield "OneTrainer", Name(f"lora_transformer_{flat}", key, rows)
        yield "LyCORIS", Name(f"lycoris_{flat}", key, rows)
    yield "XLabs", Name("double_blocks.1.processor.qkv_lora2", f"{double}.weight", suffixes="xlabs")
    yield "XLabs", Name("single_blocks.1.processor.qkv_lora", f"{single}.weight", (0, 3 / 7), "xlabs")


def _newer(base: str) -> Iterator[tuple[str, Name]]:
    for diffusers, native, rows in NEWER[base]:
        key, flat, joined = f"{native}.weight", diffusers.replace(".", "_"), native.replace(".", "_")
        yield "kohya", Name(f"lora_unet_{joined}", key)
        yield "LyCORIS", Name(f"lycoris_{joined}", key)
        yield "ComfyUI", Name(f"diffusion_model.{native}", key, suffixes="peft")
        yield "OneTrainer", Name(f"net.{native}", key, suffixes="peft")
        yield "diffusers", Name(f"transformer.{diffusers}", key, rows, "peft")
        yield "PEFT", Name(f"base_model.model.{diffusers}", key, rows, "peft")
        yield "musubi-tuner", Name(f"lora_unet_{flat}", key, rows)
        yield "OneTrainer", Name(f"lora_transformer_{flat}", key, rows)
    if base == "anima":
        yield "kohya", Name("lora_unet_llm_adapter_blocks_1_mlp_0", "llm_adapter.blocks.1.mlp.0.weight")
        yield "diffusers", Name("text_conditioner.blocks.1.mlp.0", "llm_adapter.blocks.1.mlp.0.weight", suffixes="peft")


def _text() -> Iterator[tuple[str, str, Name]]:
    """Base, family and name, for the text encoders."""
    leaf = "encoder.layers.1.self_attn.k_proj"
    flat = leaf.replace(".", "_")
    third = (1 / 3, 2 / 3)
    openclip = "{}transformer.resblocks.1.attn.in_proj_weight"
    hugging = "{}text_model." + leaf + ".weight"
    encoders = {
        "sd1": [("lora_te_", "text_encoder.", "clip_l", hugging.format("cond_stage_model.transformer."), (0, 1))],
        "sd2": [("lora_te_", "text_encoder.", "clip_h", openclip.format("cond_stage_model.model."), third)],
        "sdxl": [
            ("lora_te1_", "text_encoder.", "clip_l", hugging.format("conditioner.embedders.0.transformer."), (0, 1)),
            ("lora_te2_", "text_encoder_2.", "clip_g", openclip.format("conditioner.embedders.1.model."), third),
        ],
        "sdxl-refiner": [
            ("lora_te_", "text_encoder_2.", "clip_g", openclip.format("conditioner.embedders.0.model."), third)
        ],
        "sd3-medium": [
            ("lora_te1_", "text_encoder.", "clip_l", hugging.format("text_encoders.clip_l.transformer."), (0, 1)),
            ("lora_te2_", "text_encoder_2.", "clip_g", hugging.format("text_encoders.clip_g.transformer."), (0, 1)),
        ],
        "flux-dev": [
            ("lora_te1_", "text_encoder.", "clip_l", hugging.format("text_encoders.clip_l.transformer."), (0, 1))
        ],
    }
    for base, found in encoders.items():
        for kohya, folder, comfy, key, rows in found:
            yield base, "kohya", Name(f"{kohya}text_model_{flat}", key, rows)
            yield base, "kohya, transformers 5", Name(f"{kohya}{flat}", key, rows)
            yield base, "diffusers", Name(f"{folder}text_model.{leaf}", key, rows, "peft")
            yield base, "diffusers, transformers 5", Name(f"{folder}{leaf}", key, rows, "peft")
            yield base, "ComfyUI", Name(f"text_encoders.{comfy}.transformer.text_model.{leaf}", key, rows, "peft")
    t5, leaf = (
        "text_encoders.t5xxl.transformer.encoder.block.1.layer.0.SelfAttention.k",
        "encoder_block_1_layer_0_SelfAttention_k",
    )
    for base, prefixes in (
        ("sd3-medium", ("lora_te3_",)),
        ("flux-dev", ("lora_te2_", "lora_te3_")),
        ("chroma", ("lora_te3_",)),
    ):
        for prefix in prefixes:
            yield base, "kohya", Name(prefix + leaf, f"{t5}.weight")
    qwen, leaf = "text_encoders.qwen3_06b.transformer.model.", "layers.1.mlp.up_proj"
    yield "anima", "kohya", Name("lora_te_layers_1_mlp_up_proj", f"{qwen}{leaf}.weight")
    yield "anima", "ComfyUI", Name(qwen + leaf, f"{qwen}{leaf}.weight", suffixes="peft")


def names() -> Iterator[tuple[str, str, Name]]:
    """Base, family and name: the whole table."""
    for base in PLACES:
        yield from ((base, family, name) for family, name in _unet(base))
    for base in SD3S:
        yield from ((base, family, name) for family, name in _sd3())
    for base in FLUXES:
        yield from ((base, family, name) for family, name in _flux(base))
    for base in NEWER:
        yield from ((base, family, name) for family, name in _newer(base))
    yield from _text()


# --- the algorithms: tensors of a module and the change that they mean for a weight W (out, in), both in float64

Made = tuple[dict[str, Tensor], Matrix]
ALPHA, RANK = 1.5, 3


def _random(*shape: int, seed: int, size: float = 0.1) -> Tensor:
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _lora(w: Matrix) -> Made:
    up, down = _random(w.shape[0], RANK, seed=1), _random(RANK, w.shape[1], seed=2)
    given = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(ALPHA)}
    return given, ALPHA / RANK * up @ down


def _dora(w: Matrix) -> Made:
    given, change = _lora(w)
    magnitude = w.norm(dim=1, keepdim=True) * (1 + _random(w.shape[0], 1, seed=3))
    v = w + change
    return {**given, "dora_scale": magnitude}, v * magnitude / v.norm(dim=1, keepdim=True) - w


def _loha(w: Matrix) -> Made:
    parts = [_random(w.shape[0], RANK, seed=n) if n % 2 else _random(RANK, w.shape[1], seed=n) for n in (1, 2, 3, 4)]
    keys = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    given = {**dict(zip(keys, parts, strict=True)), "alpha": torch.tensor(ALPHA)}
    return given, ALPHA / RANK * (parts[0] @ parts[1]) * (parts[2] @ parts[3])


def _lokr(w: Matrix) -> Made:
    small, (out, into) = 4, w.shape
    w1 = _random(small, small, seed=1)
    a, b = _random(out // small, RANK, seed=2), _random(RANK, into // small, seed=3)
    given = {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(ALPHA)}
    return given, ALPHA / RANK * torch.kron(w1, a @ b)


def _ia3(w: Matrix) -> Made:
    vector = _random(w.shape[0], seed=1)
    return {"weight": vector, "on_input": torch.tensor(0)}, vector[:, None] * w


def _glora(w: Matrix) -> Made:
    out, into = w.shape
    a1, a2 = _random(into, RANK, seed=1), _random(RANK, into, seed=2)
    b1, b2 = _random(out, RANK, seed=3), _random(RANK, into, seed=4)
    given = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2, "alpha": torch.tensor(ALPHA)}
    return given, ALPHA / RANK * (w @ a1 @ a2 + b1 @ b2)


def _cayley(blocks: Tensor) -> Tensor:
    q = blocks - blocks.transpose(-1, -2)
    one = torch.eye(q.shape[-1], dtype=q.dtype)
    return (one + q) @ torch.linalg.inv(one - q)


def _oft(w: Matrix) -> Made:
    size = 4
    blocks = _random(w.shape[0] // size, size, size, seed=1)
    parts = zip(_cayley(blocks), w.split(size), strict=True)
    return {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, torch.cat([r.T @ rows for r, rows in parts]) - w


def _peft_oft(w: Matrix) -> Made:
    size = 4
    count = w.shape[1] // size
    entries = _random(count, size * (size - 1) // 2, seed=1, size=0.02)
    changed = []
    for vector, columns in zip(entries, w.split(size, dim=1), strict=True):
        upper = torch.zeros(size, size, dtype=w.dtype)
        upper[tuple(torch.triu_indices(size, size, 1))] = vector
        q = upper - upper.T
        r = torch.eye(size, dtype=w.dtype) + 2 * q + 2 * q @ q + 2 * q @ q @ q + q @ q @ q @ q
        changed.append(columns @ r.T)
    return {"oft_R.weight": entries}, torch.cat(changed, dim=1) - w


def _full(w: Matrix) -> Made:
    change = _random(*w.shape, seed=1)
    return {"diff": change}, change


ALGORITHMS: Mapping[str, Callable[[Matrix], Made]] = {
    "LoRA": _lora,
    "DoRA": _dora,
    "LoHa": _loha,
    "LoKr": _lokr,
    "(IA)3": _ia3,
    "GLoRA": _glora,
    "OFT": _oft,
    "PEFT OFT": _peft_oft,
    "full": _full,
}

RENAMED = {
    "peft": {
        "lora_up.weight": "lora_B.weight",
        "lora_down.weight": "lora_A.weight",
        "dora_scale": "lora_magnitude_vector",
    },
    "old": {"lora_up.weight": "up.weight", "lora_down.weight": "down.weight"},
    "xlabs": {"lora_up.weight": "up.weight", "lora_down.weight": "down.weight"},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Base, tiny.Weights]]]:
    folder = tmp_path_factory.mktemp("bases")
    opened: dict[str, tuple[Base, tiny.Weights]] = {}
    with ExitStack() as stack:

        def base(name: str) -> tuple[Base, tiny.Weights]:
            if name not in opened:
                weights = tiny.weights(name, width=WIDTH)
                path = tiny.save(folder / f"{name}.safetensors", weights)
                opened[name] = stack.enter_context(open_base(path, name)), weights
            return opened[name]

        yield base


def _key(name: Name, weights: tiny.Weights) -> str:
    """The key in this file: a transformer's stands bare in some."""
    return next(
        key
        for key in (name.key, f"model.diffusion_model.{name.key}", name.key.removeprefix("model.diffusion_model."))
        if key in weights
    )


def test_no_base_is_missing() -> None:
    assert {*PLACES, *SD3S, *FLUXES, *NEWER} == {architecture.id for architecture in architectures()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("base", [*PLACES, *SD3S, *FLUXES, *NEWER])
def test_read_onto_the_right_rows(
    base: str, algorithm: str, bases: Callable[[str], tuple[Base, tiny.Weights]], tmp_path: Path
) -> None:
    opened, weights = bases(base)
    find = pairing(opened, opened, Sketches(opened, opened, None, torch.device("cpu")))  # type: ignore[arg-type]
    table = [(family, name) for of, family, name in names() if of == base]
    assert table
    for family, name in table:
        if name.suffixes in ("old", "xlabs") and algorithm != "LoRA":
            continue  # These tools made nothing else.
        key = _key(name, weights)
        whole = weights[key].double().flatten(1)
        first, last = (round(edge * whole.shape[0]) for edge in name.rows)
        tensors, change = ALGORITHMS[algorithm](whole[first:last])
        renamed = RENAMED.get(name.suffixes, {})
        if name.suffixes in ("old", "xlabs"):
            tensors, change = {k: t for k, t in tensors.items() if k != "alpha"}, change * RANK / ALPHA
        file = {
            f"{name.text}.{renamed.get(suffix, suffix)}": t.float() if t.is_floating_point() else t
            for suffix, t in tensors.items()
        }
        adapter = read_adapter(tiny.save(tmp_path / "a.safetensors", file))
        assert accounted(adapter) and not adapter.unsupported, (family, name.text, adapter.unsupported)
        planned = plan(adapter, opened, opened, find, lambda: True)
        assert planned.pairs and not planned.unread, (family, name.text, planned.unread)
        got = torch.zeros(weights[key].shape[0], whole.shape[1], dtype=torch.float64)
        for pair in planned.pairs:
            source = pair.source
            assert source.weight == key, (family, name.text)
            update = update_of(pair.group, pair.bound, lambda m: read_weight(opened.checkpoint, m))
            part = update.rows(pair.bound[pair.share].rows).matrix()
            place(got, source.rows, part.double())
        expected = torch.zeros_like(got)
        expected[first:last] = change
        error = float((got - expected).norm() / expected.norm())
        assert error < 1e-5, (family, name.text, error)
        assert math.isfinite(error)
