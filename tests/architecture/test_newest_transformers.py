"""Flux.2, Qwen-Image, Wan, Ernie-Image, Krea 2 and AuraFlow against diffusers' models and conversions.

As in :mod:`tests.architecture.test_transformers`, the oracles are given tensors whose rows are numbered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lib_transfer.architecture import Architecture, modules, name_index, reference
from tests.architecture.known import known
from tests.architecture.test_transformers import (
    CORE,
    _adapter,
    _as_converted,
    _assert_equal,
    _fused,
    _numbered,
    _rows_of_modules,
)

FLUX2 = ("flux2-klein-4b", "flux2-klein-9b", "flux2-dev")
WAN = ("wan-1.3b", "wan-5b", "wan-14b", "wan-i2v-14b")
ALL = (*FLUX2, "qwen-image", *WAN, "ernie-image", "krea-2", "auraflow")
EACH = pytest.mark.parametrize("architecture", [known(name) for name in ALL], ids=ALL)

Sizes = Mapping[str, tuple[int, ...]]


def _depth(sizes: Sizes, before: str) -> int:
    return 1 + max(int(found[1]) for key in sizes if (found := re.match(rf"{before}\.(\d+)\.", key)))


def _flux2(diffusers: Any, sizes: Sizes) -> Any:
    (width, context), (head,) = sizes["context_embedder.weight"], sizes["transformer_blocks.0.attn.norm_q.weight"]
    return diffusers.Flux2Transformer2DModel(
        num_layers=_depth(sizes, "transformer_blocks"), num_single_layers=_depth(sizes, "single_transformer_blocks"),
        attention_head_dim=head, num_attention_heads=width // head, joint_attention_dim=context,
        axes_dims_rope=(32,) * 4 if head == 128 else (2,) * 4,
        guidance_embeds=any("guidance_embedder" in key for key in sizes),
    )  # fmt: skip


def _qwen(diffusers: Any, sizes: Sizes) -> Any:
    (width, context), (head,) = sizes["txt_in.weight"], sizes["transformer_blocks.0.attn.norm_q.weight"]
    return diffusers.QwenImageTransformer2DModel(
        attention_head_dim=head, num_attention_heads=width // head, joint_attention_dim=context,
        axes_dims_rope=(16, 56, 56) if head == 128 else (2, 2, 4),
    )  # fmt: skip


def _wan(diffusers: Any, sizes: Sizes) -> Any:
    (width, latent, *_), (inner, _) = sizes["patch_embedding.weight"], sizes["blocks.0.ffn.net.0.proj.weight"]
    head = 128 if width % 128 == 0 else 8
    picture = sizes.get("condition_embedder.image_embedder.norm1.weight")
    return diffusers.WanTransformer3DModel(
        num_layers=_depth(sizes, "blocks"), attention_head_dim=head, num_attention_heads=width // head,
        in_channels=latent, out_channels=sizes["proj_out.weight"][0] // 4, ffn_dim=inner,
        text_dim=sizes["condition_embedder.text_embedder.linear_1.weight"][1],
        image_dim=picture and picture[0], added_kv_proj_dim=width if picture else None,
    )  # fmt: skip


def _ernie(diffusers: Any, sizes: Sizes) -> Any:
    (width, text), (head,) = sizes["text_proj.weight"], sizes["layers.0.self_attention.norm_q.weight"]
    return diffusers.ErnieImageTransformer2DModel(
        hidden_size=width, num_attention_heads=width // head, num_layers=_depth(sizes, "layers"), text_in_dim=text,
        ffn_hidden_size=sizes["layers.0.mlp.up_proj.weight"][0],
        rope_axes_dim=(32, 48, 48) if head == 128 else (2, 2, 4),
    )  # fmt: skip


def _krea2(diffusers: Any, sizes: Sizes) -> Any:
    (width, _), (head,) = sizes["img_in.weight"], sizes["transformer_blocks.0.attn.norm_q.weight"]
    (text,), (inner, _) = sizes["txt_in.norm.weight"], sizes["text_fusion.refiner_blocks.0.ff.up.weight"]
    return diffusers.Krea2Transformer2DModel(
        attention_head_dim=head, num_attention_heads=width // head, num_key_value_heads=width // head // 4,
        intermediate_size=sizes["transformer_blocks.0.ff.up.weight"][0], text_hidden_dim=text,
        text_num_attention_heads=text // head, text_num_key_value_heads=text // head, text_intermediate_size=inner,
        axes_dims_rope=(32, 48, 48) if head == 128 else (2, 2, 4),
    )  # fmt: skip


def _auraflow(diffusers: Any, sizes: Sizes) -> Any:
    width, context = sizes["context_embedder.weight"]
    return diffusers.AuraFlowTransformer2DModel(
        attention_head_dim=8, num_attention_heads=width // 8, joint_attention_dim=context, caption_projection_dim=width
    )


BUILD: dict[str, Callable[[Any, Sizes], Any]] = {
    **dict.fromkeys(FLUX2, _flux2), "qwen-image": _qwen, **dict.fromkeys(WAN, _wan), "ernie-image": _ernie,
    "krea-2": _krea2, "auraflow": _auraflow,
}  # fmt: skip

# Parameters that no LoRA changes: diffusers' names end so.
NO_MODULES = ("pos_embed.pos_embed", "register_tokens")


@EACH
@pytest.mark.parametrize("width", [None, 8, 20])
def test_diffusers_builds_the_same_model(architecture: Architecture, width: int | None) -> None:
    diffusers = pytest.importorskip("diffusers")
    ours = {
        key.removeprefix("transformer."): shape
        for key, shape in reference(architecture, width=width, style="diffusers").items()
    }
    with torch.device("meta"):
        model = BUILD[architecture.id](diffusers, ours)
    theirs = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key not in NO_MODULES}
    if architecture.id == "krea-2":
        theirs = {key: shape for key, shape in theirs.items() if not key.endswith("scale_shift_table")}
    assert ours == theirs


@EACH
def test_kinds(architecture: Architecture) -> None:
    kinds = {1: "norm", 2: "linear", 3: "norm", 4: "convolution", 5: "convolution"}
    assert all(module.kind == kinds[len(m)] for module in _modules(architecture) for m in [module.shape])


@cache
def _modules(architecture: Architecture) -> tuple[Any, ...]:
    return modules(architecture, reference(architecture))


CONVERT = {
    **dict.fromkeys(FLUX2, "convert_flux2_transformer_checkpoint_to_diffusers"),
    **dict.fromkeys(WAN, "convert_wan_transformer_to_diffusers"),
    "ernie-image": "convert_ernie_image_transformer_checkpoint_to_diffusers",
    "krea-2": "convert_krea2_transformer_checkpoint_to_diffusers",
    "auraflow": "convert_auraflow_transformer_checkpoint_to_diffusers",
}


@pytest.mark.parametrize("name", ["flux2-klein-4b", "flux2-dev", "wan-1.3b", "wan-i2v-14b", *ALL[-3:]])
def test_modules_are_the_same_rows_in_both_layouts(name: str) -> None:
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    architecture = known(name)
    tensors = {key.removeprefix(CORE): tensor for key, tensor in _numbered(architecture).items()}
    more = {"positional_encoding": torch.zeros(1)} if name == "auraflow" else {}
    converted = getattr(single_file, CONVERT[name])({**tensors, **more})
    converted = {key: tensor for key, tensor in converted.items() if key not in NO_MODULES}
    single = _rows_of_modules(architecture, _numbered(architecture))
    _assert_equal(_rows_of_modules(architecture, {f"transformer.{k}": t for k, t in converted.items()}), single)
    paths = {CORE + slot.path for slot in architecture.core.slots()}
    assert {name for name in single if not name.endswith(" bias")} == paths


PEFT = ("lora_A.weight", "lora_B.weight")


def _given(architecture: Architecture, prefix: str, *starts: str, ends: tuple[str, str] = PEFT) -> dict[str, Tensor]:
    """An adapter for the linear layers at these paths, in the single file's words."""
    kohya = prefix.endswith("_")
    paths = _fused(architecture, *starts)
    return _adapter({prefix + (p.replace(".", "_") if kohya else p): rows for p, rows in paths.items()}, *ends)


