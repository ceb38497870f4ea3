"""Transfers between Stable Diffusion 3, Flux and Chroma checkpoints, whole: fused weights go apart, through, and together.

What an adapter means is written out here as the change of every tensor of a single file: a row per name, with the rows of
the tensor that it is for. Forge's side is the rule that a ``lora_unet_`` name changes the whole tensor of its path.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lib_transfer
from lib_transfer.architecture import reference
from tests import tiny
from tests.transfer import hosts
from tests.transfer.test_formulas import ENERGY, rotated

Transfer = Callable[..., lib_transfer.TransferResult]
CORE = "model.diffusion_model."
WIDTH = 16


class Pair:
    """A checkpoint and its fine-tune on disk, and their numbers in float64."""

    def __init__(self, name: str, folder: Path, target: str | None = None) -> None:
        source = tiny.weights(name, width=WIDTH)
        theirs = source if target is None else tiny.weights(target, width=WIDTH)
        tuned = tiny.fine_tuned({key: source.get(key, weight) for key, weight in theirs.items()}, 0.2)
        self.source, self.target = ({k: w.half().double() for k, w in tensors.items()} for tensors in (source, tuned))
        self.paths = [
            tiny.save(folder / f"{name}-{end}.safetensors", tensors, torch.float16)
            for end, tensors in (("source", source), ("target", tuned))
        ]


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair("flux-dev", tmp_path_factory.mktemp("flux"))


@pytest.fixture
def run(runtime: lib_transfer.Runtime, tmp_path: Path) -> Transfer:
    def do(made: tiny.Weights, pair: Pair, **settings: Any) -> lib_transfer.TransferResult:
        path = tiny.save(tmp_path / "style.safetensors", made)
        source, target = pair.paths
        settings = {"dtype": "fp32", "energy": ENERGY, "threshold": 0.0, **settings}
        if settings.get("method") == "reuse":
            settings = {"dtype": "fp32", "method": "reuse"}
        request = lib_transfer.request(path, source=source, target=target, runtime=runtime, **settings)
        return lib_transfer.transfer(request, runtime=runtime)

    return do


def _kohya(key: str) -> str:
    return "lora_unet_" + key.removeprefix(CORE).removesuffix(".weight").replace(".", "_")


def _spelled(spelling: str, shape: tuple[int, int], seed: int, rank: int = 3) -> tuple[tiny.Weights, Tensor]:
    """A LoRA in one dialect, and what it adds to the rows it is for."""
    up, down = (t for k, t in sorted(tiny.factors("x", shape, rank, seed=seed).items(), reverse=True) if "lora" in k)
    suffixes = (".up.weight", ".down.weight") if "processor" in spelling else (".lora_B.weight", ".lora_A.weight")
    return {spelling + suffixes[0]: up, spelling + suffixes[1]: down}, up.double() @ down.double()


H = WIDTH
QKV = f"{CORE}double_blocks.3.img_attn.qkv.weight"
TXT = f"{CORE}double_blocks.3.txt_attn.qkv.weight"
LINEAR1 = f"{CORE}single_blocks.5.linear1.weight"
LAST = f"{CORE}final_layer.adaLN_modulation.1.weight"

# Names that one adapter can hold together -> tensor, its rows that each is for, in the order of the update's rows.
SPELLINGS: dict[str, dict[str, tuple[str, list[tuple[int, int]]]]] = {
    "fused": {
        "diffusion_model.double_blocks.3.img_attn.qkv": (QKV, [(0, 3 * H)]),
        "diffusion_model.single_blocks.5.linear1": (LINEAR1, [(0, 7 * H)]),
        "diffusion_model.final_layer.adaLN_modulation.1": (LAST, [(0, 2 * H)]),
    },
    "split": {
        "transformer.transformer_blocks.3.attn.to_q": (QKV, [(0, H)]),
        "transformer.transformer_blocks.3.attn.to_k": (QKV, [(H, 2 * H)]),
        "transformer.transformer_blocks.3.attn.to_v": (QKV, [(2 * H, 3 * H)]),
        "transformer.transformer_blocks.3.attn.add_k_proj": (TXT, [(H, 2 * H)]),
        "transformer.single_transformer_blocks.5.attn.to_v": (LINEAR1, [(2 * H, 3 * H)]),
        "transformer.single_transformer_blocks.5.proj_mlp": (LINEAR1, [(3 * H, 7 * H)]),
        "transformer.norm_out.linear": (LAST, [(H, 2 * H), (0, H)]),
    },
    "xlabs": {
        "double_blocks.3.processor.qkv_lora1": (QKV, [(0, 3 * H)]),
        "double_blocks.3.processor.qkv_lora2": (TXT, [(0, 3 * H)]),
        "single_blocks.5.processor.qkv_lora": (LINEAR1, [(0, 3 * H)]),
    },
}


def _adapter(
    spellings: dict[str, tuple[str, list[tuple[int, int]]]], pair: Pair
) -> tuple[tiny.Weights, dict[str, Tensor]]:
    """The adapter, and the change of every tensor that it means."""
    made: tiny.Weights = {}
    changes: dict[str, Tensor] = {}
    for seed, (spelling, (key, rows)) in enumerate(spellings.items()):
        whole = pair.source[key]
        tensors, delta = _spelled(spelling, (sum(b - a for a, b in rows), whole.shape[1]), seed)
        made |= tensors
        change = changes.setdefault(key, torch.zeros_like(whole))
        at = 0
        for first, last in rows:
            change[first:last] += delta[at : at + last - first]
            at += last - first
    return made, changes


def _written(path: Path | None, keys: list[str]) -> dict[str, Tensor]:
    """What Forge adds to every tensor; nothing else is in the file."""
    assert path is not None
    deltas = hosts.read(path).deltas()
    assert set(deltas) == {_kohya(key) for key in keys}
    return {key: deltas[_kohya(key)] for key in keys}


@pytest.mark.parametrize("dialect", SPELLINGS)
def test_every_spelling_of_a_fused_weight_is_copied_whole(dialect: str, flux: Pair, run: Transfer) -> None:
    made, changes = _adapter(SPELLINGS[dialect], flux)
    result = run(made, flux, method="reuse")
    for key, delta in _written(result.path, list(changes)).items():
        assert (delta - changes[key]).norm() <= 1e-5 * changes[key].norm(), key


PARTS = {
    QKV: [(0, H), (H, 2 * H), (2 * H, 3 * H)],
    TXT: [(0, H), (H, 2 * H), (2 * H, 3 * H)],
    LINEAR1: [(0, H), (H, 2 * H), (2 * H, 3 * H), (3 * H, 7 * H)],
    LAST: [(0, 2 * H)],
}


@pytest.mark.parametrize("dialect", SPELLINGS)
def test_the_parts_of_a_fused_weight_are_rotated_each_by_its_own_subspaces(
    dialect: str, flux: Pair, run: Transfer
) -> None:
    made, changes = _adapter(SPELLINGS[dialect], flux)
    result = run(made, flux, rank="full")
    _assert_rotated(flux, _written(result.path, list(changes)), changes)


def _assert_rotated(pair: Pair, written: dict[str, Tensor], changes: dict[str, Tensor]) -> None:
    """Every part by the dense formula in float64; and the rotation did something."""
    for key, delta in written.items():
        change = changes[key]
        for first, last in PARTS[key]:
            given = change[first:last]
            source, target = (tensors[key][first:last] for tensors in (pair.source, pair.target))
            expected = rotated(given, source, target) if given.any() else given
            assert (delta[first:last] - expected).norm() <= 1e-4 * change.norm(), (key, first)
        assert (delta - change).norm() > 1e-2 * change.norm()


def test_norms_are_written_as_forge_reads_them(flux: Pair, run: Transfer) -> None:
    """Under the parameter's own name, and without the bias that they do not have."""
    norm = f"{CORE}double_blocks.0.img_attn.norm.query_norm.scale"
    change = torch.linspace(-1, 1, flux.source[norm].shape[0])
    made = {"lora_unet_double_blocks_0_img_attn_norm_query_norm.w_norm": change}
    t5 = "lora_te2_encoder_block_3_layer_0_layer_norm.w_norm"
    made[t5] = torch.ones(flux.source["text_encoders.t5xxl.transformer.encoder.final_layer_norm.weight"].shape)
    result = run(made, flux)
    assert result.path is not None
    tensors = hosts.read(result.path).tensors
    assert tensors.keys() == {
        "diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale.w_norm",
        "lora_te3_encoder_block_3_layer_0_layer_norm.w_norm",
    }
    assert torch.equal(tensors["diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale.w_norm"], change)


