"""Several adapters in one group: the bytes of each alone, what they share read once, and no one's trouble anyone else's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lib_transfer
from lib_transfer.conversion import group
from lib_transfer.conversion.jobs import Ending, transfer_group
from lib_transfer.conversion.publish import TransferResult
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import CancelledError, NumericError, TransferError
from lib_transfer.formats.stores.store import Store
from lib_transfer.library.destination import Destination
from lib_transfer.library.job import Job
from lib_transfer.progress import Silent
from lib_transfer.storage.cache import Cache

from .. import tiny

UNET = "lora_unet_down_blocks_{}_attentions_0_transformer_blocks_0_{}"
MODULES = {UNET.format(0, "attn1_to_q"): 8, UNET.format(1, "attn1_to_k"): 16, UNET.format(2, "attn2_to_q"): 32}


@pytest.fixture
def adapters(tmp_path: Path) -> list[Path]:
    """Four LoRAs, each of some of the modules, of different ranks."""
    made = []
    for number in range(4):
        tensors: tiny.Weights = {}
        for place, (name, width) in enumerate(MODULES.items()):
            if place != number:
                tensors |= tiny.factors(name, (width, width), 2 + number, seed=number)
        made.append(tiny.save(tmp_path / f"style-{number}.safetensors", tensors))
    return made


def jobs(files: tiny.Files, adapters: list[Path], out: Path, cache: Path, **settings: Any) -> list[Job]:
    out.mkdir(exist_ok=True)
    ends = {"source": files["sd1-source"], "target": files["sd1-target"], "runtime": Runtime(cache_folder=cache)}
    return [replace(lib_transfer.request(a, **ends, **settings), destination=Destination(folder=out)) for a in adapters]


def run(wanted: list[Job], cache: Path, workers: int = 1, **how: Any) -> dict[str, Ending]:
    """The endings by the names of the adapters."""
    runtime = Runtime(device="cpu", cache_folder=cache, workers=workers)
    endings = transfer_group(wanted, runtime=runtime, progress=how.pop("progress", Silent()), **how)
    return {job.request.adapter_name: ending for job, ending in endings}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_adapters_bytes_are_those_it_has_alone(
    workers: int, files: tiny.Files, adapters: list[Path], tmp_path: Path
) -> None:
    cold, warm, alone = tmp_path / "cold", tmp_path / "warm", tmp_path / "alone"
    for number, job in enumerate(jobs(files, adapters, alone, tmp_path / "c")):
        run([job], tmp_path / f"cache-{number}")
    run(jobs(files, adapters, cold, tmp_path / "c"), tmp_path / "cache", workers)
    run(jobs(files, adapters[::-1], warm, tmp_path / "c"), tmp_path / "cache", workers)
    assert len(contents(alone)) == 4
    assert contents(cold) == contents(warm) == contents(alone)


@pytest.mark.parametrize("warm", [False, True])
def test_what_adapters_share_is_read_once_for_all(
    warm: bool, files: tiny.Files, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as for the one adapter that has every module."""

    def reads(wanted: list[Path], name: str) -> Counter[Any]:
        seen: Counter[Any] = Counter()
        cache = tmp_path / f"cache-{name}"
        if warm:
            run(jobs(files, wanted, tmp_path / f"before-{name}", cache), cache)
        read, get = Store.read, Cache.get

        def counted(file: Store, key: str, *rest: Any) -> Any:
            seen[key] += not key.startswith("lora_")
            return read(file, key, *rest)

        def got(cache: Cache, kind: str, key: str, *rest: Any, **more: Any) -> Any:
            seen[kind, key] += 1
            return get(cache, kind, key, *rest, **more)

        with monkeypatch.context() as patched:
            patched.setattr(Store, "read", counted)
            patched.setattr(Cache, "get", got)
            run(jobs(files, wanted, tmp_path / f"out-{name}", cache), cache)
        return +seen

    assert reads(adapters, "all") == reads([adapters[3]], "one") != Counter()


def test_the_trouble_of_one_is_not_that_of_the_others(files: tiny.Files, adapters: list[Path], tmp_path: Path) -> None:
    nan = load_file(adapters[0])
    next(iter(nan.values())).view(-1)[0] = float("nan")
    save_file(nan, adapters[0])
    huge = load_file(adapters[1])
    for name in MODULES:
        if f"{name}.alpha" in huge:
            huge |= {
                f"{name}.alpha": torch.tensor(3e38),
                f"{name}.lora_up.weight": huge[f"{name}.lora_up.weight"] * 1e6,
            }
    save_file(huge, adapters[1])
    out, cache = tmp_path / "out", tmp_path / "cache"
    endings = run(jobs(files, adapters, out, cache), cache)
    assert isinstance(endings["style-0"], NumericError)
    assert isinstance(endings["style-1"], NumericError)
    assert {type(endings[f"style-{n}"]) for n in (2, 3)} == {TransferResult}
    assert sorted(name.split("_")[0] for name in contents(out)) == ["style-2", "style-3"]


def test_one_is_left_out_midway(files: tiny.Files, adapters: list[Path], tmp_path: Path) -> None:
    asked: list[str] = []

    def left(one: group.AdapterRun) -> bool:
        asked.append(one.request.adapter_name)
        return asked[-1] == "style-1" and asked.count("style-1") == 2

    endings = run(jobs(files, adapters, tmp_path / "out", tmp_path / "c"), tmp_path / "c", left=left)
    assert isinstance(endings["style-1"], CancelledError)
    assert sorted(name.split("_")[0] for name in contents(tmp_path / "out")) == ["style-0", "style-2", "style-3"]


@pytest.mark.parametrize("at", [1, 4, 7, 9])
def test_stopped_it_has_written_whole_files_or_none(
    at: int, files: tiny.Files, adapters: list[Path], tmp_path: Path
) -> None:
    """Modules first, all of them; then one file after the other."""

    class Stopping(Silent):
        asked = 0

        def cancelled(self) -> bool:
            self.asked += 1
            return self.asked >= at

    out, cache = tmp_path / "out", tmp_path / "cache"
    pairs = 9  # three adapters of two modules, one of three
    with pytest.raises(CancelledError):
        run(jobs(files, adapters, out, cache), cache, progress=Stopping())
    assert contents(out) == {}
    whole = tmp_path / "whole"
    run(jobs(files, adapters, whole, cache), cache)
    stopping = Stopping()
    stopping.asked = at - pairs - 3  # before the third file
    with pytest.raises(CancelledError):
        run(jobs(files, adapters, out, cache), cache, progress=stopping)
    assert len(contents(out)) == 2
    assert contents(out).items() <= contents(whole).items()


def test_two_at_the_same_request_at_once(
    files: tiny.Files, adapters: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has published while this one computed: that is done, too."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    meddle: list[Callable[[], Any]] = [lambda: run(jobs(files, adapters[:1], out, cache), cache)]

    class Meddling(Silent):
        def step(self, what: str) -> None:
            if meddle:
                meddle.pop()()

    endings = run(jobs(files, adapters, out, cache), cache, progress=Meddling())
    statuses = {name: e.status for name, e in endings.items() if not isinstance(e, TransferError)}
    assert statuses == {"style-0": "already done", **{f"style-{n}": "written" for n in (1, 2, 3)}}
    assert len(contents(out)) == 4
