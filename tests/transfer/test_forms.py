"""Hand-made adapters in every form found in the wild: reused on their own base they keep their dense update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.transfer import hosts

PROJ, CONV = "lora_unet_down_blocks_0_attentions_0_proj_in", "lora_unet_down_blocks_0_resnets_0_conv1"
LINEAR = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16], ids=["fp16", "fp32", "bf16"])
LIMIT = {torch.float16: 1e-3, torch.float32: 1e-5, torch.bfloat16: 1e-2}


def _copied(transfer: Any, folder: Path, tensors: dict[str, Tensor], name: str, **settings: Any) -> hosts.LoraFile:
    path = folder / "style.safetensors"
    tiny.save(path, tensors)
    return hosts.read(transfer(path, f"{name}-source", f"{name}-source", method="reuse", **settings).path)


def _random(*shape: int, seed: int = 1) -> Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@DTYPES
@pytest.mark.parametrize(
    ("alpha", "scale"),
    [
        (None, 1.0),
        (torch.tensor(1.5), 0.5),
        (torch.tensor([1.5]), 0.5),
        (torch.tensor(6, dtype=torch.int64), 2.0),
        (torch.tensor(1.5, dtype=torch.bfloat16), 0.5),
        (torch.tensor(1.5, dtype=torch.float16), 0.5),
        (torch.tensor(-3.0), -1.0),
        (torch.tensor(0.0), 0.0),
        (torch.tensor(1e9), 1e9 / 3),
    ],
    ids=["missing", "0-d", "one element", "int64", "bf16", "fp16", "negative", "zero", "1e9"],
)
def test_alpha_in_every_form(
    alpha: Tensor | None, scale: float, dtype: torch.dtype, transfer: Any, tmp_path: Path
) -> None:
    up, down = _random(8, 3).to(dtype), _random(3, 8, seed=2).to(dtype)
    tensors = {f"{LINEAR}.lora_up.weight": up, f"{LINEAR}.lora_down.weight": down}
    if alpha is not None:
        tensors[f"{LINEAR}.alpha"] = alpha
    out = _copied(transfer, tmp_path, tensors, "sd1")
    expected = scale * up.double() @ down.double()
    assert (out.deltas()[LINEAR] - expected).norm() <= LIMIT[dtype] * expected.norm()
    assert out.tensors[f"{LINEAR}.lora_up.weight"].dtype == dtype


@DTYPES
def test_factors_of_convolutions_in_two_and_in_four_dimensions(
    dtype: torch.dtype, transfer: Any, tmp_path: Path
) -> None:
    """2-D factors for a 1x1 convolution, 4-D ones for a linear layer, 2-D ``up`` for a 3x3, and a core (``lora_mid``)."""
    mid = "lora_unet_down_blocks_0_resnets_1_conv1"
    tensors = {
        f"{PROJ}.lora_up.weight": _random(8, 3),
        f"{PROJ}.lora_down.weight": _random(3, 8, seed=2),
        f"{LINEAR}.lora_up.weight": _random(8, 3, 1, 1, seed=3),
        f"{LINEAR}.lora_down.weight": _random(3, 8, 1, 1, seed=4),
        f"{CONV}.lora_up.weight": _random(8, 3, seed=5),
        f"{CONV}.lora_down.weight": _random(3, 8, 3, 3, seed=6),
        f"{mid}.lora_up.weight": _random(8, 3, 1, 1, seed=7),
        f"{mid}.lora_mid.weight": _random(3, 3, 3, 3, seed=8),
        f"{mid}.lora_down.weight": _random(3, 8, 1, 1, seed=9),
        f"{mid}.alpha": torch.tensor(6.0),
    }
    tensors = {key: t.to(dtype) for key, t in tensors.items()}
    out = _copied(transfer, tmp_path, tensors, "sd1")
    given = hosts.LoraFile(tmp_path, tensors, {}, b"").deltas()
    for module in (PROJ, LINEAR, CONV, mid):
        assert (out.deltas()[module] - given[module]).norm() <= LIMIT[dtype] * given[module].norm(), module
    shapes = {key: tuple(t.shape) for key, t in out.tensors.items() if not key.endswith("alpha")}
    assert shapes[f"{PROJ}.lora_down.weight"] == (3, 8, 1, 1)
    assert shapes[f"{LINEAR}.lora_down.weight"] == (3, 8)
    assert shapes[f"{CONV}.lora_down.weight"] == shapes[f"{mid}.lora_down.weight"] == (3, 8, 3, 3)
    assert f"{mid}.lora_mid.weight" not in shapes


SDXL_FORMS = [
    # ldm path, diffusers path, weight
    ("input_blocks_4_1_transformer_blocks_1_attn2_to_k", "down_blocks_1_attentions_0_transformer_blocks_1_attn2_to_k"),
    ("output_blocks_5_1_proj_out", "up_blocks_1_attentions_2_proj_out"),
    ("middle_block_1_transformer_blocks_9_ff_net_0_proj", "mid_block_attentions_0_transformer_blocks_9_ff_net_0_proj"),
    ("input_blocks_3_0_op", "down_blocks_0_downsamplers_0_conv"),
    ("output_blocks_2_2_conv", "up_blocks_0_upsamplers_0_conv"),
    ("output_blocks_8_0_out_layers_3", "up_blocks_2_resnets_2_conv2"),
    ("time_embed_2", "time_embedding_linear_2"),
    ("label_emb_0_0", "add_embedding_linear_1"),
]


@pytest.mark.parametrize("form", [0, 1], ids=["ldm", "diffusers"])
def test_both_name_forms_of_sdxl(form: int, files: tiny.Files, transfer: Any, tmp_path: Path) -> None:
    """Both land on the same weights, and A1111, which does not know all of the second form, gets the first."""
    before = files.tensors["sdxl-source"]
    names = {f"lora_unet_{pair[form]}": f"{tiny.UNET}{_dotted(pair[0], before)}" for pair in SDXL_FORMS}
    tensors: tiny.Weights = {}
    for number, (name, key) in enumerate(names.items()):
        tensors |= tiny.factors(name, before[key].shape, seed=number)
    out = _copied(transfer, tmp_path, tensors, "sdxl")
    given = hosts.LoraFile(tmp_path, tensors, {}, b"").deltas()
    for forge_host in (False, True):
        host = hosts.Host(before, forge_host=forge_host)
        assert not host.unknown(out)
        changed = host.load(out)
        assert set(changed) == set(names.values())
        for name, key in names.items():
            change = (changed[key] - before[key].double()).flatten(1)
            assert (change - given[name]).norm() <= 1e-5 * given[name].norm(), name


def _dotted(path: str, weights: tiny.Weights) -> str:
    """The checkpoint's key of a module whose dots became underscores."""
    return next(
        key.removeprefix(tiny.UNET)
        for key in weights
        if key.startswith(tiny.UNET) and key.removeprefix(tiny.UNET).removesuffix(".weight").replace(".", "_") == path
    )


