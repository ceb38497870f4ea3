"""What A1111 1.9.4 and Forge do with a LoRA file, stated anew from reading them (reference/hosts.md), in float64.

Uses none of the code under test. Which weight a module name means comes from :mod:`tests.architecture.test_hosts`, which
restates both hosts' name maps; the table of diffusers' names for it is written out here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.architecture.test_hosts import a1111, forge

Place = tuple[str, int | None]
UNET = "model.diffusion_model."


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file read with the safetensors library and by hand."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    data: bytes

    @cached_property
    def names(self) -> dict[str, dict[str, Tensor]]:
        """By kohya's rule: the module is what stands before the first dot."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self.tensors.items():
            name, _, suffix = key.partition(".")
            found.setdefault(name, {})[suffix] = tensor
        return found

    def deltas(self) -> dict[str, Tensor]:
        """The change of weight of each low-rank module, ``(out, in*kh*kw)`` in float64."""
        return {name: delta(t) for name, t in self.names.items() if "lora_up.weight" in t}


def read(path: Path) -> LoraFile:
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])
    return LoraFile(path, load_file(path), header.get("__metadata__", {}), raw[start:])


def delta(tensors: dict[str, Tensor]) -> Tensor:
    """``alpha / r * up @ down`` flattened, with a core if there is one; scale 1 without an alpha."""
    up, down = tensors["lora_up.weight"].double(), tensors["lora_down.weight"].double()
    rank = down.shape[0]
    scale = float(tensors["alpha"].double().reshape(())) / rank if "alpha" in tensors else 1.0
    if "lora_mid.weight" in tensors:
        mid = tensors["lora_mid.weight"].double()
        whole = torch.einsum("m n k l, i m, n j -> i j k l", mid, up.flatten(1), down.flatten(1))
        return scale * whole.flatten(1)
    return scale * up.flatten(1) @ down.flatten(1)


