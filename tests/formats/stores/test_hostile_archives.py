"""Archives that break a rule, or are changed anywhere, are refused or read, and no other error comes of them."""

from __future__ import annotations

import io
import pickletools
import warnings
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_transfer.errors import BadFileError, TransferError, UnsupportedError
from lib_transfer.formats.stores import pickle_machine

from .archives import (
    FOUR,
    TINY,
    archive,
    integer,
    mapping,
    name,
    opened,
    program,
    refused,
    storage,
    tensor,
    text,
)


def zipped(members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as file:
        warnings.simplefilter("ignore")
        for member, data in members:
            file.writestr(member, data)
    return stream.getvalue()


PLAIN = archive(TINY)
PARTS = [("archive/data.pkl", TINY), ("archive/data/0", FOUR), ("archive/version", b"3\n")]


def patched(where: bytes, offset: int, value: bytes, content: bytes = PLAIN, occurrence: int = 0) -> bytes:
    """``content`` with ``value`` at ``offset`` from the ``occurrence``-th ``where``."""
    place = -1
    for _ in range(occurrence + 1):
        place = content.index(where, place + 1)
    return content[: place + offset] + value + content[place + offset + len(value) :]


CENTRAL, LOCAL, END = b"PK\1\2", b"PK\3\4", b"PK\5\6"

ARCHIVES: dict[str, tuple[bytes, str]] = {
    "compressed": (zipped(PARTS, zipfile.ZIP_DEFLATED), "zip_member"),
    "bomb": (zipped([("a/data.pkl", bytes(200 << 20)), *PARTS[1:]], zipfile.ZIP_DEFLATED), "zip_member"),
    "compressed storage alone": (patched(CENTRAL, 10, b"\x08\0", occurrence=1), "zip_member"),
    "compressed by its own header": (patched(LOCAL, 8, b"\x08\0"), "zip_directory"),
    "encrypted": (patched(CENTRAL, 8, b"\x01\0"), "zip_member"),
    "strongly encrypted by its own header": (patched(LOCAL, 6, b"\x41\0"), "zip_directory"),
    "patched flags": (patched(CENTRAL, 8, b"\x20\0"), "zip_member"),
    "two data.pkl": (zipped([*PARTS, ("other/data.pkl", TINY)]), "zip_member"),
    "no data.pkl": (zipped(PARTS[1:]), "zip_member"),
    "two of one name": (zipped([*PARTS, PARTS[1]]), "zip_member"),
    "outside of the folder": (zipped([*PARTS, ("data/1", FOUR)]), "zip_member"),
    "all in the parent folder": (archive(TINY, root=".."), "zip_member"),
    "parent folder": (zipped([*PARTS, ("archive/../x", b"")]), "zip_member"),
    "absolute": (zipped([*PARTS, ("/etc/passwd", b"")]), "zip_member"),
    "backslash": (patched(b"archive/version", 7, b"\\", patched(b"archive/version", 7, b"\\"), 0), "zip_member"),
    "a file of its own": (zipped([*PARTS, ("archive/x.py", b"")]), "zip_member"),
    "spanned": (patched(END, 4, b"\1\0"), "zip_directory"),
    "on another volume": (patched(CENTRAL, 34, b"\1\0"), "zip_directory"),
    "more files than there are": (patched(END, 8, b"\4\0\4\0"), "zip_directory"),
    "fewer files than there are": (patched(END, 8, b"\2\0\2\0"), "zip_directory"),
    "a directory elsewhere": (patched(END, 16, b"\1\0\0\0"), "zip_directory"),
    "a member beyond the end": (patched(CENTRAL, 42, b"\0\0\0\x7f"), "zip_directory"),
    "a member of 2 GB": (patched(CENTRAL, 20, b"\0\0\0\x7f\0\0\0\x7f"), "zip_directory"),
    "two sizes": (patched(CENTRAL, 20, b"\1\0\0\0"), "zip_directory"),
    "another name in its own header": (patched(b"archive/data.pkl", 8, b"evil.pkl"), "zip_directory"),
    "no header of its own": (patched(LOCAL, 0, b"PK\3\5", occurrence=1), "zip_directory"),
    "a comment": (PLAIN[:-2] + b"\5\0hello", "truncated"),
    "something after the end": (PLAIN + b"x", "truncated"),
    "a cut end": (PLAIN[:-1], "truncated"),
    "nothing but the beginning": (PLAIN[:8], "truncated"),
    "an extra field that places it far behind": (patched(LOCAL, 28, b"\xff\xff", occurrence=1), "zip_directory"),
    "a storage of nothing": (patched(CENTRAL, 20, bytes(8), occurrence=1), "layout"),
}


@pytest.mark.parametrize(("content", "reason"), ARCHIVES.values(), ids=ARCHIVES.keys())
def test_an_archive_that_breaks_a_rule_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    assert refused(content, tmp_path).reason == reason


def test_an_archive_of_a_hundred_thousand_files_is_refused(tmp_path: Path) -> None:
    content = patched(END, 8, b"\xff\xff\xff\xff\0\0\0\x7f")
    assert refused(content, tmp_path).reason in ("zip_directory", "too_many")


# ---- anything at all ----

VALID = archive(
    program(
        mapping(
            state_dict=mapping(
                a=tensor(), b=tensor(shape=(2, 2), strides=(1, 2)), c=tensor(storage("1", 2), 1, (), ())
            ),
            epoch=integer(3),
            callbacks=name("pytorch_lightning.callbacks", "X") + b")\x81}b",
        )
    ),
    [FOUR, FOUR[:8]],
)


def reads_or_refuses(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        opened(path)
    except (BadFileError, UnsupportedError) as error:
        assert path.name in str(error)
    except TransferError as error:
        raise AssertionError("another error of ours") from error


def mutations(content: bytes) -> st.SearchStrategy[bytes]:
    """``content`` with some bytes changed, and pieces cut out, repeated or put in."""
    places = st.integers(0, len(content))
    edits = st.lists(
        st.tuples(places, places, st.binary(max_size=4), st.sampled_from(["set", "cut", "copy", "put"])), max_size=4
    )
    return edits.map(lambda found: _edited(content, found))


def _edited(content: bytes, edits: list[tuple[int, int, bytes, str]]) -> bytes:
    for one, other, data, kind in edits:
        first, last = sorted((one, other))
        last = min(last, first + 40)
        if kind == "set":
            content = content[:first] + data + content[first + len(data) :]
        elif kind == "cut":
            content = content[:first] + content[last:]
        elif kind == "copy":
            content = content[:last] + content[first:]
        else:
            content = content[:first] + data + content[first:]
    return content


@given(mutations(VALID))
@settings(max_examples=400)
def test_any_change_of_an_archive_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    reads_or_refuses(content, tmp_path / "x.ckpt")


PICKLE = zipfile.ZipFile(io.BytesIO(VALID)).read("archive/data.pkl")
INSTRUCTIONS = st.sampled_from(
    [opcode.code.encode("latin-1") for opcode in pickletools.opcodes if opcode.name in pickle_machine._INSTRUCTIONS]
)


@given(
    st.one_of(
        mutations(PICKLE),
        st.lists(st.one_of(INSTRUCTIONS, st.binary(max_size=3), st.sampled_from([tensor(), text("a"), integer(2)])))
        .map(b"".join)
        .map(program),
    )
)
@settings(max_examples=600)
def test_any_pickle_is_read_or_refused(tmp_path: Path, content: bytes) -> None:
    reads_or_refuses(archive(content, [FOUR, FOUR[:8]]), tmp_path / "x.ckpt")


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    reads_or_refuses(b"PK\3\4" + content, tmp_path / "x.ckpt")
