"""Checkpoints whose text encoders lie in files of their own, as Forge takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import lib_transfer
from lib_transfer.errors import UnsupportedError
from tests import tiny

CLIP_L, CLIP_G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
UNET = "model.diffusion_model."
LEAVES = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
NAMES = (
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
    "lora_te1_text_model_encoder_layers_3_mlp_fc1",
    "lora_te2_text_model_encoder_layers_5_self_attn_k_proj",
    "lora_te2_text_model_encoder_layers_5_mlp_fc2",
)


def split(weights: tiny.Weights, folder: Path, name: str) -> list[Path]:
    """The parts of an SDXL checkpoint as three files: a bare UNet, CLIP-L, and CLIP-G with Hugging Face's keys."""
    unet = {key.removeprefix(UNET): w for key, w in weights.items() if key.startswith(UNET)}
    clip_l = {key.removeprefix(CLIP_L): w for key, w in weights.items() if key.startswith(CLIP_L)}
    clip_g = hugging_face({key.removeprefix(CLIP_G): w for key, w in weights.items() if key.startswith(CLIP_G)})
    parts = {"unet": unet, "clip_l": clip_l, "clip_g": clip_g}
    return [tiny.save(folder / f"{name}-{part}.safetensors", tensors) for part, tensors in parts.items()]


def hugging_face(openclip: tiny.Weights) -> tiny.Weights:
    """OpenCLIP's layers as transformers' CLIPTextModelWithProjection keeps them."""
    made: tiny.Weights = {"text_projection.weight": openclip["text_projection"].T}
    for key, weight in openclip.items():
        words = key.split(".")
        if words[0] != "transformer":
            continue
        layer, rest = words[2], ".".join(words[3:])
        here = f"text_model.encoder.layers.{layer}."
        if rest.startswith("attn.in_proj_"):
            thirds = zip("qkv", weight.chunk(3), strict=True)
            made |= {f"{here}self_attn.{p}_proj.{rest.removeprefix('attn.in_proj_')}": part for p, part in thirds}
        else:
            leaf, _, kind = rest.rpartition(".")
            made[f"{here}{LEAVES.get(leaf, leaf.replace('attn.', 'self_attn.'))}.{kind}"] = weight
    return made


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, dict[str, list[Path]], dict[str, Path]]:
    source = tiny.weights("sdxl", width=8)
    bases = {"source": source, "target": tiny.fine_tuned(source)}
    keys = {key: w.shape for key, w in source.items()}
    shapes = [
        keys[f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"],
        keys[f"{CLIP_L}text_model.encoder.layers.3.mlp.fc1.weight"],
        keys[f"{CLIP_G}transformer.resblocks.5.attn.out_proj.weight"],
        keys[f"{CLIP_G}transformer.resblocks.5.mlp.c_proj.weight"],
    ]
    made: tiny.Weights = {}
    for number, (name, shape) in enumerate(zip(NAMES, shapes, strict=True)):
        made |= tiny.factors(name, shape, seed=number)
    lora = tiny.save(tmp_path / "style.safetensors", made)
    parts = {name: split(weights, tmp_path, name) for name, weights in bases.items()}
    whole = {name: tiny.save(tmp_path / f"{name}.safetensors", weights) for name, weights in bases.items()}
    (tmp_path / "out").mkdir()
    return lora, parts, whole


def deltas(lora: Path, source: object, target: object, folder: Path) -> dict[str, torch.Tensor]:
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=folder / "cache")
    request = lib_transfer.request(lora, source=source, target=target, runtime=runtime, threshold=0.0)  # type: ignore[arg-type]
    result = lib_transfer.transfer(request, lib_transfer.Destination(folder=folder / "out"), runtime=runtime)
    assert result.path is not None
    out = load_file(result.path)
    return {name: out[f"{name}.lora_up.weight"] @ out[f"{name}.lora_down.weight"] for name in NAMES}


