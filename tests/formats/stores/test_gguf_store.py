"""GGUF files of the package ``gguf`` itself are read as that package reads them, a tensor or some rows at a time."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_transfer.errors import BadFileError, StorageError, UnsupportedError
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.stores import gguf_store
from lib_transfer.formats.stores.gguf_header import FORMATS

from .counting import Count

gguf = pytest.importorskip("gguf", reason="the package gguf is in one environment only, as on the hosts")

# What the package names but decodes no file of: it is used within computations alone.
UNDECODED = {"Q8_1", "Q8_K"}
PLAIN = {"F32", "F16", "BF16", "F64", "I8", "I16", "I32", "I64"}


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def codes(title: str, rows: int, columns: int) -> np.ndarray:
    """Any bytes are codes; scales are kept small so that all numbers are finite."""
    _, block, size = next(entry for entry in FORMATS.values() if entry[0] == title)
    data = np.random.default_rng(len(title)).integers(0, 48, (rows, columns // block * size), dtype=np.uint8)
    return data.astype(np.uint8)


def write(path: Path, tensors: dict[str, tuple[np.ndarray, str | None]], **shapes: tuple[int, ...]) -> Path:
    """With the package's own writer; ``shapes`` as ComfyUI-GGUF notes those that it changed."""
    writer = gguf.GGUFWriter(str(path), "sdxl")
    writer.add_array("tokenizer.tokens", ["a", "bc"])
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_bool("flag", True)
    for name, shape in shapes.items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", shape)
    for name, (data, title) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType[title] if title else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_the_package_reads(path: Path) -> dict[str, torch.Tensor]:
    found = {}
    for tensor in gguf.GGUFReader(str(path)).tensors:
        shape = tuple(int(n) for n in tensor.shape[::-1])
        title = tensor.tensor_type.name
        plain = title in PLAIN - {"BF16"}
        data = tensor.data if plain else gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        found[tensor.name] = torch.from_numpy(np.array(data)).reshape(shape)
    return found


