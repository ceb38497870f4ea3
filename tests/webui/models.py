"""Model folders for the tab: tiny checkpoints with real names, and LoRAs for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib_transfer.architecture import modules, reference
from tests import tiny

BASE, TUNED, VARIED, OTHER = "base.safetensors", "tuned.safetensors", "varied.safetensors", "xl.safetensors"
MODULES = 24


def checkpoints(folder: Path) -> None:
    """``base``, two fine-tunes of it and ``xl`` (something else) in ``folder/Stable-diffusion``.

    ``tuned`` is near everywhere; ``varied`` is further away the later a weight comes, so that a part of it is too far.
    """
    place = folder / "Stable-diffusion"
    place.mkdir(parents=True)
    (folder / "Lora").mkdir()
    base = tiny.weights("sd1")
    tiny.save(place / BASE, base, torch.float16)
    tiny.save(place / TUNED, tiny.fine_tuned(base, 0.05), torch.float16)
    nearer, further = tiny.fine_tuned(base, 0.05, seed=4), tiny.fine_tuned(base, 0.5, seed=4)
    shares = {key: number / len(base) for number, key in enumerate(base)}
    varied = {key: torch.lerp(nearer[key], further[key], share) for key, share in shares.items()}
    tiny.save(place / VARIED, varied, torch.float16)
    tiny.save(place / OTHER, tiny.weights("sdxl"), torch.float16)


def lora(folder: Path, name: str, *, trained_on: str | None = BASE, seed: int = 0, whole: bool = False) -> Path:
    """A LoRA of some attention modules of ``base`` in ``folder/Lora``, or of all linear ones.

    It says what it was trained on, where that is given.
    """
    architecture = tiny.architecture("sd1")
    shapes = reference(architecture, width=8)
    linear = [m for m in modules(architecture, shapes) if m.kind == "linear" and m.output_name]
    attention = [m for m in linear if m.position.role.startswith("attn")][:MODULES]
    tensors = {}
    for module in linear if whole else attention:
        tensors |= tiny.factors(str(module.output_name), module.shape, seed=seed)
    metadata = {"ss_network_module": "networks.lora", "ss_base_model_version": "sd_v1"}
    if trained_on is not None:
        checkpoint = folder / "Stable-diffusion" / trained_on
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest() if checkpoint.exists() else "ab" * 32
        metadata |= {"ss_sd_model_name": trained_on, "ss_new_sd_model_hash": digest}
    path = folder / "Lora" / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: t.contiguous() for key, t in tensors.items()}, path, metadata)
    return path
