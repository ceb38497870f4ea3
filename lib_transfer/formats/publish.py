"""Writing a file so that its name only ever stands for the old bytes or for all of the new ones.

The bytes go to a ``.{name}.{pid}.{random}.part`` file in the same folder, are flushed to the disk, read back, and only
then given the name, in one step of the file system. What goes wrong before leaves nothing behind; what goes wrong after
is a warning, because the new file is there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from lib_transfer.errors import OutputExistsError, StorageError
from lib_transfer.formatting import size as in_bytes

_PIECE = 16 << 20
_PART = re.compile(r"\..+\.(?P<pid>\d+)\.[0-9a-f]{8}\.part")
_STALE_AFTER = 3600.0

# What a file system answers that has no hard links (exFAT, some network shares).
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EINVAL, errno.EACCES}

_ADVICE = {
    errno.ENOSPC: "Free some space on the disk.",
    errno.EDQUOT: "Your quota on this disk is used up.",
    errno.EFBIG: "The file is larger than this file system or account allows.",
    errno.EACCES: "Check the permissions of the folder.",
    errno.EPERM: "Check the permissions of the folder.",
    errno.EROFS: "The folder is read-only.",
    errno.EIO: "The disk reports an error; check it.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def publish(
    path: str | os.PathLike[str],
    pieces: Iterable[bytes | memoryview],
    size: int,
    *,
    overwrite: bool,
    verify: Callable[[Path], None] | None = None,
) -> list[str]:
    """Write ``pieces`` to ``path``, whole or not at all.

    Args:
        path: the final name; its folder is made where it is not there, and goes again where nothing is written.
        pieces: the bytes, consumed once.
        size: how many bytes they are.
        overwrite: whether a file that is there is replaced.
        verify: called with the finished part file before it gets its name; what it raises stops the writing.

    Returns:
        Warnings about what failed after the file was in place.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is not set.
        StorageError: no space, no permission, a broken disk; ``path`` is as it was.
    """
    path = Path(path)
    if not overwrite and os.path.lexists(path):
        raise _exists(path)
    with _folder_of(path):
        return _published(path, pieces, size, overwrite, verify)


def _published(
    path: Path,
    pieces: Iterable[bytes | memoryview],
    size: int,
    overwrite: bool,
    verify: Callable[[Path], None] | None,
) -> list[str]:
    _need_space(path, size)
    part = part_name(path)
    warnings: list[str] = []
    try:
        _write_part(part, pieces)
        if verify is not None:
            verify(part)
        (_replace if overwrite else _claim)(part, path)
    except (OutputExistsError, StorageError):
        raise
    except OSError as error:
        raise _storage_error(path, size, error) from error
    finally:  # Ctrl-C included
        _remove(part, warnings)
    _sync_folder(path.parent, warnings)
    return warnings


def write_bytes(path: str | os.PathLike[str], data: bytes, *, overwrite: bool) -> list[str]:
    """Write a small file with the same care; see :func:`publish`."""
    return publish(path, [data], len(data), overwrite=overwrite)


def sweep(folder: str | os.PathLike[str], older_than: float = _STALE_AFTER) -> list[Path]:
    """Remove the part files in ``folder`` that a killed process of ours left behind.

    A part file stays while its process lives, and for ``older_than`` seconds, since another machine may write to the
    same folder.

    Returns:
        What was removed. Nothing is raised: a part file that cannot be removed does no harm.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError):
        for entry in Path(folder).iterdir():
            match = _PART.fullmatch(entry.name)
            if match is None or _alive(int(match["pid"])):
                continue
            with contextlib.suppress(OSError):
                if time.time() - entry.lstat().st_mtime >= older_than:
                    os.unlink(entry)  # noqa: PTH108 - the same call everywhere, so that tests can make it fail
                    removed.append(entry)
    return removed


def part_name(path: Path) -> Path:
    """A new name beside ``path`` for what is not finished; :func:`sweep` removes one that a killed process left behind."""
    # A name may have 255 bytes; 48 characters have at most 192 and leave room for the rest.
    return path.with_name(f".{path.name[:48]}.{os.getpid()}.{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def _folder_of(path: Path) -> Iterator[None]:
    """The folder of ``path``, made where it is not there; what was made goes again where the writing fails."""
    missing = [folder for folder in (path.parent, *path.parent.parents) if not os.path.lexists(folder)]
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"The folder {path.parent} could not be made: {error.strerror or error}.",
                hint=_ADVICE.get(error.errno or 0, "Choose another folder."),
            ) from error
        yield
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _write_part(part: Path, pieces: Iterable[bytes | memoryview]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    descriptor = os.open(part, flags, 0o666)  # the umask applies, so shared folders stay shared
    try:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(descriptor, rest[:_PIECE]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(part: Path, path: Path, waits: tuple[float, ...] = (0.1, 0.4)) -> None:
    try:
        os.replace(part, path)  # noqa: PTH105
    except PermissionError:
        # On Windows a virus scanner or a mapping holds the old file for a moment.
        if os.name != "nt" or not waits:
            raise
        time.sleep(waits[0])
        _replace(part, path, waits[1:])


def _claim(part: Path, path: Path) -> None:
    """Give ``part`` the name ``path`` unless it is taken, in one step."""
    try:
        if os.name == "nt":
            os.rename(part, path)  # noqa: PTH104 - on Windows this refuses to replace
        else:
            os.link(part, path)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if os.name == "nt" or error.errno not in _NO_LINKS:
            raise
        _claim_without_links(part, path)


def _claim_without_links(part: Path, path: Path) -> None:
    """Reserve the name with an empty file, then replace that; killed in between, the empty file stays."""
    try:
        claim = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise _exists(path) from None
    try:
        os.close(claim)
        os.replace(part, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
        raise


def _remove(part: Path, warnings: list[str]) -> None:
    try:
        os.unlink(part)  # noqa: PTH108
    except FileNotFoundError:
        pass
    except OSError as error:
        warnings.append(f"The temporary file {part} could not be removed: {error.strerror}.")


def _sync_folder(folder: Path, warnings: list[str]) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot do it
            warnings.append(f"The folder {folder} could not be flushed to the disk: {error.strerror}.")


def _need_space(path: Path, size: int) -> None:
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError as error:
        raise _storage_error(path, size, error) from error
    margin = size // 20 + (64 << 20) if size >= 1 << 20 else 0
    if free < size + margin:
        raise StorageError(
            f"{path} needs {in_bytes(size + margin)}, but only {in_bytes(free)} are free.",
            hint=_ADVICE[errno.ENOSPC],
        )


def _storage_error(path: Path, size: int, error: OSError) -> StorageError:
    free = ""
    with contextlib.suppress(OSError):
        free = f"; {in_bytes(shutil.disk_usage(path.parent).free)} are free"
    return StorageError(
        f"{path} could not be written: {error.strerror or error} (it needs {in_bytes(size)}{free}).",
        hint=_ADVICE.get(error.errno or 0, ""),
    )


def _exists(path: Path) -> OutputExistsError:
    return OutputExistsError(f"{path} exists already and was not touched.", hint="Choose another name.")


def _alive(pid: int) -> bool:
    if os.name == "nt":  # there, signal 0 is Ctrl-C; the age alone decides
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
