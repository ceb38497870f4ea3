"""The directory of a zip archive as PyTorch writes it.

The format is PKWARE's (APPNOTE.TXT 6.3). Two readers may see two different archives in one file that breaks its rules,
so whatever no PyTorch writes is refused: encryption, several volumes, a comment, names twice.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from lib_transfer.errors import BadFileError
from lib_transfer.formats.regular_file import OpenFile
from lib_transfer.formats.tensor_info import MAX_TENSORS

MAX_MEMBERS = MAX_TENSORS + 100
MAX_DIRECTORY = 32 << 20

_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_LONG_END = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_SIZES_FOLLOW = 0x0008
_UTF_8 = 0x0800
# What stands in a field whose value is too large for it.
_SHORT, _LONG = 0xFFFF, 0xFFFFFFFF
_LIMITS = (_SHORT, _SHORT, _SHORT, _SHORT, _LONG, _LONG)


@dataclass(frozen=True)
class Member:
    """One file in an archive: its name, where its own header lies, how many bytes it has, and whether as they are."""

    name: str
    header: int
    size: int
    plain: bool


def read_directory(file: OpenFile) -> dict[str, Member]:
    """The members of the archive, by name, each within its bounds.

    Raises:
        BadFileError: ``truncated``; ``zip_directory``: it breaks a rule of the format; ``zip_member``: a member is
            encrypted or has an impossible name; ``too_many``.
        StorageError: the file cannot be read.
    """
    count, start, size = _end_record(file)
    if count > MAX_MEMBERS or size > MAX_DIRECTORY:
        raise _bad(file, "too_many", f"holds {count} files; the limit is {MAX_MEMBERS}")
    text = bytes(file.read(start, size))
    members: dict[str, Member] = {}
    place = 0
    for _ in range(count):
        if place + _ENTRY.size > size:
            raise _bad(file, "zip_directory", "has a directory that is too short for its files")
        member, place = _entry(file, text, place)
        if member.name in members:
            raise _bad(file, "zip_member", f"holds two files named {member.name!r}")
        if member.plain and member.header + _LOCAL.size + len(member.name.encode()) + member.size > start:
            raise _bad(file, "zip_directory", f"says that {member.name!r} lies beyond its end")
        members[member.name] = member
    if place != size:
        raise _bad(file, "zip_directory", "has a directory that is longer than its files")
    return members


def place_of(file: OpenFile, member: Member) -> int:
    """Where the bytes of ``member``, which is plain, begin.

    Raises:
        BadFileError: ``zip_directory``: its own header says something else than the directory, or than a plain member.
        StorageError: the file cannot be read.
    """
    name = member.name.encode()
    header = bytes(file.read(member.header, _LOCAL.size + len(name)))
    fields: tuple[Any, ...] = _LOCAL.unpack_from(header)
    signature, _, flags, method = fields[:4]
    name_size, extra_size = fields[9:]
    same = signature == b"PK\3\4" and method == 0 and not flags & ~(_SIZES_FOLLOW | _UTF_8)
    if not same or name_size != len(name) or header[_LOCAL.size :] != name:
        raise _bad(file, "zip_directory", f"has another header before {member.name!r} than in its directory")
    place = member.header + _LOCAL.size + int(name_size) + int(extra_size)
    if place + member.size > file.stamp.size:
        raise _bad(file, "zip_directory", f"says that {member.name!r} lies beyond its end")
    return place


def _end_record(file: OpenFile) -> tuple[int, int, int]:
    """How many members there are, where the directory begins and how long it is."""
    place = file.stamp.size - _END.size
    if place < 0:
        raise _bad(file, "truncated", "is too short for a zip archive")
    signature, *values, comment = _END.unpack(file.read(place, _END.size))
    if signature != b"PK\5\6" or comment:
        raise _bad(file, "truncated", "does not end like a PyTorch archive")
    if (longer := _long_end_record(file, place)) is not None:
        place, long_values = longer
        if any(value not in (full, limit) for value, full, limit in zip(values, long_values, _LIMITS, strict=True)):
            raise _bad(file, "zip_directory", "ends with two different records")
        values = long_values
    disk, directory_disk, here, count, size, start = values
    if disk or directory_disk or here != count:
        raise _bad(file, "zip_directory", "is one volume of several")
    if start + size != place:
        raise _bad(file, "zip_directory", "has a directory that does not lie before its end")
    return count, start, size


def _long_end_record(file: OpenFile, place: int) -> tuple[int, list[int]] | None:
    """Where the record for large archives before the end record at ``place`` begins, and its values, if there is one."""
    locator = place - _LOCATOR.size
    if locator < 0:
        return None
    signature, disk, start, volumes = _LOCATOR.unpack(file.read(locator, _LOCATOR.size))
    if signature != b"PK\6\7":
        return None
    if disk or volumes != 1 or start + _LONG_END.size != locator:
        raise _bad(file, "zip_directory", "has a damaged end")
    signature, length, _, _, *values = _LONG_END.unpack(file.read(start, _LONG_END.size))
    if signature != b"PK\6\6" or length != _LONG_END.size - 12:
        raise _bad(file, "zip_directory", "has a damaged end")
    return start, values


def _entry(file: OpenFile, text: bytes, place: int) -> tuple[Member, int]:
    """The member whose entry begins at ``place``, and where the next one begins."""
    fields = _ENTRY.unpack_from(text, place)
    signature, _, _, flags, method = fields[:5]
    stored, size, name_size, extra_size, comment_size, disk = fields[8:14]
    header = fields[16]
    name_start = place + _ENTRY.size
    extra_start = name_start + name_size
    end = extra_start + extra_size + comment_size
    if signature != b"PK\1\2" or end > len(text):
        raise _bad(file, "zip_directory", "has a damaged directory")
    name = _name(file, text[name_start:extra_start])
    if flags & ~(_SIZES_FOLLOW | _UTF_8):
        raise _bad(file, "zip_member", f"holds {name!r} encrypted or marked in a way that PyTorch does not use")
    size, stored, header, disk = _long_values(
        text[extra_start : extra_start + extra_size], (size, stored, header, disk)
    )
    if disk or (method == 0 and stored != size):
        raise _bad(file, "zip_directory", f"says two different things of {name!r}")
    return Member(name, header, size, method == 0), end


def _long_values(extra: bytes, values: tuple[int, int, int, int]) -> list[int]:
    """Sizes, place and volume, where they are too large for their fields from the extra field that has them then."""
    found = list(values)
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        body = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind != 1:
            continue
        for place, (value, limit, width) in enumerate(
            zip(values, (_LONG, _LONG, _LONG, _SHORT), (8, 8, 8, 4), strict=True)
        ):
            if value == limit and len(body) >= width:
                found[place] = int.from_bytes(body[:width], "little")
                body = body[width:]
    return found


def _name(file: OpenFile, raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or any(sign == "\\" or ord(sign) < 32 for sign in name):
        raise _bad(file, "zip_member", f"holds a file with the impossible name {raw[:80]!r}")
    return name


def _bad(file: OpenFile, reason: str, what: str) -> BadFileError:
    hint = "The file is damaged or not what it says it is; download it again from where you trust it."
    return BadFileError(f"{file.stamp.path} {what}.", reason=reason, hint=hint)
