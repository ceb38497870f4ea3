"""Card, preview and description follow the adapter to its new name; nothing that is there is written over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_transfer.formats.sidecars import Carried, carry_sidecars, plan_sidecars

NOTE = "Transferred from old by Transfer LoRA."
CARD = {
    "description": "d",
    "sd version": "SD1",
    "activation text": "cat 猫",
    "preferred weight": 0.8,
    "notes": "mine",
    "x": [1],
}


def carry(folder: Path, version: str | None = "SDXL") -> Carried:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return carry_sidecars(
        plan_sidecars(folder / "old.v1.safetensors", out / "new.safetensors", card_version=version, note=NOTE)
    )


def test_every_side_file_is_carried_and_no_other(tmp_path: Path) -> None:
    carried = [".json", ".txt", ".description.txt", ".civitai.info", ".png", ".jpg", ".jpeg", ".webp", ".gif"]
    carried += [".preview.png", ".preview.jpeg", ".Preview.WEBP", ".PNG"]
    for ending in [*carried, ".safetensors", ".pt", ".metadata.json", ".png.bak", "b.png", ".preview.txt", ""]:
        (tmp_path / f"old.v1{ending}").write_bytes(b"of " + ending.encode())
    (tmp_path / "old.png").write_bytes(b"of another adapter")
    (tmp_path / "old.v1.preview.gif").mkdir()
    result = carry(tmp_path)
    assert result.notes == ()
    made = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert made == {f"new{ending}": b"of " + ending.encode() for ending in carried}
    assert {path.name for path in result.files} == set(made)
    assert carry(tmp_path) == result  # again: all is there already


@pytest.mark.parametrize(("version", "told"), [("SDXL", "SDXL"), (None, "Unknown")])
def test_the_card_names_the_target_and_keeps_the_rest(version: str | None, told: str, tmp_path: Path) -> None:
    source = tmp_path / "old.v1.json"
    source.write_text(json.dumps(CARD), encoding="utf-8")
    carry(tmp_path, version)
    text = (tmp_path / "out" / "new.json").read_text(encoding="utf-8")
    assert json.loads(text) == {**CARD, "sd version": told, "notes": f"mine\n{NOTE}"}
    assert "猫" in text
    assert json.loads(source.read_text(encoding="utf-8")) == CARD


def test_cards_of_every_make(tmp_path: Path) -> None:
    cases: list[tuple[bytes, object]] = [
        (b"{}", {"notes": NOTE}),
        (b'\xef\xbb\xbf{"notes": null}', {"notes": NOTE}),
        (b'{"notes": 3}', {"notes": 3}),
        (json.dumps({"notes": f"a\n{NOTE}\n"}).encode(), {"notes": f"a\n{NOTE}"}),
        (b'{"k": "\\ud800"}', {"k": "\ud800", "notes": NOTE}),
        (b'{"broken', None),
        (b"\xff\xfe", None),
        (b"[1]", None),
        (b"[" * 100_000, None),
        (b"", None),
    ]
    for content, expected in cases:
        (tmp_path / "old.v1.json").write_bytes(content)
        (made,) = carry(tmp_path).files
        if expected is None:
            assert made.read_bytes() == content
        else:
            assert json.loads(made.read_bytes()) == expected
        made.unlink()


def test_a_side_file_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "old.v1.txt").write_bytes(b"ours")
    (tmp_path / "old.v1.png").write_bytes(b"picture")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "new.txt").write_bytes(b"the user's")
    result = carry(tmp_path)
    assert (tmp_path / "out" / "new.txt").read_bytes() == b"the user's"
    assert [path.name for path in result.files] == ["new.png"]
    assert len(result.notes) == 1
    assert "new.txt" in result.notes[0]


def test_what_vanishes_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "old.v1.png").write_bytes(b"picture")
    plan = plan_sidecars(tmp_path / "old.v1.safetensors", tmp_path / "new.safetensors", card_version=None, note=NOTE)
    (tmp_path / "old.v1.png").unlink()
    result = carry_sidecars(plan)
    assert result.files == ()
    assert len(result.notes) == 1
    assert plan_sidecars(tmp_path / "none" / "x", tmp_path / "y", card_version=None, note=NOTE) == []
