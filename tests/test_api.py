"""The Python interface as a program uses it: every public name, one LoRA, a folder, and what files are."""

from __future__ import annotations

import inspect as python_inspect
import json
import struct
from pathlib import Path

import pytest
from safetensors import safe_open

import lib_transfer
from tests import tiny

ATTENTION = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tiny.Files:
    return tiny.make(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def runtime(tmp_path: Path) -> lib_transfer.Runtime:
    return lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache")


def style(path: Path, files: tiny.Files, seed: int = 0, size: float = 0.1) -> Path:
    weight = files.tensors["sd1-source"][
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    ]
    return tiny.save(path, tiny.factors(ATTENTION, weight.shape, seed=seed, size=size))


def tensors(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("name", lib_transfer.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(lib_transfer, name)
    if name != "__version__":
        assert len(python_inspect.getdoc(found) or "") > 40
        assert not python_inspect.ismodule(found)


def test_functions_keep_their_place_when_modules_are_imported() -> None:
    import lib_transfer.cli.main

    for name in ("analyse", "batch", "inspect", "list_methods", "request", "transfer", "verify"):
        assert python_inspect.isfunction(getattr(lib_transfer, name))


def test_one_lora(files: tiny.Files, tmp_path: Path, runtime: lib_transfer.Runtime) -> None:
    path = style(tmp_path / "style.safetensors", files)
    job = lib_transfer.request(path, source=files["sd1-source"], target=files["sd1-target"], runtime=runtime)
    report = lib_transfer.analyse(job, runtime=runtime)
    assert report.totals.written == 1
    assert sorted(tmp_path.glob("*.safetensors")) == [path]
    result = lib_transfer.transfer(job, runtime=runtime)
    assert result.status == "written"
    assert result.path is not None
    assert len(tensors(result.path)) == 3  # up, down and alpha
    assert lib_transfer.transfer(job, runtime=runtime).status == "already done"


def test_a_folder(files: tiny.Files, tmp_path: Path, runtime: lib_transfer.Runtime) -> None:
    folder, output = tmp_path / "loras", tmp_path / "out"
    folder.mkdir()
    output.mkdir()
    for seed, name in enumerate(("one", "two")):
        style(folder / f"{name}.safetensors", files, seed)
    (folder / "three.safetensors").write_bytes(b"no LoRA at all")

    def run() -> dict[str, str]:
        report = lib_transfer.batch(
            [folder], source=files["sd1-source"], target=files["sd1-target"], output=output, runtime=runtime, energy=0.9
        )
        return {row["name"]: row["status"] for row in report.rows()}

    assert run() == {"one": "written", "two": "written", "three": "failed"}
    assert len(list(output.glob("*.safetensors"))) == 2
    assert run() == {"one": "already done", "two": "already done", "three": "failed"}


def test_a_wrong_setting_of_a_batch_is_refused(
    files: tiny.Files, tmp_path: Path, runtime: lib_transfer.Runtime
) -> None:
    with pytest.raises(lib_transfer.TransferError, match="energy"):
        lib_transfer.batch(
            [tmp_path], source=files["sd1-source"], target=files["sd1-target"], runtime=runtime, energy=7
        )


def test_what_files_are(files: tiny.Files, tmp_path: Path) -> None:
    assert lib_transfer.inspect(files["sd1-source"])["kind"] == "checkpoint"
    about = lib_transfer.inspect(str(style(tmp_path / "style.safetensors", files)))
    assert (about["kind"], about["ranks"]) == ("adapter", {"3": 1})


def test_both_models_are_run(files: tiny.Files, tmp_path: Path, runtime: lib_transfer.Runtime) -> None:
    # Large enough that it moves the model by much more than single precision rounds, and gains something on its own pictures.
    path = style(tmp_path / "style.safetensors", files, size=1.0)
    cost: list[str] = []
    found = lib_transfer.verify(
        path,
        source=files["sd1-source"],
        target=files["sd1-source"],
        inputs=1,
        size=128,
        runtime=runtime,
        announce=cost.append,
    )
    # The target is the source.
    reuse, made = found.gains["reuse"], found.gains["rotation.safetensors"]
    assert reuse.share == pytest.approx(1, abs=1e-3)
    # On its own checkpoint nothing is turned, so both move it, and by as much.
    assert reuse.damage is not None and reuse.damage > 0
    assert made.damage == pytest.approx(reuse.damage, rel=1e-3)
    assert len(cost) == 1


def renamed(path: Path, place: Path) -> Path:
    """The output at ``path`` as a version wrote it that called the method ``copy``, and moved to ``place``."""
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"]["transfer_lora.request"] = header["__metadata__"]["transfer_lora.request"].replace(
        '"method": "reuse"', '"method": "copy"'
    )
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    place.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    path.unlink()
    return place


def test_the_former_name_of_reuse_is_understood(
    files: tiny.Files, tmp_path: Path, runtime: lib_transfer.Runtime
) -> None:
    style(tmp_path / "style.safetensors", files)

    def run(method: str) -> list[tuple[str, str]]:
        report = lib_transfer.batch([tmp_path], target=files["sd1-target"], method=method, runtime=runtime)
        return [(row["status"], Path(row["output"]).name) for row in report.rows()]

    [(status, name)] = run("copy")
    assert status == "written"
    assert "_reuse_" in name
    renamed(tmp_path / name, tmp_path / "style_of_long_ago.safetensors")
    assert run("reuse") == [("already done", "style_of_long_ago.safetensors")]
    assert run("copy") == [("already done", "style_of_long_ago.safetensors")]