def test_fused_openclip_projections(files: tiny.Files, transfer: Any, tmp_path: Path) -> None:
    """q, k, v and out of different ranks and alphas: each changes its third of the fused weight, and nothing else."""
    before = files.tensors["sdxl-source"]
    stem = "lora_te2_text_model_encoder_layers_3_self_attn_"
    fused, out_proj = f"{tiny.OPENCLIP}3.attn.in_proj_weight", f"{tiny.OPENCLIP}3.attn.out_proj.weight"
    tensors: tiny.Weights = {}
    for rank, leaf in enumerate(("q", "k", "v", "out"), 1):
        tensors |= tiny.factors(f"{stem}{leaf}_proj", (32, 32), rank, alpha=0.5 * rank + 1, seed=rank)
    out = _copied(transfer, tmp_path, tensors, "sdxl")
    given = hosts.LoraFile(tmp_path, tensors, {}, b"").deltas()
    for forge_host in (False, True):
        changed = hosts.Host(before, forge_host=forge_host).load(out)
        assert set(changed) == {fused, out_proj}
        expected = torch.cat([given[f"{stem}{leaf}_proj"] for leaf in "qkv"])
        assert (changed[fused] - before[fused].double() - expected).norm() <= 1e-5 * expected.norm()
        expected = given[f"{stem}out_proj"]
        assert (changed[out_proj] - before[out_proj].double() - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("prefix", ["lora_te_text_model_", "lora_te1_text_model_", "lora_te_", "lora_te1_"])
def test_every_name_of_the_sd1_text_encoder(prefix: str, files: tiny.Files, transfer: Any, tmp_path: Path) -> None:
    name = f"{prefix}encoder_layers_11_mlp_fc2"
    tensors = tiny.factors(name, (24, 96))
    out = _copied(transfer, tmp_path, tensors, "sd1")
    for forge_host in (False, True):
        changed = hosts.Host(files.tensors["sd1-source"], forge_host=forge_host).load(out)
        assert set(changed) == {f"{tiny.TEXT}11.mlp.fc2.weight"}


def test_two_names_of_one_module_are_not_added_up(transfer: Any, tmp_path: Path) -> None:
    """The second is reported: a file with both is broken, and no reading of it is right."""
    twin = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    path = tiny.save(
        tmp_path / "style.safetensors", {**tiny.factors(LINEAR, (8, 8)), **tiny.factors(twin, (8, 8), seed=5)}
    )
    result = transfer(path, "sd1-source", "sd1-source", method="reuse")
    decisions = sorted(m.decision for m in result.report.modules)
    assert decisions == ["copied", "unsupported"]
    assert len(hosts.read(result.path).names) == 1
