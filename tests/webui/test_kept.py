"""What comes back with a LoRA after a restart, when nothing is in memory: its verifications and the pictures of a comparison."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lib_transfer.formats.writer import annotate, write_adapter
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.index import FileIndex
from lib_transfer.webui.compare import kept as comparisons
from lib_transfer.webui.compare.form import Scene
from lib_transfer.webui.compare.kept import Kept, KeptComparisons
from lib_transfer.webui.compare.pictures import ROLES, Shown
from lib_transfer.webui.compare.subject import Subject
from lib_transfer.webui.host.folders import check_cache_folder
from lib_transfer.webui.hosts.standalone import Standalone
from lib_transfer.webui.verify.kept import KeptVerifications

SCENE = Scene("a cat", "blurry", "Euler", 9, 5.0, 64, 72, 3, 1.0)
TARGET, OTHER = (Checkpoint(f"{name}.safetensors", Path(f"/x/{name}.safetensors")) for name in ("tuned", "other"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A models folder with the LoRA ``cat``."""
    for name in ("Lora", "Stable-diffusion"):
        (tmp_path / name).mkdir()
    write_adapter(tmp_path / "Lora/cat.safetensors", {"a": torch.zeros(2)}, {})
    return tmp_path


def output(place: Path, name: str, target: str = "tuned", adapter: str = "cat", value: float = 1.0, **match) -> Path:
    """A transferred LoRA, with a gain where one is given."""
    request = {"adapter": {"name": adapter, "sha256": "0" * 64}, "target": {"name": target, "sha256": "1" * 64}}
    path = place / "Lora" / f"{name}.safetensors"
    texts = {"transfer_lora.request": json.dumps(request)}
    if match:
        texts["transfer_lora.match"] = json.dumps(
            {"gap": 0.1, "gains": {name: {"gain": value, "error": 0} for name, value in match.items()}}
        )
    write_adapter(path, {"a": torch.full((2,), value)}, texts, overwrite=True)
    return path


def host(place: Path, *, shared: bool = False) -> Standalone:
    made = Standalone(place, place / "cache")
    made.shared = lambda: shared  # type: ignore[method-assign]
    return made


def verified(place: Path, target: Checkpoint = TARGET, *names: str) -> list[dict[str, float]]:
    """The gains that are found by a program that has just been started."""
    here = host(place)
    originals = {name: place / "Lora" / f"{name}.safetensors" for name in names or ("cat",)}
    found = KeptVerifications(here, FileIndex(here.cache_folder())).first(originals, target)
    return [{name: gain.share for name, gain in each.record.gains.items()} for each in found]


def test_verifications_are_found_by_the_lora_and_the_target(place: Path) -> None:
    assert verified(place) == []
    older, newer = output(place, "one", copy=0.25), output(place, "two", copy=0.5)
    output(place, "three", target="other", copy=0.75)
    output(place, "four", adapter="dog", copy=0.9)
    output(place, "five")
    os.utime(older, (1000, 1000))
    os.utime(newer, (2000, 2000))
    assert verified(place) == [{"copy": 0.5}, {"copy": 0.25}]
    assert verified(place, OTHER) == [{"copy": 0.75}]
    assert verified(place, TARGET, "none", "dog") == [{"copy": 0.9}]
    # Contents count where they are known, whatever the target is called today.
    assert verified(place, replace(TARGET, sha256="2" * 64)) == []
    assert verified(place, replace(TARGET, path=Path("/x/renamed.safetensors"), sha256="1" * 64))
    newer.rename(place / "Lora/moved.safetensors")
    older.unlink()
    assert verified(place) == [{"copy": 0.5}]


def shown(*jpegs: bytes) -> tuple[Shown, ...]:
    return tuple(
        Shown("cat", f"picture {number}", "cat", SCENE.seed, role, jpeg)
        for number, (role, jpeg) in enumerate(zip(ROLES, jpegs, strict=False))
    )


PICTURES = shown(b"\xff\xd8one\n", b"\xff\xd8\n{}two")


def compared(place: Path, target: Checkpoint = TARGET, *, shared: bool = False) -> Kept | None:
    """The comparison that a program which has just been started finds."""
    return KeptComparisons(host(place, shared=shared)).first({"cat": place / "Lora/cat.safetensors"}, target)


def keep(place: Path, pictures=PICTURES, *, target: Checkpoint = TARGET, shared: bool = False, name="cat") -> Path:
    made = output(place, f"{name}-made", value=2.0)
    subject = Subject(name, place / f"Lora/{name}.safetensors", target, made)
    KeptComparisons(host(place, shared=shared)).put(subject, SCENE, pictures)
    return made


