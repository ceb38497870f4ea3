"""LoRAs for Anima, Cosmos-Predict2, Z-Image and Lumina 2 in every family of names, transferred whole.

The names are written out here by hand, as the trainers and the tools make them, each with the tensor of the single file that
it changes and the rows there. What the programs load is a ``lora_unet_`` (``lora_te_``) name for the whole tensor of its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lib_transfer
from lib_transfer.architecture import identity, modules, reference
from lib_transfer.conversion.weights import read_weight
from lib_transfer.library.base import open_base
from tests import tiny
from tests.balance import need_balance
from tests.transfer import hosts
from tests.transfer.test_formulas import ENERGY, rotated
from tests.transfer.test_stores import gguf, scaled

CORE, QWEN = "model.diffusion_model.", "text_encoders.qwen3_06b.transformer.model."
WIDTH = 16
ALL = (0.0, 1.0)
THIRDS = ((0.0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1.0))
FIFTHS = ((0.0, 3 / 5), (3 / 5, 4 / 5), (4 / 5, 1.0))  # Lumina 2 has a third as many keys and values as queries


@dataclass(frozen=True)
class Place:
    """A place of block N in the original's words and in diffusers', and its rows of the original's weight."""

    native: str
    diffusers: str
    rows: tuple[float, float] = ALL


def _attention(name: str, rows: tuple[tuple[float, float], ...]) -> tuple[Place, ...]:
    return tuple(Place("attention.qkv", f"{name}.to_{w}", rows=r) for w, r in zip("qkv", rows, strict=True))


# Block N of each, and where diffusers keeps it.
BLOCKS = {"cosmos-predict2-2b": ("blocks", "transformer_blocks"), "anima": ("blocks", "transformer_blocks")}
BLOCKS |= {"z-image": ("layers", "layers"), "lumina-2": ("layers", "layers")}
COSMOS = (
    Place("self_attn.q_proj", "attn1.to_q"),
    Place("self_attn.k_proj", "attn1.to_k"),
    Place("self_attn.v_proj", "attn1.to_v"),
    Place("self_attn.output_proj", "attn1.to_out.0"),
    Place("cross_attn.q_proj", "attn2.to_q"),
    Place("cross_attn.k_proj", "attn2.to_k"),
    Place("cross_attn.v_proj", "attn2.to_v"),
    Place("cross_attn.output_proj", "attn2.to_out.0"),
    Place("mlp.layer1", "ff.net.0.proj"),
    Place("mlp.layer2", "ff.net.2"),
    Place("adaln_modulation_self_attn.1", "norm1.linear_1"),
    Place("adaln_modulation_cross_attn.2", "norm2.linear_2"),
    Place("adaln_modulation_mlp.1", "norm3.linear_1"),
)
PLACES: Mapping[str, tuple[Place, ...]] = {
    "cosmos-predict2-2b": COSMOS,
    "anima": COSMOS,
    "z-image": (
        *_attention("attention", THIRDS),
        Place("attention.out", "attention.to_out.0"),
        Place("feed_forward.w1", "feed_forward.w1"),
        Place("feed_forward.w2", "feed_forward.w2"),
        Place("feed_forward.w3", "feed_forward.w3"),
        Place("adaLN_modulation.0", "adaLN_modulation.0"),
    ),
    "lumina-2": (
        *_attention("attn", FIFTHS),
        Place("attention.out", "attn.to_out.0"),
        Place("feed_forward.w1", "feed_forward.linear_1"),
        Place("feed_forward.w2", "feed_forward.linear_2"),
        Place("feed_forward.w3", "feed_forward.linear_3"),
        Place("adaLN_modulation.1", "norm1.linear"),
    ),
}

# What stands before a path, what for its dots, and whose path it is. One row per family of names that people have files of.
FAMILIES = {
    "kohya": ("lora_unet_", "_", "native"),
    "kohya with a second underscore": ("lora_unet__", "_", "native"),
    "kohya behind net": ("lora_unet_net_", "_", "native"),
    "kohya of a whole checkpoint": ("lora_unet_model_diffusion_model_", "_", "native"),
    "LyCORIS": ("lycoris_", "_", "native"),
    "diffusion-pipe, ai-toolkit": ("diffusion_model.", ".", "native"),
    "whole checkpoint": ("model.diffusion_model.", ".", "native"),
    "OneTrainer, original": ("net.", ".", "native"),
    "DiffSynth-Studio": ("", ".", "native"),
    "transformer and the original's path": ("transformer.", ".", "native"),
    "lora_transformer and the original's path": ("lora_transformer_", "_", "native"),
    "diffusers": ("transformer.", ".", "diffusers"),
    "diffusers, bare": ("", ".", "diffusers"),
    "PEFT": ("base_model.model.", ".", "diffusers"),
    "ai-toolkit, diffusers' path": ("diffusion_model.", ".", "diffusers"),
    "musubi-tuner, OneTrainer": ("lora_unet_", "_", "diffusers"),
    "OneTrainer until 2026": ("lora_transformer_", "_", "diffusers"),
    "SimpleTuner, LyCORIS": ("lycoris_", "_", "diffusers"),
    "SimpleTuner, comfyui": ("diffusion_model.transformer.", ".", "diffusers"),
}

