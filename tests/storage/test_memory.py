"""What is remembered of files: whatever happens to the database, what is answered is right or nothing is."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lib_transfer.formats.identity import FileStamp
from lib_transfer.storage import memory as memory_module
from lib_transfer.storage.memory import FileMemory

ROOT = Path(__file__).parents[2]
DATABASE = "files-1.sqlite3"


def stamp(name: str = "model", **changed: int) -> FileStamp:
    return dataclasses.replace(FileStamp(f"/models/{name}", 10, 20, 30), **changed)


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_fact_holds_for_one_kind_and_one_state_of_one_file(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path / "cache")
    assert memory.get("sha256", stamp()) is None
    assert not (tmp_path / "cache").exists()
    huge = stamp(inode=2**64 - 1)
    values = {("sha256", stamp()): "ab", ("header", stamp()): {"ranks": [1, 2], "base": None}, ("sha256", huge): "cd"}
    for (kind, state), value in values.items():
        memory.put(kind, state, value)
    assert memory.get("sha256", stamp()) is None  # the file has another inode now
    assert memory.get("sha256", huge) == FileMemory(tmp_path / "cache").get("sha256", huge) == "cd"
    assert memory.get("header", stamp()) == {"ranks": [1, 2], "base": None}
    for other in (stamp(size=11), stamp(mtime_ns=21), stamp(inode=31), stamp("other")):
        assert memory.get("header", other) is None


def test_names_that_are_no_text_are_names_too(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path)
    name = os.fsdecode(b"\xff\xfe.safetensors")
    memory.put("sha256", stamp(name), "ab")
    assert memory.get("sha256", stamp(name)) == "ab"


def test_a_row_that_was_moved_to_another_file_or_changed_is_not_believed(tmp_path: Path) -> None:
    memory = FileMemory(tmp_path)
    for change in (
        "UPDATE facts SET path = CAST('/models/other' AS BLOB)",
        "UPDATE facts SET kind = 'header'",
        "UPDATE facts SET value = '\"cd\"'",
        "UPDATE facts SET value = NULL",
        "UPDATE facts SET checksum = NULL",
        "UPDATE facts SET state = 5, value = 7",
    ):
        memory.put("sha256", stamp(), "ab")
        with sqlite3.connect(tmp_path / DATABASE) as database:
            database.execute(change)
        database.close()
        for kind in ("sha256", "header"):
            for name in ("model", "other"):
                assert memory.get(kind, stamp(name)) is None
        memory.clear()


def test_a_damaged_database_is_never_believed_and_never_an_error(tmp_path: Path) -> None:
    FileMemory(tmp_path).put("sha256", stamp(), "ab")
    sound = (tmp_path / DATABASE).read_bytes()
    pages = [i for i, byte in enumerate(sound) if byte or i < 120]
    damaged = [sound[:i] + bytes([sound[i] ^ mask]) + sound[i + 1 :] for i in pages for mask in (0x01, 0x82)]
    for content in damaged:
        (tmp_path / DATABASE).write_bytes(content)
        memory = FileMemory(tmp_path)
        assert memory.get("sha256", stamp()) in (None, "ab")
        memory.put("sha256", stamp("new"), "cd")
        assert memory.get("sha256", stamp("new")) in (None, "cd")
        assert memory.get("sha256", stamp()) in (None, "ab")


def test_what_is_no_database_is_replaced(tmp_path: Path) -> None:
    FileMemory(tmp_path).put("sha256", stamp(), "ab")
    sound = (tmp_path / DATABASE).read_bytes()
    cut = [sound[:size] for size in (1, 50, 100, 4096, 5000, 8192, len(sound) - 1)]
    for content in (*cut, b"", b"[1, 2", b"x" * 5000, bytes(9000)):
        (tmp_path / DATABASE).write_bytes(content)
        memory = FileMemory(tmp_path)
        assert memory.get("sha256", stamp()) in (None, "ab")
        memory.put("sha256", stamp("new"), "cd")
        assert memory.get("sha256", stamp("new")) == FileMemory(tmp_path).get("sha256", stamp("new")) == "cd"


@pytest.mark.parametrize("place", ["file/cache", "taken"])
def test_without_a_place_for_the_database_facts_last_as_long_as_the_object(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "taken" / DATABASE).mkdir(parents=True)
    memory = FileMemory(tmp_path / place)
    for number in range(3):
        memory.put("sha256", stamp(str(number)), number)
    assert [memory.get("sha256", stamp(str(number))) for number in range(3)] == [0, 1, 2]
    assert FileMemory(tmp_path / place).get("sha256", stamp("0")) is None
    memory.prune()
    memory.clear()
    assert memory.get("sha256", stamp("0")) is None


def test_a_lock_that_never_ends_is_waited_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FileMemory(tmp_path).put("sha256", stamp(), "ab")
    monkeypatch.setattr(memory_module, "TIMEOUT", 0.01)
    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    memory = FileMemory(tmp_path)
    assert memory.get("sha256", stamp()) is None
    memory.put("sha256", stamp(), "ab")
    assert memory.get("sha256", stamp()) == "ab"
    other.execute("ROLLBACK")
    other.close()
    assert FileMemory(tmp_path).get("sha256", stamp()) == "ab"  # the database itself was left alone


WRITER = """
import sys
from pathlib import Path
from lib_transfer.formats.identity import FileStamp
from lib_transfer.storage.memory import FileMemory
memory = FileMemory(Path(sys.argv[1]))
for number in range(200):
    memory.put("sha256", FileStamp(f"/{sys.argv[2]}/{number}", 1, 2, 3), [sys.argv[2], number])