KOHYA = ("lora_down.weight", "lora_up.weight")


@pytest.mark.parametrize("name", ["flux2-klein-4b", "flux2-dev"])
def test_names_of_flux_2_are_those_of_diffusers_conversion(name: str) -> None:
    """But for the last modulation, whose halves that conversion leaves as they are, unlike that of checkpoints."""
    flux = known(name)
    given = {key: tensor for key, tensor in _given(flux, "diffusion_model.", "").items() if "adaLN" not in key}
    convert = "_convert_non_diffusers_flux2_lora_to_diffusers"
    linear = sum(len(module.shape) == 2 for module in _modules(flux)) - 1
    assert _as_converted(flux, convert, given, ".lora_B.weight") == linear
    given = _given(flux, "lora_unet_", "double_blocks", "single_blocks", ends=KOHYA)
    outside = 3 + 2 * (2 if name == "flux2-dev" else 1) + 2
    found = _as_converted(flux, "_convert_kohya_flux2_lora_to_diffusers", given, ".lora_up.weight")
    assert found == linear + 1 - outside - 2


def test_shares_of_a_single_block_of_flux_2_have_one_name_in_diffusers_too() -> None:
    klein = known("flux2-klein-4b")
    index = name_index(_modules(klein))
    expected = [("q", ((0, 3072),)), ("k", ((3072, 6144),)), ("v", ((6144, 9216),)), ("mlp", ((9216, 27648),))]
    for name in (
        "lora_unet_single_blocks_7_linear1",
        "transformer.single_transformer_blocks.7.attn.to_qkv_mlp_proj",
        "lycoris_single_transformer_blocks_7_attn_to_qkv_mlp_proj",
    ):
        assert [(module.name.rpartition(".")[2], rows) for module, rows in index[name]] == expected
    assert [rows for _, rows in index["diffusion_model.single_blocks.7.linear1_qkv"]] == [r for _, r in expected[:3]]
    double = index["diffusion_model.sformer_blocks.2.ff.linear_in"]
    assert double == index["transformer.transformer_blocks.2.ff.linear_in"]


