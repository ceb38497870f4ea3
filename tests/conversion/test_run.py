"""Running a transfer: the same bytes however it is run, and nothing half-done whatever stops it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lib_transfer
from lib_transfer import Destination, Job, Runtime, TransferResult
from lib_transfer.architecture import modules
from lib_transfer.conversion import carry as carry_module
from lib_transfer.conversion import group as group_module
from lib_transfer.conversion.decompositions import Wanted
from lib_transfer.conversion.similarity import compare
from lib_transfer.errors import BadFileError, CancelledError, NotEnoughMemoryError, NumericError
from lib_transfer.linalg import decomposition as linalg
from lib_transfer.progress import Silent

from .. import tiny

ROLES = ("attn1.to_q", "attn2.to_k", "conv2", "mlp.fc1", "proj_in")
PER_ROLE = 2


@dataclasses.dataclass(frozen=True)
class World:
    """Two checkpoints and an adapter for the first."""

    base: Path
    other: Path
    adapter: Path
    weights: tuple[str, ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("made")
    weights = tiny.weights("sd1", width=8)
    base = tiny.save(folder / "base.safetensors", weights, torch.float16)
    other = tiny.save(folder / "other.safetensors", tiny.fine_tuned(weights, 0.2), torch.float16)
    found = modules(tiny.architecture("sd1"), {key: tuple(w.shape) for key, w in weights.items()})
    chosen = [m for role in ROLES for m in [m for m in found if m.position.role == role][:PER_ROLE]]
    assert len(chosen) == len(ROLES) * PER_ROLE
    tensors: dict[str, torch.Tensor] = {}
    for number, module in enumerate(chosen):
        tensors |= tiny.factors(str(module.output_name), module.shape, seed=number)
    return World(base, other, tiny.save(folder / "lora.safetensors", tensors), tuple(m.weight for m in chosen))


@pytest.fixture
def world(made: World, tmp_path: Path) -> World:
    """A copy that a test may spoil."""
    copies = [shutil.copy2(path, tmp_path / path.name) for path in (made.base, made.other, made.adapter)]
    return World(*map(Path, copies), made.weights)


def runtime(cache: Path, workers: int = 1) -> Runtime:
    return Runtime(device="cpu", cache_folder=cache, workers=workers)


def request_of(world: World, cache: Path, method: str = "rotation", **settings: Any) -> Job:
    settings = {"threshold": 0.0, **settings} if method != "reuse" else settings
    return lib_transfer.request(
        world.adapter, source=world.base, target=world.other, method=method, runtime=runtime(cache), **settings
    )


def run(request: Job, cache: Path, out: Path, *, workers: int = 1, progress: Any = None) -> TransferResult:
    out.mkdir(exist_ok=True)
    return lib_transfer.transfer(request, Destination(folder=out), runtime=runtime(cache, workers), progress=progress)


def bytes_of(request: Job, cache: Path, out: Path, **how: Any) -> bytes:
    """The output's bytes; it is removed again."""
    result = run(request, cache, out, **how)
    assert result.status == "written"
    assert result.path is not None
    assert result.report is not None
    assert {m.decision for m in result.report.modules} <= {"transferred", "copied"}
    content = result.path.read_bytes()
    result.path.unlink()
    return content


