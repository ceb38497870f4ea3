"""The other commands: inspect, similarity, methods, cache, demo, each as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests import tiny
from tests.cli.conftest import Done, start
from tests.waiting import HANG

Cli = Callable[..., Done]
ROOT = Path(__file__).parents[2]


def test_what_only_reads(several: Any, style: Path, files: tiny.Files, tmp_path: Path) -> None:
    done = several(
        {
            "adapter": ["inspect", style],
            "adapter as JSON": ["inspect", style, "--json"],
            "checkpoint as JSON": ["inspect", files["sdxl-source"], "--json"],
            "methods": ["methods"],
            "help": ["--help"],
        }
    )
    assert {name: d.code for name, d in done.items()} == dict.fromkeys(done, 0)
    assert all(d.err == "" for d in done.values())
    # As people start it: in an interpreter of its own, which has nothing else to say.
    process = start(["inspect", style], tmp_path, tmp_path / "cache")
    assert process.communicate(timeout=HANG) == (done["adapter"].out, "")
    assert process.returncode == 0

    told = json.loads(done["adapter as JSON"].out)
    assert (told["schema"], told["kind"]) == (1, "adapter")
    # The names of a tiny one are those of both, and its shapes those of neither.
    assert told["architecture"] == ["Stable Diffusion 1.x", "Stable Diffusion 2.x"]
    assert (told["ranks"], told["dtype"], told["names"]) == ({"3": 3}, "F32", {"lora_unet_": 3})
    assert told["trained_on"]["name"] == "a.safetensors"
    assert told["trigger_words"] == ["my style"]
    for said in ("Stable Diffusion 1.x", "my style", "a.safetensors", "LoRA"):
        assert said in done["adapter"].out

    told = json.loads(done["checkpoint as JSON"].out)
    assert (told["schema"], told["kind"], told["architecture"]) == (1, "checkpoint", "Stable Diffusion XL")
    assert told["dtypes"] == {"F16": len(files.tensors["sdxl-source"])}
    assert set(told["modules"]) == {"te1", "te2", "unet"}
    run = ("predicts", "shift", "distilled_guidance", "its_name_says")
    assert tuple(told[name] for name in run) == ("noise (epsilon)", None, False, [])

    listed = done["methods"].out
    assert all(f"{name}:" in listed.replace(" (default)", "") for name in ("rotation", "prolora", "lora-x", "reuse"))
    assert "rotation (default)" in listed
    assert all(paper in listed for paper in ("arXiv 2501.16559", "arXiv 2506.04244", "--threshold", "--subspace-rank"))
    assert "130 interrupted" in " ".join(done["help"].out.split())


WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys({missing!r}))
sys.argv = ["lib_transfer", *{arguments!r}]
runpy.run_module("lib_transfer", run_name="__main__")
"""


def without(missing: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    code = WITHOUT.format(missing=missing, arguments=arguments)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", [["torch"], ["safetensors"], ["numpy"], ["torch", "safetensors", "numpy"]])
def test_what_is_missing_is_told_in_a_sentence(missing: list[str]) -> None:
    done = without(missing, "inspect", "x.safetensors")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"Transfer LoRA needs {' and '.join(missing)}, which this Python lacks." in done.stderr
    assert f"-m pip install {' '.join(missing)}" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_and_version_need_nothing() -> None:
    needed = ["torch", "safetensors", "numpy"]
    done = without(needed, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(command in done.stdout for command in ("transfer", "batch", "verify", "inspect", "similarity", "cache"))
    assert without(needed, "--version").returncode == 0
    wrong = without(needed, "transform")
    assert wrong.returncode == 2
    assert "invalid choice" in wrong.stderr


def test_similarity(cli: Cli, files: tiny.Files, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    done = cli(
        "similarity", "--source", files["sd1-source"], "--target", files["sd1-pruned"], "--subspace-rank", "3",
        "--json", "told.json", "--plot", "map.png", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["schema"] == 1
    assert told["missing"]
    assert all(m["similarity"]["rank"] == 3 for m in told["modules"])
    assert all(0 < m["similarity"]["left"] <= 1 for m in told["modules"])
    assert f"{len(told['missing'])} modules of the source are not in the target." in done.out
    [near] = told["notes"]
    assert near.startswith("Source and target are relatives: ") and near in done.out
    with Image.open(tmp_path / "map.png") as image:
        assert image.format == "PNG"
        assert image.width > 500
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 50  # something is drawn


def test_cache(cli: Cli, style: Path, files: tiny.Files, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    made = cli(
        "transfer", style, "--source", files["sd1-source"], "--target", files["sd1-target"], "--cache-dir", folder
    )
    assert made.code == 0
    entries = sorted((folder / "weights").glob("*/*.safetensors"))
    assert len(entries) == 6  # three weights on both sides
    (folder / "mine.txt").write_text("not an entry")
    entries[0].write_bytes(entries[0].read_bytes()[:-1] + b"\x55")

    info = cli("cache", "info", "--cache-dir", folder)
    assert info.code == 0
    assert "weights: 6 entries" in info.out
    check = cli("cache", "check", "--cache-dir", folder)
    assert check.code == 0
    assert "1 were damaged and removed" in check.out
    assert str(entries[0]) in check.out
    assert not entries[0].exists()
    clear = cli("cache", "clear", "--cache-dir", folder)
    assert clear.code == 0
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["mine.txt"]


def test_demo(cli: Cli, tmp_path: Path) -> None:
    done = cli("demo", "--dir", tmp_path / "demo")
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    loras = tmp_path / "demo" / "models" / "Lora"
    outputs = sorted(p for p in loras.glob("*.safetensors") if p.stem not in ("demo-style", "demo-locon"))
    assert len(outputs) == 4
    assert all(load_file(path) for path in outputs)
    assert len(list((tmp_path / "demo" / "models" / "Stable-diffusion").glob("*.safetensors"))) == 3
    for said in ("Rotation: ", "ProLoRA: ", "no counterpart", "not whether the LoRA works", "Written: ", "all "):
        assert said in done.out, said
    assert all(path.name in done.out for path in outputs)
    pictures = list((tmp_path / "demo").glob("*.png"))
    assert len(pictures) == 4
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