Change = tuple[str, tuple[float, float]]
"""The path of a tensor of the single file, and the part of its rows."""


def named(base: str, family: str, block: int) -> Iterator[tuple[str, Change]]:
    """The names of a block in a family, and what each changes."""
    prefix, separator, whose = FAMILIES[family]
    native, diffusers = BLOCKS[base]
    places = PLACES[base]
    if whose == "native":  # fused weights are one
        places = tuple({place.native: Place(place.native, place.diffusers) for place in places}.values())
    for place in places:
        path = f"{native}.{block}.{place.native}" if whose == "native" else f"{diffusers}.{block}.{place.diffusers}"
        yield prefix + path.replace(".", separator), (f"{native}.{block}.{place.native}", place.rows)


# Beside the blocks: names of the ways in and out, of Anima's adapter and of its language model.
OUTSIDE: Mapping[str, Mapping[str, Change]] = {
    "cosmos-predict2-2b": {
        "lora_unet_x_embedder_proj_1": ("x_embedder.proj.1", ALL),
        "transformer.time_embed.t_embedder.linear_2": ("t_embedder.1.linear_2", ALL),
        "transformer.norm_out.linear_2": ("final_layer.adaln_modulation.2", ALL),
        "proj_out": ("final_layer.linear", ALL),
    },
    "anima": {
        # kohya's conversion to ComfyUI's names puts dots where they do not belong.
        "diffusion_model.blocks.27.adaln_modulation.self_attn.2": ("blocks.27.adaln_modulation_self_attn.2", ALL),
        "diffusion_model.blocks.27.adaln_modulation.cross_attn.1": ("blocks.27.adaln_modulation_cross_attn.1", ALL),
        "diffusion_model.t.embedder.1.linear_1": ("t_embedder.1.linear_1", ALL),
        "lora_unet_llm_adapter_blocks_0_self_attn_q_proj": ("llm_adapter.blocks.0.self_attn.q_proj", ALL),
        "diffusion_model.llm_adapter.blocks.1.cross_attn.o_proj": ("llm_adapter.blocks.1.cross_attn.o_proj", ALL),
        "net.llm_adapter.blocks.1.mlp.0": ("llm_adapter.blocks.1.mlp.0", ALL),
        "llm_adapter.blocks.1.mlp.2": ("llm_adapter.blocks.1.mlp.2", ALL),
        "transformer.llm_adapter.blocks.2.mlp.2": ("llm_adapter.blocks.2.mlp.2", ALL),
        "text_conditioner.blocks.5.self_attn.v_proj": ("llm_adapter.blocks.5.self_attn.v_proj", ALL),
        "text_conditioner.out_proj": ("llm_adapter.out_proj", ALL),
        "lycoris_llm_adapter_blocks_3_mlp_0": ("llm_adapter.blocks.3.mlp.0", ALL),
        "lora_te_layers_0_self_attn_q_proj": (f"{QWEN}layers.0.self_attn.q_proj", ALL),
        "text_encoders.qwen3_06b.transformer.model.layers.1.mlp.gate_proj": (f"{QWEN}layers.1.mlp.gate_proj", ALL),
        "text_encoders.qwen3_06b.model.layers.2.self_attn.o_proj": (f"{QWEN}layers.2.self_attn.o_proj", ALL),
        "text_encoders.transformer.model.layers.3.mlp.down_proj": (f"{QWEN}layers.3.mlp.down_proj", ALL),
        "text_encoder.layers.4.self_attn.k_proj": (f"{QWEN}layers.4.self_attn.k_proj", ALL),
        "text_encoder.model.layers.5.self_attn.v_proj": (f"{QWEN}layers.5.self_attn.v_proj", ALL),
    },
    "z-image": {
        "diffusion_model.noise_refiner.0.attention.to_k": ("noise_refiner.0.attention.qkv", THIRDS[1]),
        "lora_unet_context_refiner_1_attention_qkv": ("context_refiner.1.attention.qkv", ALL),
        "transformer.all_x_embedder.2-1": ("x_embedder", ALL),
        "transformer.all_final_layer.2-1.adaLN_modulation.1": ("final_layer.adaLN_modulation.1", ALL),
        "diffusion_model.cap_embedder.1": ("cap_embedder.1", ALL),
        "t_embedder.mlp.0": ("t_embedder.mlp.0", ALL),
        "layers.29.attention.to.k": ("layers.29.attention.qkv", THIRDS[1]),
    },
    "lumina-2": {
        "transformer.noise_refiner.1.attn.to_v": ("noise_refiner.1.attention.qkv", FIFTHS[2]),
        "lora_unet_context_refiner_0_attention_qkv": ("context_refiner.0.attention.qkv", ALL),
        "transformer.time_caption_embed.caption_embedder.1": ("cap_embedder.1", ALL),
        "transformer.time_caption_embed.timestep_embedder.linear_2": ("t_embedder.mlp.2", ALL),
        "lora_unet_final_layer_adaLN_modulation_1": ("final_layer.adaLN_modulation.1", ALL),
        "transformer.norm_out.linear_2": ("final_layer.linear", ALL),
    },
}


