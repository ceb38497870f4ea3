"""The key tables and the names, against sd-mecha's model configurations and diffusers' own conversion."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest

from lib_transfer.architecture import Architecture, Module, architectures, modules, name_index, recognise, reference
from tests.architecture.known import ALL, BOTH, known

SD1, SDXL = known("sd1"), known("sdxl")
UNET = "model.diffusion_model."


def _mecha_keys(identifier: str) -> dict[str, tuple[int, ...]]:
    pytest.importorskip("sd_mecha")
    from sd_mecha.extensions import model_configs

    return {key: tuple(tensor.shape) for key, tensor in model_configs.resolve(identifier).keys().items()}


def _index(architecture: Architecture) -> dict[str, Module]:
    """What each name stands for, where no name stands for several modules."""
    found = name_index(modules(architecture, reference(architecture)))
    return {name: bound[0].module for name, bound in found.items() if len(bound) == 1 and bound[0].rows is None}


@pytest.mark.parametrize(
    ("architecture", "identifier", "text_encoders"),
    [(SD1, "sd1-ldm", "cond_stage_model."), (SDXL, "sdxl-sgm", "conditioner.")],
    ids=["sd1", "sdxl"],
)
def test_reference_is_the_real_key_list(architecture: Architecture, identifier: str, text_encoders: str) -> None:
    untouched = ("position_ids", "logit_scale")
    expected = {
        key: shape
        for key, shape in _mecha_keys(identifier).items()
        if key.startswith((UNET, text_encoders)) and not key.endswith(untouched)
    }
    assert reference(architecture) == expected


@BOTH
def test_unet_names_are_those_of_diffusers_own_conversion(architecture: Architecture) -> None:
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = {"layers_per_block": 2} | ({"addition_embed_type": "text_time"} if architecture is SDXL else {})
    keys = [key for key in reference(architecture) if key.startswith(UNET)]
    converted: dict[str, str] = single_file.convert_ldm_unet_checkpoint({key: key for key in keys}, config)
    index = _index(architecture)
    named = {}
    for diffusers_key, key in converted.items():
        path, _, kind = diffusers_key.rpartition(".")
        module = index["lora_unet_" + path.replace(".", "_")]
        assert (module.weight if kind == "weight" else module.bias) == key
        named[key] = module
    assert sorted(named) == sorted(keys)


@BOTH
def test_unet_names_are_those_of_sd_mechas_conversion(architecture: Architecture) -> None:
    configs = "sd_mecha.extensions.builtin.model_configs"
    index = _index(architecture)
    if architecture is SD1:
        convert: Any = pytest.importorskip(f"{configs}.convert_sd1_kohya_to_original").convert_unet_key
    else:
        sdxl = pytest.importorskip(f"{configs}.convert_sdxl_diffusers_unet_to_original")
        convert = lambda key: sdxl.convert_unet_key(key, prefix="unet.")  # noqa: E731
    for key in reference(architecture):
        if key.startswith(UNET) and key.endswith(".weight"):
            converted = convert(key)
            (converted,) = (converted,) if isinstance(converted, str) else converted
            path = converted.removeprefix("unet.").removesuffix(".weight")
            assert index["lora_unet_" + path.replace(".", "_")].weight == key


def test_text_encoder_2_names_and_rows_are_those_of_sd_mechas_conversion() -> None:
    oracle = pytest.importorskip("sd_mecha.extensions.builtin.model_configs.convert_sdxl_diffusers_clip_g_to_original")
    index = _index(SDXL)
    checked = 0
    for key, shape in reference(SDXL).items():
        if not key.startswith("conditioner.embedders.1.") or key.endswith("text_projection"):
            continue
        paths, _ = oracle.convert_clip_g_key(key)
        for number, path in enumerate(paths):
            module = index["lora_" + path.rpartition(".")[0].replace(".", "_")]
            assert key in (module.weight, module.bias)
            rows = shape[0] // len(paths)
            assert module.rows == (((number * rows, (number + 1) * rows),) if len(paths) > 1 else None)
            assert module.shape[0] == (rows if key == module.weight else module.shape[0])
            checked += 1
    assert checked == 2 + 32 * (4 + 2 * 3 + 2 + 4) + 2


@BOTH
def test_names_of_a_text_encoder_in_hugging_face_layout_are_its_keys(architecture: Architecture) -> None:
    prefixes = {"sd1": ("lora_te_", "lora_te1_"), "sdxl": ("lora_te1_",)}[architecture.id]
    canonical = {"sd1": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}[
        architecture.id
    ]
    index = _index(architecture)
    keys = [key for key in reference(architecture) if key.startswith(canonical) and key.endswith(".weight")]
    assert len(keys) == 2 + 12 * 8 + 1
    for key in keys:
        path = key.removeprefix(canonical).removesuffix(".weight").replace(".", "_")
        for prefix in prefixes:
            assert index[prefix + path].weight == key
            assert index[prefix + path.removeprefix("text_model_")].weight == key


@ALL
def test_modules_stand_for_every_tensor_once(architecture: Architecture) -> None:
    tensors = reference(architecture)
    found = modules(architecture, tensors)
    covered: dict[str, list[tuple[int, int]]] = {}
    for module in found:
        for key in filter(None, (module.weight, module.bias)):
            covered.setdefault(key, []).extend(module.rows or ((0, tensors[key][0]),))
    assert set(covered) == set(tensors)
    for key, rows in covered.items():
        edges = sorted(rows)
        assert edges[0][0] == 0 and edges[-1][1] == tensors[key][0]
        assert all(before[1] == after[0] for before, after in pairwise(edges))


@ALL
@pytest.mark.parametrize("style", [None, "diffusers"])
def test_no_two_modules_share_rows_of_a_name(architecture: Architecture, style: str | None) -> None:
    found = modules(architecture, reference(architecture, style=style))
    assert len({module.name for module in found}) == len(found)
    for name, bound in name_index(found).items():
        rows = sorted(part for binding in bound for part in binding.rows or ((0, binding.module.shape[0]),))
        assert rows[0][0] == 0 and all(before[1] <= after[0] for before, after in pairwise(rows)), name
    for module in found:
        assert len({name.text for name in module.names}) == len(module.names)


@ALL
def test_both_layouts_are_the_same_modules(architecture: Architecture) -> None:
    """But for those that one of them does not keep (SD2's last layer and the text projection)."""
    one, other = (
        {module.name: module for module in modules(architecture, reference(architecture, style=style))}
        for style in (None, "diffusers")
    )
    for name in one.keys() & other.keys():
        same = ("kind", "shape", "fused", "position", "names", "output")
        assert [getattr(one[name], it) for it in same] == [getattr(other[name], it) for it in same]
    assert {name.rpartition(".")[2] for name in one.keys() ^ other.keys()} <= {"text_projection"}


@BOTH
def test_kind_follows_from_the_shape(architecture: Architecture) -> None:
    kinds = {1: {"norm"}, 2: {"linear", "embedding"}, 4: {"convolution"}}
    for module in modules(architecture, reference(architecture)):
        assert module.kind in kinds[len(module.shape)]
        assert (module.kind == "embedding") == ("embedding" in module.name.rsplit(".", 1)[1])


def test_canonical_names_are_the_checkpoints_own_module_paths() -> None:
    for architecture in architectures():
        tensors = reference(architecture)
        for module in modules(architecture, tensors):
            if module.rows is None and module.weight.endswith(".weight"):
                assert module.name + ".weight" == module.weight
            elif module.rows is None:
                parameters = ("positional_embedding", "_projection", ".modulation")
                bare = module.name == module.weight and module.name.endswith(parameters)
                assert bare or (module.kind == "norm" and module.name + ".scale" == module.weight)
            else:
                [(first, last)] = module.rows
                rows, width = tensors[module.weight]
                # Lumina 2 has a third as many keys and values as queries.
                offset = first if architecture.id != "lumina-2" else max(0, first - 1536)
                behind = first == 3 * width and last == rows
                part = "mlp" if behind else "qkv"[offset // module.shape[0]]
                assert module.name == re.sub(r"[._]weight$", "", module.weight) + f".{part}"


def test_fused_attention_is_four_modules_that_belong_together() -> None:
    groups: dict[str, list[str]] = {}
    for module in modules(SDXL, reference(SDXL)):
        if module.fused is not None:
            groups.setdefault(module.fused, []).append(module.name)
    base = "conditioner.embedders.1.model.transformer.resblocks.{}.attn"
    assert list(groups) == [base.format(layer) for layer in range(32)]
    for fused, names in groups.items():
        assert names == [f"{fused}.{part}" for part in ("in_proj.q", "in_proj.k", "in_proj.v", "out_proj")]
    assert all(module.fused is None for module in modules(SD1, reference(SD1)))


@BOTH
@pytest.mark.parametrize("width", [8, 11, 32, 64])
def test_tiny_models_have_the_real_keys_and_fitting_widths(architecture: Architecture, width: int) -> None:
    full, tiny = reference(architecture), reference(architecture, width=width)
    assert list(tiny) == list(full)
    assert [len(shape) for shape in tiny.values()] == [len(shape) for shape in full.values()]
    assert tiny[f"{UNET}input_blocks.0.0.weight"] == (width, 4, 3, 3)
    assert recognise(tiny) is architecture
    context = sum(shape[1] for key, shape in tiny.items() if key.endswith("token_embedding.weight"))
    widths = {shape[1] for key, shape in tiny.items() if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))}
    assert widths == {context}
    assert context % 8 == 0, "attention heads divide the width"
    assert sum(map(math.prod, tiny.values())) < sum(map(math.prod, full.values())) / 20
    by_size = modules(architecture, tiny)
    assert [module.name for module in by_size] == [module.name for module in modules(architecture, full)]
