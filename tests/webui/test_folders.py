"""Folders that settings name, the trash, and paths that strangers must not see."""

from __future__ import annotations

import base64
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import gradio as gr
import pytest
import torch
from safetensors.torch import save_file

from lib_transfer.errors import RequestError
from lib_transfer.storage.cache import Cache
from lib_transfer.storage.hashes import Hashes
from lib_transfer.webui.app import extension, trash
from lib_transfer.webui.app.copies import copies
from lib_transfer.webui.batch import html
from lib_transfer.webui.host import files
from lib_transfer.webui.host.folders import check_cache_folder, sub_folder
from lib_transfer.webui.host.settings import PREFIX
from lib_transfer.webui.host.shared import without_paths
from lib_transfer.webui.hosts.program import Program as Host
from lib_transfer.webui.hosts.standalone import Standalone
from lib_transfer.webui.prompt import generation
from lib_transfer.webui.shell.form import Form
from tests.webui import models
from tests.webui.programs import Program

# The cache folder.


def test_a_cache_folder_is_new_empty_or_ours(tmp_path: Path) -> None:
    check_cache_folder(tmp_path / "new" / "folder")
    check_cache_folder(tmp_path)
    Cache(tmp_path).put("weights", "ab" * 32, {"u": torch.zeros(2, 2)})
    check_cache_folder(tmp_path)
    (tmp_path / ".DS_Store").touch()
    with pytest.raises(RequestError, match="holds files that are not Transfer LoRA's"):
        check_cache_folder(tmp_path)
    # What is remembered of files names it as ours, whatever else is in it.
    file = tmp_path / "weights" / "a-file"
    file.touch()
    Hashes(tmp_path).sha256(file)
    check_cache_folder(tmp_path)


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(path)])
def test_what_is_no_folder_is_no_cache_folder(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "it")
    with pytest.raises(RequestError, match="is not used: "):
        check_cache_folder(tmp_path / "it")
    with pytest.raises(RequestError, match="is not used: "):
        check_cache_folder(Path("a\0b"))


def test_a_change_of_the_cache_folder_takes_effect_only_where_it_may(program: Program, tmp_path: Path) -> None:
    host, option = Host(), PREFIX + "cache_folder"
    usual = host.cache_folder()
    first, foreign = tmp_path / "first", tmp_path / "documents"
    foreign.mkdir()
    (foreign / "thesis.txt").touch()
    for chosen, used in ((foreign, usual), (first, first), (foreign, first), (f"{foreign}/..", first), ("", usual)):
        program.opts.data[option] = str(chosen)
        assert host.cache_folder() == used
        assert bool(host.problem_of("cache_folder")) is (used != (Path(chosen) if chosen else usual))


# The output folder.


@pytest.mark.parametrize(("text", "place"), [("a", "a"), ("a/ b", "a/b"), ("a\\b/", "a/b"), ("./a", "a"), ("...", "")])
def test_an_output_folder_is_within_the_lora_folder(tmp_path: Path, text: str, place: str) -> None:
    assert sub_folder(text, tmp_path) == (tmp_path / place if place else None)


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "../..",
        "a/../../b",
        "a\\..\\..\\b",
        " .. /x",
        "/etc",
        "\\\\server\\x",
        "C:\\x",
        "C:x",
        "~/x",
        "link",
        "link/x",
    ],
)
def test_an_output_folder_that_leaves_it_is_refused(tmp_path: Path, text: str) -> None:
    root, outside = tmp_path / "Lora", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    with pytest.raises(RequestError, match="leads out of the LoRA folder"):
        sub_folder(text, root)
    assert list(outside.iterdir()) == []


# The WebUI's own ways of restricting settings.


@pytest.mark.parametrize("hidden", [False, True])
def test_folders_are_among_the_options_that_the_webui_can_hide(program: Program, tmp_path: Path, hidden: bool) -> None:
    shared = sys.modules["modules.shared"]
    shared.cmd_opts.hide_ui_dir_config, shared.restricted_opts = hidden, {"outdir_samples"}
    extension.add_settings()
    names = {PREFIX + key for key in ("cache_folder", "output_folder")}
    assert shared.restricted_opts == {"outdir_samples", *names}
    labels = program.opts.data_labels
    assert {name for name, info in labels.items() if info.component_args.get("visible", True) is False} == (
        names if hidden else set()
    )
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "thesis.txt").touch()
    # The programs put the old value back when this raises an error.
    for key, bad, good in (
        ("cache_folder", str(tmp_path / "documents"), str(tmp_path / "new")),
        ("output_folder", "../..", "copies"),
    ):
        program.opts.data[PREFIX + key] = good
        labels[PREFIX + key].onchange()
        program.opts.data[PREFIX + key] = bad
        with pytest.raises(RequestError):
            labels[PREFIX + key].onchange()


# The trash.


