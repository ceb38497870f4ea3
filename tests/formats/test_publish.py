"""A name stands for the old bytes or for all of the new ones: whatever is killed, fails, or races, at every call."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib_transfer.errors import OutputExistsError, StorageError
from lib_transfer.formats import publish as module
from lib_transfer.formats.publish import publish, sweep, write_bytes

OLD, NEW = b"old" * 1000, b"new!" * 3000
PIECES = [NEW[:8], NEW[8:9000], NEW[9000:]]
CALLS = ("open", "write", "fsync", "close", "link", "replace", "unlink", "rename")
PART = re.compile(r"\.x\.safetensors\.\d+\.[0-9a-f]{8}\.part")


class Faulty:
    """The ``os`` module, with something done around the n-th of the calls that write."""

    def __init__(self, at: int, act: Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]) -> None:
        self.at, self.act = at, act
        self.calls: list[str] = []
        self.name = os.name

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CALLS:
            return real

        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if len(self.calls) - 1 == self.at:
                return self.act(name, real, arguments)
            return real(*arguments)

        return call


def no_links(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "no links here")


POLICIES = ("new", "overwrite", "new without links")


def write(path: Path, policy: str) -> list[str]:
    return publish(path, iter(PIECES), len(NEW), overwrite=policy == "overwrite")


def prepare(path: Path, policy: str) -> None:
    for left in path.parent.iterdir():
        left.unlink()
    if policy == "overwrite":
        path.write_bytes(OLD)


def installed(policy: str, at: int, act: Callable[..., Any]) -> Faulty:
    faulty = Faulty(at, act)
    if policy == "new without links":
        faulty.link = no_links  # type: ignore[attr-defined]
    return faulty


def count_calls(path: Path, policy: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    prepare(path, policy)
    faulty = installed(policy, -1, lambda *_: None)
    monkeypatch.setattr(module, "os", faulty)
    assert write(path, policy) == []
    assert path.read_bytes() == NEW
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    return faulty.calls


def check_state(path: Path, policy: str) -> None:
    """The final file is as it was, or complete; what else is there is a part file of ours."""
    before = OLD if policy == "overwrite" else None
    now = path.read_bytes() if path.exists() else None
    # Without links a name can only be reserved by an empty file.
    assert now in ({before, NEW, b""} if policy == "new without links" else {before, NEW})
    for entry in path.parent.iterdir():
        assert entry == path or PART.fullmatch(entry.name)


def kill_before(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os._exit(137)


def kill_after(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if name == "write":  # half of it
        arguments = (arguments[0], arguments[1][: len(arguments[1]) // 2])
    try:
        real(*arguments)
    finally:  # the call itself may fail, as removing what is gone does
        os._exit(137)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kill", [kill_before, kill_after])
def test_killed_at_every_call(
    policy: str, kill: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    calls = count_calls(path, policy, monkeypatch)
    assert len(calls) >= 9
    for at in range(len(calls)):
        prepare(path, policy)
        monkeypatch.setattr(module, "os", installed(policy, at, kill))
        if (child := os.fork()) == 0:
            try:
                write(path, policy)
            finally:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 137, (at, calls[at])
        check_state(path, policy)
        monkeypatch.setattr(module, "os", os)
        sweep(tmp_path, older_than=-1)
        assert {entry.name for entry in tmp_path.iterdir()} <= {path.name}
        if policy == "overwrite":  # and the next run succeeds
            assert write(path, policy) == []


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_failing_at_every_call(policy: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    calls = count_calls(path, policy, monkeypatch)

    def fail(name: str, real: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        if name == "close":
            real(*arguments)
        raise OSError(code, os.strerror(code))

    for at in range(len(calls)):
        prepare(path, policy)
        monkeypatch.setattr(module, "os", installed(policy, at, fail))
        try:
            warnings = write(path, policy)
        except StorageError as error:
            assert str(path) in error.message
            assert "MB" in error.message
            assert error.hint
            assert not path.exists() if policy != "overwrite" else path.read_bytes() == OLD
        else:
            assert warnings, (at, calls[at])
            assert path.read_bytes() == NEW
        check_state(path, policy)
        left = [entry.name for entry in tmp_path.iterdir() if entry != path]
        assert not left or calls[at] == "unlink"


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_short_writes_are_continued(most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = Faulty(-1, lambda *_: None)
    faulty.write = lambda file, data: os.write(file, data[:most])  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "os", faulty)
    write(tmp_path / "x", "new")
    assert (tmp_path / "x").read_bytes() == NEW


@pytest.mark.parametrize("call", [*CALLS[:6], "verify", "pieces"])
def test_ctrl_c_leaves_nothing_behind(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def pieces() -> Any:
        yield NEW[:5]
        interrupt()

    policy = "overwrite" if call == "replace" else "new"
    path = tmp_path / "x.safetensors"
    prepare(path, policy)
    faulty = Faulty(-1, lambda *_: None)
    if call in CALLS:
        setattr(faulty, call, interrupt)
    monkeypatch.setattr(module, "os", faulty)
    content = pieces() if call == "pieces" else iter(PIECES)
    with pytest.raises(KeyboardInterrupt):
        publish(
            path, content, len(NEW), overwrite=policy == "overwrite", verify=interrupt if call == "verify" else None
        )
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([OLD] if policy == "overwrite" else [])


def test_what_verifying_raises_stops_the_writing(tmp_path: Path) -> None:
    def refuse(part: Path) -> None:
        assert part.read_bytes() == NEW
        raise ArithmeticError("not what it should be")

    with pytest.raises(ArithmeticError):
        publish(tmp_path / "x", PIECES, len(NEW), overwrite=True, verify=refuse)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(OLD)
    dangling = tmp_path / "link"
    dangling.symlink_to(tmp_path / "nothing")
    for taken in (path, dangling):
        with pytest.raises(OutputExistsError):
            write_bytes(taken, NEW, overwrite=False)
    assert path.read_bytes() == OLD
    assert len(list(tmp_path.iterdir())) == 2
    write_bytes(path, NEW, overwrite=True)
    assert path.read_bytes() == NEW


@pytest.mark.parametrize("links", [True, False])
def test_of_eight_racing_writers_one_wins(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(module, "os", installed("new without links", -1, lambda *_: None))
    for turn in range(8):
        path, children = tmp_path / f"{turn}", {}
        waits, begins = os.pipe()
        for writer in range(8):
            if (child := os.fork()) == 0:
                code = 1
                try:
                    os.close(begins)
                    os.read(waits, 1)  # Ends for all of them at once, when the last writing end is closed.
                    content = bytes([writer]) * 50_000
                    try:
                        publish(path, [content[:100], content[100:]], 50_000, overwrite=False)
                        code = 0
                    except OutputExistsError:
                        code = 3
                finally:
                    os._exit(code)
            children[child] = writer
        os.close(begins)
        os.close(waits)
        ends = {writer: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, writer in children.items()}
        assert sorted(ends.values()) == [0, 3, 3, 3, 3, 3, 3, 3]
        (winner,) = [writer for writer, end in ends.items() if end == 0]
        assert path.read_bytes() == bytes([winner]) * 50_000
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(OLD)
    if (child := os.fork()) == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            try:
                write_bytes(path, bytes(3 << 20), overwrite=True)
            except StorageError as error:
                code = 7 if "3.1 MB" in error.message and error.hint else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_space_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"needs .* GB, but only .* [MG]B are free") as caught:
        publish(tmp_path / "x", [b""], 1 << 60, overwrite=False)
    assert caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "below" / "x"
    assert write_bytes(path, NEW, overwrite=False) == []
    assert path.read_bytes() == NEW


def test_a_folder_that_was_made_goes_again_where_nothing_is_written(tmp_path: Path) -> None:
    def fails(part: Path) -> None:
        raise StorageError("no")

    with pytest.raises(StorageError, match="no"):
        publish(tmp_path / "new" / "below" / "x", [NEW], len(NEW), overwrite=False, verify=fails)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(OLD)
    with pytest.raises(StorageError, match="could not be made"):
        write_bytes(tmp_path / "file" / "below" / "x", NEW, overwrite=False)
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StorageError, match="denied"):
        write_bytes(tmp_path / "x", NEW, overwrite=False)
    tmp_path.chmod(0o755)


def test_permission_denied_is_told_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    faulty = Faulty(-1, lambda *_: None)
    faulty.open = deny  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "os", faulty)
    with pytest.raises(StorageError, match="Permission denied") as caught:
        write_bytes(tmp_path / "x", NEW, overwrite=False)
    assert "permissions" in caught.value.hint


def test_mode_follows_the_umask_and_time_is_now(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(OLD)
    os.utime(path, (0, 0))
    mask, began = os.umask(0o027), time.time()
    try:
        write_bytes(path, NEW, overwrite=True)
    finally:
        os.umask(mask)
    status = path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert began - 2 < status.st_mtime < time.time() + 2  # no file system is coarser than 2 s


def test_names_of_every_script_and_length(tmp_path: Path) -> None:
    for name in ("汉" * 40 + ".safetensors", "é" * 100, "x" * 255, "a b'\"\n", "😀" * 60, "-rf"):
        write_bytes(tmp_path / name, NEW, overwrite=False)
        assert (tmp_path / name).read_bytes() == NEW
    with pytest.raises(StorageError):
        write_bytes(tmp_path / ("x" * 256), NEW, overwrite=False)
    assert not list(tmp_path.glob(".*.part"))


def test_sweeping_takes_only_what_dead_processes_left(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f".a.safetensors.{dead.pid}.0123abcd.part": True,
        f".b.json.{2**70}.0123abcd.part": True,
        f".c.{os.getpid()}.0123abcd.part": False,
        f"d.{dead.pid}.0123abcd.part": False,
        f".e.{dead.pid}.0123.part": False,
        ".f.part": False,
        "g.safetensors": False,
    }
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert sweep(tmp_path) == []  # all of them are young
    for name in names:
        os.utime(tmp_path / name, (0, 0))
    assert {path.name for path in sweep(tmp_path)} == {name for name, ours in names.items() if ours}
    assert {path.name for path in tmp_path.iterdir()} == {name for name, ours in names.items() if not ours}
    assert sweep(tmp_path / "none") == []


def test_the_windows_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, rename refuses a name that is taken, a replace may have to wait for a scanner, and signals are not asked."""
    refusals = iter([True, True, False])

    def rename(part: Path, path: Path) -> None:
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "taken")
        part.rename(path)

    def replace(part: Path, path: Path) -> None:
        if next(refusals):
            raise PermissionError(errno.EACCES, "in use")
        part.replace(path)

    faulty = Faulty(-1, lambda *_: None)
    faulty.name, faulty.rename, faulty.replace, faulty.kill = "nt", rename, replace, None  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "os", faulty)
    path = tmp_path / "x"
    assert write_bytes(path, OLD, overwrite=False) == []
    with pytest.raises(OutputExistsError):
        module._claim(path, path)
    assert write_bytes(path, NEW, overwrite=True) == []
    assert path.read_bytes() == NEW
    sweep(tmp_path)