def test_the_number_formats_are_those_of_the_package() -> None:
    known = {number.value: (number.name, *sizes) for number, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {number: known.get(number) for number in FORMATS} == dict(FORMATS)


@pytest.mark.parametrize("title", [title for title, _, _ in FORMATS.values() if title not in UNDECODED])
def test_every_number_format_and_row_is_read_as_the_package_reads_it(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_store, "_AT_ONCE", 512)
    data = codes(title, 5, 1024)
    path = write(tmp_path / "x.gguf", {"w": (data, title), "b": (numbers(7), None), "s": (numbers(1), None)})
    expected = as_the_package_reads(path)
    with open_checkpoint(path) as file:
        assert dict(file.shapes) == {key: tuple(tensor.shape) for key, tensor in expected.items()}
        assert file.dtype("w") == title
        assert file.info("w").nbytes == data.nbytes
        assert file.metadata["general.architecture"] == "sdxl"
        for key, tensor in expected.items():
            read = file.read(key)
            assert torch.equal(read.double(), tensor.double()), key
            assert read.dtype == (torch.bfloat16 if key == "w" and title == "BF16" else tensor.dtype)
            for rows in ((0, 1), (1, 4), (2, 2), (4, 5)):
                if tensor.shape[0] >= rows[1]:
                    assert torch.equal(file.read(key, rows, torch.float64), tensor[slice(*rows)].double())
    assert expected["w"].double().abs().max() > 0


@pytest.mark.parametrize(("title", "error"), [("Q8_0", 0.01), ("Q5_1", 0.06), ("Q4_0", 0.15), ("BF16", 0.004)])
def test_what_was_quantised_comes_back(title: str, error: float, tmp_path: Path) -> None:
    original = numbers(6, 64)
    data = gguf.quants.quantize(original, gguf.GGMLQuantizationType[title])
    with open_checkpoint(write(tmp_path / "x.gguf", {"w": (data, title)})) as file:
        difference = file.read("w", dtype=torch.float32) - torch.from_numpy(original)
        assert file.shapes["w"] == (6, 64)
    assert 0 < difference.norm() < error * np.linalg.norm(original)


def test_a_convolution_that_was_stored_in_another_shape_has_its_own_again(tmp_path: Path) -> None:
    original = numbers(8, 4, 3, 3)
    data = gguf.quants.quantize(original.reshape(-1, 32), gguf.GGMLQuantizationType.Q8_0)
    path = write(tmp_path / "x.gguf", {"conv.weight": (data, "Q8_0")}, **{"conv.weight": (8, 4, 3, 3)})
    whole = gguf.quants.dequantize(data, gguf.GGMLQuantizationType.Q8_0).reshape(8, 4, 3, 3)
    with open_checkpoint(path) as file:
        assert file.shapes["conv.weight"] == (8, 4, 3, 3)
        assert np.array_equal(file.read("conv.weight").numpy(), whole)
        for first in range(9):  # a row has 36 elements, a block 32
            for last in range(first, 9):
                assert np.array_equal(file.read("conv.weight", (first, last)).numpy(), whole[first:last])


def test_without_the_package_plain_numbers_are_read_and_codes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = write(tmp_path / "plain.gguf", {"w": (numbers(3, 32).astype(np.float16), None)})
    coded = write(tmp_path / "coded.gguf", {"w": (codes("Q4_K", 2, 256), "Q4_K")})
    monkeypatch.setitem(sys.modules, "gguf", None)
    with open_checkpoint(plain) as file:
        assert np.array_equal(file.read("w").numpy(), numbers(3, 32).astype(np.float16))
    with pytest.raises(UnsupportedError, match="package gguf") as caught:
        open_checkpoint(coded)
    assert "Forge" in caught.value.hint


@pytest.mark.parametrize("title", sorted(UNDECODED))
def test_codes_that_the_package_does_not_decode_are_told_when_it_is_opened(title: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", {"w": (codes(title, 2, 256), title)})
    with pytest.raises(UnsupportedError, match=title):
        open_checkpoint(path)


def test_of_a_large_file_only_what_is_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.gguf", {"w": (codes("Q8_0", 1, 32), "Q8_0")})
    content = path.read_bytes()
    rows, columns = 1 << 20, 3072
    entry = content.index(b"w" + struct.pack("<L2Q", 2, 32, 1))
    path.write_bytes(content[: entry + 5] + struct.pack("<2Q", columns, rows) + content[entry + 21 :])
    with path.open("r+b") as stream:
        stream.truncate(len(content) + rows * columns // 32 * 34)
    assert path.stat().st_size > 3 << 30
    count = Count(monkeypatch)
    with open_checkpoint(path) as file:
        assert count.bytes <= 4 + (1 << 20)
        before = count.bytes
        assert file.read("w", (1000, 1016)).shape == (16, columns)
        assert count.bytes - before == 16 * columns // 32 * 34


def test_a_file_that_is_closed_is_an_error(tmp_path: Path) -> None:
    file = open_checkpoint(write(tmp_path / "x.gguf", {"w": (numbers(3, 32), None)}))
    file.close()
    with pytest.raises(StorageError):
        file.read("w")


# ---- files that lie ----


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(name: str = "w", dimensions: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<L{len(dimensions)}QLQ", len(dimensions), *dimensions, kind, offset)


def header(
    *entries: bytes, values: bytes = b"", count: int = 0, tensors: int | None = None, version: int = 3, data: int = 64
) -> bytes:
    counts = struct.pack("<LQQ", version, len(entries) if tensors is None else tensors, count)
    content = b"GGUF" + counts + values + b"".join(entries)
    return content + bytes(-len(content) % 32 + data)


def value(name: str, kind: int, data: bytes) -> bytes:
    return text(name) + struct.pack("<L", kind) + data


HOSTILE: dict[str, tuple[bytes, str]] = {
    "only the magic": (b"GGUF", "truncated"),
    "2^60 tensors": (header(tensors=1 << 60), "too_many"),
    "2^60 values": (header(count=1 << 60), "too_many"),
    "tensors that are not there": (header(tensors=9000), "truncated"),
    "a name of 2^60 bytes": (b"GGUF" + struct.pack("<LQQQ", 3, 1, 0, 1 << 60), "truncated"),
    "an array of 2^60 bytes": (header(values=value("a", 9, struct.pack("<LQ", 0, 1 << 60)), count=1), "truncated"),
    "an array of 2^60 texts": (header(values=value("a", 9, struct.pack("<LQ", 8, 1 << 60)), count=1), "too_many"),
    "an array of arrays": (header(values=value("a", 9, struct.pack("<LQ", 9, 1)), count=1), "gguf_header"),
    "a value of kind 77": (header(values=value("a", 77, b""), count=1), "gguf_header"),
    "an alignment of 0": (header(entry(), values=value("general.alignment", 4, bytes(4)), count=1), "gguf_header"),
    "an alignment of 2^31": (
        header(entry(), values=value("general.alignment", 4, b"\0\0\0\x80"), count=1),
        "gguf_header",
    ),
    "an alignment that is a text": (
        header(entry(), values=value("general.alignment", 8, text("x")), count=1),
        "gguf_header",
    ),
    "beyond the end": (header(entry(dimensions=(100,))), "truncated"),
    "an offset beyond the end": (header(entry(offset=1 << 40)), "truncated"),
    "a shape that overflows": (header(entry(dimensions=(1 << 40, 1 << 40))), "shape"),
    "nine dimensions": (header(entry(dimensions=(1,) * 9)), "shape"),
    "2^32 - 1 dimensions": (header(text("w") + b"\xff\xff\xff\xff"), "shape"),
    "half a block": (header(entry(dimensions=(16,), kind=8)), "shape"),
    "an unknown number format": (header(entry(kind=4)), "dtype"),
    "the same name twice": (header(entry(), entry()), "duplicate"),
    "a name with NUL": (header(entry("a\0b")), "name"),
    "a name that is long": (header(entry("a" * 600)), "name"),
    "another shape of another size": (
        header(entry(), values=value("comfy.gguf.orig_shape.w", 9, struct.pack("<LQ2l", 5, 2, 3, 3)), count=1),
        "shape",
    ),
    "another shape that is a text": (
        header(entry(), values=value("comfy.gguf.orig_shape.w", 8, text("4")), count=1),
        "shape",
    ),
    "another shape that is negative": (
        header(entry(), values=value("comfy.gguf.orig_shape.w", 9, struct.pack("<LQ2l", 5, 2, -2, -2)), count=1),
        "shape",
    ),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_that_lies_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(BadFileError) as caught:
        open_checkpoint(path)
    assert caught.value.reason == reason
    assert "x.gguf" in caught.value.message


@pytest.mark.parametrize("version", [1, 4, 0x03000000])
def test_another_version_is_told(version: int, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(header(entry(), version=version))
    with pytest.raises(UnsupportedError, match="version"):
        open_checkpoint(tmp_path / "x.gguf")


VALID = header(
    entry("a"),
    entry("b", (32, 2), 8, 32),
    entry("c", (), 1, 0),
    values=value("comfy.gguf.orig_shape.b", 9, struct.pack("<LQ2l", 5, 2, 4, 16)) + value("n", 8, text("x")),
    count=2,
    data=100,
)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, about codes of NaN
@given(st.lists(st.tuples(st.integers(0, len(VALID)), st.binary(max_size=9), st.booleans()), max_size=3))
@settings(max_examples=400)
def test_any_change_of_a_file_is_read_or_refused(tmp_path: Path, edits: list[tuple[int, bytes, bool]]) -> None:
    content = VALID
    for place, data, over in edits:
        content = content[:place] + data + content[place + (len(data) if over else 0) :]
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + content[4:])
    try:
        with open_checkpoint(path) as file:
            for key in file.shapes:
                read: Any = file.read(key)
                assert tuple(read.shape) == file.shapes[key]
    except (BadFileError, UnsupportedError) as error:
        assert "x.gguf" in str(error)
