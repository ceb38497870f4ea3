"""An adapter's file as updates of a base's modules, against formulas of the formats; and what reuse keeps of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lib_transfer.errors import MismatchError
from lib_transfer.evaluation.files import reused, updates_of
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.library.base import Base, open_base
from lib_transfer.linalg.factors import Factors
from lib_transfer.update import Update
from tests import tiny

CONV = "model.diffusion_model.input_blocks.1.0.in_layers.2"
TO_K = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k"
TO_Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"
NORM = "model.diffusion_model.input_blocks.1.0.in_layers.0"


def matrix(update: Update) -> Tensor:
    if update.factors is not None:
        return update.factors.up @ update.factors.down
    assert update.weight is not None
    return update.weight


def test_every_form_of_an_update_is_what_its_format_says(tmp_path: Path) -> None:
    base = tiny.weights("sd1")
    tiny.save(tmp_path / "base.safetensors", base, torch.float32)
    torch.manual_seed(0)
    with open_base(tmp_path / "base.safetensors", "") as opened:
        names = {name: str(opened.by_name[name].output_name) for name in (CONV, TO_K, TO_Q, NORM)}
        shapes = {name: opened.by_name[name].shape for name in names}
        tensors = tiny.factors(names[CONV], shapes[CONV], 2, alpha=1.0) | tiny.factors(names[TO_K], shapes[TO_K], 4)
        tensors |= {
            f"{names[TO_Q]}.weight": torch.randn(shapes[TO_Q][0], 1),
            f"{names[TO_Q]}.on_input": torch.tensor(False),
        }
        tensors |= {
            f"{names[NORM]}.w_norm": torch.randn(shapes[NORM]),
            f"{names[NORM]}.b_norm": torch.randn(shapes[NORM]),
        }
        # What the base has no module for, and what does not fit, plays no part.
        tensors |= tiny.factors("lora_unet_nowhere", (8, 8)) | tiny.factors("lora_unet_conv_in", (9, 9))
        save_file(tensors, tmp_path / "lora.safetensors")
        with open_adapter(tmp_path / "lora.safetensors") as adapter:
            changes = updates_of(adapter, opened)
    assert set(changes) == set(names)
    for name, scale in ((CONV, 1 / 2), (TO_K, 1.5 / 4)):
        up, down = (tensors[f"{names[name]}.lora_{part}.weight"] for part in ("up", "down"))
        torch.testing.assert_close(matrix(changes[name]), scale * up.flatten(1) @ down.flatten(1))
    scaled = tensors[f"{names[TO_Q]}.weight"] * base[f"{TO_Q}.weight"]
    torch.testing.assert_close(matrix(changes[TO_Q]), scaled)
    torch.testing.assert_close(changes[NORM].weight, tensors[f"{names[NORM]}.w_norm"])
    torch.testing.assert_close(changes[NORM].bias, tensors[f"{names[NORM]}.b_norm"])


def test_a_fused_update_is_cut_into_the_rows_of_its_modules(tmp_path: Path) -> None:
    tiny.save(tmp_path / "flux.safetensors", tiny.weights("flux-dev"), torch.float32)
    with open_base(tmp_path / "flux.safetensors", "") as base:
        name = "lora_unet_double_blocks_0_img_attn_qkv"
        rows = sum(binding.module.shape[0] for binding in base.by_adapter_name[name])
        tensors = tiny.factors(name, (rows, base.by_adapter_name[name][0].module.shape[1]), 2, alpha=2.0)
        save_file(tensors, tmp_path / "lora.safetensors")
        with open_adapter(tmp_path / "lora.safetensors") as adapter:
            changes = updates_of(adapter, base)
        parts = [f"model.diffusion_model.double_blocks.0.img_attn.qkv.{part}" for part in "qkv"]
    assert sorted(changes) == sorted(parts)
    whole = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
    torch.testing.assert_close(torch.cat([matrix(changes[part]) for part in parts]), whole)


def test_plain_reuse_keeps_what_has_the_same_name_and_shape(tmp_path: Path) -> None:
    whole = tiny.weights("sd1")
    tiny.save(tmp_path / "whole.safetensors", whole, torch.float32)
    tiny.save(tmp_path / "pruned.safetensors", tiny.pruned(whole, "sd1"), torch.float32)
    tiny.save(tmp_path / "wider.safetensors", tiny.weights("sd1", width=16), torch.float32)
    with (
        open_base(tmp_path / "whole.safetensors", "") as base,
        open_base(tmp_path / "pruned.safetensors", "") as pruned,
        open_base(tmp_path / "wider.safetensors", "") as wider,
    ):
        linear = [module for module in base.modules if module.kind == "linear"]
        changes = {m.name: Update(Factors(torch.ones(m.shape[0], 1), torch.ones(1, m.shape[1]))) for m in linear}
        assert reused(changes, base, base) == changes
        kept = reused(changes, base, pruned)
        assert 0 < len(kept) < len(changes)
        assert set(kept) == set(changes) & set(pruned.by_name)
        assert all(_same(name, base, wider) for name in reused(changes, base, wider))
        assert TO_Q not in reused(changes, base, wider)


def test_names_that_two_architectures_share_are_no_reuse(tmp_path: Path) -> None:
    tiny.save(tmp_path / "sd1.safetensors", tiny.weights("sd1"), torch.float32)
    tiny.save(tmp_path / "sdxl.safetensors", tiny.weights("sdxl"), torch.float32)
    with open_base(tmp_path / "sd1.safetensors", "") as sd1, open_base(tmp_path / "sdxl.safetensors", "") as sdxl:
        common = [n for n, m in sd1.by_name.items() if n in sdxl.by_name and m.shape == sdxl.by_name[n].shape]
        changes = {name: Update(weight=torch.ones(sd1.by_name[name].shape)) for name in common}
        assert common
        assert reused(changes, sd1, sd1) == changes
        assert reused(changes, sd1, sdxl) == {}


def test_what_the_model_never_reads_is_left_alone(tmp_path: Path) -> None:
    tiny.save(tmp_path / "sd2.safetensors", tiny.weights("sd2"), torch.float32)
    names = [f"lora_te_text_model_encoder_layers_{layer}_mlp_fc1" for layer in (22, 23)]
    with open_base(tmp_path / "sd2.safetensors", "") as base:
        shape = base.by_adapter_name[names[0]][0].module.shape
        save_file(tiny.factors(names[0], shape) | tiny.factors(names[1], shape), tmp_path / "lora.safetensors")
        with open_adapter(tmp_path / "lora.safetensors") as adapter:
            assert list(updates_of(adapter, base)) == ["cond_stage_model.model.transformer.resblocks.22.mlp.c_fc"]


def _same(name: str, one: Base, other: Base) -> bool:
    return one.by_name[name].shape == other.by_name[name].shape


def test_an_adapter_of_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    tiny.save(tmp_path / "base.safetensors", tiny.weights("sd1"), torch.float32)
    save_file(tiny.factors("lora_unet_double_blocks_0_img_attn_qkv", (24, 8)), tmp_path / "lora.safetensors")
    with (
        open_base(tmp_path / "base.safetensors", "") as base,
        open_adapter(tmp_path / "lora.safetensors") as adapter,
        pytest.raises(MismatchError, match=r"Nothing of the adapter fits base\.safetensors"),
    ):
        updates_of(adapter, base)
