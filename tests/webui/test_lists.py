"""Lists and look-ups: what a browser may name, which source is found, what is remembered of files."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib_transfer.errors import RequestError
from lib_transfer.library.checkpoints import find
from lib_transfer.library.index import AdapterFacts, FileIndex
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Checkpoint
from lib_transfer.webui.host.settings import parameters
from lib_transfer.webui.hosts.standalone import Standalone
from lib_transfer.webui.transfer.form import order
from tests.webui import models
from tests.webui.conftest import ROOT

A, B = "a" * 64, "b" * 64


def installed(*given: tuple[str, str | None, str | None]) -> list[Checkpoint]:
    return [Checkpoint(name, Path("/models") / name, sha256, legacy) for name, sha256, legacy in given]


@pytest.mark.parametrize(
    ("facts", "found", "by"),
    [
        (AdapterFacts(source_sha256=A), "one.safetensors", "its SHA-256"),
        (AdapterFacts(source_sha256=A[:10]), "one.safetensors", "its SHA-256"),
        (AdapterFacts(source_legacy_hash="cafe0001", source_sha256=B), "three.ckpt", "its old hash"),
        (AdapterFacts(source_name="THREE.safetensors", source_sha256=B), None, ""),
        (AdapterFacts(source_name="four.safetensors", source_sha256=B), "four.safetensors", "its name alone"),
        # The content hash is known on both sides and differs: neither the name nor the old hash can make up for it.
        (AdapterFacts(source_name="one.safetensors", source_sha256=B, source_legacy_hash="cafe0000"), None, ""),
        (AdapterFacts(), None, ""),
    ],
)
def test_the_source_is_found_by_contents_before_names(facts: AdapterFacts, found: str | None, by: str) -> None:
    given = installed(
        ("one.safetensors", A, "cafe0000"), ("three.ckpt", None, "cafe0001"), ("four.safetensors", None, None)
    )
    if facts.source_name and facts.source_name.startswith("THREE"):
        facts = AdapterFacts(source_name=facts.source_name, source_sha256=B, source_legacy_hash="cafe9999")
    match = find(facts, given)
    assert (match.checkpoint.name if match.checkpoint else None, match.by) == (found, by)


def test_two_of_one_old_hash_are_told_apart_by_name() -> None:
    given = installed(("x.safetensors", None, "cafe0000"), ("y.safetensors", None, "cafe0000"))
    match = find(AdapterFacts(source_name="y.safetensors", source_legacy_hash="cafe0000"), given)
    assert match.checkpoint is given[1]


def test_what_is_asked_for_is_named() -> None:
    facts = AdapterFacts(source_name="gone.safetensors", source_sha256=A)
    assert find(facts, []).asks_for == "gone.safetensors (SHA-256 aaaaaaaaaa)"
    assert find(AdapterFacts(), []).asks_for == ""


def test_a_folder_that_leads_to_itself_is_walked_once(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for place in (
        "a.safetensors",
        "sub/a.safetensors",
        "sub/b.pt",
        ".hidden.safetensors",
        "notes.txt",
        "c.safetensors.part",
    ):
        (tmp_path / place).touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "broken.safetensors").symlink_to(tmp_path / "nowhere")
    assert list(files.adapters([tmp_path])) == ["a", "sub/a", "sub/b"]


def test_names_that_clash_all_stay_reachable(tmp_path: Path) -> None:
    one, two = tmp_path / "Lora", tmp_path / "LyCORIS"
    for path in (one / "a.pt", one / "a.safetensors", two / "a.pt"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    found = files.adapters([one, two])
    assert sorted(found.values()) == sorted([one / "a.pt", one / "a.safetensors", two / "a.pt"])


@pytest.mark.parametrize("line", ["../secret", "/etc/passwd", "a  [SD1]  [x]", "b", "", None, 3, ["a"]])
def test_only_names_in_the_list_are_taken(line: object) -> None:
    assert files.name_in(line, {"a": Path("a")}) is None


def test_lines_with_facts_stand_for_their_names() -> None:
    known = {"a": Path("a"), "b  [c]": Path("b")}
    assert files.name_in(files.entry("a", "SD1, rank 4"), known) == "a"
    assert files.name_in("b  [c]", known) == "b  [c]"
    assert files.name_in(files.entry("b  [c]", "SDXL"), known) == "b  [c]"


def test_values_from_a_browser_are_looked_up(tmp_path: Path) -> None:
    models.checkpoints(tmp_path)
    models.lora(tmp_path, "one")
    host = Standalone(tmp_path, tmp_path / "cache")
    values = {parameter.name: None for parameter in parameters()}

    def asked(adapters: object, target: object, source: object, method: object, **more: object) -> dict[str, object]:
        return {"adapters": adapters, "target": target, "source": source, "method": method, **values, **more}

    good = asked(["one"], models.TUNED, "Found automatically", "Rotation")
    assert list(order(good, host).adapters) == ["one"]
    outside = tmp_path / "Stable-diffusion" / models.BASE
    for bad in (
        asked(["../Stable-diffusion/base"], models.TUNED, "", "Rotation"),
        asked([str(outside)], models.TUNED, "", "Rotation"),
        asked(["one"], str(outside), "", "Rotation"),
        asked(["one"], "../x", "", "Rotation"),
        asked(["one"], models.TUNED, "/etc/passwd", "Rotation"),
        asked(["one"], models.TUNED, "", "os.system"),
        asked("one", models.TUNED, "", "Rotation"),
        asked(["one"], models.TUNED, "", "Rotation", energy=["x"]),
    ):
        with pytest.raises(RequestError):
            order(bad, host)


def test_what_is_remembered_of_a_file_ends_with_the_file(tmp_path: Path) -> None:
    models.checkpoints(tmp_path)
    path = models.lora(tmp_path, "one")
    index = FileIndex(tmp_path / "cache")
    assert index.adapter(path, known_only=True) is None
    first = index.adapter(path)
    assert first is not None
    assert (first.base, first.kind, first.source_name) == ("Stable Diffusion 1.x", "LoRA / LoCon, rank 3", models.BASE)
    again = FileIndex(tmp_path / "cache")
    assert again.adapter(path, known_only=True) == first
    path.write_bytes(b"broken")
    os.utime(path, ns=(1, 1))
    assert again.adapter(path, known_only=True) is None
    assert "one.safetensors" in again.adapter(path).problem
    path.unlink()
    assert again.adapter(path) is None


def test_a_damaged_index_is_as_good_as_none(tmp_path: Path) -> None:
    path = models.lora(tmp_path, "one")
    (tmp_path / "files-1.sqlite3").write_text("[1, 2")
    assert FileIndex(tmp_path).adapter(tmp_path / "none.safetensors") is None
    assert FileIndex(tmp_path).adapter(path, known_only=True) is None
    first = FileIndex(tmp_path).adapter(path)
    assert first is not None
    assert FileIndex(tmp_path).adapter(path, known_only=True) == first


def test_install_says_nothing_when_all_is_well_and_one_line_otherwise(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "install.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    # Isolated from every installed package there is nothing it needs.
    bare = subprocess.run([sys.executable, "-S", str(ROOT / "install.py")], capture_output=True, text=True, check=True)
    assert bare.stdout.count("\n") == 1
    assert "torch is missing; safetensors is missing; gradio is missing" in bare.stdout


def test_metadata_ini_is_what_the_webui_reads() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "metadata.ini")
    assert parser.get("scripts", "After") == "lora"
    assert not parser.has_option("Extension", "Requires")