def test_a_comparison_comes_back_with_its_settings(place: Path) -> None:
    assert compared(place) is None
    made = keep(place)
    assert compared(place) == Kept(SCENE, PICTURES)
    assert compared(place, OTHER) is None
    # Noting a verification in the transferred LoRA writes the file anew, and changes nothing of what it does.
    annotate(made, {"transfer_lora.match": "{}"})
    assert compared(place) == Kept(SCENE, PICTURES)
    keep(place, PICTURES[:1])
    assert compared(place) == Kept(SCENE, PICTURES[:1])
    assert len(list((place / "cache/comparisons").iterdir())) == 1
    check_cache_folder(place / "cache")


@pytest.mark.parametrize(
    "change",
    [
        lambda place, made, file: made.unlink(),
        lambda place, made, file: output(place, "cat-made", value=3.0),
        lambda place, made, file: write_adapter(
            place / "Lora/cat.safetensors", {"b": torch.zeros(3)}, {}, overwrite=True
        ),
        lambda place, made, file: file.write_bytes(file.read_bytes()[:-1]),
        lambda place, made, file: file.write_bytes(b"{}\n"),
        lambda place, made, file: file.write_bytes(b"[" * 100_000),
        lambda place, made, file: file.write_bytes(b""),
        lambda place, made, file: file.write_bytes(file.read_bytes().replace(b'"steps"', b'"stops"')),
        lambda place, made, file: file.write_bytes(file.read_bytes().replace(b'"source"', b'"stolen"')),
        lambda place, made, file: file.unlink(),
    ],
    ids=[
        "output gone",
        "output another",
        "LoRA another",
        "cut",
        "empty",
        "nested",
        "nothing",
        "strange",
        "no role",
        "gone",
    ],
)
def test_what_holds_no_more_is_not_shown(place: Path, change: Callable[[Path, Path, Path], object]) -> None:
    made = keep(place)
    [file] = (place / "cache/comparisons").iterdir()
    change(place, made, file)
    assert compared(place) is None


def test_a_picture_that_was_left_out_is_kept_as_such(place: Path) -> None:
    left = replace(PICTURES[1], jpeg=b"", left_out="Not installed.")
    keep(place, (PICTURES[0], left))
    assert compared(place) == Kept(SCENE, (PICTURES[0], left))


def test_a_comparison_of_an_older_version_comes_back(place: Path) -> None:
    """It had three pictures, all on the target, and did not say which was which."""
    keep(place, shown(b"one", b"two", b"three"))
    [file] = (place / "cache/comparisons").iterdir()
    line, _, pictures = file.read_bytes().partition(b"\n")
    header = json.loads(line)
    header["pictures"] = [each[:4] for each in header["pictures"]]
    file.write_bytes(json.dumps(header).encode() + b"\n" + pictures)
    found = compared(place)
    assert found is not None
    assert [(picture.role, picture.jpeg) for picture in found.pictures] == [
        ("without", b"one"),
        ("reuse", b"two"),
        ("transferred", b"three"),
    ]


def test_nothing_is_kept_or_shown_where_others_see_the_page(place: Path) -> None:
    keep(place, shared=True)
    assert not (place / "cache/comparisons").exists()
    keep(place)
    assert compared(place, shared=True) is None
    assert compared(place) is not None


def test_a_comparison_with_a_picture_missing_is_not_kept(place: Path) -> None:
    keep(place, shown(b"one", b""))
    keep(place, ())
    assert compared(place) is None


def test_their_number_and_size_are_bounded_and_the_output_takes_them_with_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = place / "cache/comparisons"
    monkeypatch.setattr(comparisons, "MOST_FILES", 3)
    for number in range(5):
        name = f"cat{number}"
        write_adapter(place / f"Lora/{name}.safetensors", {"a": torch.zeros(2)}, {})
        keep(place, name=name)
        for age, file in enumerate(sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)):
            os.utime(file, (10_000 - age, 10_000 - age))
    assert len(list(folder.iterdir())) == 3
    (place / "Lora/cat3-made.safetensors").unlink()
    keep(place, name="cat4")
    assert len(list(folder.iterdir())) == 2
    monkeypatch.setattr(comparisons, "MOST_BYTES", 10)
    keep(place, name="cat4")
    assert list(folder.iterdir()) == []


def test_a_comparison_that_cannot_be_written_is_no_error(place: Path) -> None:
    (place / "cache").mkdir()
    (place / "cache/comparisons").write_text("no folder")
    keep(place)
    assert compared(place) is None


def test_emptying_the_cache_takes_comparisons_with_it(place: Path) -> None:
    keep(place)
    size = sum(path.stat().st_size for path in (place / "cache/comparisons").iterdir())
    assert KeptComparisons(host(place)).clear() == size > 0
    assert compared(place) is None
    assert KeptComparisons(host(place)).clear() == 0
