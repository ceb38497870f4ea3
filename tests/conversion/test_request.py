"""A request knows everything that its result depends on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lib_transfer.library.job import make_job
from lib_transfer.library.request import TransferRequest, adapter_in, canonical
from lib_transfer.storage.hashes import Hashes


def asked(adapter: Path, folder: Path) -> TransferRequest:
    target = folder / "target.safetensors"
    target.write_bytes(b"target")
    adapter.write_bytes(b"adapter")
    job = make_job(adapter, target=target, method="reuse", settings={}, hashes=Hashes(folder / "hashes"))
    return job.request


def test_the_configuration_beside_an_adapter_of_peft_is_part_of_it(tmp_path: Path) -> None:
    path, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    alone = asked(path, tmp_path)
    assert "config" not in alone.to_json()
    config.write_text('{"lora_alpha": 4}')
    first = asked(path, tmp_path)
    config.write_text('{"lora_alpha": 8}')
    second = asked(path, tmp_path)
    assert len({alone.hash8, first.hash8, second.hash8}) == 3
    assert len({alone, first, second}) == 3
    assert set(json.loads(first.to_json())["adapter"]) == {"name", "sha256", "config_sha256"}


@pytest.mark.parametrize("name", ["pytorch_lora_weights.safetensors", "adapter_model2.safetensors"])
def test_a_configuration_beside_another_file_is_not(name: str, tmp_path: Path) -> None:
    alone = asked(tmp_path / name, tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert asked(tmp_path / name, tmp_path) == alone


def test_an_output_of_the_method_that_was_called_copy_is_that_of_an_equal_request(tmp_path: Path) -> None:
    text = asked(tmp_path / "style.safetensors", tmp_path).to_json()
    old, new = (json.dumps({**json.loads(text), "method": name}, sort_keys=True) for name in ("copy", "reuse"))
    assert old != new
    assert canonical(old) == canonical(new) == new
    assert canonical("no request") == "no request"
    assert canonical('["\\"method\\": \\"copy\\""]') == '["\\"method\\": \\"copy\\""]'
    assert adapter_in(old) == "style"
    assert adapter_in("[1]") is None
