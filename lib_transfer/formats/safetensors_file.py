"""The header of a safetensors file, checked more strictly than the library does.

The format (https://github.com/huggingface/safetensors#format): eight bytes of little-endian length, that many bytes of
JSON, then the tensors' bytes without a hole. The library accepts duplicate names, any number of dimensions, any text as
a name, and tells what is wrong in words that change from release to release; so the checks are ours and have codes. What
is no safetensors file at all is named, where its first bytes tell.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_transfer.errors import BadFileError
from lib_transfer.formats.regular_file import FileStamp, OpenFile, open_regular, read_exactly
from lib_transfer.formats.tensor_info import ITEM_SIZE, MAX_DIMENSIONS, MAX_TENSORS, TensorInfo, possible_name

FORMAT_HEADER = 100_000_000  # the format's own limit
MAX_HEADER = 48 << 20  # what the limits below can add up to in an honest file
MAX_METADATA = 16 << 20
MAX_METADATA_KEYS = 10_000

_STRING = re.compile(rb'"[^"]*"')

_AGAIN = "The file is damaged or its download was interrupted; download it again."
_NEW = "Downloading it again does not help: save it anew with a tool that writes texts alone, or ask whoever made it."
_DOWNLOAD = "The download failed or asked for a login; download the file again."
_CONVERT = "It may run code when loaded, so it is not opened; save it as safetensors first, with the WebUI's checkpoint merger."
_LEGACY = "a pickle, as PyTorch wrote before 1.6 (.pt, .ckpt)"


@dataclass(frozen=True)
class _OtherKind:
    """A recognisable kind of file: a stable code, its name for the person, and what to do about it."""

    reason: str
    title: str
    hint: str


# The first bytes, compared in lower case because HTML is written both ways.
_MAGIC: tuple[tuple[bytes, _OtherKind], ...] = (
    (b"<!doctype html", _OtherKind("html", "an HTML page", _DOWNLOAD)),
    (b"<html", _OtherKind("html", "an HTML page", _DOWNLOAD)),
    (b"<?xml", _OtherKind("html", "an XML page", _DOWNLOAD)),
    (b'{"', _OtherKind("json", "a JSON text", _DOWNLOAD)),
    (b"version https://git-lfs", _OtherKind("lfs_pointer", "a Git-LFS pointer", "Fetch the file with `git lfs pull`.")),
    (b"pk\x03\x04", _OtherKind("zip", "a PyTorch or zip archive (.pt, .ckpt)", _CONVERT)),
    (b"pk\x05\x06", _OtherKind("zip", "an empty zip archive", _CONVERT)),
    *((bytes([0x80, protocol]), _OtherKind("pickle", _LEGACY, _CONVERT)) for protocol in range(1, 6)),
    (b"gguf", _OtherKind("gguf", "a GGUF model", "Use the safetensors file of the same model.")),
    (b"\x89png", _OtherKind("image", "a PNG picture", _DOWNLOAD)),
    (b"\xff\xd8\xff", _OtherKind("image", "a JPEG picture", _DOWNLOAD)),
    (b"riff", _OtherKind("image", "a WebP picture", _DOWNLOAD)),
    (b"gif8", _OtherKind("image", "a GIF picture", _DOWNLOAD)),
    (b"\x1f\x8b", _OtherKind("archive", "a gzip archive", "Unpack it first.")),
    (b"7z\xbc\xaf", _OtherKind("archive", "a 7-Zip archive", "Unpack it first.")),
    (b"rar!", _OtherKind("archive", "a RAR archive", "Unpack it first.")),
)


def _other_kind(head: bytes) -> _OtherKind | None:
    """What a file beginning with ``head`` is, if it is a known kind other than safetensors.

    Ask only when the bytes cannot be safetensors: a header length may happen to spell a known beginning.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    return next((kind for magic, kind in _MAGIC if start.startswith(magic)), None)


@dataclass(frozen=True)
class PlacedTensor(TensorInfo):
    """One tensor of a file, whose bytes begin at ``start``, counted from ``data_start``."""

    start: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself.

    Attributes:
        path: the file.
        size: its bytes.
        data_start: where those of the tensors begin.
        tensors: the tensors by name.
        metadata: the texts by key; what is no text stands here as the JSON it is in the file.
        stamp: tells whether it is still the file that was read.
        no_texts: keys of the metadata whose values are no texts, so that the library and all WebUIs refuse the file.
    """

    path: str
    size: int
    data_start: int
    tensors: dict[str, PlacedTensor]
    metadata: dict[str, str]
    stamp: FileStamp
    no_texts: tuple[str, ...] = ()


class _RejectedError(Exception):
    """Carries a reason and a sentence out of the reading."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(reason, what)
        self.reason = reason
        self.what = what


