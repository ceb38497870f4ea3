"""Archives of PyTorch are read as PyTorch reads them, lazily, and without PyTorch's reader."""

from __future__ import annotations

import argparse
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lib_transfer.errors import BadFileError, StorageError, UnsupportedError
from lib_transfer.formats.adapter_file import outline_adapter, read_adapter
from lib_transfer.formats.checkpoint import open_checkpoint

from ..builders import CODES, accounted, lora, random
from .archives import TINY, archive, sparse_archive
from .counting import Count

BASE = random(8, 6, seed=1)
DTYPES = [d for d in CODES if d not in (torch.uint8, torch.bool)]
TENSORS: dict[str, torch.Tensor] = {
    **{str(dtype): (random(4, 3, seed=2) * 9).to(dtype) for dtype in DTYPES},
    "byte": torch.arange(7, dtype=torch.uint8),
    "flags": torch.tensor([[True, False], [False, True]]),
    "scalar": torch.tensor(2.5),
    "empty": torch.empty(0, 3),
    "convolution": random(3, 2, 3, 3, seed=3),
    "transposed": BASE.t(),
    "middle rows": BASE[2:5],
    "middle columns": BASE[:, 1:4],
    "every other": BASE[::2, ::3],
    "permuted": random(2, 3, 4, 5, seed=4).permute(3, 1, 0, 2),
    "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 5),
    "windows": torch.arange(10.0).unfold(0, 4, 2),
    "channels last": random(2, 3, 4, 4, seed=5).to(memory_format=torch.channels_last),
    "eight transposed": random(4, 6, seed=6).to(torch.float8_e5m2).t(),
    "parameter": torch.nn.Parameter(random(5, seed=7)),
}


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one.double(), other.double())