def lora(path: Path, *sides: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"the LoRA {path.stem}")
    for side in sides:
        path.with_name(path.stem + side).write_text(f"{side} of {path.stem}")
    return path


def tree(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_what_is_discarded_comes_back_with_everything_beside_it(tmp_path: Path) -> None:
    one = lora(tmp_path / "sub" / "cat.safetensors", ".preview.png", ".json", ".txt")
    # Not its side file, but that of another.
    lora(tmp_path / "sub" / "cat.b.safetensors", ".png")
    before = tree(tmp_path)
    trash.discard(one, tmp_path)
    [found] = trash.contents([tmp_path])
    assert (found.name, found.home) == ("sub/cat (1)", one)
    assert len(found.side_files) == 3
    assert list(files.adapters([tmp_path])) == ["sub/cat.b"]
    assert trash.restore(found) == one
    assert tree(tmp_path) == before
    assert not (tmp_path / "trash").exists()


def test_names_that_are_taken_get_a_number(tmp_path: Path) -> None:
    for number in (1, 2):
        trash.discard(lora(tmp_path / "cat.safetensors", ".png"), tmp_path)
        assert [one.name for one in trash.contents([tmp_path])][-1] == f"cat ({number})"
    lora(tmp_path / "cat.safetensors")
    lora(tmp_path / "cat_2.safetensors").unlink()
    (tmp_path / "cat_2.png").write_text("somebody's picture")
    first, second = trash.contents([tmp_path])
    assert trash.restore(first).name == "cat_3.safetensors"
    assert trash.restore(second).name == "cat_4.safetensors"
    assert sorted(tree(tmp_path)) == sorted(
        ["cat.safetensors", "cat_2.png", *(f"cat_{n}{e}" for n in (3, 4) for e in (".png", ".safetensors"))]
    )


@pytest.mark.parametrize("most", range(4))
def test_a_file_is_in_one_place_whenever_it_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Killed after any number of renames, everything is there once, and doing it again finishes it."""
    one = lora(tmp_path / "cat.safetensors", ".png", ".json")
    before, rename, done = tree(tmp_path), Path.rename, []

    def limited(path: Path, to: Path) -> Path:
        if len(done) == most:
            raise KeyboardInterrupt
        done.append(path)
        return rename(path, to)

    def stopped(act: Callable[[], object]) -> None:
        done.clear()
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(Path, "rename", limited)
            act()
        assert sorted(tree(tmp_path).values()) == sorted(before.values())

    stopped(lambda: trash.discard(one, tmp_path))
    assert one.exists() is (most == 0)
    if one.exists():
        trash.discard(one, tmp_path)
    stopped(lambda: trash.restore(trash.contents([tmp_path])[0]))
    for found in trash.contents([tmp_path]):
        trash.restore(found)
    assert tree(tmp_path) == before


def test_the_trash_holds_nothing_else(tmp_path: Path) -> None:
    for name in (
        "trash/note.trash",
        "trash/1/cat.pt.trash",
        "trash/x/cat.safetensors.trash",
        "trash/1/cat.safetensors",
    ):
        lora(tmp_path / name)
    assert trash.contents([tmp_path]) == []


# What can be made again.


def test_what_can_be_made_again_is_told_by_contents_not_by_names(tmp_path: Path) -> None:
    models.checkpoints(tmp_path)
    parent = models.lora(tmp_path, "cat")
    host = Standalone(tmp_path, tmp_path / "cache")
    hashes = Hashes(tmp_path / "cache")
    bases = {name: hashes.sha256(tmp_path / "Stable-diffusion" / name) for name in (models.BASE, models.TUNED)}
    host.rescan_checkpoints()

    def made(name: str, *, match: float | None = None, **changes: Any) -> None:
        request = {
            "adapter": {"name": "cat", "sha256": Hashes(tmp_path / "other").sha256(parent)},
            "source": {"name": "base", "sha256": bases[models.BASE]},
            "target": {"name": "tuned", "sha256": bases[models.TUNED]},
            "method": "rotation",
            **changes,
        }
        metadata = {"transfer_lora.request": json.dumps(request)}
        if match is not None:
            metadata["transfer_lora.match"] = json.dumps({"gains": {name: {"gain": match}, "reuse": {"gain": 0.1}}})
        save_file({"x": torch.zeros(1)}, host.adapter_folders()[0] / f"{name}.safetensors", metadata)

    made("again", match=0.8125)
    made("older", method="copy", source=None)
    made("renamed parent", adapter={"name": "dog", "sha256": hashes.sha256(parent)})
    made("another parent", adapter={"name": "cat", "sha256": "ab" * 32})
    made("another source", source={"name": "base", "sha256": "cd" * 32})
    made("another target", target={"name": "tuned"}, source="base")
    made("encoder gone", target={"name": "tuned", "sha256": bases[models.TUNED], "encoders": ["ef" * 32]})
    made("searched", method="auto")
    made("hostile", adapter=[1], target={"name": "a  [b", "sha256": 5})
    save_file(
        {"x": torch.zeros(1)}, host.adapter_folders()[0] / "no request.safetensors", {"transfer_lora.request": "["}
    )
    found = copies(host, files.adapters(host.adapter_folders()))
    assert {name for name, copy in found.items() if copy.again} == {"again", "older", "renamed parent"}
    assert {name: copy.missing for name, copy in found.items() if copy.missing} == {
        "another parent": ("its parent LoRA",),
        "another source": ("its source",),
        "another target": ("its source", "its target"),
        "encoder gone": ("its target",),
        "hostile": ("its parent LoRA", "its target"),
    }
    assert "gain 0.81; can be made again" in found["again"].facts()
    assert "expensive to repeat" in found["searched"].facts()
    line = files.entry("hostile", found["hostile"].facts())
    assert files.name_in(line, {name: Path() for name in found}) == "hostile"


# What strangers see.

FOLDERS = (Path("/srv/my user/models/Lora"), Path("/srv/my user/models"), Path("/srv/a&b"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<p>/srv/my user/models/Lora/sub/x.safetensors is gone.</p>", "<p>sub/x.safetensors is gone.</p>"),
        ("in <code>/srv/my user/models/Lora</code>.", "in <code>Lora</code>."),
        ("/srv/my user/models/Lora-old/x", "Lora-old/x"),
        ("[Errno 13] Permission denied: &#39;/root/secret/x.pt&#39;", "[Errno 13] Permission denied: &#39;x.pt&#39;"),
        ("/srv/a&amp;b/c.x", "c.x"),
        (r"C:\Users\me\x.pt", "x.pt"),
        (
            r'{"output": "C:\\Users\\me\\x.pt", "name": "\u30b9\u30bf\u30a4"}',
            r'{"output": "x.pt", "name": "\u30b9\u30bf\u30a4"}',
        ),
        ('<img src="data:image/png;base64,/9j/4AA/x"></p>', '<img src="data:image/png;base64,/9j/4AA/x"></p>'),
        ("1/2, and/or, a/b/c, https://a.example/b/c", "1/2, and/or, a/b/c, https://a.example/b/c"),
    ],
)
def test_paths_are_cut_short(text: str, shown: str) -> None:
    assert without_paths(text, FOLDERS) == shown


@pytest.mark.parametrize(
    ("options", "shared"),
    [
        ({}, False),
        ({"listen": False, "share": False, "gradio_auth": None}, False),
        ({"listen": True}, True),
        ({"share": True}, True),
        ({"gradio_auth": "me:secret"}, True),
        ({"server_name": "0.0.0.0"}, True),
    ],
)
def test_the_page_has_no_path_where_others_see_it(
    program: Program, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], shared: bool
) -> None:
    """Through the event of a button, as a browser would press it, with whatever the tab would say."""
    vars(sys.modules["modules.shared"].cmd_opts).update(options)
    lost = program.loras / "sub" / "lost.safetensors"
    monkeypatch.setattr("lib_transfer.webui.shell.caller.check", lambda request, token: None)
    pressed: dict[str, Any] = {}

    def work(values: Any) -> Any:
        if values["field"]:
            raise RequestError(f"{lost} is gone.", hint=f"Look into {program.data}.")
        return {"said": f"<b>{lost}</b> in {Host().cache_folder()} and {Path('elsewhere/file').absolute()}"}

    with gr.Blocks():
        form = Form(Host())
        form.add(gr.Textbox, "field")
        form.add(gr.HTML, "said")
        form.on(lambda **event: pressed.update(event), work, ["field"], ["said"])
    answers = [*pressed["fn"](SimpleNamespace(), "", ""), *pressed["fn"](SimpleNamespace(), "", "fail")]
    text = " ".join(answer for answer in answers if isinstance(answer, str))
    assert ("lost.safetensors is gone." in text) is True
    assert (str(program.folder) in text or str(Path.cwd()) in text) is not shared
    assert ("<b>sub/lost.safetensors</b>" in text) is shared


def test_a_saved_table_and_a_line_below_a_picture_have_no_path_either(program: Program) -> None:
    sys.modules["modules.shared"].cmd_opts.listen = True
    host, said = Host(), []
    job = SimpleNamespace(
        report=SimpleNamespace(to_json=lambda: json.dumps({"output": str(program.loras / "a" / "b.pt")}))
    )
    link = str(html.saved(job, "json", host.shown))
    data = unquote(link.partition("base64,")[2].partition('"')[0])
    assert json.loads(base64.b64decode(data)) == {"output": "a/b.pt"}
    generation._warn(SimpleNamespace(comment=said.append), host, [f"{program.loras / 'b.pt'} is gone."])
    assert said == ["Transfer LoRA: b.pt is gone."]