def read_header(path: str | os.PathLike[str]) -> Header:
    """The checked header of the safetensors file at ``path``; whatever passes, the library can open, but for ``no_texts``.

    Raises:
        BadFileError: the file is not there, is something else, or breaks a rule; ``reason`` is one of ``missing``,
            ``not_a_file``, ``truncated``, ``header_size``, ``header_json``, ``duplicate``, ``name``, ``dtype``,
            ``shape``, ``layout``, ``metadata``, ``too_many``, ``changed``, or the code of another kind of file, such as ``html``.
        StorageError: the system does not let us read it.
    """
    with OpenFile(path) as file:
        return header_of(file)


def header_mentions(path: str | os.PathLike[str], text: str) -> bool:
    """Whether the ASCII ``text`` stands anywhere in the header of the file at ``path``; False for what has no header.

    The header is not decoded, so that of thousands of files the few of interest are found quickly.

    Raises:
        BadFileError: ``missing`` or ``not_a_file``.
        StorageError: the system does not let us read it.
    """
    stream, state = open_regular(path)
    with stream:
        head = bytearray(min(8, state.size))
        read_exactly(stream, 0, memoryview(head), state.path)
        length = int.from_bytes(head, "little")
        if not 0 < length <= min(MAX_HEADER, state.size - 8):
            return False
        header = bytearray(length)
        read_exactly(stream, 8, memoryview(header), state.path)
    return text.encode("ascii") in header


def header_of(file: OpenFile) -> Header:
    """The checked header of a file that is open.

    Raises:
        BadFileError, StorageError: as :func:`read_header`.
    """
    state = file.stamp
    head = bytes(file.read(0, min(64, state.size)))
    try:
        length = _header_length(head, state.size)
        metadata, tensors, no_texts = parse_header(bytes(file.read(8, length)), state.size - 8 - length)
    except _RejectedError as rejected:
        raise _bad_file(state.path, rejected, head) from None
    return Header(state.path, state.size, 8 + length, tensors, metadata, state, no_texts)


def _header_length(head: bytes, size: int) -> int:
    if size < 8:
        raise _RejectedError("truncated", f"has only {size} bytes")
    length = int.from_bytes(head[:8], "little")
    if length > FORMAT_HEADER:
        raise _RejectedError("header_size", "does not begin like a safetensors file")
    if length == 0:
        raise _RejectedError("truncated", "begins with zeros, as an interrupted download does")
    if length > size - 8:
        raise _RejectedError("header_size", f"has {size} bytes, less than its header of {length} bytes")
    if length > MAX_HEADER:
        raise _RejectedError("too_many", f"has a header of {length >> 20} MB; the limit is {MAX_HEADER >> 20} MB")
    return length


def _bad_file(path: str, rejected: _RejectedError, head: bytes) -> BadFileError:
    # Only a header length that is impossible lets the first bytes speak: a possible one may spell anything.
    kind = _other_kind(head) if rejected.reason in {"header_size", "truncated"} else None
    if kind is not None:
        return BadFileError(f"{path} is {kind.title}, not a safetensors file.", reason=kind.reason, hint=kind.hint)
    hint = _NEW if rejected.reason == "metadata" else _AGAIN
    return BadFileError(f"{path} {rejected.what}.", reason=rejected.reason, hint=hint)


def parse_header(text: bytes, data_size: int) -> tuple[dict[str, str], dict[str, PlacedTensor], tuple[str, ...]]:
    """Metadata, tensors and ``no_texts`` of the JSON ``text`` over a data section of ``data_size`` bytes."""
    _check_amount(text)
    document = _decode(text)
    metadata, no_texts = _metadata(document.pop("__metadata__", {}))
    if len(document) > MAX_TENSORS:
        raise _RejectedError("too_many", f"holds {len(document)} tensors; the limit is {MAX_TENSORS}")
    tensors = {name: _tensor(name, entry) for name, entry in document.items()}
    _check_layout(tensors, data_size)
    return metadata, tensors, no_texts