@pytest.fixture(scope="module")
def expected(made: World, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of the default request, undisturbed. They depend on names and contents, not on folders."""
    folder = tmp_path_factory.mktemp("expected")
    return bytes_of(request_of(made, folder / "cache"), folder / "cache", folder / "out")


CASES = [
    ("rotation", {}),
    ("rotation", {"energy": 0.5}),
    ("rotation", {"subspace_rank": 3, "rank": "full"}),
    ("prolora", {"energy": 0.9, "dtype": "fp16"}),
    ("lora-x", {"subspace_rank": 2, "strength": -0.5}),
    ("reuse", {"rank": 2}),
]


@pytest.mark.parametrize(("method", "settings"), CASES)
def test_the_same_bytes_cold_warm_half_warm_and_with_any_number_of_workers(
    method: str, settings: dict[str, Any], made: World, tmp_path: Path
) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    request = request_of(made, cache, method, **settings)
    cold = bytes_of(request, cache, out)
    assert bytes_of(request, cache, out) == cold
    assert bytes_of(request, cache, out, workers=3) == cold
    assert bytes_of(request, tmp_path / "another", out, workers=3) == cold
    entries = sorted(cache.glob("*/??/*.safetensors"))
    assert bool(entries) == (method != "reuse")
    for gone in (
        entries[::2],
        entries[1::2],
        [e for e in entries if e.parts[-3] == "weights"],
        entries[: len(entries) // 2],
    ):
        for path in gone:
            path.unlink()
        assert bytes_of(request, cache, out, workers=2) == cold
    assert sorted(cache.glob("*/??/*.safetensors")) == entries


def test_other_requests_before_it_do_not_change_the_bytes(made: World, tmp_path: Path) -> None:
    """What is in the cache depends on them; the result must not."""
    out = tmp_path / "out"
    wanted = [request_of(made, tmp_path / "h", **s) for s in ({"energy": 0.9}, {"energy": 0.99}, {"subspace_rank": 1})]
    alone = [bytes_of(r, tmp_path / f"cache{i}", out) for i, r in enumerate(wanted)]
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        cache = tmp_path / f"shared{order}"
        assert {i: bytes_of(wanted[i], cache, out) for i in order} == dict(enumerate(alone))


def test_the_same_bytes_in_any_order_of_modules(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: bytes
) -> None:
    request = request_of(made, tmp_path / "hashes")
    real = group_module.over_modules

    def backward(items: Any, *rest: Any) -> Any:
        return real(list(items)[::-1], *rest)[::-1]

    monkeypatch.setattr(group_module, "over_modules", backward)
    assert bytes_of(request, tmp_path / "two", tmp_path / "out") == expected


def test_the_report_keeps_the_order_of_the_adapter(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = sorted({key.split(".")[0] for key in load_file(made.adapter)})
    real = group_module.carry

    def first_is_last(pair: Any, *rest: Any) -> Any:
        if pair.group.name == names[0]:
            time.sleep(0.3)
        return real(pair, *rest)

    monkeypatch.setattr(group_module, "carry", first_is_last)
    report = lib_transfer.analyse(request_of(made, tmp_path / "cache"), runtime=runtime(tmp_path / "cache", 3))
    assert [m.name for m in report.modules] == names


def test_a_second_run_finds_its_own_output(made: World, tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    first = run(request_of(made, cache), cache, out)
    again = run(request_of(made, cache), cache, out)
    assert (again.status, again.path, again.report) == ("already done", first.path, None)
    assert first.path is not None
    assert list(out.iterdir()) == [first.path]


# ---- stopping ----


class Stopping(Silent):
    """Says stop from the ``at``-th question on; 0 is never."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.asked, self.steps = at, 0, []

    def step(self, what: str) -> None:
        self.steps.append(what)

    def publishing(self) -> None:
        self.steps.append("publishing")

    def cancelled(self) -> bool:
        self.asked += 1
        return 0 < self.at <= self.asked


@pytest.mark.parametrize("workers", [1, 3])
def test_stopped_anywhere_it_leaves_nothing_and_the_next_run_finishes(
    workers: int, made: World, tmp_path: Path, expected: bytes
) -> None:
    request = request_of(made, tmp_path / "hashes")
    whole, out = Stopping(), tmp_path / "out"
    assert bytes_of(request, tmp_path / "whole", out, progress=whole) == expected
    assert whole.asked == len(made.weights) + 1  # before each module, and before writing
    assert len(whole.steps) == len(made.weights) + 1
    assert whole.steps.index("publishing") == len(made.weights)
    for at in (1, 2, whole.asked // 2, whole.asked - 1, whole.asked):
        cache, stopping = tmp_path / f"cache{at}", Stopping(at)
        with pytest.raises(CancelledError):
            run(request, cache, out, workers=workers, progress=stopping)
        assert list(out.iterdir()) == []
        assert len(stopping.steps) < at
        assert "publishing" not in stopping.steps
        assert not list(cache.rglob("*.part"))
        assert bytes_of(request, cache, out, workers=workers) == expected


def test_interrupted_from_within_a_worker_it_leaves_nothing(made: World, tmp_path: Path) -> None:
    class Failing(Stopping):
        def step(self, what: str) -> None:
            super().step(what)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(request_of(made, tmp_path / "cache"), tmp_path / "cache", tmp_path / "out", progress=Failing())
    assert list((tmp_path / "out").iterdir()) == []


# ---- inputs that change ----


class Meddling(Silent):
    """Does something once, after the first module."""

    def __init__(self, meddle: Callable[[], None]) -> None:
        self.meddle: Callable[[], None] | None = meddle

    def step(self, what: str) -> None:
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()


def negated(path: Path) -> bytes:
    """The file with all its numbers negated: as many bytes."""
    other = path.with_suffix(".negated")
    save_file({key: -w for key, w in load_file(path).items()}, other)
    content = other.read_bytes()
    other.unlink()
    assert len(content) == path.stat().st_size
    return content


def in_place(path: Path) -> None:
    content = negated(path)
    with path.open("r+b") as file:
        file.write(content)


def by_another_file(path: Path) -> None:
    state = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(negated(path))
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(path)


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


@pytest.mark.parametrize("change", [in_place, by_another_file, cut_short])
@pytest.mark.parametrize("which", ["base", "other", "adapter"])
@pytest.mark.parametrize("when", ["before", "while"])
def test_an_input_that_is_rewritten_is_noticed_and_spoils_no_entry(
    when: str, which: str, change: Callable[[Path], None], world: World, tmp_path: Path, expected: bytes
) -> None:
    cache, out, path = tmp_path / "cache", tmp_path / "out", getattr(world, which)
    request = request_of(world, cache)
    state, content = path.stat(), path.read_bytes()

    def meddle() -> None:
        change(path)

    if when == "before":
        meddle()
    with pytest.raises(BadFileError) as caught:
        run(request, cache, out, progress=Meddling(meddle) if when == "while" else None)
    if when == "while" or change is not cut_short:
        assert caught.value.reason == "changed"
        assert path.name in caught.value.message
    assert list(out.iterdir()) == []
    # Put back as it was, it has its old hash again: the entries under that hash must be those of the old numbers.
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert bytes_of(request_of(world, cache), cache, out) == expected


# ---- damaged weights ----


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("which", ["base", "other"])
def test_a_weight_that_is_not_a_number_is_named(bad: float, which: str, world: World, tmp_path: Path) -> None:
    path, key = getattr(world, which), world.weights[3]
    tensors = load_file(path)
    tensors[key].view(-1)[5] = bad
    save_file(tensors, path)
    for cache in (tmp_path / "cache", tmp_path / "cache"):  # the second time with what the first has cached
        with pytest.raises(NumericError) as caught:
            run(request_of(world, cache), cache, tmp_path / "out")
        assert key in caught.value.message
        assert path.name in caught.value.message
    assert list((tmp_path / "out").iterdir()) == []


def test_a_weight_that_no_module_needs_may_be_damaged(world: World, tmp_path: Path) -> None:
    tensors = load_file(world.other)
    key = next(k for k in tensors if k not in world.weights and tensors[k].dim() == 2)
    tensors[key][:] = float("nan")
    save_file(tensors, world.other)
    cache = tmp_path / "cache"
    assert bytes_of(request_of(world, cache), cache, tmp_path / "out")


# ---- memory, threads and the cache folder ----

SHORTAGES = [
    MemoryError("no more"),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("CUDA error: out of memory"),
]


def failing_with(error: Exception, after: int = 1) -> Callable[..., Any]:
    real, calls = linalg.decompose, []

    def decompose(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) > after:
            raise error
        return real(*arguments)

    return decompose


@pytest.mark.parametrize("error", SHORTAGES, ids=lambda e: str(e)[:20])
@pytest.mark.parametrize("workers", [1, 3])
def test_too_little_memory_is_told_as_such(
    error: Exception,
    workers: int,
    made: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: bytes,
) -> None:
    request = request_of(made, tmp_path / "cache")
    with monkeypatch.context() as patched:
        patched.setattr(linalg, "decompose", failing_with(error))
        with pytest.raises(NotEnoughMemoryError, match="not enough memory") as caught:
            run(request, tmp_path / "cache", tmp_path / "out", workers=workers)
    assert caught.value.hint
    assert caught.value.exit_code == 1
    assert list((tmp_path / "out").iterdir()) == []
    assert bytes_of(request, tmp_path / "cache", tmp_path / "out") == expected


def test_an_error_of_our_own_is_not_taken_for_a_shortage(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(made, tmp_path / "cache")
    for error in (RuntimeError("a bug"), NotEnoughMemoryError("A tensor of 9 MB does not fit in memory.")):
        monkeypatch.setattr(linalg, "decompose", failing_with(error, after=0))
        with pytest.raises(type(error)) as caught:
            run(request, tmp_path / "cache", tmp_path / "out")
        assert caught.value is error


def test_a_decomposition_that_does_not_converge_is_told_with_the_module(
    made: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linalg, "decompose", failing_with(torch.linalg.LinAlgError("failed to converge"), after=0))
    with pytest.raises(NumericError, match=r"lora_\w+: a decomposition did not converge"):
        run(request_of(made, tmp_path / "cache"), tmp_path / "cache", tmp_path / "out")


@pytest.fixture
def as_the_hosts_set_it() -> Iterator[None]:
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(2)
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = tf32


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("error", [None, ValueError("a bug"), MemoryError()])
def test_every_module_has_one_thread_and_no_tf32_and_afterwards_all_is_as_before(
    error: Exception | None,
    workers: int,
    made: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_the_hosts_set_it: None,
) -> None:
    seen = set()
    real = carry_module.carry

    def watching(*arguments: Any) -> Any:
        seen.add((torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32, torch.is_grad_enabled()))
        if error is not None:
            raise error
        return real(*arguments)

    monkeypatch.setattr(group_module, "carry", watching)
    request = request_of(made, tmp_path / "cache")
    if error is None:
        run(request, tmp_path / "cache", tmp_path / "out", workers=workers)
    else:
        with pytest.raises(type(error)):
            run(request, tmp_path / "cache", tmp_path / "out", workers=workers)
    assert seen == {(1, False, False)}
    assert (torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32) == (2, True)


def test_without_a_cache_the_transfer_goes_on_and_says_so(made: World, tmp_path: Path, expected: bytes) -> None:
    (tmp_path / "file").write_text("in the way")
    cache, out = tmp_path / "file" / "cache", tmp_path / "out"
    request = request_of(made, cache)
    result = run(request, cache, out, workers=3)
    assert result.path is not None
    assert len(result.warnings) == 1
    assert f"The cache folder {cache} cannot be written" in result.warnings[0]
    assert result.path.read_bytes() == expected
    assert run(request, tmp_path / "cache", tmp_path / "out2").warnings == ()


def test_the_cache_is_kept_under_its_limit(made: World, tmp_path: Path) -> None:
    request = request_of(made, tmp_path / "cache")
    lib_transfer.analyse(request, runtime=runtime(tmp_path / "cache"))
    half = runtime(tmp_path / "cache").cache.contents().total_bytes // 2
    limited = dataclasses.replace(runtime(tmp_path / "cache"), cache_limit=half)
    lib_transfer.analyse(request, runtime=limited)
    assert 0 < limited.cache.contents().total_bytes <= half


def test_comparing_two_checkpoints_is_the_same_cold_and_warm_and_can_be_stopped(made: World, tmp_path: Path) -> None:
    def report(cache: str, workers: int) -> dict[str, Any]:
        how = {"runtime": runtime(tmp_path / cache, workers), "progress": Silent()}
        return compare(made.base, made.other, Wanted(None, 2), **how).to_dict()

    cold = report("cache", 1)
    assert report("cache", 3) == cold
    with pytest.raises(CancelledError):
        compare(made.base, made.other, Wanted(None, 2), runtime=runtime(tmp_path / "third"), progress=Stopping(5))


@pytest.mark.parametrize("method", ["rotation", "prolora", "lora-x"])
def test_where_a_weight_is_the_same_in_both_the_update_is_carried_as_it_is(
    method: str, world: World, tmp_path: Path
) -> None:
    same = set(world.weights[::2])
    weights = load_file(world.base)
    save_file({key: weights[key] if key in same else w for key, w in load_file(world.other).items()}, world.other)
    result = run(request_of(world, tmp_path / "cache", method), tmp_path / "cache", tmp_path / "out")
    assert result.report is not None
    assert result.path is not None
    given, got = load_file(world.adapter), load_file(result.path)

    def update(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        up, down = (tensors[f"{name}.lora_{way}.weight"].double().flatten(1) for way in ("up", "down"))
        return up @ down * float(tensors[f"{name}.alpha"]) / down.shape[0]

    found = modules(tiny.architecture("sd1"), {key: tuple(w.shape) for key, w in weights.items()})
    names = {str(m.output_name): m.weight for m in found if m.weight in world.weights}
    for module in result.report.modules:
        distance = (update(got, module.name) - update(given, module.name)).norm() / update(given, module.name).norm()
        if names[module.name] in same:
            assert (module.decision, module.reason) == ("copied", "the weight is the same in both")
            assert module.similarity is not None
            assert (module.similarity.left, module.similarity.right_corrected) == (1, 1)
            assert distance < 1e-6
        else:
            assert module.decision == "transferred"
            assert distance > 1e-3
    # Of the weights that are equal, none was decomposed.
    assert runtime(tmp_path / "cache").cache.contents().entries["weights"] == 2 * (len(world.weights) - len(same))