def check(path: Path, expected: dict[str, torch.Tensor]) -> None:
    with open_checkpoint(path) as file:
        assert dict(file.shapes) == {key: tuple(tensor.shape) for key, tensor in expected.items()}
        for key, tensor in expected.items():
            assert file.dtype(key) == CODES[tensor.dtype]
            assert file.info(key).nbytes == tensor.numel() * tensor.element_size()
            read = file.read(key)
            assert same(read, tensor.detach()), key
            assert read.is_contiguous()
            assert same(file.read(key, dtype=torch.float32), tensor.detach().float())
            for first in range(tensor.shape[0] + 1 if tensor.dim() else 0):
                for last in range(first, tensor.shape[0] + 1):
                    assert same(file.read(key, (first, last)), tensor.detach()[first:last]), (key, first, last)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_tensor_and_row_is_read_as_torch_reads_it(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(TENSORS, path, pickle_protocol=protocol)
    check(path, torch.load(path, weights_only=False))


NESTED = {
    "state dict": {"state_dict": {"a.weight": BASE}, "epoch": 3, "optimizer": {"b": BASE}},
    "state dict in a state dict": {"state_dict": {"state_dict": OrderedDict({"a.weight": BASE})}},
    "ordered dict": OrderedDict({"a.weight": BASE}),
    "dict of dicts": {"a": {"weight": BASE}, "lr": 1e-4, "name": "x", "none": None, "flags": [True, {"b": 1}, b"x"]},
    "default dict": defaultdict(dict, {"a.weight": BASE}),
    "numbers as keys": {"a.weight": BASE, 7: BASE, None: BASE, ("x", 1): BASE, 2.5: BASE},
    "leftovers": {
        "state_dict": {"a.weight": BASE},
        "hyper_parameters": argparse.Namespace(
            lr=np.float64(0.1), folder=Path("x"), sizes={1, 2}, frozen=frozenset({3})
        ),
        "best": np.array([1.0, 2.0]),
        "count": 2**70,
        "device": torch.device("cpu"),
        "dtype": torch.bfloat16,
        "size": torch.Size([1, 2]),
        "slice": slice(1, 2),
        "complex": 1j,
    },
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("saved", NESTED.values(), ids=NESTED.keys())
def test_the_tensors_are_found_in_what_training_programs_save(saved: Any, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(saved, path, pickle_protocol=protocol)
    check(path, {"a.weight": BASE})


@pytest.fixture
def lightning() -> Iterator[type]:
    """A class where Lightning has its own; gone again before the file is read."""
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    made = type("ModelCheckpoint", (dict,), {"__module__": names[-1]})
    sys.modules[names[-1]].ModelCheckpoint = made  # type: ignore[attr-defined]
    yield made
    for name in names:
        sys.modules.pop(name, None)


def test_callbacks_of_lightning_are_forgotten_and_never_made(lightning: type, tmp_path: Path) -> None:
    callback = lightning(best=1)
    callback.dirpath = "somewhere"
    path = tmp_path / "sd-v1-4.ckpt"
    torch.save({"callbacks": {lightning: {"best": BASE}, "x": callback}, "state_dict": {"a": BASE}}, path)

    def made(*_: object, **__: object) -> None:
        raise AssertionError("an object of the file was made")

    lightning.__new__ = made  # type: ignore[method-assign, assignment]
    check(path, {"a": BASE})


def test_a_tensor_with_attributes_and_one_with_a_state(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(random(3, 2))
    parameter.tag = "kept by somebody"  # type: ignore[attr-defined]
    tensor = random(2, 2)
    tensor.tag = [1]  # type: ignore[attr-defined]
    torch.save({"a": parameter, "b": tensor}, tmp_path / "x.bin")
    check(tmp_path / "x.bin", {"a": parameter, "b": tensor})


def test_tensors_that_share_a_storage_take_only_their_own_bytes(tmp_path: Path) -> None:
    shared = random(100, 10)
    torch.save({"whole": shared, "part": shared[40:50], "row": shared[7]}, tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as file:
        part = file.read("part")
        assert part.untyped_storage().nbytes() == 400
        part.zero_()
        assert same(file.read("whole"), shared)


def test_a_lora_in_an_archive_is_read_like_one_in_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "lora.pt"
    torch.save(lora("lora_unet_mid_block_attentions_0_proj_in"), path)
    adapter = read_adapter(path)
    assert accounted(adapter)
    update = next(iter(adapter.groups.values())).update()
    assert same(update.matrix(), random(5, 2, seed=1) @ random(2, 3, seed=2) / 2)
    assert outline_adapter(path).groups.keys() == adapter.groups.keys()


def test_what_has_no_named_tensors_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    for saved, word in (([BASE, BASE], "without names"), (BASE, "no named"), ("text", "no named")):
        torch.save(saved, path)
        with pytest.raises(UnsupportedError, match=word):
            open_checkpoint(path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(BadFileError) as caught:
        open_checkpoint(path)
    assert caught.value.reason == "empty"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_program_is_told_so(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with pytest.raises(UnsupportedError, match="TorchScript"):
        open_checkpoint(tmp_path / "x.pt")


def test_the_format_before_pytorch_1_6_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save({"a": BASE}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(BadFileError) as caught:
        open_checkpoint(tmp_path / "x.ckpt")
    assert caught.value.reason == "pickle"
    assert "safetensors" in caught.value.hint


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(archive(TINY, more={"byteorder": b"big"}))
    with pytest.raises(UnsupportedError, match="big-endian"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_file_that_is_closed_or_cut_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": random(1000)}, path)
    file = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(BadFileError) as caught:
        file.read("a")
    assert caught.value.reason == "changed"
    file.close()
    file.close()
    with pytest.raises(StorageError):
        file.read("a")


def test_of_a_large_file_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.ckpt"
    size = sparse_archive(path, tensors=6, rows=1 << 20, columns=256)  # 1 GB each
    assert path.stat().st_size > 6 << 30
    count = Count(monkeypatch)
    with open_checkpoint(path) as file:
        assert len(file.shapes) == 6
        opening = count.bytes
        assert 0 < opening < size + 1000
        assert file.read("t3", (1000, 1064)).shape == (64, 256)
        assert 64 * 256 * 4 < count.bytes - opening < 64 * 256 * 4 + 200
