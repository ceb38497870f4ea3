"""Tiny transformers since Anima, adapters for them in the names of :mod:`tests.transfer.families`, and forms of their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

import lib_transfer
from tests import tiny
from tests.balance import need_balance
from tests.transfer import hosts
from tests.transfer.families import QWEN, Change
from tests.transfer.test_stores import gguf, scaled

CORE = "model.diffusion_model."
WIDTH = 16


def key_of(path: str) -> str:
    """The key of a weight in the single file."""
    return f"{path}.weight" if path.startswith(QWEN) else f"{CORE}{path}.weight"


def written_as(path: str) -> str:
    """The one name that Forge Neo and ComfyUI load."""
    if path.startswith(QWEN):
        return "lora_te_" + path.removeprefix(QWEN).replace(".", "_")
    return "lora_unet_" + path.replace(".", "_")


Bases = Callable[[str], tuple[list[Path], list[tiny.Weights]]]
"""A tiny checkpoint and its fine-tune: their files, and their numbers in float64."""


def bases_in(folder: Path) -> Bases:
    """Makes each of them once, in ``folder``."""
    made: dict[str, tuple[list[Path], list[tiny.Weights]]] = {}

    def base(name: str) -> tuple[list[Path], list[tiny.Weights]]:
        if name not in made:
            source = tiny.weights(name, width=WIDTH)
            both = [source, tiny.fine_tuned(source, 0.2)]
            paths = [tiny.save(folder / f"{name}-{n}.safetensors", w, torch.float16) for n, w in enumerate(both)]
            made[name] = paths, [{key: w.half().double() for key, w in weights.items()} for weights in both]
        return made[name]

    return base


def adapter_of(changes: Mapping[str, Change], weights: tiny.Weights) -> tuple[tiny.Weights, dict[str, Tensor]]:
    """An adapter of these names, and the change of every tensor that it means."""
    made: tiny.Weights = {}
    meant: dict[str, Tensor] = {}
    for seed, (name, (path, rows)) in enumerate(changes.items()):
        whole = weights[key_of(path)]
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


def bare(path: Path, tensors: tiny.Weights) -> tiny.Weights:
    """What ComfyUI calls a diffusion model, behind the prefix of the original's own files, in scaled float8."""
    return scaled(path, {f"net.{key.removeprefix(CORE)}": w for key, w in tensors.items() if key.startswith(CORE)})


def mixed(path: Path, tensors: tiny.Weights) -> tiny.Weights:
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


def in_gguf(path: Path, tensors: tiny.Weights) -> tiny.Weights:
    """What ComfyUI-GGUF makes."""
    return gguf(path, {key.removeprefix(CORE): w for key, w in tensors.items() if key.startswith(CORE)})


def reused(file: Path, target: Path, runtime: lib_transfer.Runtime) -> hosts.LoraFile:
    """What plain reuse of an adapter writes, of which nothing is lost."""
    request = lib_transfer.request(file, target=target, runtime=runtime, method="reuse", rank="full", dtype="fp32")
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.report is not None and not result.report.unread and not result.report.accounts.losses
    need_balance(result.report)
    assert result.path is not None
    return hosts.read(result.path)