def _check_amount(text: bytes) -> None:
    """Refuse, before anything is decoded, a text that would decode to more objects than an honest header has.

    Counts what stands outside of strings; the escapes are taken out first, so that every quote left is a delimiter.
    """
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > 2 * (5 * MAX_TENSORS + 2 * MAX_METADATA_KEYS + 1):
        raise _RejectedError("too_many", "has far more entries in its header than a model has")
    skeleton = _STRING.sub(b"", plain)
    counts = (b"{", MAX_TENSORS + 2), (b"[", 2 * MAX_TENSORS), (b",", 16 * MAX_TENSORS)
    if any(skeleton.count(sign) > limit for sign, limit in counts):
        raise _RejectedError("too_many", "has far more entries in its header than a model has")


def _decode(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise _RejectedError("header_json", "has a header that is not a JSON object")
    try:
        document = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_number,
        )
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _RejectedError("header_json", f"has a header that cannot be read ({type(error).__name__})") from error
    if not isinstance(document, dict):
        raise _RejectedError("header_json", "has a header that is not a JSON object")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entry = dict(pairs)
    if len(entry) != len(pairs):
        raise _RejectedError("duplicate", "names a tensor or a field twice")
    return entry


@dataclass(frozen=True)
class _Impossible:
    """A whole number that is no size and no place."""

    digits: str


def _number(digits: str) -> int | _Impossible:
    # Longer numbers overflow the library's integers, and decoding them takes time that grows with their square.
    return _Impossible(digits) if len(digits) > 18 or digits.startswith("-") else int(digits)


def _need_possible(numbers: object) -> None:
    for number in numbers if isinstance(numbers, list) else ():
        if isinstance(number, _Impossible):
            raise _RejectedError("shape", f"has the number {number.digits[:24]} in its header")


def _metadata(given: object) -> tuple[dict[str, str], tuple[str, ...]]:
    """The metadata as texts, and the keys of those that are none."""
    if given is None:  # which the library takes for none
        return {}, ()
    if not isinstance(given, dict):
        raise _RejectedError("metadata", "has metadata that are not pairs of a key and a text")
    value = {key: text if isinstance(text, str) else _as_json(text) for key, text in given.items()}
    if len(value) > MAX_METADATA_KEYS:
        raise _RejectedError("too_many", f"has {len(value)} metadata entries; the limit is {MAX_METADATA_KEYS}")
    size = sum(len(_utf8(key)) + len(_utf8(text)) for key, text in value.items())
    if size > MAX_METADATA:
        raise _RejectedError("too_many", f"has {size >> 20} MB of metadata; the limit is {MAX_METADATA >> 20} MB")
    return value, tuple(key for key, text in given.items() if not isinstance(text, str))


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:  # half of a surrogate pair, written as \\ud800
        raise _RejectedError("header_json", "has a text in its header that is not Unicode") from error


def _plain(number: _Impossible) -> int | str:
    return int(number.digits) if len(number.digits) < 1000 else number.digits


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=_plain)
    except RecursionError as error:
        raise _RejectedError("header_json", "has metadata that are nested too deeply") from error


def _tensor(name: str, entry: object) -> PlacedTensor:
    _utf8(name)
    if not possible_name(name):
        raise _RejectedError("name", f"has a tensor with an impossible name, {name[:40]!r}")
    for numbers in entry.values() if isinstance(entry, dict) else ():
        _need_possible(numbers)
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _RejectedError("header_json", f"has an incomplete entry for {name!r}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_SIZE:
        raise _RejectedError("dtype", f"has {name!r} in the unknown number format {str(dtype)[:24]!r}")
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise _RejectedError("shape", f"has an impossible shape for {name!r}")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise _RejectedError("layout", f"has an impossible place for {name!r}")
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_SIZE[dtype]:
        raise _RejectedError("shape", f"has {name!r} with shape {shape} {dtype} in {end - start} bytes")
    return PlacedTensor(dtype, tuple(shape), end - start, start)


def _whole_numbers(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)


def _check_layout(tensors: Mapping[str, PlacedTensor], data_size: int) -> None:
    place = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes)):
        if info.start != place:
            raise _RejectedError("layout", f"has a hole or an overlap before {name!r}")
        place = info.start + info.nbytes
    if place > data_size:
        raise _RejectedError(
            "truncated", f"is cut off: it has {data_size / 1e6:.1f} of {place / 1e6:.1f} MB of tensors"
        )
    if place < data_size:
        raise _RejectedError("layout", f"has {data_size - place} bytes after its last tensor")