def _key(path: str) -> str:
    return f"{path}.weight" if path.startswith(QWEN) else f"{CORE}{path}.weight"


def _written_as(path: str) -> str:
    """The one name that Forge Neo and ComfyUI load."""
    if path.startswith(QWEN):
        return "lora_te_" + path.removeprefix(QWEN).replace(".", "_")
    return "lora_unet_" + path.replace(".", "_")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[list[Path], list[tiny.Weights]]]:
    """A tiny checkpoint and its fine-tune: their files, and their numbers in float64."""
    folder = tmp_path_factory.mktemp("bases")
    made: dict[str, tuple[list[Path], list[tiny.Weights]]] = {}

    def base(name: str) -> tuple[list[Path], list[tiny.Weights]]:
        if name not in made:
            source = tiny.weights(name, width=WIDTH)
            both = [source, tiny.fine_tuned(source, 0.2)]
            paths = [tiny.save(folder / f"{name}-{n}.safetensors", w, torch.float16) for n, w in enumerate(both)]
            made[name] = paths, [{key: w.half().double() for key, w in weights.items()} for weights in both]
        return made[name]

    return base


def _adapter(changes: Mapping[str, Change], weights: tiny.Weights) -> tuple[tiny.Weights, dict[str, Tensor]]:
    """An adapter of these names, and the change of every tensor that it means."""
    made: tiny.Weights = {}
    meant: dict[str, Tensor] = {}
    for seed, (name, (path, rows)) in enumerate(changes.items()):
        whole = weights[_key(path)]
        first, last = (round(edge * whole.shape[0]) for edge in rows)
        kohya = name.startswith(("lora_", "lycoris_"))
        given = tiny.factors(name, (last - first, whole.shape[1]), 2, alpha=3.0 if kohya else None, seed=seed)
        up, down = given[f"{name}.lora_up.weight"], given[f"{name}.lora_down.weight"]
        meant.setdefault(path, torch.zeros_like(whole))[first:last] += (
            up.double() @ down.double() * (1.5 if kohya else 1)
        )
        # PEFT writes the adapter's own name into a whole state dict, which DiffSynth-Studio keeps.
        middle = ".default" if name[:1] in "bl" and "." in name else ""
        ends = ("lora_up.weight", "lora_down.weight") if kohya else (f"lora_B{middle}.weight", f"lora_A{middle}.weight")
        made |= {f"{name}.{ends[0]}": up, f"{name}.{ends[1]}": down}
        made |= {f"{name}.alpha": given[f"{name}.alpha"]} if kohya else {}
    return made, meant


def _all_families(base: str) -> dict[str, Change]:
    """Every family, each in a block of its own."""
    inside = {name: it for block, family in enumerate(FAMILIES) for name, it in named(base, family, block)}
    return {**inside, **OUTSIDE[base]}


