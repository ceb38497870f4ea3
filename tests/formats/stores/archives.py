"""Archives of PyTorch made member by member, without PyTorch."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest

from lib_transfer.errors import BadFileError
from lib_transfer.formats.checkpoint import open_checkpoint


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<L", len(raw)) + raw


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def numbers(values: Iterable[object]) -> bytes:
    return b"(" + b"".join(value if isinstance(value, bytes) else integer(value) for value in values) + b"t"  # type: ignore[arg-type]


def storage(key: str = "0", count: object = 4, kind: bytes = name("torch", "FloatStorage")) -> bytes:
    raw = count if isinstance(count, bytes) else integer(count)  # type: ignore[arg-type]
    return b"(" + text("storage") + kind + text(key) + text("cpu") + raw + b"tQ"


def tensor(
    stored: bytes = storage(), offset: object = 0, shape: Iterable[object] = (4,), strides: Iterable[object] = (1,)
) -> bytes:
    start = offset if isinstance(offset, bytes) else integer(offset)  # type: ignore[arg-type]
    hooks = name("collections", "OrderedDict") + b")R"
    call = b"(" + stored + start + numbers(shape) + numbers(strides) + b"\x89" + hooks + b"tR"
    return name("torch._utils", "_rebuild_tensor_v2") + call


def program(value: bytes, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + value + b"."


def mapping(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in values.items()) + b"u"


TINY = program(mapping(w=tensor()))
FOUR = struct.pack("<4f", 1, 2, 3, 4)


def archive(
    pickled: bytes, storages: Iterable[bytes] = (FOUR,), *, more: dict[str, bytes] | None = None, root: str = "archive"
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        file.writestr(f"{root}/data.pkl", pickled)
        for key, data in enumerate(storages):
            file.writestr(f"{root}/data/{key}", data)
        file.writestr(f"{root}/version", b"3\n")
        for member, data in (more or {}).items():
            file.writestr(f"{root}/{member}", data)
    return stream.getvalue()


def sparse_archive(path: Path, tensors: int, rows: int, columns: int) -> int:
    """A file of ``tensors`` float32 tensors of zeros that takes no space on disk; returns the bytes beside these."""
    size = rows * columns * 4
    count = rows * columns
    entries = {f"t{k}": tensor(storage(str(k), count), 0, (rows, columns), (columns, 1)) for k in range(tensors)}
    members = [("a/data.pkl", program(mapping(**entries)), 0), ("a/version", b"3\n", 0)]
    members += [(f"a/data/{k}", b"", size) for k in range(tensors)]
    directory = b""
    with path.open("wb") as stream:
        for member, data, hole in members:
            length, raw, place = len(data) + hole, member.encode(), stream.tell()
            stream.write(struct.pack("<4s5H3L2H", b"PK\3\4", 0, 0x808, 0, 0, 0, 0, 0, 0, len(raw), 0) + raw + data)
            stream.seek(hole, 1)
            longer = struct.pack("<2HQ", 1, 8, place) if place >= 0xFFFFFFFF else b""
            fields = (
                0,
                0,
                0x808,
                0,
                0,
                0,
                0,
                length,
                length,
                len(raw),
                len(longer),
                0,
                0,
                0,
                0,
                min(place, 0xFFFFFFFF),
            )
            directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", *fields) + raw + longer
        start = stream.tell()
        stream.write(directory)
        end = stream.tell()
        n = len(members)
        stream.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 0, 0, 0, n, n, len(directory), start))
        stream.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        stream.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, n, n, len(directory), 0xFFFFFFFF, 0))
    return path.stat().st_size - tensors * size


def store(content: bytes, folder: Path) -> Path:
    path = folder / "hostile.ckpt"
    path.write_bytes(content)
    return path


def opened(path: Path) -> None:
    """Open the file and read everything in it."""
    with open_checkpoint(path) as file:
        for key, shape in file.shapes.items():
            file.read(key)
            if shape:
                file.read(key, (0, shape[0] // 2))


def refused(content: bytes, folder: Path) -> BadFileError:
    path = store(content, folder)
    with pytest.raises(BadFileError) as caught:
        opened(path)
    assert path.name in caught.value.message
    assert caught.value.hint
    return caught.value
