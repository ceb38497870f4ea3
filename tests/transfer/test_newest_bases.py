"""LoRAs for Flux.2, Qwen-Image, Wan, Ernie-Image, Krea 2 and AuraFlow in every family of names, transferred whole.

As in :mod:`tests.transfer.test_newer_bases`: the names are written out by hand, each with the tensor of the single file that it
changes and the rows there. What the programs load is a ``lora_unet_`` name for the whole tensor of its path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

import lib_transfer
from lib_transfer.architecture import identity, modules, reference
from lib_transfer.conversion.weights import read_weight
from lib_transfer.library.base import open_base
from tests import tiny
from tests.balance import need_balance
from tests.transfer import hosts
from tests.transfer.test_formulas import ENERGY, rotated
from tests.transfer.test_newer_bases import (
    ALL,
    CORE,
    FAMILIES,
    THIRDS,
    Change,
    _adapter,
    _bare,
    _gguf,
    _key,
    _mixed,
    _written_as,
)

WIDTH = 16


class Place(NamedTuple):
    """A place of block N in the original's words and in diffusers', and its rows of the original's weight."""

    native: str
    diffusers: str
    rows: tuple[float, float] = ALL


class Stretch(NamedTuple):
    """Blocks of one kind: how many, where both keep block N, and its places."""

    depth: int
    native: str
    diffusers: str
    places: tuple[Place, ...]


def _qkv(native: str, *names: str) -> tuple[Place, ...]:
    return tuple(Place(native, name, rows) for name, rows in zip(names, THIRDS, strict=True))


def _same(*paths: str) -> tuple[Place, ...]:
    return tuple(Place(path, path) for path in paths)