def test_from_a_folder_of_diffusers_to_a_single_file(flux: Pair, run: Transfer, tmp_path: Path) -> None:
    """The source's q, k and v are tensors of their own, and its last modulation is the other way round."""
    split: tiny.Weights = {}
    for key, rows in PARTS.items():
        weight = flux.source[key].float()
        names = {
            QKV: [f"transformer_blocks.3.attn.to_{part}" for part in "qkv"],
            TXT: [f"transformer_blocks.3.attn.add_{part}_proj" for part in "qkv"],
            LINEAR1: [f"single_transformer_blocks.5.{p}" for p in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")],
            LAST: ["norm_out.linear"],
        }[key]
        parts = [weight[first:last] for first, last in rows]
        if key == LAST:
            parts = [torch.cat([weight[H:], weight[:H]])]
        split |= dict(zip((f"transformer.{name}.weight" for name in names), parts, strict=True))
    keys = reference(tiny.architecture("flux-dev"), width=WIDTH, style="diffusers")
    rest = tiny.weights("flux-dev", width=WIDTH)
    folder = {key: split.get(key, rest.get(key, torch.zeros(shape))) for key, shape in keys.items()}
    other = Pair.__new__(Pair)
    other.source, other.target = flux.source, flux.target
    other.paths = [tiny.save(tmp_path / "folder.safetensors", folder, torch.float16), flux.paths[1]]
    made, changes = _adapter(SPELLINGS["split"], flux)
    one, two = (_written(run(made, pair, rank="full").path, list(changes)) for pair in (flux, other))
    for key in changes:
        assert (one[key] - two[key]).norm() <= 1e-5 * one[key].norm(), key


def test_from_flux_to_chroma(run: Transfer, tmp_path: Path) -> None:
    """Chroma's blocks are Flux', but for the modulations, which one network computes there."""
    pair = Pair("flux-dev", tmp_path, target="chroma")
    made, changes = _adapter(SPELLINGS["fused"], pair)
    mod = f"{CORE}double_blocks.3.img_mod.lin.weight"
    made |= tiny.factors(_kohya(mod), tuple(pair.source[mod].shape), 3)
    result = run(made, pair, rank="full")
    assert result.report is not None and not result.report.unread
    gone = {m.name: m.decision for m in result.report.modules if not m.written}
    assert gone == {
        _kohya(mod): "no counterpart",
        "diffusion_model.final_layer.adaLN_modulation.1": "no counterpart",
    }
    written = _written(result.path, [QKV, LINEAR1])
    _assert_rotated(pair, written, changes)


SD35 = {
    "transformer.transformer_blocks.2.attn2.to_k": (f"{CORE}joint_blocks.2.x_block.attn2.qkv.weight", [(H, 2 * H)]),
    "transformer.transformer_blocks.2.attn.to_k": (f"{CORE}joint_blocks.2.x_block.attn.qkv.weight", [(H, 2 * H)]),
    "transformer.transformer_blocks.23.norm1_context.linear": (
        f"{CORE}joint_blocks.23.context_block.adaLN_modulation.1.weight",
        [(H, 2 * H), (0, H)],
    ),
    "transformer.transformer_blocks.23.attn.add_v_proj": (
        f"{CORE}joint_blocks.23.context_block.attn.qkv.weight",
        [(2 * H, 3 * H)],
    ),
    "transformer.transformer_blocks.0.ff_context.net.0.proj": (
        f"{CORE}joint_blocks.0.context_block.mlp.fc1.weight",
        [(0, 4 * H)],
    ),
}


def test_stable_diffusion_35_medium_with_its_encoders(run: Transfer, tmp_path: Path) -> None:
    pair = Pair("sd3.5-medium", tmp_path)
    made, changes = _adapter(SD35, pair)
    encoders = {
        "text_encoder_2.text_model.encoder.layers.31.mlp.fc1": (
            "text_encoders.clip_g.transformer.text_model.encoder.layers.31.mlp.fc1.weight",
            "lora_te2_text_model_encoder_layers_31_mlp_fc1",
        ),
        "text_encoder_3.encoder.block.23.layer.1.DenseReluDense.wi_1": (
            "text_encoders.t5xxl.transformer.encoder.block.23.layer.1.DenseReluDense.wi_1.weight",
            "lora_te3_encoder_block_23_layer_1_DenseReluDense_wi_1",
        ),
        "text_encoder.text_projection": (
            "text_encoders.clip_l.transformer.text_projection.weight",
            "lora_te1_text_projection",
        ),
    }
    expected = {_kohya(key): change for key, change in changes.items()}
    for seed, (spelling, (key, name)) in enumerate(encoders.items()):
        tensors, expected[name] = _spelled(spelling, tuple(pair.source[key].shape), seed)
        made |= tensors
    result = run(made, pair, method="reuse")
    assert result.path is not None and result.report is not None
    assert not result.report.unread
    got = hosts.read(result.path)
    deltas = got.deltas()
    assert deltas.keys() == expected.keys()
    for name, delta in deltas.items():
        assert (delta - expected[name]).norm() <= 1e-5 * expected[name].norm(), name
    assert got.metadata["modelspec.architecture"] == "stable-diffusion-3-5-medium/lora"