@pytest.mark.parametrize("base", PLACES)
def test_reuse_on_the_same_base_writes_every_family_in_names_that_load(
    base: str,
    bases: Callable[[str], tuple[list[Path], list[tiny.Weights]]],
    runtime: lib_transfer.Runtime,
    tmp_path: Path,
) -> None:
    [path, _], [weights, _] = bases(base)
    made, meant = _adapter(_all_families(base), weights)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(file, target=path, runtime=runtime, method="reuse", rank="full", dtype="fp32")
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.report is not None and not result.report.unread and not result.report.accounts.losses
    need_balance(result.report)
    written = hosts.read(result.path)
    deltas = written.deltas()
    assert deltas.keys() == written.names.keys() == {_written_as(path) for path in meant}
    for path, delta in meant.items():
        assert (deltas[_written_as(path)] - delta).norm() <= 1e-5 * delta.norm(), path


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("base", ["anima", "z-image", "lumina-2"])
def test_an_adapter_of_one_family_is_known_for_what_it_is(base: str, family: str) -> None:
    """With sizes of the real model and without any; the metadata say nothing."""
    full = reference(tiny.architecture(base))
    shapes: dict[str, tuple[int, int]] = {}
    for block in range(4):
        for name, (path, (first, last)) in named(base, family, block):
            out, into = full[_key(path)]
            shapes[name] = (round((last - first) * out), into)
    found = identity(list(shapes), shapes, [])
    assert [it.id for it in found.architectures] == [base] and not found.doubt and not found.unsupported
    without = identity(list(shapes), {}, [])
    assert base in {it.id for it in without.architectures} and not without.unsupported


@pytest.mark.parametrize("base", PLACES)
def test_rotation_carries_the_parts_of_a_fused_weight_one_by_one(
    base: str,
    bases: Callable[[str], tuple[list[Path], list[tiny.Weights]]],
    runtime: lib_transfer.Runtime,
    tmp_path: Path,
) -> None:
    [source, target], [of_source, of_target] = bases(base)
    changes = dict(named(base, "diffusers", 1))
    made, meant = _adapter(changes, of_source)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(
        file, source=source, target=target, runtime=runtime, method="rotation", rank="full", dtype="fp32",
        energy=ENERGY, threshold=0.0,
    )  # fmt: skip
    result = lib_transfer.transfer(request, runtime=runtime)
    deltas = hosts.read(result.path).deltas()
    assert deltas.keys() == {_written_as(path) for path in meant}
    for path, rows in changes.values():
        delta, whole = deltas[_written_as(path)], meant[path]
        first, last = (round(edge * whole.shape[0]) for edge in rows)
        given = whole[first:last]
        expected = rotated(given, of_source[_key(path)][first:last], of_target[_key(path)][first:last])
        assert (delta[first:last] - expected).norm() <= 1e-4 * given.norm(), path
        assert (delta[first:last] - given).norm() > 1e-2 * given.norm(), "it moved"


