"""The same checkpoint and the same adapter in another kind of file give the same LoRA."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import lib_transfer
from lib_transfer.errors import BadFileError, UnsupportedError
from tests import tiny

MODULES = {
    "lora_unet_down_blocks_0_attentions_0_proj_in": "input_blocks.1.1.proj_in.weight",
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": (
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    ),
    "lora_unet_up_blocks_3_resnets_0_conv1": "output_blocks.9.0.in_layers.2.weight",
}


@pytest.fixture(scope="module")
def adapter(files: tiny.Files, tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = files.tensors["sd1-source"]
    tensors = {}
    for name, key in MODULES.items():
        tensors |= tiny.factors(name, weights[tiny.UNET + key].shape)
    return tiny.save(tmp_path_factory.mktemp("adapter") / "style.safetensors", tensors)


def archive(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As A1111-era checkpoints are: half precision, a state dict beside what the trainer left."""
    torch.save({"state_dict": {key: t.half() for key, t in tensors.items()}, "global_step": 7}, path)
    return tensors


def scaled(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As ComfyUI's scaled float8 is; what it stands for is returned."""
    stored: dict[str, Tensor] = {"scaled_fp8": torch.empty(0, dtype=torch.float8_e4m3fn)}
    meant = {}
    for key, tensor in tensors.items():
        stored[key] = meant[key] = tensor
        if key.endswith(".weight") and tensor.dim() > 1 and "embedding" not in key:
            scale = tensor.abs().max() / 448
            stored[key] = (tensor / scale).to(torch.float8_e4m3fn)
            stored[key.removesuffix("weight") + "scale_weight"] = scale
            meant[key] = stored[key].float() * scale
    tiny.save(path, stored)
    return meant


def gguf(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Q8_0 where it fits, as ComfyUI-GGUF and stable-diffusion.cpp write; what it stands for is returned."""
    package = pytest.importorskip("gguf", reason="the package gguf is in one environment only, as on the hosts")
    writer = package.GGUFWriter(str(path), "sd1")
    q8 = package.GGMLQuantizationType.Q8_0
    meant = {}
    for key, tensor in tensors.items():
        data = tensor.numpy()
        if tensor.dim() > 1 and tensor.numel() % 32 == 0:
            data = package.quants.quantize(data.reshape(-1, 32), q8)
            writer.add_array(f"comfy.gguf.orig_shape.{key}", list(tensor.shape))
            writer.add_tensor(key, data, raw_dtype=q8)
            meant[key] = torch.from_numpy(package.quants.dequantize(data, q8)).reshape(tensor.shape)
        else:
            writer.add_tensor(key, data)
            meant[key] = tensor
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant


@pytest.mark.parametrize(("write", "ending"), [(archive, ".ckpt"), (scaled, ".safetensors"), (gguf, ".gguf")])
def test_a_checkpoint_in_another_kind_of_file(
    write: Callable[..., dict[str, Tensor]],
    ending: str,
    files: tiny.Files,
    adapter: Path,
    transfer: Any,
    tmp_path: Path,
) -> None:
    ends, plain = [], []
    for name in ("sd1-source", "sd1-target"):
        path = tmp_path / f"{name}-x{ending}"
        meant = write(path, files.tensors[name])
        ends.append(path)
        plain.append(tiny.save(tmp_path / f"{name}-plain.safetensors", meant, torch.float32))
    result, expected = transfer(adapter, *ends), transfer(adapter, *plain)
    assert {m.decision for m in result.report.modules} == {"transferred"}
    found = load_file(result.path)
    assert len(found) == 9
    assert found.keys() == load_file(expected.path).keys()
    for key, tensor in load_file(expected.path).items():
        assert torch.equal(found[key], tensor), key
    assert ending in (".ckpt", ".gguf") or (ends[0].stat().st_size < plain[0].stat().st_size)


@pytest.mark.parametrize("safe", [True, False])
def test_a_sharded_folder_of_diffusers(
    safe: bool, runtime: lib_transfer.Runtime, transfer: Any, tmp_path: Path
) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is in one environment only")
    names = ("down_blocks.0.attentions.0.proj_in", "up_blocks.3.resnets.0.conv1")
    tensors, ends = {}, []
    for seed, name in enumerate(("base-v1.5", "tuned-v2.0")):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            block_out_channels=(8, 16, 32, 32), cross_attention_dim=768, norm_num_groups=4, attention_head_dim=4
        )
        unet.save_pretrained(tmp_path / name / "unet", max_shard_size="300KB", safe_serialization=safe)
        assert len(list((tmp_path / name / "unet").iterdir())) > 4
        weights = {f"unet.{key}": tensor for key, tensor in unet.state_dict().items()}
        ends.append((tmp_path / name, tiny.save(tmp_path / f"{name}.safetensors", weights)))
    for name in names:
        tensors |= tiny.factors(f"lora_unet_{name.replace('.', '_')}", weights[f"unet.{name}.weight"].shape)
    adapter = tiny.save(tmp_path / "style.safetensors", tensors)
    folders, files = zip(*ends, strict=True)
    result, expected = (transfer(adapter, *pair, below="copy") for pair in (folders, files))
    found = load_file(result.path)
    assert len(found) == 6
    assert all(torch.equal(found[key], tensor) for key, tensor in load_file(expected.path).items())
    with safe_open(result.path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["ss_sd_model_name"] == "tuned-v2.0"
    assert metadata["ss_new_sd_model_hash"] == runtime.hashes.sha256(folders[1])
    assert "ss_sd_model_hash" not in metadata  # of a file's second megabyte, which a folder has not
    assert "tuned-v2.0" in result.path.stem
    assert transfer(adapter, *folders, below="copy").status == "already done"
    request = lib_transfer.request(adapter, source=folders[0], target=folders[1], strength=0.5, runtime=runtime)
    whole = folders[1] / "unet" / "diffusion_pytorch_model.safetensors"  # it goes before the shards
    tiny.save(whole, {key.removeprefix("unet."): tensor for key, tensor in weights.items()})
    with pytest.raises(BadFileError) as caught:
        lib_transfer.transfer(request, lib_transfer.Destination(folder=tmp_path / "out"), runtime=runtime)
    assert caught.value.reason == "changed"


def test_an_adapter_in_an_archive(adapter: Path, transfer: Any, tmp_path: Path) -> None:
    torch.save(load_file(adapter), tmp_path / "style.pt")
    result, expected = (transfer(path, "sd1-source", "sd1-target") for path in (tmp_path / "style.pt", adapter))
    found = load_file(result.path)
    assert all(torch.equal(found[key], tensor) for key, tensor in load_file(expected.path).items())
    assert result.path != expected.path


def test_what_is_refused_leaves_nothing_behind(
    files: tiny.Files, adapter: Path, runtime: lib_transfer.Runtime, transfer: Any, tmp_path: Path
) -> None:
    name = next(iter(MODULES.values()))
    coded = {**files.tensors["sd1-source"], f"{tiny.UNET}{name}.absmax": torch.ones(1)}
    nf4 = tiny.save(tmp_path / "nf4.safetensors", coded, torch.float16)
    with pytest.raises(UnsupportedError, match="bitsandbytes"):
        transfer(adapter, nf4, "sd1-target")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadFileError, match="unet, transformer"):
        transfer(adapter, tmp_path / "folder", "sd1-target")
    assert list((tmp_path / "out").iterdir()) == []