"""


def test_processes_and_threads_write_at_once(tmp_path: Path) -> None:
    children = [child(WRITER, tmp_path, name) for name in ("a", "b", "c")]
    memory = FileMemory(tmp_path)

    def write(name: str) -> None:
        for number in range(200):
            memory.put("sha256", FileStamp(f"/{name}/{number}", 1, 2, 3), [name, number])

    threads = [threading.Thread(target=write, args=(name,)) for name in ("d", "e")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.wait() for process in children] == [0, 0, 0]
    last = FileMemory(tmp_path)
    for name in "abcde":
        for number in range(200):
            assert last.get("sha256", FileStamp(f"/{name}/{number}", 1, 2, 3)) == [name, number]


KILLED = """
import sys, threading
from pathlib import Path
from lib_transfer.formats.identity import FileStamp
from lib_transfer.storage.memory import FileMemory
memory = FileMemory(Path(sys.argv[1]))
number = 0
while True:
    memory.put("sha256", FileStamp(f"/{number}", 1, 2, 3), number)
    print(number, flush=True)
    number += 1
"""


def test_a_killed_process_leaves_what_it_remembered(tmp_path: Path) -> None:
    for _ in range(3):
        killed = child(KILLED, tmp_path)
        assert killed.stdout is not None
        while int(killed.stdout.readline()) < 30:
            pass
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        memory = FileMemory(tmp_path)
        assert [memory.get("sha256", FileStamp(f"/{number}", 1, 2, 3)) for number in range(31)] == list(range(31))
        memory.clear()


def test_pruning_keeps_the_newest_and_sweeps_what_older_versions_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "MAX_ROWS", 3)
    old = [tmp_path / "file-index.json", tmp_path / "files" / f"{'a' * 64}.json"]
    (tmp_path / "files").mkdir()
    for path in (*old, tmp_path / "files" / "mine.json"):
        path.write_text("{}")
    memory = FileMemory(tmp_path)
    for number in (0, 1, 2, 3, 4, 0):
        memory.put("sha256", stamp(str(number)), number)
    memory.prune()
    assert [memory.get("sha256", stamp(str(number))) for number in range(5)] == [0, None, None, 3, 4]
    assert [path.exists() for path in old] == [False, False]
    assert (tmp_path / "files" / "mine.json").exists()


def test_a_folder_that_is_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    memory, other = FileMemory(tmp_path), FileMemory(tmp_path)
    for number in range(3):
        memory.put("sha256", stamp(), number)
        other.clear()
        assert other.get("sha256", stamp()) is None
    memory.put("sha256", stamp("new"), 3)
    assert other.get("sha256", stamp("new")) == memory.get("sha256", stamp("new")) == 3
