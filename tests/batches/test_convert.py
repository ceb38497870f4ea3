"""Converting a batch: the same bytes however it is divided, and every file's trouble its own."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from lib_transfer.batches import processes
from lib_transfer.batches.processes import in_processes
from lib_transfer.batches.watch import SilentWatch, Tally
from lib_transfer.conversion import group
from lib_transfer.errors import NotEnoughMemoryError, StorageError
from lib_transfer.progress import Progress
from tests.batches import shelf
from tests.batches.conftest import World
from tests.batches.steps import batch, contents, go, grouped, look, statuses

COUNT, SHARE = 200, 0.05


def test_two_hundred_with_one_in_twenty_broken(world: World, tmp_path: Path) -> None:
    """All good ones are converted, and every bad one is named with its reason."""
    loras = tmp_path / "Lora"
    kinds = list(shelf.BROKEN)
    # Every kind is there: more than one in twenty, where there are more kinds than that.
    bad = {f"{n % 3}/{kind}": kind for n, kind in enumerate((kinds * COUNT)[: max(len(kinds), int(COUNT * SHARE))])}
    for number in range(COUNT - len(bad)):
        shelf.sound(loras, f"{number % 3}/good-{number:03}", number)
    for name, kind in bad.items():
        shelf.BROKEN[kind].make(loras / f"{name}.safetensors")
    before = {name: data for name, data in contents(loras).items() if "good" in name}

    out = tmp_path / "out"
    out.mkdir()
    outcomes = batch(world, loras, output=out)
    good = {name: outcome for name, outcome in outcomes.items() if "good" in name}
    assert len(good) == COUNT - len(bad)
    assert set(statuses(good).values()) == {"written"}
    assert len(contents(out)) == len(good)
    for name, kind in bad.items():
        broken = shelf.BROKEN[kind]
        if not broken.said:
            assert name not in outcomes  # no file at all
            continue
        assert outcomes[name].status == ("failed" if broken.fails else "left out"), (name, outcomes[name])
        assert broken.said in outcomes[name].message, (name, outcomes[name])
        assert outcomes[name].message.endswith(".")
    assert {name: data for name, data in contents(loras).items() if "good" in name} == before


def test_the_bytes_depend_on_no_group_worker_or_order(world: World, tmp_path: Path) -> None:
    loras = tmp_path / "Lora"
    for number in range(7):
        shelf.sound(loras, f"style-{number}", number)

    def made(cache: Path, **how: Any) -> dict[str, bytes]:
        own = World(world.checkpoints, cache)
        out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        planned = look(own, loras, output=out)
        groups = grouped(own, planned, **how)
        random.shuffle(groups)
        outcomes = (
            list(in_processes(groups, SilentWatch(), 2)) if how.get("workers") else go(own, planned, **how).values()
        )
        assert {outcome.status for outcome in outcomes} == {"written"}
        return contents(out)

    expected = made(tmp_path / "cold")
    assert len(expected) == 7
    assert made(world.cache) == expected
    assert made(world.cache, memory=1) == expected  # each one alone
    assert made(tmp_path / "another", workers=2) == expected


def test_one_is_left_out_while_its_group_is_at_work(world: World, loras: Path) -> None:
    class Leaving(SilentWatch):
        def left_out(self, name: str) -> bool:
            return name == "styles/three"

    outcomes = go(world, look(world, loras), Leaving())
    assert statuses(outcomes) == {"one": "written", "two": "written", "styles/three": "left out"}
    assert not list((loras / "styles").glob("three_*"))


@pytest.mark.parametrize("error", [ValueError("a bug"), MemoryError(), NotEnoughMemoryError("No more.")])
def test_a_group_that_fails_as_a_whole_goes_on_one_by_one(
    error: Exception, world: World, loras: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = group.carry

    def failing(pair: Any, *rest: Any) -> Any:
        if pair.group.tensors["lora_down.weight"].shape[0] == 5:
            raise error
        return real(pair, *rest)

    from tests import tiny

    tiny.save(loras / "two.safetensors", shelf.tensors(2, rank=5), None, {"ss_sd_model_name": "base.safetensors"})
    monkeypatch.setattr(group, "carry", failing)
    outcomes = go(world, look(world, loras))
    assert statuses(outcomes) == {"one": "written", "two": "failed", "styles/three": "written"}
    assert outcomes["two"].message


def test_a_lora_that_vanishes_or_changes_after_the_plan(world: World, loras: Path) -> None:
    planned = look(world, loras)
    (loras / "one.safetensors").unlink()
    (loras / "two.safetensors").write_bytes(b"<html>")
    outcomes = go(world, planned)
    assert statuses(outcomes) == {"one": "failed", "two": "failed", "styles/three": "written"}
    assert "does not exist" in outcomes["one"].message
    assert "HTML" in outcomes["two"].message


def test_a_source_that_is_taken_on_trust_is_said(world: World, loras: Path) -> None:
    outcomes = go(world, look(world, loras))
    assert all("base.safetensors was taken" in outcome.notes[0] for outcome in outcomes.values())


def test_a_worker_that_dies_takes_nothing_with_it(world: World, loras: Path, tmp_path: Path) -> None:
    """What it was at goes on in another; only the one that kills every worker fails."""
    from tests import tiny

    tiny.save(loras / "two.safetensors", shelf.tensors(2, rank=5), None, {"ss_sd_model_name": "base.safetensors"})
    planned = look(world, loras)
    [task] = grouped(world, planned)
    killing: list[int] = []

    class Killing(SilentWatch):
        """Kills the process, which has said what it is at, as long as the second LoRA is among that."""

        def group(self, worker: int, names: tuple[str, ...]) -> Progress:
            if "two" in names:
                killing.append(len(names))
                os.kill(next(p.pid for p in processes.multiprocessing.active_children() if p.pid), 9)
            return self

    outcomes = {o.name: o for o in in_processes([task], Killing(), 1)}
    assert statuses(outcomes) == {"one": "written", "two": "failed", "styles/three": "written"}
    assert "died" in outcomes["two"].message
    assert killing == [3, 1]
    assert not processes.multiprocessing.active_children()


def test_a_disk_that_fails_stops_the_batch(world: World, loras: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("one.safetensors could not be written: No space left on device.", hint="Free some space.")

    monkeypatch.setattr("lib_transfer.conversion.publish.write_adapter", full)
    with pytest.raises(StorageError, match="No space left"):
        go(world, look(world, loras))


def test_the_tally_goes_from_nothing_to_all() -> None:
    tally = Tally(4)
    shares = [tally.now()[0]]
    groups = tally.group(0, ("a", "b")), tally.group(1, ("c",))
    for each in groups:
        each.start(2, "at work")
    for worker in (0, 0, 1):
        groups[worker].step("")
        shares.append(tally.now()[0])
    assert shares == [0, 1 / 4, 2 / 4, 2.5 / 4]
    assert "module 1 of 2" in tally.now()[1]
    groups[0].reading("base", 1_500_000_000, 2_000_000_000)
    assert "Reading base, 1.5 of 2.0 GB; " in tally.now()[1]
    groups[0].reading("base", 2_000_000_000, 2_000_000_000)
    assert "module 2 of 2" in tally.now()[1]
    groups[0].publishing()
    for name in ("a", "b"):
        tally.settled(name)
        assert tally.now()[0] == 2.5 / 4
    tally.settled("c")
    assert tally.now()[0] == 3 / 4
    assert tally.now()[1] == "3 of 4 LoRAs"