def diffusers_name(path: str, *, sdxl: bool) -> str | None:
    """Diffusers' path of a UNet module from its path in a single-file checkpoint (reference/formats.md 2.1)."""
    residual = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj"}
    residual |= {"out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut"}
    fixed = {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    fixed |= {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    fixed |= {"label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2"}
    if path in fixed:
        return fixed[path]
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", path):
        place, rest = int(match[1]), match[2]
        return f"mid_block.attentions.0.{rest}" if place == 1 else f"mid_block.resnets.{place // 2}.{residual[rest]}"
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d)\.(.+)", path)
    if match is None:
        return None
    way, number, place, rest = match[1], int(match[2]), int(match[3]), match[4]
    block, inside = divmod(number - 1, 3) if way == "input" else divmod(number, 3)
    side = "down_blocks" if way == "input" else "up_blocks"
    if rest == "op":
        return f"down_blocks.{block}.downsamplers.0.conv"
    if rest == "conv":
        return f"up_blocks.{block}.upsamplers.0.conv"
    attention = place == 1
    return (
        f"{side}.{block}.attentions.{inside}.{rest}"
        if attention
        else f"{side}.{block}.resnets.{inside}.{residual[rest]}"
    )


class Host:
    """One host with a checkpoint loaded.

    Args:
        weights: the checkpoint, by its keys.
        forge_host: whether it is Forge.
    """

    def __init__(self, weights: dict[str, Tensor], *, forge_host: bool) -> None:
        self.weights, self.is_forge = weights, forge_host
        keys = list(weights)
        self.sdxl = any(key.startswith("conditioner.") for key in keys)
        if forge_host:
            self._place: Callable[[str], Place | None] = forge(keys, self._diffusers(keys))
        else:
            self._place = a1111(keys)

    def _diffusers(self, keys: list[str]) -> dict[str, str]:
        paths = [key.removeprefix(UNET).removesuffix(".weight") for key in keys if key.startswith(UNET)]
        named = {path: diffusers_name(path, sdxl=self.sdxl) for path in paths if not path.endswith(".bias")}
        return {f"{name}.weight": f"{UNET}{path}.weight" for path, name in named.items() if name is not None}

    def place(self, name: str) -> Place | None:
        """Which weight, and which third of its rows, a module name means."""
        return self._place(name)

    def unknown(self, file: LoraFile) -> list[str]:
        """Tensors that the host finds no weight for."""
        return [key for name, group in file.names.items() if self.place(name) is None for key in group]

    def refuses(self, file: LoraFile) -> bool:
        """Forge ignores the whole file above 12 unknown tensors; A1111 drops it when one module has no known type."""
        if self.is_forge:
            return len(self.unknown(file)) > 12
        return any(self.place(name) is not None and _kind(group) is None for name, group in file.names.items())

    def load(self, file: LoraFile) -> dict[str, Tensor]:
        """The changed weights (only those), float64, in the checkpoint's shapes.

        Raises:
            RuntimeError: a change does not fit its weight.
        """
        changed: dict[str, Tensor] = {}
        places = {name: place for name in file.names if (place := self.place(name)) is not None}
        there = set(places.values())
        for name, (key, third) in places.items():
            bias = key.removesuffix("weight") + "bias"
            group = file.names[name]
            if not self.is_forge and not self._complete(key, there):
                continue
            kind = _kind(group)
            if kind == "lora":
                # The checkpoint multiplies with the projection from the right.
                change = delta(group).T if key.endswith("text_projection") else delta(group)
                self._add(changed, key, third, change)
                if self.is_forge and "diff_b" in group:
                    self._add(changed, bias, third, group["diff_b"].double())
            elif kind == "full":
                self._add(changed, key, third, group["diff"].double())
                if "diff_b" in group:
                    self._add(changed, bias, third, group["diff_b"].double())
            elif kind == "norm":
                self._add(changed, key, third, group["w_norm"].double())
                self._add(changed, bias, third, group["b_norm"].double())
        return changed

    @staticmethod
    def _complete(key: str, there: set[Place]) -> bool:
        """A1111 applies a LoRA to a MultiheadAttention only with all of q, k, v and out in the file."""
        if not key.startswith("conditioner.embedders.1.") or ".attn." not in key:
            return True
        layer = key.partition(".attn.")[0]
        fused = {(f"{layer}.attn.in_proj_weight", third) for third in range(3)}
        return fused | {(f"{layer}.attn.out_proj.weight", None)} <= there

    def _add(self, changed: dict[str, Tensor], key: str, third: int | None, change: Tensor) -> None:
        whole = changed.setdefault(key, self.weights[key].double().clone())
        rows = whole.shape[0] // 3
        part = whole if third is None else whole[third * rows : (third + 1) * rows]
        if part.numel() != change.numel() or part.shape[0] != change.shape[0]:
            raise RuntimeError(f"{key}: {tuple(change.shape)} does not fit {tuple(part.shape)}")
        part += change.reshape(part.shape)


def _kind(group: dict[str, Tensor]) -> str | None:
    """A1111's types in its order: the first whose tensors are all there."""
    kinds = {"lora": {"lora_up.weight", "lora_down.weight"}, "full": {"diff"}, "norm": {"w_norm", "b_norm"}}
    return next((kind for kind, needed in kinds.items() if needed <= group.keys()), None)


def a1111_version(metadata: dict[str, str]) -> str:
    """``extensions-builtin/Lora/network.py`` of A1111 1.9.4."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    if metadata.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if metadata else "Unknown"


def forge_version(metadata: dict[str, str]) -> str:
    """``sd_forge_lora/network.py`` of Forge."""
    if metadata.get("modelspec.implementation") == "https://github.com/black-forest-labs/flux":
        return "Flux"
    architecture = metadata.get("modelspec.architecture")
    if architecture == "flux-1-dev/lora":
        return "Flux"
    if architecture == "stable-diffusion-xl-v1-base/lora" or metadata.get("ss_base_model_version", "").startswith(
        "sdxl_"
    ):
        return "SDXL"
    if metadata.get("ss_v2") == "True":
        return "SD2"
    return "SD1" if architecture == "stable-diffusion-v1/lora" else "Unknown"


def addnet_hash(file: LoraFile) -> str:
    """SHA-256 of what stands after the header."""
    return hashlib.sha256(file.data).hexdigest()
