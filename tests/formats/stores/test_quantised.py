"""Scaled float8 gives the numbers it stands for; every other code is refused with its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.library.inspection import inspect

from ..builders import entry, random, raw, save

LAYER = "double_blocks.0.img_attn.qkv"
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def u8(value: object) -> torch.Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def quantised(shape: tuple[int, ...], dtype: torch.dtype, *, rows: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and the scale, as ComfyUI makes them: so that the largest number fills the range."""
    weight = random(*shape, seed=3) * 0.02
    largest = weight.abs().flatten(1).amax(1) if rows else weight.abs().max()
    scale = largest / torch.finfo(dtype).max
    spread = scale.reshape(-1, *[1] * (weight.dim() - 1)) if rows else scale
    return (weight / spread).to(dtype), scale


FORMS: dict[str, Any] = {
    "ComfyUI's first": lambda w, s: {f"{LAYER}.scale_weight": s, "scaled_fp8": torch.empty(0, dtype=w.dtype)},
    "with a prefix and input scales": lambda w, s: {
        f"{LAYER}.scale_weight": s.reshape(1),
        f"{LAYER}.scale_input": torch.ones(()),
        "model.diffusion_model.scaled_fp8": torch.empty(2, dtype=w.dtype),
    },
    "without a mark": lambda w, s: {f"{LAYER}.scale_weight": s},
    "ComfyUI's second": lambda w, s: {
        f"{LAYER}.weight_scale": s,
        f"{LAYER}.input_scale": torch.ones(()),
        f"{LAYER}.comfy_quant": u8({"format": "float8_e4m3fn" if w.dtype == E4M3 else "float8_e5m2"}),
    },
    "half precision scale": lambda w, s: {f"{LAYER}.scale_weight": (s * 0 + 0.5).half()},
}


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("shape", [(6, 4), (4, 3, 3, 3)])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_scaled_float8_gives_its_numbers(form: Any, shape: tuple[int, ...], dtype: torch.dtype, tmp_path: Path) -> None:
    codes, scale = quantised(shape, dtype)
    more = form(codes, scale)
    scale = next(v for k, v in more.items() if k.endswith(("scale_weight", "weight_scale")))
    bias = random(shape[0])
    path = save(tmp_path / "x.safetensors", {f"{LAYER}.weight": codes, f"{LAYER}.bias": bias, **more})
    expected = codes.double() * scale.double()
    with open_checkpoint(path) as file:
        assert set(file.shapes) == {f"{LAYER}.weight", f"{LAYER}.bias"}
        assert file.dtype(f"{LAYER}.weight") == ("F8_E4M3" if dtype == E4M3 else "F8_E5M2")
        assert file.info(f"{LAYER}.weight").nbytes == codes.numel()
        read = file.read(f"{LAYER}.weight")
        assert read.dtype == torch.float32
        assert torch.allclose(read.double(), expected, rtol=1e-7, atol=0)
        assert torch.equal(file.read(f"{LAYER}.weight", (1, 3), torch.float64), read[1:3].double())
        assert torch.equal(file.read(f"{LAYER}.bias"), bias)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("shape", [(6, 4), (4, 3, 3, 3), (5, 5)])
def test_a_scale_for_each_row(shape: tuple[int, ...], column: bool, tmp_path: Path) -> None:
    codes, scales = quantised(shape, E4M3, rows=True)
    stored = scales.reshape(-1, 1) if column else scales
    path = save(tmp_path / "x.safetensors", {f"{LAYER}.weight": codes, f"{LAYER}.weight_scale": stored})
    expected = torch.stack([row.double() * scale.double() for row, scale in zip(codes, scales, strict=True)])
    with open_checkpoint(path) as file:
        assert torch.allclose(file.read(f"{LAYER}.weight").double(), expected, rtol=1e-7, atol=0)
        assert torch.allclose(file.read(f"{LAYER}.weight", (2, 4)).double(), expected[2:4], rtol=1e-7, atol=0)


def test_the_format_may_be_named_in_the_metadata(tmp_path: Path) -> None:
    codes, scale = quantised((4, 4), E4M3)
    tensors = {f"{LAYER}.weight": codes, f"{LAYER}.weight_scale": scale}
    layers = {LAYER: {"format": "float8_e4m3fn", "full_precision_matrix_mult": True}}
    path = save(tmp_path / "x.safetensors", tensors, {"_quantization_metadata": json.dumps({"layers": layers})})
    with open_checkpoint(path) as file:
        assert torch.allclose(file.read(f"{LAYER}.weight"), codes.float() * scale)


