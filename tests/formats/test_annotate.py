"""Adding to the metadata of an output: tensors and all else stay."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_transfer.errors import BadFileError, RequestError
from lib_transfer.formats.metadata import MATCH
from lib_transfer.formats.writer import annotate, write_adapter


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(str(path), "pt") as file:
        return dict(file.metadata())


def data_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_a_text_is_added_and_everything_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    tensors = {"b.up": torch.randn(3, 2).half(), "a.alpha": torch.tensor(4.0), "c": torch.randn(2).bfloat16()}
    write_adapter(path, tensors, {"transfer_lora.request": "{}", "ss_tag": "x", MATCH: "old"})
    before, data = metadata_of(path), data_of(path)
    written = annotate(path, {MATCH: '{"explained": 0.5}'})
    assert metadata_of(path) == {**before, MATCH: '{"explained": 0.5}'}
    assert data_of(path) == data
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    for name, tensor in load_file(path).items():
        assert torch.equal(tensor, tensors[name])
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_ours_or_not_there_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(1)}, other, {"ss_tag": "x"})
    content = other.read_bytes()
    with pytest.raises(RequestError, match="was not made by Transfer LoRA"):
        annotate(other, {MATCH: "{}"})
    assert other.read_bytes() == content
    with pytest.raises(BadFileError):
        annotate(tmp_path / "none.safetensors", {MATCH: "{}"})
