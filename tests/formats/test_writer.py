"""What is written reads back the same, has the hashes that kohya would give it, and is the same bytes every time."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from lib_transfer.errors import NumericError, OutputExistsError, RequestError, StorageError
from lib_transfer.formats import writer
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.formats.serialise import serialise, sshs_hashes, with_hashes
from lib_transfer.formats.writer import write_adapter

from .builders import accounted, file_bytes, lora, random

MIXED = {
    "z.half": random(3, 2, seed=1, dtype=torch.float16),
    "a.single": random(2, 2, 3, 3, seed=2),
    "m.brain": random(3, seed=3, dtype=torch.bfloat16),
    "b.half": random(5, seed=4, dtype=torch.float16),
    "ü.double": random(2, seed=5, dtype=torch.float64),
    "count": torch.tensor(3),
    "flag": torch.tensor([True]),
    "eight": random(4, seed=6).to(torch.float8_e4m3fn),
    "scalar": torch.tensor(1.0),
    "none": torch.empty(0, 2),
}
METADATA = {"ss_b": 'é😀\n"\\\t\x01\x7f', "ss_a": "1", "other": "x", "sshs_model_hash": "of the parent"}


def kohya_hashes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> tuple[str, str]:
    """Re-stated from sd-scripts: both hashes of the library's own serialisation with the training metadata only."""
    blob = io.BytesIO(
        safetensors.torch.save(tensors, {key: text for key, text in metadata.items() if key[:3] == "ss_"})
    )
    length = int.from_bytes(blob.read(8), "little")
    blob.seek(8 + length)
    model = hashlib.sha256(blob.read()).hexdigest()
    blob.seek(0x100000)
    return model, hashlib.sha256(blob.read(0x10000)).hexdigest()[:8]


def whole(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> bytes:
    return b"".join(serialise(tensors, metadata).pieces())


@pytest.mark.parametrize("metadata", [None, {}, {"only": METADATA["ss_b"]}])
def test_with_at_most_one_text_the_bytes_are_the_librarys(metadata: dict[str, str] | None) -> None:
    assert whole(MIXED, metadata) == safetensors.torch.save(MIXED, metadata)


def test_the_order_given_does_not_matter() -> None:
    backwards = dict(reversed(MIXED.items())), dict(reversed(METADATA.items()))
    assert whole(MIXED, METADATA) == whole(*backwards)
    assert whole(MIXED, METADATA)[8:].startswith(b'{"__metadata__":{"other":"x","ss_a"')


def test_views_and_transposes_are_written_as_they_look(tmp_path: Path) -> None:
    base = random(4, 6)
    tensors = {
        "t": base.T,
        "rows": base[1:3],
        "step": base[:, ::2],
        "grown": base[:1].expand(3, 6),
        "grad": base.clone().requires_grad_(),
    }
    loaded = safetensors.torch.load(whole(tensors, None))
    assert all(torch.equal(loaded[key], tensor) for key, tensor in tensors.items())


def test_tensors_are_not_copied_for_writing() -> None:
    tensor = torch.zeros(1000)
    (piece,) = serialise({"a": tensor}, None).data()
    tensor[0] = 1
    assert bytes(piece[:4]) == b"\0\0\x80?"


@pytest.mark.parametrize("size", [10, 300_000, 600_000])
def test_the_hashes_are_kohyas(size: int) -> None:
    tensors = {**lora("lora_unet_x"), "big": random(size, dtype=torch.float16)}
    metadata = {"ss_tag_frequency": json.dumps({"d": {f"tag {n}": n for n in range(2000)}}), **METADATA}
    assert sshs_hashes(tensors, metadata) == kohya_hashes(tensors, metadata)
    assert (sshs_hashes(tensors, metadata)[1] == "e3b0c442") == (size < 500_000)


def test_a_written_adapter_is_whole(tmp_path: Path) -> None:
    tensors = {**lora("lora_unet_x"), "lora_unet_n.w_norm": random(4, dtype=torch.float16)}
    path = tmp_path / "x.safetensors"
    written = write_adapter(path, tensors, METADATA)
    content = path.read_bytes()
    assert (written.path, written.size, written.warnings) == (path, len(content), ())
    assert written.sha256 == hashlib.sha256(content).hexdigest()
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 8 == 0
    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
        assert all(torch.equal(file.get_tensor(key), tensor) for key, tensor in tensors.items())
    assert metadata["sshs_model_hash"] == hashlib.sha256(content[start:]).hexdigest()
    assert metadata["sshs_legacy_hash"] == kohya_hashes(tensors, METADATA)[1]
    assert {key: metadata[key] for key in ("ss_a", "ss_b", "other")} == {
        key: METADATA[key] for key in ("ss_a", "ss_b", "other")
    }
    assert accounted(read_adapter(path))
    with pytest.raises(OutputExistsError):
        write_adapter(path, lora("lora_unet_y"), METADATA)
    assert path.read_bytes() == content
    write_adapter(path, lora("lora_unet_y"), METADATA, overwrite=True)
    assert set(read_adapter(path).groups) == {"lora_unet_y"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_an_empty_or_stale_hash_of_the_parent_is_replaced() -> None:
    stale = {"sshs_model_hash": hashlib.sha256(b"").hexdigest(), "sshs_legacy_hash": "00000000"}
    tensors = lora("lora_unet_x")
    fresh = with_hashes(tensors, stale)
    assert fresh["sshs_model_hash"] == kohya_hashes(tensors, {})[0]
    assert fresh["sshs_legacy_hash"] == "e3b0c442"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_number_that_is_none_is_written(value: float, tmp_path: Path) -> None:
    with pytest.raises(NumericError, match=r"lora_unet_x\.alpha"):
        write_adapter(tmp_path / "x", {**lora("lora_unet_x"), "lora_unet_x.alpha": torch.tensor(value)}, {})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_stored_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="complex"):
        write_adapter(tmp_path / "x", {"complex": torch.zeros(1, dtype=torch.complex64)}, {})
    with pytest.raises(RequestError, match="surrogate"):
        write_adapter(tmp_path / "x", lora("a"), {"k": "\ud800"})
    assert not list(tmp_path.iterdir())


def spoil_byte(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)


def cut_end(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:-4])


