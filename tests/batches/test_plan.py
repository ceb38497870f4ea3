"""What a batch decides before it converts anything: what is left out and why, where outputs go, and what is done already."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lib_transfer.batches.costs import Costs
from lib_transfer.batches.estimate import estimate, measured
from lib_transfer.batches.report import COLUMNS, BatchReport
from lib_transfer.errors import RequestError
from lib_transfer.library.adapters import find
from tests import tiny
from tests.batches import shelf
from tests.batches.conftest import World
from tests.batches.steps import batch, contents, go, grouped, look, statuses


def test_files_are_found_by_folder_and_pattern(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b/c.safetensors", "b/d.pt", ".hidden/e.safetensors", "b/f.txt", "b/g/a.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "b" / "again").symlink_to(tmp_path)

    def names(*folders: str, **how: object) -> list[str]:
        return [f.name for f in find([tmp_path / f for f in folders], **{"recursive": True, **how})]  # type: ignore[arg-type]

    assert names(".", recursive=False) == ["a"]
    assert names(".") == ["a", "b/c", "b/d", "b/g/a"]
    assert names(".", "b") == ["a", "b/c", "b/d", "b/g/a"]
    assert names(".", include=["b/*"], exclude=["*.pt"]) == ["b/c", "b/g/a"]
    assert names(".", include=["a.*"]) == ["a", "b/g/a"]
    assert [f.below for f in find([tmp_path], recursive=True)] == ["", "b", "b", "b/g"]
    with pytest.raises(RequestError, match="does not exist"):
        names("nowhere")


def test_each_has_a_reason(world: World, loras: Path) -> None:
    shelf.sound(loras, "own", 5, trained_on="tuned.safetensors")
    shelf.sound(loras, "orphan", 6, trained_on="gone.safetensors")
    shelf.sound(loras, "silent", 7, trained_on="")
    for name in ("sdxl", "checkpoint", "cut"):
        shelf.BROKEN[name].make(loras / f"{name}.safetensors")
    planned = look(world, loras)
    assert [item.name for item in planned.items] == ["one", "styles/three", "two"]
    assert {item.source.name for item in planned.items if item.source} == {"base.safetensors"}
    expected = {
        "own": ("left out", "trained on the target itself"),
        "orphan": ("failed", "asks for gone.safetensors"),
        "silent": ("failed", "Its metadata names none"),
        "sdxl": ("left out", "It is for Stable Diffusion XL"),
        "checkpoint": ("left out", "full checkpoint"),
        "cut": ("failed", "cut off"),
    }
    assert {name: outcome.status for name, outcome in planned.settled.items()} == {
        n: s for n, (s, _) in expected.items()
    }
    for name, (_, said) in expected.items():
        assert said in planned.settled[name].message
    assert BatchReport(planned).counts == {"to convert": 3, "left out": 3, "failed": 3}


def test_a_source_is_found_by_what_it_holds_whatever_it_is_called(world: World, tmp_path: Path) -> None:
    """The content hash is computed where an adapter asks for one that is not known, and not otherwise."""
    place = tmp_path / "checkpoints"
    place.mkdir()
    shutil.copy(world.base, place / "renamed.safetensors")
    (place / "vae.safetensors").write_bytes(b"no checkpoint")
    digest = hashlib.sha256(world.base.read_bytes()).hexdigest()
    own = World(place, tmp_path / "cache")
    loras = tmp_path / "Lora"
    shelf.sound(loras, "by-hash", 1, ss_new_sd_model_hash=digest[:10])
    planned = look(own, loras, target=world.target)
    assert [item.source.name for item in planned.items if item.source] == ["renamed.safetensors"]
    assert own.runtime.hashes.recalled(place / "renamed.safetensors") == digest
    assert own.runtime.hashes.recalled(place / "vae.safetensors") is None


def test_folders_are_mirrored_and_names_unique_over_the_tree(world: World, loras: Path, tmp_path: Path) -> None:
    """Two LoRAs of one name in two folders, a name without a hash, and one that is taken by something else."""
    shelf.sound(loras, "other/one", 9)
    shelf.sound(loras, "other/two_tuned", 10)
    out = tmp_path / "out"
    out.mkdir()
    outcomes = batch(world, loras, output=out, template="{lora}_{target}")
    assert set(statuses(outcomes).values()) == {"written"}
    made = sorted(contents(out))
    assert made == [
        "one_tuned.safetensors", "other/one_tuned_2.safetensors", "other/two_tuned_tuned.safetensors",
        "styles/three_tuned.safetensors", "two_tuned_2.safetensors",
    ]  # fmt: skip
    for name in made:
        with safe_open(out / name, "pt") as file:
            assert file.metadata()["ss_output_name"] == Path(name).stem
    # The numbers are found again: everything is done, nothing gets another name.
    assert set(statuses(batch(world, loras, output=out, template="{lora}_{target}")).values()) == {"already done"}
    assert sorted(contents(out)) == made


def test_names_that_differ_in_case_alone_are_one_name(world: World, loras: Path, tmp_path: Path) -> None:
    """On half of the file systems they are one file."""
    shelf.sound(loras, "other/ONE", 9)
    out = tmp_path / "out"
    out.mkdir()
    batch(world, loras, output=out, template="{lora}_{target}")
    stems = [Path(name).stem.casefold() for name in contents(out)]
    assert len(stems) == len(set(stems)) == 4


def test_a_name_that_another_lora_has_is_not_given_even_with_a_hash(world: World, loras: Path) -> None:
    """It is known to be taken before the request is, which the hash in the name is of."""
    outcomes = batch(world, loras)
    path = outcomes["one"].path
    assert path is not None
    path.unlink()
    (loras / "elsewhere").mkdir()
    taken = shelf.sound(loras, f"elsewhere/{path.stem.upper()}", 77)
    before = taken.read_bytes()
    again = batch(world, loras)
    made = again["one"]
    assert (made.status, made.path) == ("written", path.with_stem(f"{path.stem}_2"))
    assert taken.read_bytes() == before


class TestDone:
    """Done means same request and same inputs, read from the outputs themselves."""

    @pytest.fixture
    def first(self, world: World, loras: Path) -> dict[str, Path]:
        outcomes = batch(world, loras)
        assert set(statuses(outcomes).values()) == {"written"}
        return {name: outcome.path for name, outcome in outcomes.items() if outcome.path}

    def test_nothing_is_done_twice(self, world: World, loras: Path, first: dict[str, Path]) -> None:
        before = contents(loras)
        planned = look(world, loras)
        assert (planned.items, planned.passed_over) == ((), 3)
        assert {name: o.path for name, o in planned.settled.items()} == first
        assert all(o.verdict for o in planned.settled.values())  # told from the output itself
        assert contents(loras) == before

    def test_an_output_that_was_moved_and_renamed_is_still_it(
        self, world: World, loras: Path, first: dict[str, Path]
    ) -> None:
        (loras / "elsewhere").mkdir()
        moved = first["one"].rename(loras / "elsewhere" / "mine.safetensors")
        assert look(world, loras).settled["one"].path == moved

    def test_a_renamed_input_is_converted_again(self, world: World, loras: Path, first: dict[str, Path]) -> None:
        (loras / "one.safetensors").rename(loras / "uno.safetensors")
        assert statuses(batch(world, loras)) == {
            "styles/three": "already done",
            "two": "already done",
            "uno": "written",
        }

    def test_a_changed_input_is_converted_again(self, world: World, loras: Path, first: dict[str, Path]) -> None:
        shelf.sound(loras, "one", 99)
        assert statuses(batch(world, loras)) == {
            "one": "written",
            "styles/three": "already done",
            "two": "already done",
        }

    def test_with_another_option_all_are(self, world: World, loras: Path, first: dict[str, Path]) -> None:
        again = batch(world, loras, settings={"strength": 0.5})
        assert set(statuses(again).values()) == {"written"}
        assert all(path.exists() for path in first.values())

    def test_for_another_target_all_are(
        self, world: World, loras: Path, first: dict[str, Path], tmp_path: Path
    ) -> None:
        other = tiny.save(tmp_path / "tuned.safetensors", {k: t * 1.5 for k, t in load_file(world.target).items()})
        assert set(statuses(batch(world, loras, target=other)).values()) == {"written"}

    @pytest.mark.parametrize("by", ["a bit", "a tool"])
    def test_an_edited_output_is_noticed(self, by: str, world: World, loras: Path, first: dict[str, Path]) -> None:
        """Also one that a tool has saved again, with hashes that fit its new numbers."""
        path, kept = first["one"], first["one"].read_bytes()
        if by == "a bit":
            path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        else:
            with safe_open(path, "pt") as file:
                metadata = dict(file.metadata())
            tensors = {key: t * 2 for key, t in load_file(path).items()}
            save_file(tensors, path, metadata)
            data = path.read_bytes()
            start = 8 + int.from_bytes(data[:8], "little")
            save_file(tensors, path, {**metadata, "sshs_model_hash": hashlib.sha256(data[start:]).hexdigest()})
        edited = path.read_bytes()
        outcome = look(world, loras).settled["one"]
        assert outcome.status == "failed"
        assert "edited or is damaged" in outcome.message
        assert str(path) in outcome.message
        assert path.read_bytes() == edited

        beside = batch(world, loras, existing="both")["one"]
        assert beside.status == "written"
        assert beside.path == path.with_stem(path.stem + "_2")
        assert path.read_bytes() == edited
        assert look(world, loras, existing="both").settled["one"].path == beside.path
        beside.path.unlink()

        instead = batch(world, loras, existing="overwrite")["one"]
        assert instead.status == "written"
        assert instead.path is not None
        assert instead.path != path  # Forge knows a LoRA by its file name
        assert not path.exists()
        assert statuses(batch(world, loras))["one"] == "already done"

    def test_names_that_clash_with_other_settings(self, world: World, loras: Path) -> None:
        """Without a hash in the name, an output with other settings is in the way."""
        how = {"template": "{lora}_{target}", "settings": {"strength": 1.0}}
        first = batch(world, loras, **how)
        other = {**how, "settings": {"strength": 0.5}}
        refused = look(world, loras, **other)
        assert (refused.items, {o.status for o in refused.settled.values()}) == ((), {"failed"})
        assert "made with other settings" in refused.settled["one"].message
        both = batch(world, loras, existing="both", **other)
        assert [o.path.name for o in both.values() if o.path] == [
            "one_tuned_2.safetensors", "three_tuned_2.safetensors", "two_tuned_2.safetensors",
        ]  # fmt: skip
        assert all(o.path.exists() for o in first.values() if o.path)
        again = batch(world, loras, existing="overwrite", template="{lora}_{target}", settings={"strength": 2.0})
        assert set(statuses(again).values()) == {"written"}
        assert not any(o.path.exists() for o in first.values() if o.path)


def test_the_same_file_twice_gets_one_copy(world: World, loras: Path) -> None:
    (loras / "again").mkdir()
    shutil.copy(loras / "one.safetensors", loras / "again" / "one.safetensors")
    outcomes = batch(world, loras)
    assert sorted(statuses(outcomes).items())[:2] == [("again/one", "written"), ("one", "left out")]
    assert "same file as again/one" in outcomes["one"].message


def test_copies_are_carried_on_where_that_is_asked_for(world: World, loras: Path, tmp_path: Path) -> None:
    batch(world, loras)
    further = tiny.save(tmp_path / "further.safetensors", tiny.fine_tuned(load_file(world.target), 0.05), torch.float16)
    planned = look(world, loras, transferred=True, target=further)
    assert len(planned.items) == 6
    assert {item.source.name for item in planned.items if item.source} == {"base.safetensors", "tuned.safetensors"}
    outcomes = go(world, planned)
    assert set(statuses(outcomes).values()) == {"written"}
    assert len(grouped(world, planned)) == 2  # one group for each source


def test_groups_fit_into_the_memory_and_every_worker_has_some(world: World, tmp_path: Path) -> None:
    loras = tmp_path / "Lora"
    for number in range(24):
        shelf.sound(loras, f"{number:02}", number)
    planned = look(world, loras)
    costs = Costs(planned)
    each = planned.items[0].size + costs.output_bytes(planned.items[0])
    at_work = 32 * costs.largest_weight(planned.items)
    assert [len(t.items) for t in grouped(world, planned)] == [24]
    assert [len(t.items) for t in grouped(world, planned, workers=2)] == [12, 12]
    assert sorted(len(t.items) for t in grouped(world, planned, workers=5)) == [4, 5, 5, 5, 5]
    assert [len(t.items) for t in grouped(world, planned, memory=at_work + 7 * each)] == [6, 6, 6, 6]
    assert [len(t.items) for t in grouped(world, planned, memory=2 * (at_work + 7 * each), workers=2)] == [6, 6, 6, 6]
    assert {len(t.items) for t in grouped(world, planned, memory=1)} == {1}
    names = [item.name for t in grouped(world, planned, workers=5) for item in t.items]
    assert names == [f"{number:02}" for number in range(24)]


@pytest.mark.parametrize("settings", [{}, {"rank": 4}, {"dtype": "fp16"}, {"rank": "full"}])
def test_the_disk_that_is_told_is_about_what_it_takes(settings: dict[str, object], world: World, loras: Path) -> None:
    method = "prolora" if settings.get("rank") == "full" else "rotation"
    planned = look(world, loras, settings=settings, method=method)
    told = estimate(planned, grouped(world, planned), Costs(planned), world.runtime, workers=1)
    before = sum(map(len, contents(loras).values()))
    go(world, planned)
    took = sum(map(len, contents(loras).values())) - before
    assert 0.5 * told.disk < took < 1.2 * told.disk
    assert told.free
    assert told.seconds > 0


def test_a_cold_cache_takes_longer_than_a_warm_one(world: World, loras: Path, tmp_path: Path) -> None:
    batch(world, loras, settings={"strength": 2.0})

    def seconds(cache: Path) -> float:
        own = World(world.checkpoints, cache)
        there = look(own, loras)
        return estimate(there, grouped(own, there), Costs(there), own.runtime, workers=1).seconds

    assert seconds(tmp_path / "cold") > seconds(world.cache)


def test_the_report_says_it_for_people_and_programs(world: World, loras: Path) -> None:
    (loras / "=cmd().safetensors").write_bytes(b"<html>")
    planned = look(world, loras)
    report = BatchReport(planned)
    assert [row["status"] for row in report.rows()] == ["failed", "to convert", "to convert", "to convert"]
    for outcome in go(world, planned).values():
        report.settled(outcome)
    assert report.counts == {"written": 3, "failed": 1}
    assert report.failed
    told = json.loads(report.to_json())
    assert [set(row) for row in told["adapters"]] == [set(COLUMNS)] * 4
    assert told["adapters"][1]["modules"] == told["adapters"][1]["written"] == 3
    assert Path(told["adapters"][1]["output"]).exists()
    lines = report.to_csv().splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("'=cmd(),")


def test_measuring_the_machine_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    assert measured().eigenvectors > 0
    assert torch.equal(torch.get_rng_state(), before)