def test_the_last_modulation_of_flux_2_is_swapped_as_in_a_checkpoint() -> None:
    [[(module, rows)]] = [name_index(_modules(known("flux2-klein-4b")))["transformer.norm_out.linear"]]
    assert module.name == f"{CORE}final_layer.adaLN_modulation.1" and rows == ((3072, 6144), (0, 3072))


@pytest.mark.parametrize("prefix", ["diffusion_model.", "lora_unet_"])
def test_names_of_qwen_image_are_those_of_diffusers_conversion(prefix: str) -> None:
    qwen = known("qwen-image")
    ends = KOHYA if prefix.endswith("_") else PEFT
    given = _given(qwen, prefix, "transformer_blocks.", ends=ends)
    convert = "_convert_non_diffusers_qwen_lora_to_diffusers"
    assert _as_converted(qwen, convert, given, f".{ends[1]}") == 60 * 14


@pytest.mark.parametrize("name", WAN)
def test_names_of_wan_are_those_of_diffusers_conversions(name: str) -> None:
    """Those of ai-toolkit and diffusion-pipe, and musubi-tuner's."""
    wan = known(name)
    starts = ("blocks.", "time_projection", "head.head", "text_embedding", "time_embedding", "img_emb")
    given = _given(wan, "diffusion_model.", *starts)
    inside = wan.core.depth * (12 if name == "wan-i2v-14b" else 10)  # type: ignore[attr-defined]
    found = _as_converted(wan, "_convert_non_diffusers_wan_lora_to_diffusers", given, ".lora_B.weight")
    assert found == inside + (8 if name == "wan-i2v-14b" else 6)
    given = _given(wan, "lora_unet_", "blocks.", ends=KOHYA)
    alphas = {f"{key.removesuffix('.lora_up.weight')}.alpha": torch.tensor(2.0) for key in given if "_up" in key}
    found = _as_converted(wan, "_convert_musubi_wan_lora_to_diffusers", {**given, **alphas}, ".lora_up.weight")
    assert found == inside


@pytest.mark.parametrize("prefix", ["diffusion_model.", "base_model.model."])
def test_names_of_krea_2_are_those_of_diffusers_conversion(prefix: str) -> None:
    krea = known("krea-2")
    given = _given(krea, prefix, "")
    found = _as_converted(krea, "_convert_non_diffusers_krea2_lora_to_diffusers", given, ".lora_B.weight")
    assert found == 32 * 8 + 8


def test_joined_projections_of_krea_2_are_cut_where_keys_and_values_begin() -> None:
    """SimpleTuner's; keys and values are a quarter as wide as queries, and in the fusion of the text as wide."""
    index = name_index(_modules(known("krea-2")))
    found = [rows for _, rows in index["lycoris_transformer_blocks_3_attn_to_qkv"]]
    assert found == [((0, 6144),), ((6144, 7680),), ((7680, 9216),)]
    found = [rows for _, rows in index["transformer.text_fusion.refiner_blocks.0.attn.to_qkv"]]
    assert found == [((0, 2560),), ((2560, 5120),), ((5120, 7680),)]


@EACH
def test_names_of_both_kinds_are_the_keys_of_both_layouts(architecture: Architecture) -> None:
    """Every prefix that files have before a path, and what is behind it is the very module of the key."""
    own = {module.weight: module for module in _modules(architecture)}
    index = name_index(_modules(architecture))
    kohya, dotted = ("lora_unet_", "oft_unet_", "lycoris_", "lora_transformer_"), (
        "diffusion_model.", "net.", "", "transformer.", "base_model.model.", "model.diffusion_model."
    )  # fmt: skip
    for module in own.values():
        path = re.sub(r"\.(weight|scale)$", "", module.weight.removeprefix(CORE))
        for name in (*(p + path.replace(".", "_") for p in kohya), *(p + path for p in dotted)):
            assert any(module.weight == found.weight for found, _ in index[name]), name
    same = modules(architecture, reference(architecture, style="diffusers"))
    for module in same:
        path = module.weight.removeprefix("transformer.").removesuffix(".weight")
        dots = (p + path for p in ("transformer.", "", "base_model.model.", "diffusion_model."))
        for name in (*(p + path.replace(".", "_") for p in kohya[2:]), *dots):
            assert module.name in {found.name for found, _ in index[name]}, name
