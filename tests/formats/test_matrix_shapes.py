"""The shape of an update, told from a header, against the shape of the update itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.formats.matrix_shapes import matrix_shapes

from .builders import random, save
from .trained import delta

FILES: dict[str, dict[str, Tensor]] = {
    "linear": {"lora_up.weight": random(6, 2), "lora_down.weight": random(2, 5)},
    "convolution": {"lora_up.weight": random(6, 2, 1, 1), "lora_down.weight": random(2, 5, 3, 3)},
    "core": {
        "lora_up.weight": random(6, 2, 1, 1),
        "lora_mid.weight": random(2, 2, 3, 3),
        "lora_down.weight": random(2, 5, 1, 1),
    },
    "loha": {
        "hada_w1_a": random(6, 2), "hada_w1_b": random(2, 45), "hada_w2_a": random(6, 2), "hada_w2_b": random(2, 45),
    },
    "difference": {"diff": random(6, 5, 3, 3)},
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_shape_is_that_of_the_update(name: str, tmp_path: Path) -> None:
    adapter = read_adapter(
        save(tmp_path / "a.safetensors", {f"m.{key}": tensor for key, tensor in FILES[name].items()})
    )
    assert matrix_shapes(adapter) == {"m": tuple(delta(adapter.groups["m"].update()).shape)}


def test_what_a_header_does_not_tell_is_left_out(tmp_path: Path) -> None:
    tensors = {
        "m.lokr_w1": random(2, 2),
        "m.lokr_w2": random(3, 4),
        "n.diff_b": torch.zeros(5),
        "n.diff": torch.zeros(5),
    }
    assert matrix_shapes(read_adapter(save(tmp_path / "a.safetensors", tensors))) == {}