FLUX2_DOUBLE = (
    *_qkv("img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
    *_qkv("txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    Place("img_attn.proj", "attn.to_out.0"),
    Place("txt_attn.proj", "attn.to_add_out"),
    Place("img_mlp.0", "ff.linear_in"),
    Place("img_mlp.2", "ff.linear_out"),
    Place("txt_mlp.0", "ff_context.linear_in"),
    Place("txt_mlp.2", "ff_context.linear_out"),
)
FLUX2_SINGLE = (Place("linear1", "attn.to_qkv_mlp_proj"), Place("linear2", "attn.to_out"))
ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
ADDED = {"q": "add_q_proj", "k": "add_k_proj", "v": "add_v_proj", "o": "to_add_out"}
WAN = (
    *(Place(f"self_attn.{word}", f"attn1.{theirs}") for word, theirs in ATTENTION.items()),
    *(Place(f"cross_attn.{word}", f"attn2.{theirs}") for word, theirs in ATTENTION.items()),
    Place("ffn.0", "ffn.net.0.proj"),
    Place("ffn.2", "ffn.net.2"),
)
AURA_FORWARD = {"c_fc1": "linear_1", "c_fc2": "linear_2", "c_proj": "out_projection"}


def _flux2(double: int, single: int) -> tuple[Stretch, ...]:
    return (
        Stretch(double, "double_blocks", "transformer_blocks", FLUX2_DOUBLE),
        Stretch(single, "single_blocks", "single_transformer_blocks", FLUX2_SINGLE),
    )


BASES: Mapping[str, tuple[Stretch, ...]] = {
    "flux2-klein-4b": _flux2(5, 20),
    "flux2-klein-9b": _flux2(8, 24),
    "flux2-dev": _flux2(8, 48),
    "qwen-image": (
        Stretch(
            60,
            "transformer_blocks",
            "transformer_blocks",
            _same(
                *(f"attn.{name}" for name in (*ATTENTION.values(), *ADDED.values())),
                *("img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
                *("img_mod.1", "txt_mod.1"),
            ),
        ),
    ),
    "wan-1.3b": (Stretch(30, "blocks", "blocks", WAN),),
    "wan-5b": (Stretch(30, "blocks", "blocks", WAN),),
    "wan-14b": (Stretch(40, "blocks", "blocks", WAN),),
    "wan-i2v-14b": (
        Stretch(
            40,
            "blocks",
            "blocks",
            (*WAN, Place("cross_attn.k_img", "attn2.add_k_proj"), Place("cross_attn.v_img", "attn2.add_v_proj")),
        ),
    ),
    "ernie-image": (
        Stretch(
            36,
            "layers",
            "layers",
            _same(
                *(f"self_attention.{name}" for name in ATTENTION.values()),
                *("mlp.gate_proj", "mlp.up_proj", "mlp.linear_fc2"),
            ),
        ),
    ),
    "krea-2": (
        Stretch(
            28,
            "blocks",
            "transformer_blocks",
            (
                *(Place(f"attn.w{word}", f"attn.{theirs}") for word, theirs in ATTENTION.items()),
                Place("attn.gate", "attn.to_gate"),
                *(Place(f"mlp.{word}", f"ff.{word}") for word in ("gate", "up", "down")),
            ),
        ),
    ),
    "auraflow": (
        Stretch(
            4,
            "double_layers",
            "joint_transformer_blocks",
            (
                # The image's weights are the second ones.
                *(Place(f"attn.w2{word}", f"attn.{theirs}") for word, theirs in ATTENTION.items()),
                *(Place(f"attn.w1{word}", f"attn.{theirs}") for word, theirs in ADDED.items()),
                *(Place(f"mlpX.{word}", f"ff.{theirs}") for word, theirs in AURA_FORWARD.items()),
                *(Place(f"mlpC.{word}", f"ff_context.{theirs}") for word, theirs in AURA_FORWARD.items()),
                Place("modX.1", "norm1.linear"),
                Place("modC.1", "norm1_context.linear"),
            ),
        ),
        Stretch(
            32,
            "single_layers",
            "single_transformer_blocks",
            (
                *(Place(f"attn.w1{word}", f"attn.{theirs}") for word, theirs in ATTENTION.items()),
                *(Place(f"mlp.{word}", f"ff.{theirs}") for word, theirs in AURA_FORWARD.items()),
                Place("modCX.1", "norm1.linear"),
            ),
        ),
    ),
}

# Beside the blocks, and names of single trainers.
FLUX2_OUTSIDE: Mapping[str, Change] = {
    "transformer.double_stream_modulation_img.linear": ("double_stream_modulation_img.lin", ALL),
    "diffusion_model.single_stream_modulation.lin": ("single_stream_modulation.lin", ALL),
    "transformer.time_guidance_embed.timestep_embedder.linear_1": ("time_in.in_layer", ALL),
    "lora_unet_img_in": ("img_in", ALL),
    "transformer.context_embedder": ("txt_in", ALL),
    "diffusion_model.final_layer.linear": ("final_layer.linear", ALL),
}
WAN_OUTSIDE: Mapping[str, Change] = {
    "diffusion_model.text_embedding.2": ("text_embedding.2", ALL),
    "transformer.condition_embedder.time_embedder.linear_1": ("time_embedding.0", ALL),
    "transformer.condition_embedder.time_proj": ("time_projection.1", ALL),
    "lora_unet_head_head": ("head.head", ALL),
}
OUTSIDE: Mapping[str, Mapping[str, Change]] = {
    "flux2-klein-4b": FLUX2_OUTSIDE,
    "flux2-klein-9b": FLUX2_OUTSIDE,
    "flux2-dev": {
        **FLUX2_OUTSIDE,
        "transformer.time_guidance_embed.guidance_embedder.linear_2": ("guidance_in.out_layer", ALL),
    },
    "qwen-image": {
        "transformer.time_text_embed.timestep_embedder.linear_2": ("time_text_embed.timestep_embedder.linear_2", ALL),
        "lora_unet_txt_in": ("txt_in", ALL),
        "proj_out": ("proj_out", ALL),
    },
    "wan-1.3b": WAN_OUTSIDE,
    "wan-5b": WAN_OUTSIDE,
    "wan-14b": WAN_OUTSIDE,
    "wan-i2v-14b": {
        "transformer.condition_embedder.image_embedder.ff.net.0.proj": ("img_emb.proj.1", ALL),
        "diffusion_model.img_emb.proj.3": ("img_emb.proj.3", ALL),
    },
    "ernie-image": {
        "diffusion_model.adaLN_modulation.1": ("adaLN_modulation.1", ALL),
        "lora_unet_time_embedding_linear_2": ("time_embedding.linear_2", ALL),
        "transformer.final_linear": ("final_linear", ALL),
    },
    "krea-2": {
        "lora_unet_txtfusion_layerwise_blocks_0_attn_wq": ("txtfusion.layerwise_blocks.0.attn.wq", ALL),
        "transformer.text_fusion.refiner_blocks.1.ff.down": ("txtfusion.refiner_blocks.1.mlp.down", ALL),
        "transformer.transformer_blocks.27.attn.to_out": ("blocks.27.attn.wo", ALL),
        "base_model.model.txtmlp.1": ("txtmlp.1", ALL),
        "transformer.text_fusion.projector": ("txtfusion.projector", ALL),
        "lora_unet_tproj_1": ("tproj.1", ALL),
        "lora_unet_last_linear": ("last.linear", ALL),
    },
    "auraflow": {
        "transformer.context_embedder": ("cond_seq_linear", ALL),
        "lora_unet_t_embedder_mlp_2": ("t_embedder.mlp.2", ALL),
        "transformer.proj_out": ("final_linear", ALL),
    },
}


def named(base: str, family: str, number: int, of: int = 1, turn: int = 0) -> Iterator[tuple[str, Change]]:
    """The names of block ``number`` of each stretch in a family, of every ``of``-th weight, and what each changes."""
    prefix, separator, whose = FAMILIES[family]
    for stretch in BASES[base]:
        weights = list(dict.fromkeys(place.native for place in stretch.places))
        block = number % stretch.depth
        for place in stretch.places:
            if weights.index(place.native) % of != turn % of:
                continue
            if whose == "native":
                yield (
                    prefix + f"{stretch.native}.{block}.{place.native}".replace(".", separator),
                    (f"{stretch.native}.{block}.{place.native}", ALL),
                )
            else:
                yield (
                    prefix + f"{stretch.diffusers}.{block}.{place.diffusers}".replace(".", separator),
                    (f"{stretch.native}.{block}.{place.native}", place.rows),
                )


def _all_families(base: str) -> dict[str, Change]:
    """Every family in a block of its own; where there are fewer blocks, in weights of its own of a block."""
    depth = min(stretch.depth for stretch in BASES[base])
    of = -(-len(FAMILIES) // depth)
    inside: dict[str, Change] = {}
    for number, family in enumerate(FAMILIES):
        inside |= dict(named(base, family, number, of, number // depth))
    return {**inside, **OUTSIDE[base]}


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


Bases = Callable[[str], tuple[list[Path], list[tiny.Weights]]]


def _reused(
    file: Path, target: Path, runtime: lib_transfer.Runtime
) -> tuple[hosts.LoraFile, lib_transfer.TransferResult]:
    request = lib_transfer.request(file, target=target, runtime=runtime, method="reuse", rank="full", dtype="fp32")
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.report is not None and not result.report.unread and not result.report.accounts.losses
    need_balance(result.report)
    assert result.path is not None
    return hosts.read(result.path), result


@pytest.mark.parametrize("base", BASES)
def test_reuse_on_the_same_base_writes_every_family_in_names_that_load(
    base: str, bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    [path, _], [weights, _] = bases(base)
    made, meant = _adapter(_all_families(base), weights)
    written, _ = _reused(tiny.save(tmp_path / "style.safetensors", made), path, runtime)
    deltas = written.deltas()
    assert deltas.keys() == written.names.keys() == {_written_as(path) for path in meant}
    for path_of, delta in meant.items():
        assert (deltas[_written_as(path_of)] - delta).norm() <= 1e-5 * delta.norm(), path_of


@pytest.mark.parametrize("base", BASES)
def test_an_adapter_of_one_family_is_known_for_what_it_is(base: str) -> None:
    """With sizes of the real model and without any; the metadata say nothing."""
    full = reference(tiny.architecture(base))
    for family in FAMILIES:
        shapes: dict[str, tuple[int, int]] = {}
        for block in range(4):
            for name, (path, (first, last)) in named(base, family, block):
                out, into = full[_key(path)]
                shapes[name] = (round((last - first) * out), into)
        found = identity(list(shapes), shapes, [])
        assert [it.id for it in found.architectures] == [base] and not found.doubt and not found.unsupported, family
        without = identity(list(shapes), {}, [])
        families = {it.family for it in without.architectures}
        assert tiny.architecture(base).family in families and not without.unsupported, family


@pytest.mark.parametrize("base", [base for base in BASES if base not in ("flux2-klein-9b", "wan-5b", "wan-14b")])
def test_rotation_carries_the_parts_of_a_weight_one_by_one(
    base: str, bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
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
    assert result.path is not None
    deltas = hosts.read(result.path).deltas()
    assert deltas.keys() == {_written_as(path) for path in meant}
    for path, edges in changes.values():
        delta, whole = deltas[_written_as(path)], meant[path]
        parts = [edges]
        if path.endswith("linear1"):  # q, k, v, and the feed-forward
            parts = [(0, 1 / 9), (1 / 9, 2 / 9), (2 / 9, 3 / 9), (3 / 9, 1)]
        for part in parts:
            first, last = (round(edge * whole.shape[0]) for edge in part)
            given = whole[first:last]
            expected = rotated(given, of_source[_key(path)][first:last], of_target[_key(path)][first:last])
            assert (delta[first:last] - expected).norm() <= 1e-4 * given.norm(), path
            assert (delta[first:last] - given).norm() > 1e-2 * given.norm(), "it moved"


def test_what_distilled_wan_loras_change_beside_factors(
    bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """lightx2v's: differences of norms, of biases and of the modulations, which both programs add as they are."""
    [path, _], [weights, _] = bases("wan-14b")
    generator = torch.Generator().manual_seed(5)
    changes = {
        "blocks.3.norm3.diff": "blocks.3.norm3.weight",
        "blocks.3.norm3.diff_b": "blocks.3.norm3.bias",
        "blocks.5.self_attn.norm_q.diff": "blocks.5.self_attn.norm_q.weight",
        "blocks.7.self_attn.q.diff_b": "blocks.7.self_attn.q.bias",
        "blocks.9.modulation.diff": "blocks.9.modulation",
        "head.modulation.diff": "head.modulation",
        "head.head.diff": "head.head.weight",
        "head.head.diff_b": "head.head.bias",
    }
    made = {
        f"diffusion_model.{name}": torch.randn(weights[CORE + key].shape, generator=generator)
        for name, key in changes.items()
    }
    made |= tiny.factors("lora_unet_blocks_7_self_attn_q", (WIDTH, WIDTH))
    made["lora_unet_blocks_7_self_attn_q.diff_b"] = made.pop("diffusion_model.blocks.7.self_attn.q.diff_b")
    first = weights[f"{CORE}patch_embedding.weight"].shape
    made |= tiny.factors("diffusion_model.patch_embedding", first)
    written, _ = _reused(tiny.save(tmp_path / "style.safetensors", made), path, runtime)
    tensors = written.tensors
    assert torch.equal(tensors["lora_unet_blocks_7_self_attn_q.diff_b"], made["lora_unet_blocks_7_self_attn_q.diff_b"])
    for name in ("blocks.9.modulation", "head.modulation"):
        assert torch.equal(tensors[f"diffusion_model.{name}.diff"], made[f"diffusion_model.{name}.diff"])
    for name, kohya in (("blocks.3.norm3", "blocks_3_norm3"), ("head.head", "head_head")):
        for end in (".diff", ".diff_b"):
            assert torch.equal(tensors[f"lora_unet_{kohya}{end}"], made[f"diffusion_model.{name}{end}"])
    norm = made["diffusion_model.blocks.5.self_attn.norm_q.diff"]
    assert torch.equal(tensors["lora_unet_blocks_5_self_attn_norm_q.diff"], norm)
    down = tensors["lora_unet_patch_embedding.lora_down.weight"]
    assert down.shape[1:] == first[1:] and tensors["lora_unet_patch_embedding.lora_up.weight"].ndim == len(first)
    given = tiny.factors("diffusion_model.patch_embedding", first)
    expected = hosts.delta({key.removeprefix("diffusion_model.patch_embedding."): t for key, t in given.items()})
    assert (hosts.delta(written.names["lora_unet_patch_embedding"]) - expected).norm() <= 1e-5 * expected.norm()
    assert len(tensors) == len(made)


def test_what_only_the_first_wan_has_does_not_go_to_the_second(
    bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """From 2.1's model that begins with a picture to 2.2's: the layers that read it by CLIP are not there."""
    [source, _], [weights, _] = bases("wan-i2v-14b")
    [target, _], _ = bases("wan-14b")
    changes = {
        f"diffusion_model.blocks.0.cross_attn.{word}": (f"blocks.0.cross_attn.{word}", ALL) for word in ("q", "k_img")
    }
    made, _ = _adapter(changes, weights)
    request = lib_transfer.request(
        tiny.save(tmp_path / "style.safetensors", made), source=source, target=target, runtime=runtime, threshold=0.0
    )
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.report is not None and result.path is not None
    assert hosts.read(result.path).names.keys() == {"lora_unet_blocks_0_cross_attn_q"}
    [left] = [module for module in result.report.modules if not module.written]
    assert left.decision == "no counterpart" and left.name.endswith("k_img")


def test_joined_projections_are_cut_without_loss(bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    """SimpleTuner's for Krea 2, whose keys are a quarter as wide as queries; the scale of a norm has a dotted name."""
    [path, _], [weights, _] = bases("krea-2")
    width = weights[f"{CORE}blocks.0.attn.wq.weight"].shape[1]
    rows = width + 2 * (width // 4)
    name = "transformer.transformer_blocks.2.attn.to_qkv"
    made = tiny.factors(name, (rows, width))
    norm = weights[f"{CORE}blocks.1.prenorm.scale"]
    made["diffusion_model.blocks.1.prenorm.scale.diff"] = torch.linspace(-1, 1, len(norm))
    written, _ = _reused(tiny.save(tmp_path / "style.safetensors", made), path, runtime)
    whole = hosts.delta({key.removeprefix(f"{name}."): tensor for key, tensor in made.items() if name in key})
    edges = (0, width, width + width // 4, rows)
    for number, word in enumerate("qkv"):
        part = whole[edges[number] : edges[number + 1]]
        delta = hosts.delta(written.names[f"lora_unet_blocks_2_attn_w{word}"])
        assert (delta - part).norm() <= 1e-5 * part.norm()
    scale = "diffusion_model.blocks.1.prenorm.scale.diff"
    assert torch.equal(written.tensors[scale], made[scale])


def test_what_stands_beside_joined_projections_does_not_take_their_place(
    bases: Bases, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    """SimpleTuner writes groups of each projection that change nothing; it is said that they are left out."""
    [path, _], [weights, _] = bases("krea-2")
    width = weights[f"{CORE}blocks.0.attn.wq.weight"].shape[1]
    attention = "transformer.transformer_blocks.2.attn"
    made = tiny.factors(f"{attention}.to_qkv", (width + 2 * (width // 4), width))
    for word, rows in (("q", width), ("k", width // 4), ("v", width // 4)):
        made |= tiny.factors(f"{attention}.to_{word}", (rows, width), size=0.0)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(file, target=path, runtime=runtime, method="reuse", rank="full", dtype="fp32")
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.path is not None and result.report is not None
    need_balance(result.report)
    whole = hosts.delta({key.removeprefix(f"{attention}.to_qkv."): t for key, t in made.items() if "to_qkv" in key})
    written = hosts.read(result.path).deltas()
    found = torch.cat([written[f"lora_unet_blocks_2_attn_w{word}"] for word in "qkv"])
    assert (found - whole).norm() <= 1e-5 * whole.norm()
    left = {module.name: module.reason for module in result.report.modules if not module.written}
    assert left == {
        f"{attention}.to_{word}": "another group of the adapter already changes this module" for word in "qkv"
    }


@pytest.mark.parametrize("form", [_bare, _mixed, _gguf])
@pytest.mark.parametrize("base", ["flux2-klein-4b", "qwen-image", "wan-1.3b", "krea-2"])
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
    assert expected.keys() == read.keys()
    for name, weight in read.items():
        [(first, last)] = expected[name].rows or ((0, weight.shape[0]),)
        # What stands before all names of a file is left out where it is known to be no part of them.
        stored = meant.get(keys[name], meant.get(f"net.{keys[name]}"))
        assert stored is not None, keys[name]
        torch.testing.assert_close(weight, stored[first:last].float(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("base", ["flux2-klein-4b", "qwen-image", "wan-14b"])
def test_folders_of_diffusers(base: str, tmp_path: Path, runtime: lib_transfer.Runtime) -> None:
    """The transformer beside a language model that no LoRA is for; and the second transformer of Wan 2.2 by itself."""
    shapes = reference(tiny.architecture(base), width=WIDTH, style="diffusers")
    generator = torch.Generator().manual_seed(1)
    tensors = {
        key.removeprefix("transformer."): torch.randn(shape, generator=generator) for key, shape in shapes.items()
    }
    folder = tmp_path / "model"
    for part in ("transformer", "transformer_2", "text_encoder"):
        (folder / part).mkdir(parents=True)
    classes = {"flux2-klein-4b": "Flux2Transformer2DModel", "qwen-image": "QwenImageTransformer2DModel"}
    for part in ("transformer", "transformer_2"):
        tiny.save(folder / part / "diffusion_pytorch_model.safetensors", tensors)
        (folder / part / "config.json").write_text(
            json.dumps({"_class_name": classes.get(base, "WanTransformer3DModel")})
        )
    language = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}
    tiny.save(folder / "text_encoder" / "model.safetensors", language)
    title = tiny.architecture(base).title
    assert lib_transfer.inspect(folder)["architecture"] == title
    assert lib_transfer.inspect(folder / "transformer_2")["architecture"] == title
    changes = dict(named(base, "diffusers", 2))
    single = {_key(path): torch.zeros(shape) for path, shape in _whole(base).items()}
    made, meant = _adapter(changes, single)
    written, _ = _reused(tiny.save(tmp_path / "style.safetensors", made), folder, runtime)
    for path, delta in meant.items():
        assert (written.deltas()[_written_as(path)] - delta).norm() <= 1e-5 * delta.norm(), path


def _whole(base: str) -> dict[str, tuple[int, ...]]:
    """Path and shape of every weight of a single file."""
    shapes = reference(tiny.architecture(base), width=WIDTH)
    return {key.removeprefix(CORE).removesuffix(".weight"): s for key, s in shapes.items() if key.endswith(".weight")}
