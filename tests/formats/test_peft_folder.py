"""An adapter as PEFT saves it: a folder with a configuration beside the tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lib_transfer
from lib_transfer.cli.main import main
from lib_transfer.errors import BadFileError
from lib_transfer.formats.peft_folder import adapter_file, adapter_home, adapter_name
from lib_transfer.library.adapters import adapters, find
from tests import tiny
from tests.transfer import hosts

PLACE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
NAME = f"lora_unet_{PLACE.replace('.', '_')}"
RANK, ALPHA = 2, 8.0


def peft(folder: Path, *, binary: bool = False, seed: int = 0) -> Tensor:
    """A folder as ``save_pretrained`` makes it; what it changes its module by."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    down, up = torch.randn(RANK, 8, generator=generator), torch.randn(8, RANK, generator=generator)
    tensors = {f"base_model.model.{PLACE}.lora_A.weight": down, f"base_model.model.{PLACE}.lora_B.weight": up}
    if binary:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        tiny.save(folder / "adapter_model.safetensors", tensors)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "README.md").write_text("a card")
    return ALPHA / RANK * up.double() @ down.double()


@pytest.fixture
def runtime(tmp_path: Path) -> lib_transfer.Runtime:
    return lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache", workers=1)


def near(path: Path | None, expected: Tensor) -> bool:
    assert path is not None
    deltas = hosts.read(path).deltas()
    return set(deltas) == {NAME} and bool((deltas[NAME] - expected).norm() <= 1e-5 * expected.norm())


@pytest.mark.parametrize("binary", [False, True])
def test_a_folder_is_read_with_its_configuration(
    binary: bool, files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    expected = peft(tmp_path / "in" / "cat", binary=binary)
    told = lib_transfer.inspect(tmp_path / "in" / "cat")
    assert (told["kind"], told["ranks"]) == ("adapter", {"2": 1})
    assert told["file"] == f"cat/adapter_model.{'bin' if binary else 'safetensors'}"
    job = lib_transfer.request(tmp_path / "in" / "cat", target=files["sd1-target"], method="reuse", runtime=runtime)
    result = lib_transfer.transfer(job, runtime=runtime)
    assert near(result.path, expected)
    assert result.path is not None
    assert result.path.parent == tmp_path / "in", "beside the folder, not in it"
    assert result.path.name.startswith("cat_sd1-target_reuse_")
    # The file within it means the same.
    again = lib_transfer.request(
        adapter_file(tmp_path / "in" / "cat"), target=files["sd1-target"], method="reuse", runtime=runtime
    )
    assert lib_transfer.transfer(again, runtime=runtime).status == "already done"


def test_a_batch_lists_each_folder_once(files: tiny.Files, runtime: lib_transfer.Runtime, tmp_path: Path) -> None:
    loras = tmp_path / "loras"
    expected = {"cat": peft(loras / "cat"), "dog": peft(loras / "dog", binary=True, seed=1)}
    torch.save({"x": torch.ones(2)}, loras / "dog" / "training_args.bin")
    expected["more/fox"] = peft(loras / "more" / "fox", seed=2)
    tiny.save(loras / "style.safetensors", tiny.factors(NAME, (8, 8)))
    assert [(f.name, f.below) for f in find([loras], recursive=False)] == [("cat", ""), ("dog", ""), ("style", "")]
    assert [(f.name, f.below) for f in find([loras], recursive=True)][2:] == [("more/fox", "more"), ("style", "")]
    assert [f.name for f in find([loras], recursive=True, include=["*o*"], exclude=["style*"])] == ["dog", "more/fox"]
    assert list(adapters([loras / "cat"])) == ["cat"]
    report = lib_transfer.batch(
        [loras],
        target=files["sd1-target"],
        method="reuse",
        recursive=True,
        output=tmp_path / "new" / "out",
        runtime=runtime,
    )
    outcomes = report.outcomes
    assert {name: outcome.status for name, outcome in outcomes.items()} == dict.fromkeys(
        [*expected, "style"], "written"
    )
    for name, change in expected.items():
        assert near(outcomes[name].path, change), name
    assert outcomes["more/fox"].path is not None
    assert outcomes["more/fox"].path.parent == tmp_path / "new" / "out" / "more"


def test_both_files_are_one_adapter(tmp_path: Path) -> None:
    peft(tmp_path / "cat")
    torch.save({}, tmp_path / "cat" / "adapter_model.bin")
    assert [f.path.name for f in find([tmp_path], recursive=True)] == ["adapter_model.safetensors"]
    assert adapter_file(tmp_path / "cat").name == "adapter_model.safetensors"


def test_without_a_configuration_it_is_a_file_like_any_other(tmp_path: Path) -> None:
    peft(tmp_path / "cat")
    (tmp_path / "cat" / "adapter_config.json").unlink()
    [found] = find([tmp_path], recursive=True)
    assert (found.name, found.below) == ("cat/adapter_model", "cat")
    path = tmp_path / "cat" / "adapter_model.safetensors"
    assert (adapter_name(path), adapter_home(path)) == ("adapter_model", tmp_path / "cat")


def test_a_folder_of_the_working_directory_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft(tmp_path / "cat")
    monkeypatch.chdir(tmp_path / "cat")
    path = adapter_file(Path())
    assert (adapter_name(path), adapter_home(path)) == ("cat", tmp_path)


def test_what_is_no_such_folder_is_told_so(
    tmp_path: Path, files: tiny.Files, capsys: pytest.CaptureFixture[str]
) -> None:
    peft(tmp_path / "pipe" / "unet")
    peft(tmp_path / "pipe" / "text_encoder")
    with pytest.raises(BadFileError, match="in each of the folders text_encoder, unet") as several:
        adapter_file(tmp_path / "pipe")
    assert "Name one" in several.value.hint
    (tmp_path / "pipe" / "unet" / "adapter_model.safetensors").unlink()
    with pytest.raises(BadFileError, match="tensors are missing"):
        adapter_file(tmp_path / "pipe" / "unet")
    (tmp_path / "empty").mkdir()
    code = main(["transfer", str(tmp_path / "empty"), "--target", str(files["sd1-target"]), "--method", "reuse"])
    assert code == 2
    assert "is a folder, not the file of a LoRA" in capsys.readouterr().err
