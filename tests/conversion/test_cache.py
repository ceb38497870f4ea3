"""Cache entries and remembered hashes: whatever happened to them, what is served is right or nothing is."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lib_transfer.architecture.module import Module, Position
from lib_transfer.conversion.decompositions import Wanted
from lib_transfer.conversion.relation import Relation
from lib_transfer.conversion.weights import Weight
from lib_transfer.errors import CancelledError, StorageError
from lib_transfer.formats import identity
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.formats.identity import stamp
from lib_transfer.progress import Silent
from lib_transfer.storage import cache as cache_module
from lib_transfer.storage import hashes as hashes_module
from lib_transfer.storage.cache import Cache, entry_key
from lib_transfer.storage.hashes import Hashes
from lib_transfer.storage.memory import FileMemory

from ..linalg.weights import normal

KEY = entry_key("a", 1)
ROOT = Path(__file__).parents[2]


def tensors(seed: int = 1) -> dict[str, Tensor]:
    return {"singular_values": normal(6, seed=seed).float(), "rows": normal(6, 4, seed=seed + 1).float()}


def same(got: dict[str, Tensor] | None, want: dict[str, Tensor]) -> bool:
    return (
        got is not None
        and set(got) == set(want)
        and all(got[n].dtype == t.dtype and torch.equal(got[n], t) for n, t in want.items())
    )


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def stored(cache: Cache) -> Path:
    cache.put("weights", KEY, tensors())
    return cache.path("weights", KEY)


def test_what_is_put_is_got_whole_and_in_part(cache: Cache) -> None:
    assert cache.get("weights", KEY) is None
    cache.put("weights", KEY, tensors())
    assert same(cache.get("weights", KEY), tensors())
    assert same(cache.get("weights", KEY, only="singular_values"), {"singular_values": tensors()["singular_values"]})
    part = cache.get("weights", KEY, rows={"rows": 2})
    assert same(part, {**tensors(), "rows": tensors()["rows"][:2]})
    cache.put("weights", KEY, tensors(5))
    assert same(cache.get("weights", KEY), tensors(5))
    assert cache.get("principal", KEY) is None


@pytest.mark.parametrize("mask", [0x01, 0x0F, 0x80, 0xFF])
def test_no_flipped_byte_is_ever_served(mask: int, cache: Cache, stored: Path) -> None:
    """0x0F among them turns F32 into I32: numbers of the same bytes and the same sum that mean something else."""
    sound = stored.read_bytes()
    refused = 0
    for place in range(len(sound)):
        stored.write_bytes(sound[:place] + bytes([sound[place] ^ mask]) + sound[place + 1 :])
        got = cache.get("weights", KEY)
        assert got is None or same(got, tensors()), place
        refused += got is None
    assert refused > 0.9 * len(sound)  # a blank of the header may be another one
    cache.put("weights", KEY, tensors())
    assert same(cache.get("weights", KEY), tensors())


def test_no_cut_entry_is_ever_served(cache: Cache, stored: Path) -> None:
    sound = stored.read_bytes()
    for length in range(len(sound)):
        stored.write_bytes(sound[:length])
        assert cache.get("weights", KEY) is None, length


def test_zeros_in_the_place_of_data_are_not_served(cache: Cache, stored: Path) -> None:
    """What a power cut can leave of a file whose length had been written and its later pages had not."""
    sound = stored.read_bytes()
    for start in range(len(sound)):
        stored.write_bytes(sound[:start] + bytes(len(sound) - start))
        assert cache.get("weights", KEY) is None, start
        stored.write_bytes(sound[:start] + bytes(len(sound) - start))
        only = cache.get("weights", KEY, only="singular_values")
        assert only is None or torch.equal(only["singular_values"], tensors()["singular_values"]), start


def replace(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def as_folder(path: Path, content: bytes) -> None:
    path.unlink()
    path.mkdir()
    (path / "mine").write_bytes(content)


def as_loop(path: Path, content: bytes) -> None:
    path.unlink()
    path.symlink_to(path)


def as_foreign_file(path: Path, content: bytes) -> None:
    save_file({"singular_values": torch.ones(6), "rows": torch.ones(6, 4)}, path)


def without_a_tensor(path: Path, content: bytes) -> None:
    kept = load_file(path)
    save_file({name: t for name, t in kept.items() if name != "check.rows"}, path)


@pytest.mark.parametrize("damage", [replace, as_folder, as_loop, as_foreign_file, without_a_tensor])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not an entry", b"\xff" * 64])
def test_other_things_in_the_place_of_an_entry(
    damage: Callable[[Path, bytes], None], content: bytes, cache: Cache, stored: Path
) -> None:
    damage(stored, content)
    assert cache.get("weights", KEY) is None
    cache.put("weights", KEY, tensors())
    if damage is as_folder:  # a folder is not ours to remove; then this one entry is not kept
        assert (stored / "mine").read_bytes() == content
        assert cache.get("weights", KEY) is None
    else:
        assert same(cache.get("weights", KEY), tensors())
    assert [p.name for p in stored.parent.iterdir()] == [stored.name]


def test_another_version_of_the_mathematics_has_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    old = entry_key("a", 1)
    assert old == entry_key("a", 1)
    assert len({old, entry_key("a", 2), entry_key("a1"), entry_key("a", 1, None)}) == 4
    monkeypatch.setattr(cache_module, "VERSION", cache_module.VERSION + 1)
    assert entry_key("a", 1) != old


def test_check_finds_the_damaged_and_keeps_the_sound(cache: Cache) -> None:
    keys = [entry_key(i) for i in range(6)]
    for kind, key in zip(("weights", "similarities", "principal") * 2, keys, strict=True):
        cache.put(kind, key, tensors())
    damaged = [cache.path("weights", keys[0]), cache.path("principal", keys[5])]
    for path in damaged:  # in the last row, which a reader of the first rows alone would not see
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        path.write_bytes(whole)
    assert cache.check() == (4, damaged)
    assert cache.check() == (4, [])
    assert sum(cache.contents().entries.values()) == 4


# ---- entries belong to the bytes of a checkpoint ----


def relation(folder: Path, cache: Cache, *, rank: int = 4) -> tuple[float, float]:
    """Similarity of ``one`` and ``other`` as the engine finds it, checkpoints hashed as for a request."""
    hashes = Hashes(cache.folder)
    module = Module("w", "w", None, "linear", (12, 20), None, None, Position("unet", "", "", 0, ""), (), None)
    paths = [folder / "one.safetensors", folder / "other.safetensors"]
    with open_checkpoint(paths[0]) as one, open_checkpoint(paths[1]) as other:
        weights = [
            Weight(file, hashes.sha256(path), module, torch.device("cpu"))
            for file, path in ((one, paths[0]), (other, paths[1]))
        ]
        found = Relation(weights[0], weights[1], Wanted(None, rank), cache).similarity
    assert found.left is not None
    assert found.right is not None
    return found.left, found.right


def dense(folder: Path, rank: int = 4) -> tuple[float, float]:
    u_s, _, v_s = torch.linalg.svd(load_file(folder / "one.safetensors")["w"].double(), full_matrices=False)
    u_t, _, v_t = torch.linalg.svd(load_file(folder / "other.safetensors")["w"].double(), full_matrices=False)
    left = float((u_s[:, :rank].T @ u_t[:, :rank]).square().sum()) / rank
    return left, float((v_s[:rank] @ v_t[:rank].T).square().sum()) / rank


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    for seed, name in enumerate(("one", "other")):
        save_file({"w": normal(12, 20, seed=seed).float()}, tmp_path / f"{name}.safetensors")
    return tmp_path


def test_a_rewritten_checkpoint_of_the_same_size_and_time_is_not_served_the_old_entries(
    pair: Path, cache: Cache
) -> None:
    first = relation(pair, cache)
    assert first == pytest.approx(dense(pair), abs=1e-5)
    assert relation(pair, cache) == first
    old = pair / "other.safetensors"
    state = old.stat()
    save_file({"w": normal(12, 20, seed=9).float()}, pair / "new")
    os.utime(pair / "new", ns=(state.st_atime_ns, state.st_mtime_ns))
    (pair / "new").replace(old)
    assert (old.stat().st_size, old.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    second = relation(pair, cache)
    assert second == pytest.approx(dense(pair), abs=1e-5)
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) > 1e-3


def test_damaged_entries_are_computed_anew(pair: Path, cache: Cache) -> None:
    first = relation(pair, cache)
    entries = [path for _, path in cache.files()]
    assert len(entries) >= 3
    for damage in (lambda b: b[:-1], lambda b: b"", lambda b: b[:100] + b[101:] + b"x"):
        for path in entries:
            path.write_bytes(damage(path.read_bytes()))
        assert relation(pair, cache) == first
        assert cache.check() == (len(entries), [])


def test_entries_differ_by_tensor_and_rows(cache: Cache, pair: Path) -> None:
    with open_checkpoint(pair / "one.safetensors") as file:

        def key(sha256: str, name: str, rows: tuple[int, int] | None) -> str:
            position = Position("unet", "", "", 0, "")
            module = Module("m", name, None, "linear", (4, 20), rows, None, position, (), None)
            return Weight(file, sha256, module, torch.device("cpu")).key

        keys = {
            key("0", "w", None),
            key("1", "w", None),
            key("0", "v", None),
            key("0", "w", (0, 4)),
            key("0", "w", (4, 8)),
        }
    assert len(keys) == 5


# ---- several processes ----

WRITER = """
import sys, torch
from pathlib import Path
from lib_transfer.storage.cache import Cache
cache = Cache(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(60):
    cache.put("weights", sys.argv[2], {"rows": torch.full((50, 200), float(sys.argv[3]))})
print(cache.problem)
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_writers_of_the_same_entry_do_not_mix(cache: Cache) -> None:
    writers = [child(WRITER, cache.folder, KEY, i) for i in (1, 2)]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        seen = set()
        while any(writer.poll() is None for writer in writers):
            entry = cache.get("weights", KEY)
            if (
                entry is None
            ):  # a damaged one would be removed: it must only ever be missing before the first is written
                assert not seen
                continue
            assert entry["rows"].unique().numel() == 1
            seen.add(float(entry["rows"][0, 0]))
        assert seen <= {1.0, 2.0}
        assert [writer.communicate()[0] for writer in writers] == ["None\n", "None\n"]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    path = cache.path("weights", KEY)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from lib_transfer.storage.cache import Cache
Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
Cache(Path(sys.argv[1])).put("weights", sys.argv[2], {"rows": torch.ones(3, 4)})
"""


def test_what_a_killed_writer_leaves_is_no_entry_and_is_swept_away(cache: Cache) -> None:
    killed = child(KILLED, cache.folder, KEY)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    folder = cache.path("weights", KEY).parent
    (part,) = folder.iterdir()
    assert part.suffix == ".part"
    assert cache.get("weights", KEY) is None
    assert cache.contents().entries == {}
    mine = part.with_name(part.name.replace(f".{killed.pid}.", f".{os.getpid()}."))
    mine.write_bytes(b"being written")
    cache.prune()
    assert part.exists()  # it may be another machine's, still at work
    for path in (part, mine):
        os.utime(path, (time.time() - 7200,) * 2)
    cache.prune()
    assert list(folder.iterdir()) == [mine]


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from lib_transfer.storage.cache import Cache
from lib_transfer.storage.hashes import Hashes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
file = folder / "file"
file.write_bytes(b"x")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
cache = Cache(folder / "cache")
cache.put("weights", "0" * 64, {"rows": torch.ones(200, 200)})
print(cache.problem)
print(cache.get("weights", "0" * 64))
print(Hashes(folder / "cache").sha256(file))
print(sorted(p.name for p in (folder / "cache").rglob("*") if p.is_file()))
"""


@pytest.mark.parametrize("limit", [0, 1000, 100_000])
def test_a_full_disk_is_told_and_leaves_nothing_behind(tmp_path: Path, limit: int) -> None:
    written = child(FULL, tmp_path, limit)
    lines = written.communicate()[0].splitlines()
    assert written.returncode == 0
    assert "cannot be written" in lines[0]
    assert "--cache-dir" in lines[0]
    assert lines[1:3] == ["None", hashlib.sha256(b"x").hexdigest()]
    assert len(names_in(lines[3])) == (1 if limit == 100_000 else 0)  # at most the remembered hash


def names_in(line: str) -> list[str]:
    return json.loads(line.replace("'", '"'))


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = Cache(tmp_path / "file" / "cache")
    assert cache.problem is None
    cache.put("weights", KEY, tensors())
    told = cache.problem
    assert told is not None
    assert str(cache.folder) in told
    cache.put("principal", KEY, tensors())
    assert cache.problem is told
    assert cache.get("weights", KEY) is None
    assert cache.prune() == cache.clear() == 0
    assert cache.check() == (0, [])
    assert cache.contents().total_bytes == 0


# ---- the bounded total ----


def filled(cache: Cache, count: int) -> list[str]:
    """Entries of equal size, the first the least recently used."""
    keys = [entry_key("filled", i) for i in range(count)]
    for age, key in enumerate(keys):
        cache.put("weights" if age % 2 else "principal", key, tensors())
        os.utime(cache.path("weights" if age % 2 else "principal", key), ns=(0, (age + 1) * 10**12))
    return keys


def test_prune_removes_the_least_recently_used_and_no_more_than_needed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    keys = filled(cache, 8)
    size = cache.contents().total_bytes // 8
    assert cache.contents().total_bytes == 8 * size
    assert cache.prune() == 0
    assert cache.get("principal", keys[0]) is not None  # used again: now it is the latest
    cache.limit = 3 * size + size // 2
    assert cache.prune() == 5 * size
    left = {path.stem for _, path in cache.files()}
    assert left == {keys[0], keys[6], keys[7]}
    assert cache.contents().total_bytes <= cache.limit
    cache.limit = 0
    assert cache.prune() == 3 * size
    assert list(cache.files()) == []


def test_clear_removes_all_of_ours_and_nothing_else(cache: Cache, tmp_path: Path) -> None:
    filled(cache, 4)
    (tmp_path / "some").write_bytes(b"some")
    Hashes(cache.folder).sha256(tmp_path / "some")
    key = entry_key("x")
    foreign = [
        cache.folder / "notes.txt",
        cache.folder / "model.safetensors",
        cache.folder / f"{key}.safetensors",
        cache.folder / "weights" / "model.safetensors",
        cache.folder / "weights" / "ab" / "model.safetensors",
        cache.folder / "weights" / "ab" / f"{key}.json",
        cache.folder / "other" / "ab" / f"{key}.safetensors",
        cache.folder / "files" / "mine.json",
        cache.folder / "files" / f"{key}.txt",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    size = cache.contents().total_bytes
    assert cache.contents().entries == {"principal": 2, "weights": 2}
    cache.limit = 0
    assert cache.clear() == size > 0
    assert cache.prune() == 0
    assert sorted(p for p in cache.folder.rglob("*") if p.is_file()) == sorted(foreign)
    assert all(path.read_text() == "mine" for path in foreign)


# ---- remembered hashes ----


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are really hashed."""
    real, asked = hashes_module.file_sha256, []

    def counting(path: Path, read: Callable[[int], None]) -> str:
        asked.append(path)
        return real(path, read)

    monkeypatch.setattr(hashes_module, "file_sha256", counting)
    return asked


def true_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rewritten(path: Path) -> None:
    """Another size."""
    path.write_bytes(path.read_bytes() + b"more")


def touched(path: Path) -> None:
    """The same size, another time."""
    state = path.stat()
    path.write_bytes(bytes(state.st_size))
    os.utime(path, ns=(0, state.st_mtime_ns + 1))


def swapped(path: Path) -> None:
    """The same size and time, another inode."""
    state = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"\1" * state.st_size)
    os.utime(other, ns=(0, state.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [rewritten, touched, swapped])
def test_a_changed_file_is_hashed_again(change: Callable[[Path], None], tmp_path: Path, counted: list[Path]) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    hashes = Hashes(tmp_path / "cache")
    assert hashes.recalled(path) is None
    for _ in range(3):
        assert hashes.sha256(path) == true_hash(path)
    assert hashes.recalled(path) == true_hash(path)
    assert len(counted) == 1
    change(path)
    assert hashes.recalled(path) is None
    assert hashes.sha256(path) == true_hash(path)
    assert Hashes(tmp_path / "cache").sha256(path) == true_hash(path)
    assert len(counted) == 2


@pytest.mark.parametrize("content", [5, None, "0", "0" * 63, [], {"sha256": "0" * 64}])
def test_what_is_no_hash_is_never_believed(tmp_path: Path, content: object) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    FileMemory(tmp_path / "cache").put("sha256", stamp(path), content)
    hashes = Hashes(tmp_path / "cache")
    assert hashes.recalled(path) is None
    assert hashes.sha256(path) == true_hash(path)
    assert hashes.recalled(path) == true_hash(path)


def test_links_to_one_file_share_its_hash(tmp_path: Path, counted: list[Path]) -> None:
    (tmp_path / "model").write_bytes(b"weights")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    hashes = Hashes(tmp_path / "cache")
    assert hashes.sha256(tmp_path / "link") == hashes.sha256(tmp_path / "model") == true_hash(tmp_path / "model")
    assert len(counted) == 1


def test_a_file_that_changes_while_it_is_hashed_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    hashes = Hashes(tmp_path / "cache")
    state = path.stat()
    written = []

    class Meanwhile(Silent):
        def cancelled(self) -> bool:
            if not written:
                written.append(path.write_bytes(b"other weights"))
            return False

    hashes.sha256(path, Meanwhile())
    assert hashes.recalled(path) is None
    # Put back, it is in the state in which the hashing began; what was hashed is not what is in it.
    path.write_bytes(b"weights")
    os.utime(path, ns=(0, state.st_mtime_ns))
    assert hashes.sha256(path) == true_hash(path)


def test_hashing_can_be_stopped_and_then_nothing_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"weights")
    hashes = Hashes(tmp_path / "cache")

    class Stopped(Silent):
        def cancelled(self) -> bool:
            return True

    with pytest.raises(CancelledError):
        hashes.sha256(path, Stopped())
    assert hashes.recalled(path) is None
    assert not (tmp_path / "cache").exists()


def test_reading_several_files_tells_the_bytes_of_all_and_each_is_read_once(
    tmp_path: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_CHUNK", 10)
    sizes = {"base": 35, "tuned": 20, "cat": 5}
    paths = [tmp_path / name for name in sizes]
    for path in paths:
        path.write_bytes(path.name[:1].encode() * sizes[path.name])
    hashes = Hashes(tmp_path / "cache")
    told: list[tuple[str, int, int]] = []

    class Watching(Silent):
        def reading(self, files: str, done: int, total: int) -> None:
            told.append((files, done, total))

    hashes.sha256(paths[2], Watching())
    assert told == [("cat", 0, 5), ("cat", 5, 5)]
    told.clear()
    assert hashes.of(paths, Watching()) == {path: true_hash(path) for path in paths}
    assert {(files, total) for files, _, total in told} == {("base and tuned", 55)}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == 55
    assert {done for _, done, _ in told} > {0, 10, 55}
    assert len(counted) == 3
    told.clear()
    hashes.of(paths, Watching())
    assert told == []


def test_a_file_that_is_not_there_is_the_only_error(tmp_path: Path) -> None:
    for ask in (Hashes(tmp_path).sha256, Hashes(tmp_path).recalled):
        with pytest.raises((ValueError, StorageError), match="gone"):
            ask(tmp_path / "gone")
