"""What a file really is when its name says safetensors and its bytes do not."""

from __future__ import annotations

from dataclasses import dataclass

_DOWNLOAD = "The download failed or asked for a login; download the file again."
_CONVERT = "It may run code when loaded, so it is not opened; save it as safetensors first, with the WebUI's checkpoint merger."
_LEGACY = "a pickle, as PyTorch wrote before 1.6 (.pt, .ckpt)"


@dataclass(frozen=True)
class Kind:
    """A recognisable kind of file: a stable code, its name for the person, and what to do about it."""

    reason: str
    title: str
    hint: str


# The first bytes, compared in lower case because HTML is written both ways.
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"<!doctype html", Kind("html", "an HTML page", _DOWNLOAD)),
    (b"<html", Kind("html", "an HTML page", _DOWNLOAD)),
    (b"<?xml", Kind("html", "an XML page", _DOWNLOAD)),
    (b'{"', Kind("json", "a JSON text", _DOWNLOAD)),
    (b"version https://git-lfs", Kind("lfs_pointer", "a Git-LFS pointer", "Fetch the file with `git lfs pull`.")),
    (b"pk\x03\x04", Kind("zip", "a PyTorch or zip archive (.pt, .ckpt)", _CONVERT)),
    (b"pk\x05\x06", Kind("zip", "an empty zip archive", _CONVERT)),
    *((bytes([0x80, protocol]), Kind("pickle", _LEGACY, _CONVERT)) for protocol in range(1, 6)),
    (b"gguf", Kind("gguf", "a GGUF model", "Use the safetensors file of the same model.")),
    (b"\x89png", Kind("image", "a PNG picture", _DOWNLOAD)),
    (b"\xff\xd8\xff", Kind("image", "a JPEG picture", _DOWNLOAD)),
    (b"riff", Kind("image", "a WebP picture", _DOWNLOAD)),
    (b"gif8", Kind("image", "a GIF picture", _DOWNLOAD)),
    (b"\x1f\x8b", Kind("archive", "a gzip archive", "Unpack it first.")),
    (b"7z\xbc\xaf", Kind("archive", "a 7-Zip archive", "Unpack it first.")),
    (b"rar!", Kind("archive", "a RAR archive", "Unpack it first.")),
)


def recognise(head: bytes) -> Kind | None:
    """What a file beginning with ``head`` is, if it is a known kind other than safetensors.

    Ask only when the bytes cannot be safetensors: a header length may happen to spell a known beginning.
    """
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n").lower()
    return next((kind for magic, kind in _MAGIC if start.startswith(magic)), None)