def zero_all(part: Path) -> None:
    part.write_bytes(bytes(part.stat().st_size))


def other_file(part: Path) -> None:
    part.write_bytes(file_bytes({"other": torch.ones(3)}))


@pytest.mark.parametrize("damage", [spoil_byte, cut_end, zero_all, other_file])
def test_a_disk_that_loses_bytes_is_noticed_before_publishing(
    damage: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_back = writer._read_back

    def damaged(part: Path, *rest: object) -> None:
        damage(part)  # type: ignore[operator]
        read_back(part, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(writer, "_read_back", damaged)
    with pytest.raises(StorageError, match="read"):
        write_adapter(tmp_path / "x", lora("lora_unet_x"), {})
    assert not list(tmp_path.iterdir())


def test_the_library_is_asked_for_a_second_opinion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_library_reading", lambda *_: {"something": [1]})
    with pytest.raises(StorageError, match="differently"):
        write_adapter(tmp_path / "x", lora("lora_unet_x"), {})


def test_a_drive_that_cannot_be_mapped_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("No such device")

    monkeypatch.setattr(writer, "safe_open", refuse)
    write_adapter(tmp_path / "x", lora("lora_unet_x"), {})
    assert accounted(read_adapter(tmp_path / "x"))


SCRIPT = """
import sys, torch
from lib_transfer.formats.writer import write_adapter
names = {f"lora_unet_{n}" for n in range(40)}
tensors = {f"{n}.alpha": torch.tensor(float(len(n))) for n in names} | {"lora_unet_1.diff": torch.arange(9.0)}
print(write_adapter(sys.argv[1], tensors, {k: k for k in names}).sha256)
"""


def test_two_processes_write_the_same_bytes(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]
    hashes = [run.communicate()[0] for run in runs]
    assert hashes[0] == hashes[1] != b""
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