def test_the_parts_give_what_the_whole_gives(world: tuple, tmp_path: Path) -> None:
    lora, parts, whole = world
    expected = deltas(lora, whole["source"], whole["target"], tmp_path)
    given = deltas(lora, parts["source"], [parts["target"][i] for i in (0, 2, 1)], tmp_path)
    for name in NAMES:
        assert (given[name] - expected[name]).norm() <= 1e-4 * expected[name].norm(), name


def test_the_request_names_them_in_no_order(world: tuple, tmp_path: Path) -> None:
    lora, parts, _ = world
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache")
    first, *rest = parts["target"]
    requests = [
        lib_transfer.request(lora, source=parts["source"], target=[first, *order], runtime=runtime).request
        for order in (rest, rest[::-1], rest[:1])
    ]
    assert requests[0] == requests[1] != requests[2]
    assert len(json.loads(requests[0].to_json())["target"]["encoders"]) == 2


def test_without_them_their_modules_have_no_counterpart(world: tuple, tmp_path: Path) -> None:
    lora, parts, whole = world
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache")
    request = lib_transfer.request(
        lora, source=whole["source"], target=parts["target"][0], runtime=runtime, threshold=0.0
    )
    told = {m.name: m.decision for m in lib_transfer.analyse(request, runtime=runtime).modules}
    assert told == {name: "transferred" if "unet" in name else "no counterpart" for name in NAMES}


def test_a_changed_encoder_is_not_served_from_the_cache(world: tuple, tmp_path: Path) -> None:
    lora, parts, _ = world
    before = deltas(lora, parts["source"], parts["target"], tmp_path)
    other = tiny.fine_tuned(load_file(parts["target"][1]), 0.5, seed=8)
    changed = [parts["target"][0], tiny.save(tmp_path / "other.safetensors", other), parts["target"][2]]
    after = deltas(lora, parts["source"], changed, tmp_path)
    assert torch.equal(before[NAMES[0]], after[NAMES[0]])
    assert not torch.allclose(before[NAMES[1]], after[NAMES[1]])


def test_what_is_no_encoder_of_the_architecture_is_named(world: tuple, tmp_path: Path) -> None:
    lora, parts, whole = world
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache")
    for wrong in (parts["target"][0], lora):
        request = lib_transfer.request(lora, source=whole["source"], target=[whole["target"], wrong], runtime=runtime)
        with pytest.raises(UnsupportedError, match=wrong.name):
            lib_transfer.analyse(request, runtime=runtime)


@pytest.mark.parametrize(("change", "count"), [(0.0, 3), (0.1, 3), (0.0, 13)])
def test_bundled_embeddings_go_along_with_the_same_encoders_only(change: float, count: int, tmp_path: Path) -> None:
    """And not where there are so many that Forge would not load the file."""
    source = tiny.weights("sd1", width=8)
    moved = tiny.fine_tuned(source, change)
    target = {key: moved[key] if change else w for key, w in source.items()}
    target |= {key: w for key, w in tiny.fine_tuned(source).items() if key.startswith(UNET)}
    paths = [tiny.save(tmp_path / f"{n}.safetensors", w) for n, w in (("source", source), ("target", target))]
    words = {f"bundle_emb.word{n}.string_to_param.*": torch.randn(2, 768) for n in range(count)}
    made = tiny.factors("lora_unet_conv_in", source[f"{UNET}input_blocks.0.0.weight"].shape)
    lora = tiny.save(tmp_path / "style.safetensors", made | words)
    (tmp_path / "out").mkdir()
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache")
    request = lib_transfer.request(lora, source=paths[0], target=paths[1], runtime=runtime, threshold=0.0)
    result = lib_transfer.transfer(request, lib_transfer.Destination(folder=tmp_path / "out"), runtime=runtime)
    assert result.path is not None and result.report is not None
    carried = {key: w for key, w in load_file(result.path).items() if key.startswith("bundle_emb.")}
    if change or count > 12:
        assert not carried
        assert {u.kind for u in result.report.unread} == {"embedding"} and len(result.report.unread) == count
    else:
        assert carried.keys() == words.keys() and all(torch.equal(carried[key], words[key]) for key in words)
        assert result.report.unread == ()
