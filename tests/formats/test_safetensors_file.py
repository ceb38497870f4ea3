"""Every way a file can lie about its contents is refused with its own code, quickly, and never with another error."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from lib_transfer.errors import BadFileError, TransferError
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.safetensors_file import header_mentions, read_header

from .builders import entry, file_bytes, random, raw

EIGHT = b"\0" * 8
GOOD = file_bytes({"a": random(3, 2), "b": random(4, dtype=torch.float16), "c": torch.tensor(1.0)}, {"k": "v"})

HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated"),
    "seven bytes": (b"\1\0\0\0\0\0\0", "truncated"),
    "header of zero bytes": (EIGHT, "truncated"),
    "header beyond the file": (raw({}, length=1000), "header_size"),
    "header over 100 MB": (raw({}, length=100_000_001), "header_size"),
    "header of 2^63": (raw({}, length=2**63), "header_size"),
    "header of 2^64 - 1": (raw({}, length=2**64 - 1), "header_size"),
    "not UTF-8": (raw(b'{"\xff\xfe":{}}'), "header_json"),
    "not JSON": (raw(b'{"a":'), "header_json"),
    "a list": (raw([1, 2]), "header_json"),
    "a leading blank": (raw(b" {}"), "header_json"),
    "a byte order mark": (raw(b"\xef\xbb\xbf{}"), "header_json"),
    "nested 200k deep": (raw(b'{"a":' * 200_000), "too_many"),
    "lists nested 90k deep": (raw(b'{"a":' + b"[" * 90_000), "header_json"),
    "objects nested 90k deep": (raw(b'{"a":' * 90_000), "header_json"),
    "NaN as a number": (raw(b'{"a":NaN}'), "header_json"),
    "cut data": (GOOD[:-1], "truncated"),
    "trailing byte": (GOOD + b"x", "layout"),
    "hole": (raw({"a": entry(), "b": entry(start=16, end=24)}, EIGHT * 3), "layout"),
    "hole at the start": (raw({"a": entry(start=8, end=16)}, EIGHT * 2), "layout"),
    "overlap": (raw({"a": entry(), "b": entry(start=4, end=12)}, EIGHT * 2), "layout"),
    "same range": (raw({"a": entry(), "b": entry()}, EIGHT), "layout"),
    "negative offset": (raw({"a": entry(start=-8, end=0)}, EIGHT), "shape"),
    "end before start": (raw({"a": entry(start=8, end=0)}, EIGHT), "shape"),
    "one offset": (raw({"a": {**entry(), "data_offsets": [8]}}, EIGHT), "layout"),
    "offset as a float": (raw(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8.0]}}', EIGHT), "layout"),
    "offset as true": (raw(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[false,true]}}', b"x"), "layout"),
    "offset of -0": (raw(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}', EIGHT), "shape"),
    "offset of 5000 digits": (raw(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}", EIGHT), "shape"),
    "shape and bytes differ": (raw({"a": entry(shape=(3,))}, EIGHT), "shape"),
    "negative dimension": (raw({"a": entry(shape=(-2, -1))}, EIGHT), "shape"),
    "shape that overflows": (raw({"a": entry(shape=(2**40, 2**40))}, EIGHT), "shape"),
    "41 dimensions": (raw({"a": entry(shape=(2,) + (1,) * 40)}, EIGHT), "shape"),
    "unknown dtype": (raw({"a": entry("F37")}, EIGHT), "dtype"),
    "dtype as a number": (raw({"a": {**entry(), "dtype": 7}}, EIGHT), "dtype"),
    "duplicate tensor": (
        raw(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
            EIGHT,
        ),
        "duplicate",
    ),
    "duplicate field": (
        raw(b'{"a":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}', EIGHT),
        "duplicate",
    ),
    "extra field": (raw({"a": {**entry(), "extra": 1}}, EIGHT), "header_json"),
    "missing field": (raw({"a": {"dtype": "F32"}}, EIGHT), "header_json"),
    "entry is a list": (raw({"a": [1]}, EIGHT), "header_json"),
    "name of 513 signs": (raw({"a" * 513: entry()}, EIGHT), "name"),
    "name with NUL": (raw({"../x\0y": entry()}, EIGHT), "name"),
    "name with a lone surrogate": (
        raw(b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', EIGHT),
        "header_json",
    ),
    "metadata that are a list": (raw({"__metadata__": [1]}), "metadata"),
    "metadata that are a number": (raw({"__metadata__": 1}), "metadata"),
    "metadata with a lone surrogate": (raw(b'{"__metadata__":{"a":"\\ud800"}}'), "header_json"),
    "metadata of 17 MB": (raw({"__metadata__": {"a": "x" * (17 << 20)}}), "too_many"),
    "metadata of 11000 keys": (raw({"__metadata__": {str(n): "" for n in range(11_000)}}), "too_many"),
    "100001 tensors": (raw({str(n): entry(shape=(0,), end=0) for n in range(100_001)}), "too_many"),
    "a million tensors": (
        raw(
            b"{" + b",".join(b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(600_000)) + b"}"
        ),
        "too_many",
    ),
    "ten million lists": (raw(b'{"a":[' + b"[]," * 10_000_000 + b"[]]}"), "too_many"),
    "twenty million numbers": (raw(b'{"a":{"dtype":"F32","shape":[' + b"1," * 20_000_000 + b"1]}}"), "too_many"),
    "four million strings": (raw(b'{"a":[' + b'"\\"",' * 4_000_000 + b'""]}'), "too_many"),
    "a header of 60 MB": (raw(b'{"a":"' + b"x" * (60 << 20) + b'"}'), "too_many"),
    "zip": (b"PK\3\4" + bytes(100), "zip"),
    "pickle": (b"\x80\x02}q\x00(X\x05\x00\x00\x00hello", "pickle"),
    "old torch pickle": (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
    "HTML page": (b"<!DOCTYPE html><html><body>Please log in</body>", "html"),
    "HTML page after blanks": (b"\r\n \n<HTML lang=en>......", "html"),
    "LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "lfs_pointer"),
    "JSON answer": (b'{"error":"Unauthorized"}', "json"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + bytes(30), "image"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(30), "gguf"),
}


@pytest.mark.parametrize(("content", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_file_is_refused_with_its_reason(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadFileError) as caught:
        read_header(path)
    assert caught.value.reason == reason
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_good_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(GOOD)
    header = read_header(path)
    assert {name: (info.dtype, info.shape, info.start, info.nbytes) for name, info in header.tensors.items()} == {
        "a": ("F32", (3, 2), 0, 24),
        "b": ("F16", (4,), 24, 8),
        "c": ("F32", (), 32, 4),
    }
    assert header.metadata == {"k": "v"}
    assert (header.size, header.data_start) == (len(GOOD), len(GOOD) - 36)


@pytest.mark.parametrize("name", ["emoji 😀", "汉字", "q'uo\"te", "a\\b", "x" * 512, ""])
def test_any_printable_name_is_accepted(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        raw({name: entry(), "z": entry("U8", (0, 3), 8, 8), "__metadata__": {"k\\": '"\\"{[,', "": name}}, EIGHT)
    )
    header = read_header(path)
    assert set(header.tensors) == {name, "z"}
    assert header.metadata[""] == name


def test_braces_and_quotes_in_metadata_are_not_structure(tmp_path: Path) -> None:
    """Tag frequencies are JSON in JSON: millions of escaped quotes, commas and braces inside one string."""
    tags = json.dumps({"folder": {f'tag, "{n}" \\': {"[": n} for n in range(150_000)}})
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"__metadata__": {"ss_tag_frequency": tags}, "a": entry()}, EIGHT))
    assert read_header(path).metadata["ss_tag_frequency"] == tags


def test_metadata_that_are_no_texts_are_read_as_json(tmp_path: Path) -> None:
    odd = {"ss_steps": 1000, "ss_loss": -0.5, "shift": -3, "ss_tags": {"a": [1, -2]}, "nothing": None, "text": "cat"}
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"__metadata__": odd, "a": entry()}, EIGHT))
    header = read_header(path)
    assert header.metadata["text"] == "cat"
    assert {key: json.loads(header.metadata[key]) for key in odd if key != "text"} == {
        key: value for key, value in odd.items() if key != "text"
    }
    assert header.no_texts == ("ss_steps", "ss_loss", "shift", "ss_tags", "nothing")
    with open_checkpoint(path) as store:
        assert store.read("a").shape == (2,)
        assert "5 of its metadata are no texts (ss_steps, ss_loss, shift, ...)" in store.contents.notes[0]
    path.write_bytes(raw({"__metadata__": None, "a": entry()}, EIGHT))
    assert (read_header(path).metadata, read_header(path).no_texts) == ({}, ())


def test_metadata_that_are_no_pairs_are_not_cured_by_another_download(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw({"__metadata__": ["a"], "a": entry()}, EIGHT))
    with pytest.raises(BadFileError, match="metadata") as caught:
        read_header(path)
    assert "does not help" in caught.value.hint


def test_every_prefix_of_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for cut in range(len(GOOD)):
        path.write_bytes(GOOD[:cut])
        with pytest.raises(BadFileError) as caught:
            read_header(path)
        assert caught.value.reason in {"truncated", "header_size"}


def test_a_huge_sparse_file_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((90_000_000).to_bytes(8, "little"))
        file.truncate(200 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(BadFileError) as caught:
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.reason == "too_many"


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    link = tmp_path / "loop.safetensors"
    link.symlink_to(link)
    cases: list[tuple[object, str]] = [(tmp_path, "not_a_file"), (pipe, "not_a_file"), ("/dev/zero", "not_a_file")]
    cases += [
        (tmp_path / "none", "missing"),
        (link, "missing"),
        (tmp_path / ("x" * 300), "missing"),
        ("a\0b", "missing"),
    ]
    cases += [(tmp_path / "none" / "below", "missing")]
    for path, reason in cases:
        with pytest.raises(BadFileError) as caught:
            read_header(path)  # type: ignore[arg-type]
        assert caught.value.reason == reason, path


def check_total(path: Path, content: bytes) -> None:
    """Reading returns or raises one of our errors; and what we accept, the library accepts and reads the same.

    But for metadata that are no texts, which the library refuses.
    """
    path.write_bytes(content)
    try:
        header = read_header(path)
    except TransferError:
        return
    if header.no_texts:  # no library opens it
        with pytest.raises(SafetensorError, match="expected a string"):
            safe_open(str(path), framework="pt")
        return
    with safe_open(str(path), framework="pt") as file:
        assert set(file.keys()) == set(header.tensors)
        assert (file.metadata() or {}) == header.metadata
        for name, info in header.tensors.items():
            assert tuple(file.get_slice(name).get_shape()) == info.shape


FUZZ = settings(max_examples=400)


@FUZZ
@given(content=st.binary(max_size=200), framed=st.booleans())
def test_any_bytes_are_read_or_refused(content: bytes, framed: bool, tmp_path: Path) -> None:
    check_total(tmp_path / "x", raw(b"{" + content) if framed else content)


SCALARS = st.one_of(st.integers(-(2**66), 2**66), st.floats(), st.text(max_size=3), st.none(), st.booleans())
ODD = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@FUZZ
@given(data=st.data())
def test_any_field_may_lie(data: st.DataObject, tmp_path: Path) -> None:
    """One field of a valid header replaced by anything that JSON can say."""
    header = {"__metadata__": {"k": "v"}, "a": entry(), "b": entry("F16", (2, 2), 8, 16)}
    where = data.draw(st.sampled_from(["__metadata__", "a", "b"]))
    field = data.draw(st.sampled_from([None, *header[where]]))
    odd = data.draw(ODD)
    changed = {**header, where: odd} if field is None else {**header, where: {**header[where], field: odd}}
    check_total(tmp_path / "x", raw(changed, EIGHT * 2))


@FUZZ
@given(data=st.data())
def test_any_byte_may_flip(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["flip", "insert", "cut", "double"]))
        if action == "flip":
            content[place] = data.draw(st.integers(0, 255))
        elif action == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=4))
        elif action == "cut":
            del content[place : place + data.draw(st.integers(1, 8))]
        else:
            content[place:place] = content[place : place + 12]
        content = content or bytearray(b"\0")
    if data.draw(st.booleans()) and (end := content.rfind(b"}")) > 8:  # the length right again, the rest wrong
        content[:8] = (end + 1 - 8).to_bytes(8, "little")
    check_total(tmp_path / "x", bytes(content))


def test_a_header_is_looked_through_without_being_decoded(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(file_bytes({"a": random(2)}, {"some.key": "a value"}))
    assert header_mentions(path, "some.key")
    assert not header_mentions(path, "other.key")
    # What only begins like one, and what is cut off in its header.
    for damaged in (b"", b"some.k", path.read_bytes()[:30], b"\xff" * 8 + b"some.key"):
        path.write_bytes(damaged)
        assert not header_mentions(path, "some.key")
    with pytest.raises(BadFileError):
        header_mentions(tmp_path / "gone.safetensors", "some.key")