def test_gemma_is_read_and_not_written(
    bases: Callable[[str], tuple[list[Path], list[tiny.Weights]]], runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """Forge Neo and ComfyUI have no name in common, and kohya's would be too many that Forge Neo does not know."""
    [path, _], [weights, _] = bases("lumina-2")
    made, _ = _adapter(dict(named("lumina-2", "kohya", 0)), weights)
    shape = weights["text_encoders.gemma2_2b.transformer.model.layers.3.mlp.up_proj.weight"].shape
    made |= tiny.factors("lora_te_layers_3_mlp_up_proj", shape)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(file, target=path, runtime=runtime, method="reuse")
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.report is not None
    need_balance(result.report)
    assert not [name for name in hosts.read(result.path).names if not name.startswith("lora_unet_layers_0_")]
    [reason] = {module.reason for module in result.report.modules if not module.written}
    assert reason == "no name of it is loaded by both Forge Neo and ComfyUI"


def _bare(path: Path, tensors: tiny.Weights) -> tiny.Weights:
    """What ComfyUI calls a diffusion model, behind the prefix of the original's own files, in scaled float8."""
    return scaled(path, {f"net.{key.removeprefix(CORE)}": w for key, w in tensors.items() if key.startswith(CORE)})


def _mixed(path: Path, tensors: tiny.Weights) -> tiny.Weights:
    """ComfyUI's newer form: the format beside each layer that has it, other layers as they were."""
    stored: tiny.Weights = {}
    meant: tiny.Weights = {}
    for key, tensor in tensors.items():
        stored[key] = meant[key] = tensor
        if tensor.ndim > 1 and (".attention." in key or "attn." in key or ".mlp." in key):
            scale = tensor.abs().max() / 448
            stored[key] = (tensor / scale).to(torch.float8_e4m3fn)
            start = key.removesuffix("weight")
            stored[f"{start}weight_scale"] = scale
            stored[f"{start}comfy_quant"] = torch.frombuffer(
                bytearray(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8
            )
            meant[key] = stored[key].float() * scale
    tiny.save(path, stored)
    return meant


def _gguf(path: Path, tensors: tiny.Weights) -> tiny.Weights:
    return gguf(path, {key.removeprefix(CORE): w for key, w in tensors.items() if key.startswith(CORE)})


@pytest.mark.parametrize("form", [_bare, _mixed, _gguf])
@pytest.mark.parametrize("base", ["anima", "z-image", "lumina-2"])
def test_quantised_checkpoints_are_the_same_modules(
    base: str, form: Callable[[Path, tiny.Weights], tiny.Weights], tmp_path: Path
) -> None:
    tensors = {key: w for key, w in tiny.weights(base, width=WIDTH).items() if not key.endswith(".bias")}
    path = tmp_path / f"base.{'gguf' if form is _gguf else 'safetensors'}"
    meant = form(path, tensors)
    expected = {m.name: m for m in modules(tiny.architecture(base), {k: tuple(w.shape) for k, w in tensors.items()})}
    with open_base(path, "0") as opened:
        assert opened.architecture.id == base
        read = {module.name: read_weight(opened.checkpoint, module) for module in opened.modules}
        keys = {module.name: module.weight for module in opened.modules}
    assert {name for name in expected if name.startswith(CORE)} == {name for name in read if name.startswith(CORE)}
    for name, weight in read.items():
        [(first, last)] = expected[name].rows or ((0, weight.shape[0]),)
        torch.testing.assert_close(weight, meant[keys[name]][first:last].float(), rtol=1e-6, atol=1e-7)


def test_a_folder_of_diffusers(tmp_path: Path, runtime: lib_transfer.Runtime) -> None:
    """Transformer, adapter and text encoder of Anima in folders of their own."""
    shapes = reference(tiny.architecture("anima"), width=WIDTH, style="diffusers")
    generator = torch.Generator().manual_seed(1)
    folder = tmp_path / "anima"
    for part, stem in (("transformer", "diffusion_pytorch_model"), ("text_conditioner", "diffusion_pytorch_model"),
                       ("text_encoder", "model")):  # fmt: skip
        (folder / part).mkdir(parents=True)
        tensors = {
            key.removeprefix(f"{part}."): torch.randn(shape, generator=generator)
            for key, shape in shapes.items()
            if key.startswith(f"{part}.")
        }
        assert len(tensors) == {"transformer": 567, "text_conditioner": 118, "text_encoder": 310}[part]
        tiny.save(folder / part / f"{stem}.safetensors", tensors)
    assert lib_transfer.inspect(folder)["architecture"] == "Anima"
    names = {
        "transformer.transformer_blocks.3.attn1.to_q": (16, 16),
        "text_conditioner.blocks.2.cross_attn.k_proj": (8, 8),
        "text_encoder.layers.3.mlp.up_proj": (24, 8),
    }
    made: tiny.Weights = {}
    for name, shape in names.items():
        made |= tiny.factors(name, shape)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(file, source=folder, target=folder, runtime=runtime, rank="full", threshold=0.0)
    result = lib_transfer.transfer(request, runtime=runtime)
    assert hosts.read(result.path).deltas().keys() == {
        "lora_unet_blocks_3_self_attn_q_proj", "lora_unet_llm_adapter_blocks_2_cross_attn_k_proj",
        "lora_te_layers_3_mlp_up_proj",
    }  # fmt: skip


def test_a_batch_takes_the_loras_of_its_target(
    bases: Callable[[str], tuple[list[Path], list[tiny.Weights]]], runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """Each in the names of another tool; those for other models are left out, with their names."""
    families = {"anima": "diffusers", "z-image": "musubi-tuner, OneTrainer", "lumina-2": "kohya"}
    for base, family in families.items():
        made, _ = _adapter(dict(named(base, family, 3)), bases(base)[1][0])
        tiny.save(tmp_path / f"{base}.safetensors", made)
    [source, target], _ = bases("z-image")
    report = lib_transfer.batch(
        [tmp_path], source=source, target=target, runtime=runtime, output=tmp_path / "out", threshold=0.0
    )
    assert report.counts == {"written": 1, "left out": 2}
    assert [path.stem.partition("_")[0] for path in (tmp_path / "out").iterdir()] == ["z-image"]
