"""A checkpoint is read a tensor or some rows at a time, in its own dtype, and nothing read keeps the file."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from lib_transfer.errors import BadFileError, StorageError, TransferError
from lib_transfer.formats import tensor_info
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.identity import stamp
from lib_transfer.formats.stores import safetensors_store

from ..builders import CODES, entry, random, raw, save

TENSORS = {
    "linear": random(6, 4, seed=1, dtype=torch.float16),
    "convolution": random(3, 2, 3, 3, seed=2),
    "brain": random(5, seed=3, dtype=torch.bfloat16),
    "eight": random(4, 4, seed=4).to(torch.float8_e4m3fn),
    "eight too": random(4, 4, seed=4).to(torch.float8_e5m2),
    "double": random(2, seed=5, dtype=torch.float64),
    "whole": torch.tensor([[1, -2], [3, 2**40]]),
    "flags": torch.tensor([True, False, True]),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 3),
}


def refuse(error: type[Exception]) -> object:
    def safe_open(*_: object, **__: object) -> object:
        raise error("refused")

    return safe_open


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(tmp_path / "model.safetensors", TENSORS, {"title": "x"})


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.double(), other.double())


@pytest.mark.parametrize("failure", [None, OSError, RuntimeError, SafetensorError, MemoryError])
def test_every_tensor_and_row_is_read_also_where_mapping_fails(
    failure: type[Exception] | None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if failure is not None:
        monkeypatch.setattr(safetensors_store, "safe_open", refuse(failure))
    with open_checkpoint(path) as file:
        assert dict(file.shapes) == {key: tuple(tensor.shape) for key, tensor in TENSORS.items()}
        assert file.metadata == {"title": "x"}
        for key, tensor in TENSORS.items():
            assert file.dtype(key) == CODES[tensor.dtype]
            assert file.info(key).nbytes == tensor.numel() * tensor.element_size()
            assert same(file.read(key), tensor), key
            for first in range(tensor.shape[0] + 1 if tensor.dim() else 0):
                for last in range(first, tensor.shape[0] + 1):
                    assert same(file.read(key, (first, last)), tensor[first:last])


def test_a_tensor_outlives_the_file_and_may_be_written_to(path: Path) -> None:
    with open_checkpoint(path) as file:
        read = [file.read("linear"), file.read("linear", (0, 6))]
    path.write_bytes(b"")
    for tensor in read:
        assert same(tensor, TENSORS["linear"])
        tensor.zero_()
        assert tensor.untyped_storage().nbytes() == 48  # its own bytes, not the file's


def test_many_threads_read_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_store, "safe_open", refuse(OSError))
    keys = [key for _ in range(50) for key in TENSORS]
    start = threading.Barrier(8)

    def read(part: int) -> bool:
        start.wait()
        return all(same(file.read(key), TENSORS[key]) for key in keys[part:])

    with open_checkpoint(path) as file, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(8)))


@pytest.mark.parametrize("rows", [(0, 7), (-1, 2), (3, 2)])
def test_rows_that_are_not_there_are_refused(rows: tuple[int, int], path: Path) -> None:
    with open_checkpoint(path) as file, pytest.raises(BadFileError) as caught:
        file.read("linear", rows)
    assert caught.value.reason == "rows"


def test_a_file_that_is_cut_while_open_is_an_error_not_a_crash(path: Path) -> None:
    with open_checkpoint(path) as file:
        with path.open("r+b") as stream:
            stream.truncate(path.stat().st_size - 20)
        for rows in (None, (0, 1)):
            with pytest.raises(BadFileError) as caught:
                file.read("double", rows)
            assert caught.value.reason == "changed"


def test_a_rewritten_file_is_noticed(path: Path) -> None:
    with open_checkpoint(path) as file:
        assert file.stamps == (stamp(path),)
        file.need_unchanged()
        path.rename(path.with_name("old"))
        with pytest.raises(BadFileError, match="does not exist"):
            file.need_unchanged()
        save(path, TENSORS, {"title": "x"})
        with pytest.raises(BadFileError) as caught:
            file.need_unchanged()
        assert caught.value.reason == "changed"


@pytest.mark.parametrize("again", [False, True])
def test_a_file_replaced_after_it_was_opened_is_read_as_it_was(again: bool, path: Path) -> None:
    with open_checkpoint(path) as file:
        path.unlink()
        if again:
            save(path, {key: tensor * 0 for key, tensor in TENSORS.items() if tensor.dtype == torch.float32})
        assert same(file.read("convolution"), TENSORS["convolution"])


def test_misuse_is_an_error_that_names_the_file(path: Path, tmp_path: Path) -> None:
    file = open_checkpoint(path)
    with pytest.raises(BadFileError) as caught:
        file.read("nothing")
    assert caught.value.reason == "missing_tensor"
    file.close()
    file.close()
    with pytest.raises(StorageError):
        file.read("linear")
    empty = tmp_path / "empty"
    empty.write_bytes(raw({"__metadata__": {}}))
    with pytest.raises(BadFileError) as caught:
        open_checkpoint(empty)
    assert caught.value.reason == "empty"


def test_a_number_format_that_torch_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(raw({"a": entry("U16", (4,))}, bytes(8)))
    monkeypatch.setitem(tensor_info.TORCH_NAME, "U16", "no_such_dtype")
    with open_checkpoint(path) as file, pytest.raises(TransferError, match="U16"):
        file.read("a")