def test_scaled_float8_in_an_archive_of_pytorch(tmp_path: Path) -> None:
    codes, scale = quantised((4, 6), E5M2)
    torch.save({f"{LAYER}.weight": codes.t(), f"{LAYER}.scale_weight": scale}, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as file:
        assert torch.allclose(file.read(f"{LAYER}.weight"), codes.t().float() * scale)


def test_plain_float8_and_names_that_only_look_alike_are_left_alone(tmp_path: Path) -> None:
    tensors = {
        f"{LAYER}.weight": random(4, 4).to(E4M3),
        "other.scale_weight": torch.ones(()),
        "other.input_scale": torch.ones(()),
        "position_ids": torch.arange(4).reshape(1, 4),
        "norm.scale": random(4),
    }
    with open_checkpoint(save(tmp_path / "x.safetensors", tensors)) as file:
        assert set(file.shapes) == set(tensors)
        read = file.read(f"{LAYER}.weight")
        assert read.dtype == E4M3
        assert torch.equal(read.float(), tensors[f"{LAYER}.weight"].float())


def byte(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8)


CODES: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "NF4": (
        {
            f"{LAYER}.weight": byte(8, 1),
            f"{LAYER}.weight.absmax": byte(1),
            f"{LAYER}.weight.quant_map": random(16),
            f"{LAYER}.weight.nested_absmax": random(1),
            f"{LAYER}.weight.quant_state.bitsandbytes__nf4": u8({"quant_type": "nf4"}),
        },
        "NF4",
    ),
    "FP4": ({f"{LAYER}.weight": byte(8, 1), f"{LAYER}.weight.quant_state.bitsandbytes__fp4": u8({})}, "FP4"),
    "int8 of bitsandbytes": ({f"{LAYER}.weight": byte(4, 4).char(), f"{LAYER}.SCB": random(4)}, "8-bit"),
    "SVDQuant": ({f"{LAYER}.qweight": byte(4, 2).char(), f"{LAYER}.wscales": random(4, 1)}, "SVDQuant"),
    "GPTQ": ({f"{LAYER}.qweight": byte(4, 2).int(), f"{LAYER}.qzeros": byte(4, 2).int()}, "GPTQ"),
    "quanto": ({f"{LAYER}.weight._data": byte(4, 2), f"{LAYER}.weight._scale": random(4, 1)}, "quanto"),
    "NVFP4": (
        {
            f"{LAYER}.weight": byte(4, 8),
            f"{LAYER}.weight_scale": random(4, 1).to(E4M3),
            f"{LAYER}.weight_scale_2": torch.ones(()),
        },
        "4-bit",
    ),
    "MXFP8": ({f"{LAYER}.weight": byte(4, 32).to(E4M3), f"{LAYER}.weight_scale": byte(4, 1)}, "each block"),
    "block-wise float8": (
        {f"{LAYER}.weight": byte(4, 4).to(E4M3), f"{LAYER}.weight_scale": random(2, 2)},
        "each block",
    ),
    "DeepSeek's float8": ({f"{LAYER}.weight": byte(4, 4).to(E4M3), f"{LAYER}.weight_scale_inv": random(1, 1)}, "block"),
    "rotated int8": (
        {
            f"{LAYER}.weight": byte(4, 4).char(),
            f"{LAYER}.weight_scale": random(4),
            f"{LAYER}.comfy_quant": u8({"format": "int8_tensorwise", "convrot": True}),
        },
        "int8_tensorwise",
    ),
    "rotated float8": (
        {
            f"{LAYER}.weight": byte(4, 4).to(E4M3),
            f"{LAYER}.weight_scale": torch.ones(()),
            f"{LAYER}.comfy_quant": u8({"format": "float8_e4m3fn", "convrot": True}),
        },
        "format",
    ),
    "a format of the future": (
        {f"{LAYER}.weight": byte(4, 4).to(E4M3), f"{LAYER}.comfy_quant": u8({"format": "nvfp2"})},
        "nvfp2",
    ),
    "a format that is no JSON": ({f"{LAYER}.weight": random(4, 4), f"{LAYER}.comfy_quant": byte(5)}, "format"),
    "any whole numbers": ({"some.layer.weight": byte(4, 4).short()}, "whole numbers"),
}


@pytest.mark.parametrize(("tensors", "words"), CODES.values(), ids=CODES.keys())
def test_other_codes_are_refused_by_name(tensors: dict[str, torch.Tensor], words: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", {"plain.weight": random(2, 2), **tensors})
    with pytest.raises(UnsupportedError, match=words) as caught:
        open_checkpoint(path)
    assert "quantised" in caught.value.message
    assert "x.safetensors" in caught.value.message
    assert caught.value.hint


def test_codes_named_in_the_metadata_alone_are_refused(tmp_path: Path) -> None:
    for text in (json.dumps({"layers": {LAYER: {"format": "mxfp8"}}}), json.dumps([1]), "{"):
        path = save(tmp_path / "x.safetensors", {f"{LAYER}.weight": random(4, 4)}, {"_quantization_metadata": text})
        with pytest.raises(UnsupportedError, match="format"):
            open_checkpoint(path)


def test_a_description_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({f"{LAYER}.comfy_quant": entry("U8", (1 << 30,), 0, 1 << 30)}))
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size + (1 << 30))
    with pytest.raises(UnsupportedError, match="format"):
        open_checkpoint(path)


def test_inspection_tells_it_once(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", {f"{LAYER}.weight": byte(8, 1)})
    with pytest.raises(UnsupportedError) as caught:
        inspect(path)
    assert caught.value.message.count("quantised") == 1
