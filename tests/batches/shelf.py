"""A folder of tiny adapters, sound and broken in every way that a file can be (reference/trust.md section 8)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tests import tiny

UNET = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_{}"
MODULES = {UNET.format(0, "attn1_to_q"): 8, UNET.format(1, "attn1_to_k"): 16, UNET.format(2, "attn2_to_q"): 32}
SDXL_ONLY = "lora_unet_input_blocks_7_1_transformer_blocks_9_attn1_to_q"


def tensors(seed: int, modules: int = 3, rank: int = 2) -> tiny.Weights:
    made: tiny.Weights = {}
    for name, width in list(MODULES.items())[:modules]:
        made |= tiny.factors(name, (width, width), rank, seed=seed)
    return made


def sound(folder: Path, name: str, seed: int, *, trained_on: str = "base.safetensors", **metadata: str) -> Path:
    """A LoRA named ``name``, which may have sub-folders in it."""
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    return tiny.save(path, tensors(seed), None, {"ss_sd_model_name": trained_on, **metadata})


def _raw(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _bytes(path: Path, **changed: torch.Tensor) -> bytes:
    given = tensors(1)
    first = next(iter(MODULES))
    given |= {f"{first}.{suffix.replace('__', '.')}": t for suffix, t in changed.items()}
    made = tiny.save(path.with_suffix(".tmp"), given, None, {"ss_sd_model_name": "base.safetensors"})
    content = made.read_bytes()
    made.unlink()
    return content


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
NAN = torch.full((8, 2), float("nan"))


@dataclass(frozen=True)
class Broken:
    """A broken file: how it is made, a word of the reason that it must be given, and whether that is a failure."""

    make: Callable[[Path], object]
    said: str
    fails: bool = True


def _file(content: Callable[[Path], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content(path))


BROKEN: dict[str, Broken] = {
    "empty": Broken(_file(lambda p: b""), "bytes"),
    "zeros": Broken(_file(lambda p: bytes(64)), "zeros"),
    "long-header": Broken(_file(lambda p: _raw({}, length=10_000)), "header"),
    "huge-header": Broken(_file(lambda p: _raw({}, length=2**63)), "does not begin like"),
    "no-json": Broken(_file(lambda p: _raw(b"{ not json")), "header"),
    "nested": Broken(_file(lambda p: _raw(b"[" * 200_000)), "header"),
    "cut": Broken(_file(lambda p: _bytes(p)[:-7]), "cut off"),
    "trailing": Broken(_file(lambda p: _bytes(p) + b"x"), "after its last tensor"),
    "twice": Broken(_file(lambda p: _raw(b'{"a":%s,"a":%s}' % ((json.dumps(ENTRY).encode(),) * 2), bytes(8))), "twice"),
    "shape": Broken(_file(lambda p: _raw({"a": {**ENTRY, "shape": [3]}}, bytes(8))), "shape"),
    "dtype": Broken(_file(lambda p: _raw({"a": {**ENTRY, "dtype": "F7"}}, bytes(8))), "F7"),
    "page": Broken(_file(lambda p: b"<!DOCTYPE html><html>Login</html>"), "HTML"),
    "pointer": Broken(_file(lambda p: b"version https://git-lfs.github.com/spec/v1\n"), "Git-LFS"),
    "pickle": Broken(_file(lambda p: b"\x80\x02cos\nsystem\n(S'true'\ntR."), "pickle"),
    "archive": Broken(_file(lambda p: b"PK\x03\x04" + bytes(64)), "archive"),
    "nan": Broken(_file(lambda p: _bytes(p, lora_up__weight=NAN)), "NaN"),
    "infinite": Broken(_file(lambda p: _bytes(p, alpha=torch.tensor(float("inf")))), "infinity"),
    "overflow": Broken(
        _file(lambda p: _bytes(p, lora_up__weight=torch.full((8, 2), 1e30), alpha=torch.tensor(1e30))), "float32"
    ),
    "many": Broken(
        _file(
            lambda p: _raw({f"{i:05}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)})
        ),
        "limit",
    ),
    "loop": Broken(lambda p: p.symlink_to(p.name), "", fails=False),
    "pipe": Broken(os.mkfifo, "", fails=False),
    "folder": Broken(Path.mkdir, "", fails=False),
    "checkpoint": Broken(
        lambda p: tiny.save(p, {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2, 2)}),
        "full checkpoint",
        False,
    ),
    "embedding": Broken(lambda p: tiny.save(p, {"emb_params": torch.ones(4, 8)}), "textual-inversion", False),
    "sdxl": Broken(
        lambda p: tiny.save(p, tiny.factors(SDXL_ONLY, (8, 8))), "the target is Stable Diffusion 1.x", False
    ),
}
"""Links in a circle, pipes and folders are no files: WebUIs do not list them, and neither does a batch."""
