"""Adapters in the names that people's files have, reused on a tiny checkpoint: the output is what the names mean.

What a name means is written out by hand: the weights that kohya's names (which the hosts load) stand for, and the rows of the
update that are for each. The numbers are compared in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lib_transfer
from tests import tiny
from tests.transfer import hosts

SDXL_IN = "lora_unet_input_blocks_4_1_transformer_blocks_"
FLUX = "model.diffusion_model."

# Module name in the file -> kohya's names of what it changes. Several names share its rows evenly, in this order.
SDXL = {
    # OneTrainer in 2025.
    "unet.input_blocks.4.1.transformer_blocks.0.attn1.to_q": [f"{SDXL_IN}0_attn1_to_q"],
    "unet.middle_block.1.proj_in": ["lora_unet_middle_block_1_proj_in"],
    "clip_l.text_model.encoder.layers.3.mlp.fc1": ["lora_te1_text_model_encoder_layers_3_mlp_fc1"],
    "clip_g.text_model.encoder.layers.5.self_attn.k_proj": ["lora_te2_text_model_encoder_layers_5_self_attn_k_proj"],
    "lora_te2_text_projection": ["lora_te2_text_projection"],
    # Compiled models, DistributedDataParallel, one underscore too many.
    "unet._orig_mod.down_blocks.1.attentions.0.proj_in": ["lora_unet_input_blocks_4_1_proj_in"],
    "unet.mid_block._orig_mod.attentions.0.proj_out": ["lora_unet_middle_block_1_proj_out"],
    "module.unet.down_blocks.2.attentions.1.proj_out": ["lora_unet_input_blocks_8_1_proj_out"],
    "lora_unet__orig_mod_down_blocks_2_attentions_0_proj_in": ["lora_unet_input_blocks_7_1_proj_in"],
    "lora_unet__down_blocks_2_attentions_0_proj_out": ["lora_unet_input_blocks_7_1_proj_out"],
    "lora_unet_module__orig_mod_up_blocks_0_attentions_0_proj_in": ["lora_unet_output_blocks_0_1_proj_in"],
    "lora_unet_up_blocks_0_attentions_1__orig_mod_proj_in": ["lora_unet_output_blocks_1_1_proj_in"],
    # ai-toolkit: a dot behind kohya's prefix.
    "lora_te1.text_model.encoder.layers.7.self_attn.v_proj": ["lora_te1_text_model_encoder_layers_7_self_attn_v_proj"],
    # diffusers' fuse_qkv_projections.
    "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_qkv": [f"{SDXL_IN}1_attn1_to_{x}" for x in "qkv"],
    "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_kv": [f"{SDXL_IN}1_attn2_to_{x}" for x in "kv"],
}

# The same for Flux.1, whose fused weights have one name: the rows there, in units of the width.
FLUX_NAMES: dict[str, tuple[str, tuple[int, int]]] = {
    "transformer.double_blocks.0.img_attn.qkv.0": ("lora_unet_double_blocks_0_img_attn_qkv", (0, 1)),
    "transformer.double_blocks.0.img_attn.qkv.2": ("lora_unet_double_blocks_0_img_attn_qkv", (2, 3)),
    "transformer.double_blocks.1.txt_attn.qkv.1": ("lora_unet_double_blocks_1_txt_attn_qkv", (1, 2)),
    "transformer.double_blocks.1.img_mod.lin": ("lora_unet_double_blocks_1_img_mod_lin", (0, 6)),
    "transformer.single_blocks.0.linear1.1": ("lora_unet_single_blocks_0_linear1", (1, 2)),
    "transformer.single_blocks.0.linear1.3": ("lora_unet_single_blocks_0_linear1", (3, 7)),
    "transformer.transformer_blocks.2.attn.to_qkv": ("lora_unet_double_blocks_2_img_attn_qkv", (0, 3)),
    "transformer.transformer_blocks.2.attn.to_added_qkv": ("lora_unet_double_blocks_2_txt_attn_qkv", (0, 3)),
    "transformer.transformer_blocks.3.attn.add_qkv_proj": ("lora_unet_double_blocks_3_txt_attn_qkv", (0, 3)),
    "transformer.single_transformer_blocks.1.attn.to_qkv": ("lora_unet_single_blocks_1_linear1", (0, 3)),
    "blocks.4.attn.a_to_qkv": ("lora_unet_double_blocks_4_img_attn_qkv", (0, 3)),
    "blocks.4.attn.b_to_out": ("lora_unet_double_blocks_4_txt_attn_proj", (0, 1)),
    "blocks.4.ff_b.0": ("lora_unet_double_blocks_4_txt_mlp_0", (0, 4)),
    "single_blocks.2.to_qkv_mlp": ("lora_unet_single_blocks_2_linear1", (0, 7)),
    "clip_l.text_model.encoder.layers.0.mlp.fc1": ("lora_te1_text_model_encoder_layers_0_mlp_fc1", (0, 4)),
    "lora_te1.text_model.encoder.layers.1.mlp.fc1": ("lora_te1_text_model_encoder_layers_1_mlp_fc1", (0, 4)),
    "t5.encoder.block.0.layer.0.SelfAttention.q": ("lora_te3_encoder_block_0_layer_0_SelfAttention_q", (0, 1)),
}


@pytest.fixture
def reuse(runtime: lib_transfer.Runtime, tmp_path: Path) -> Callable[..., tuple[hosts.LoraFile, object]]:
    def run(tensors: tiny.Weights, target: Path) -> tuple[hosts.LoraFile, object]:
        path = tiny.save(tmp_path / "style.safetensors", tensors)
        job = lib_transfer.request(path, target=target, runtime=runtime, method="reuse", rank="full", dtype="fp32")
        result = lib_transfer.transfer(job, runtime=runtime)
        return hosts.read(result.path), result.report

    return run


def _low_rank(name: str, shape: tuple[int, int], seed: int) -> tuple[tiny.Weights, Tensor]:
    """A module of a file in PEFT's suffixes behind dots and in kohya's elsewhere, and its update."""
    made = tiny.factors(name, shape, 2, alpha=None, seed=seed)
    up, down = made[f"{name}.lora_up.weight"], made[f"{name}.lora_down.weight"]
    kohya = name.startswith("lora_") and seed % 2 == 0
    ends = ("lora_up.weight", "lora_down.weight") if kohya else ("lora_B.weight", "lora_A.weight")
    return {f"{name}.{ends[0]}": up, f"{name}.{ends[1]}": down}, up.double() @ down.double()


def _sdxl(files: tiny.Files) -> Iterator[tuple[str, list[str], tuple[int, int]]]:
    """Each name of the file, what it stands for, and the shape of its update."""
    shapes = {"fc1": (96, 24), "lora_te1": (24, 24), "lora_te2": (32, 32)}
    weights = files.tensors["sdxl-target"]
    for name, kohya in SDXL.items():
        path = kohya[0].removeprefix("lora_unet_").replace("_", ".")
        found = next((w for k, w in weights.items() if k.replace("_", ".").endswith(f"{path}.weight")), None)
        if found is None:
            found = torch.empty(next(shape for word, shape in shapes.items() if word in kohya[0]))
        yield name, kohya, (found.shape[0] * len(kohya), found.shape[1])


def test_sdxl(files: tiny.Files, reuse: Callable[..., tuple[hosts.LoraFile, lib_transfer.TransferReport]]) -> None:
    tensors: tiny.Weights = {}
    expected: dict[str, Tensor] = {}
    for seed, (name, kohya, shape) in enumerate(_sdxl(files)):
        made, update = _low_rank(name, shape, seed)
        tensors |= made
        expected |= dict(zip(kohya, update.chunk(len(kohya)), strict=True))
    output, report = reuse(tensors, files["sdxl-target"])
    assert not report.unread and not [module for module in report.modules if not module.written]
    got = {name: delta for name, delta in output.deltas().items() if delta.norm() > 0}
    assert got.keys() == expected.keys()
    for name, update in expected.items():
        torch.testing.assert_close(got[name], update, rtol=0, atol=1e-6)


def test_flux(tmp_path: Path, reuse: Callable[..., tuple[hosts.LoraFile, lib_transfer.TransferReport]]) -> None:
    weights = tiny.weights("flux-dev")
    target = tiny.save(tmp_path / "flux.safetensors", weights, torch.float16)
    tensors: tiny.Weights = {}
    expected: dict[str, Tensor] = {}
    for seed, (name, (kohya, (first, end))) in enumerate(FLUX_NAMES.items()):
        path = kohya.removeprefix("lora_unet_").replace("_", ".")
        key = next((k for k in weights if k.replace("_", ".") == f"model.diffusion.model.{path}.weight"), None)
        width = 8 if key else 24 if "text_model" in kohya else 16
        rows, into = weights[key].shape if key else ((end - first) * width, width)
        made, update = _low_rank(name, ((end - first) * width, into), seed)
        tensors |= made
        whole = expected.setdefault(kohya, torch.zeros(rows, into, dtype=torch.float64))
        whole[first * width : end * width] += update
    output, report = reuse(tensors, target)
    assert not report.unread and not [module for module in report.modules if not module.written]
    got = output.deltas()
    assert got.keys() == expected.keys()
    for name, update in expected.items():
        torch.testing.assert_close(got[name], update, rtol=0, atol=1e-6)


@pytest.mark.parametrize("leaf", ["attn1.to_k", "attn2.to_out.0", "ff.net.0.proj"])
def test_dora_in_kohyas_names_by_diffusers(
    leaf: str, files: tiny.Files, reuse: Callable[..., tuple[hosts.LoraFile, object]]
) -> None:
    """``convert_state_dict_to_kohya`` turns all dots but the last two into underscores, magnitudes' too."""
    kohya = f"{SDXL_IN}0_{leaf.replace('.', '_')}"
    weight = files.weight("sdxl-target", f"model.diffusion_model.input_blocks.4.1.transformer_blocks.0.{leaf}.weight")
    head = f"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_{leaf}"
    name, last = head.rsplit(".", 1) if "." in head else (head, "")
    magnitude = 0.5 + torch.rand(weight.shape[0], generator=torch.Generator().manual_seed(3))
    made = tiny.factors(head.replace(".", "_"), tuple(weight.shape), 2, alpha=2.0)
    tensors = made | {f"{name.replace('.', '_')}.{last}.lora_magnitude_vector": magnitude}
    output, report = reuse(tensors, files["sdxl-target"])
    assert not report.unread  # type: ignore[attr-defined]
    up, down = (made[f"{head.replace('.', '_')}.lora_{end}.weight"].double() for end in ("up", "down"))
    turned = weight + up @ down
    dora = turned * (magnitude.double()[:, None] / turned.norm(dim=1, keepdim=True))
    torch.testing.assert_close(output.tensors[f"{kohya}.diff"].double(), dora - weight, rtol=0, atol=1e-5)
