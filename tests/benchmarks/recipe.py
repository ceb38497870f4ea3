"""The obvious recipe, for comparison: dense SVDs of both weights, dense projections, a dense recompression."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_transfer.architecture.module import Module

ENERGY = 0.99
THRESHOLD = 0.8


def transfer(source: Path, target: Path, adapter: Path, output: Path, chosen: list[Module]) -> None:
    """ProLoRA as one writes it down from the paper, module by module, on all cores."""
    lora = load_file(adapter)
    result: dict[str, Tensor] = {}
    with safe_open(source, "pt") as sources, safe_open(target, "pt") as targets:
        for module in chosen:
            name = str(module.output_name)
            up, down = (lora[f"{name}.lora_{side}.weight"].float() for side in ("up", "down"))
            rank = down.shape[0]
            delta = float(lora[f"{name}.alpha"]) / rank * up @ down
            u_s, values, vh_s = torch.linalg.svd(_weight(sources, module), full_matrices=False)
            u_t, _, vh_t = torch.linalg.svd(_weight(targets, module), full_matrices=False)
            energy = values.square().cumsum(0)
            k = int((energy < ENERGY * energy[-1]).sum()) + 1
            u_s, u_t, v_s, v_t = u_s[:, :k], u_t[:, :k], vh_s[:k].T, vh_t[:k].T
            similarity = min((u_s.T @ u_t).square().sum() / k, (v_s.T @ v_t).square().sum() / k)
            if similarity < THRESHOLD:
                continue
            inside = _projected(_projected(delta, u_s, v_s), u_t, v_t)
            outside = _rejected(_rejected(delta, u_s, v_s), u_t, v_t)
            u, s, vh = torch.linalg.svd(inside + outside, full_matrices=False)
            root = s[:rank].sqrt()
            result[f"{name}.lora_up.weight"] = (u[:, :rank] * root).half().contiguous()
            result[f"{name}.lora_down.weight"] = (root[:, None] * vh[:rank]).half().contiguous()
            result[f"{name}.alpha"] = torch.tensor(float(rank)).half()
    save_file(result, output)


def _weight(file: safe_open, module: Module) -> Tensor:
    weight: Tensor = file.get_tensor(module.weight).float()
    return weight if module.rows is None else torch.cat([weight[slice(*rows)] for rows in module.rows])


def _projected(delta: Tensor, u: Tensor, v: Tensor) -> Tensor:
    return u @ (u.T @ delta @ v) @ v.T


def _rejected(delta: Tensor, u: Tensor, v: Tensor) -> Tensor:
    rest = delta - u @ (u.T @ delta)
    return rest - (rest @ v) @ v.T
