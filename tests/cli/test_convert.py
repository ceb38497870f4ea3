"""``convert`` from the command line: files and folders, what is said of each, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lib_transfer.cli.main import main
from tests import tiny
from tests.cli.conftest import Done

Cli = Callable[..., Done]


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """A folder with a LoRA that loads, one of OneTrainer's, one of PEFT's below, and one that is damaged."""
    folder = tmp_path / "loras"
    (folder / "peft").mkdir(parents=True)
    shape = (2048, 2048)
    tiny.save(folder / "fine.safetensors", tiny.factors("lora_unet_blocks_0_self_attn_q_proj", shape))
    tiny.save(folder / "odd.safetensors", tiny.factors("net.blocks.0.self_attn.q_proj", shape))
    name = "base_model.model.transformer_blocks.1.attn1.to_q"
    peft = {f"{name}.lora_B.weight": torch.ones(2048, 2), f"{name}.lora_A.weight": torch.ones(2, 2048)}
    tiny.save(folder / "peft" / "adapter_model.safetensors", peft)
    (folder / "peft" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    (folder / "broken.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    return folder


def test_a_folder(loras: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "out", tmp_path / "said.json"
    command = ["convert", loras, "--recursive", "--output-dir", out, "--cache-dir", cache, "--json", report]

    def run(*more: str) -> tuple[int, str, dict[str, dict[str, object]]]:
        code = main([*map(str, command), *more])
        said = {it["name"]: it for it in json.loads(report.read_text())["adapters"]}
        return code, capsys.readouterr().out, said

    code, text, said = run("--dry-run")
    assert code == 1 and not out.exists()  # one of them is damaged
    assert {name: it["status"] for name, it in said.items()} == {
        "broken": "failed", "fine": "loads as it is", "odd": "analysed", "peft": "analysed",
    }  # fmt: skip
    assert "odd: can be made to load." in text and '"net."' in text and "adapter_config.json" in text
    code, text, said = run()
    assert code == 1 and "fine: It loads as it is" in text and "odd: written: " in text
    assert sorted(path.name.partition("_converted_")[0] for path in out.iterdir()) == ["odd", "peft"]
    tensors = load_file(str(said["peft"]["output"]))
    up, down, alpha = (
        tensors[f"lora_unet_blocks_1_self_attn_q_proj.{it}"] for it in ("lora_up.weight", "lora_down.weight", "alpha")
    )
    assert float(alpha) == 4 and bool((up == 1).all()) and bool((down == 1).all())
    _, _, said = run()
    assert {said["odd"]["status"], said["peft"]["status"]} == {"already done"}


def test_one_file(cli: Cli, loras: Path) -> None:
    """A process of its own: what goes to which stream, and the exit codes."""
    done = cli("convert", loras / "odd.safetensors", "--base", "anima")
    assert done.code == 0 and "odd: written: " in done.out and not done.err
    done = cli("convert", loras / "broken.safetensors")
    assert done.code == 2 and "broken.safetensors" in done.err and not done.out
