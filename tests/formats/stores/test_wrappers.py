"""Levels that training puts around a model: read where it is certain what is meant, with every tensor as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lib_transfer.architecture import recognise, reference
from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.adapter_file import read_adapter
from lib_transfer.formats.checkpoint import open_checkpoint
from tests import tiny

UNET = tiny.UNET
DIFFUSERS = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_{}.weight"
Rename = Callable[[str], str]


@pytest.fixture(scope="module")
def sd1() -> tiny.Weights:
    return tiny.weights("sd1")


def _behind(prefix: str, level: str) -> Rename:
    return lambda key: prefix + level + key.removeprefix(prefix) if key.startswith(prefix) else key


CHECKPOINTS: dict[str, tuple[Rename, str]] = {
    "compiled UNet": (_behind(UNET, "_orig_mod."), "_orig_mod (of torch.compile)"),
    "compiled blocks": (
        lambda key: key.replace(".1.transformer_blocks.", ".1._orig_mod.transformer_blocks."),
        "_orig_mod",
    ),
    "compiled as a whole": (lambda key: f"_orig_mod.{key}", "_orig_mod"),
    "DataParallel": (lambda key: f"module.{key}", "module (of DataParallel)"),
    "both": (_behind(UNET, "module._orig_mod."), "_orig_mod"),
    "FSDP": (
        lambda key: key.replace(".1.transformer_blocks.0.", ".1.transformer_blocks.0._fsdp_wrapped_module."),
        "FSDP",
    ),
    "state dict": (lambda key: f"state_dict.{key}", "stand behind 'state_dict.'"),
    "ema": (lambda key: f"ema.{key}", "stand behind 'ema.'"),
    "nested": (lambda key: f"checkpoint.ema.module.{key}", "stand behind 'checkpoint.ema.'"),
    "model": (lambda key: f"model.{key}", "stand behind 'model.'"),
    "another word before the UNet": (
        lambda key: key.replace(UNET, "student."),
        "diffusion model stand behind 'student.'",
    ),
}


def _same(path: Path, weights: tiny.Weights, note: str) -> None:
    with open_checkpoint(path) as store:
        assert set(store.shapes) == set(weights)
        assert recognise(store.shapes).id == "sd1"
        for key in (f"{UNET}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", f"{UNET}out.2.bias"):
            assert torch.equal(store.read(key), weights[key])
        assert torch.equal(store.read(f"{UNET}out.2.weight", (1, 3)), weights[f"{UNET}out.2.weight"][1:3])
        assert note in " ".join(store.contents.notes)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_is_read_as_without_them(name: str, sd1: tiny.Weights, tmp_path: Path) -> None:
    rename, note = CHECKPOINTS[name]
    path = tiny.save(tmp_path / "x.safetensors", {rename(key): tensor for key, tensor in sd1.items()})
    _same(path, sd1, note)
    with open_checkpoint(path) as store:
        assert {store.contents.name_in_file(key) for key in store.shapes} == {rename(key) for key in sd1}


PICKLES: dict[str, tuple[Callable[[tiny.Weights], object], str]] = {
    "twice": (lambda t: {"state_dict": {"state_dict": t}}, ""),
    "model within": (lambda t: {"state_dict": {"model": t}, "epoch": 3}, "stand behind 'model.'"),
    "module within": (lambda t: {"state_dict": {"module": t}, "global_step": torch.tensor(5)}, "module"),
    "without a state dict": (
        lambda t: {"net": t, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "step": torch.tensor(5)},
        "stand behind 'net.'",
    ),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_is_nested_twice(name: str, sd1: tiny.Weights, tmp_path: Path) -> None:
    nest, note = PICKLES[name]
    torch.save(nest(sd1), tmp_path / "x.ckpt")
    with open_checkpoint(tmp_path / "x.ckpt") as store:
        assert set(store.shapes) - {"step"} == set(sd1)
        assert recognise(store.shapes).id == "sd1"
        assert note in " ".join(store.contents.notes)
        assert torch.equal(store.read(f"{UNET}out.2.bias"), sd1[f"{UNET}out.2.bias"])


def test_folders_of_diffusers_too(tmp_path: Path) -> None:
    whole = reference(tiny.architecture("sd1"), width=8, style="diffusers")
    unet = [key.removeprefix("unet.") for key in whole if key.startswith("unet.")]
    (tmp_path / "unet").mkdir()
    named = {f"_orig_mod.{key}": torch.ones(whole[f"unet.{key}"]) for key in unet}
    tiny.save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", named)
    with open_checkpoint(tmp_path) as store:
        assert set(store.shapes) == {f"unet.{key}" for key in unet}
        assert recognise(store.shapes).id == "sd1"


ADAPTERS: dict[str, tuple[Rename, str]] = {
    "compiled": (lambda key: key.replace("unet.", "unet._orig_mod."), "_orig_mod"),
    "DataParallel": (lambda key: f"module.{key}", "module"),
    "in PEFT": (lambda key: key.replace("unet.", "base_model.model.module."), "module"),
    "state dict": (lambda key: f"state_dict.{key}", "state_dict"),
    "kohya": (lambda key: "ema.lora_unet_" + key.removeprefix("unet.").replace(".", "_", 7), "ema"),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_in_dotted_names(name: str, tmp_path: Path) -> None:
    rename, note = ADAPTERS[name]
    plain = {DIFFUSERS.format(end): torch.randn(3, 3) for end in "AB"}
    adapter = read_adapter(
        tiny.save(tmp_path / "x.safetensors", {rename(key): tensor for key, tensor in plain.items()})
    )
    [(module, group)] = adapter.groups.items()
    assert not any(word in module for word in ("_orig_mod", "module.", "state_dict", "ema"))
    assert {suffix: tensor.tolist() for suffix, tensor in group.tensors.items()} == {
        "lora_down.weight": plain[DIFFUSERS.format("A")].tolist(),
        "lora_up.weight": plain[DIFFUSERS.format("B")].tolist(),
    }
    assert note in adapter.header.notes[0]


def test_names_that_need_nothing_are_left_alone(sd1: tiny.Weights, tmp_path: Path) -> None:
    for number, keys in enumerate(
        (
            list(sd1),
            ["clip_l.text_model.encoder.layers.0.mlp.fc1.lora_up.weight"],
            ["text_model.encoder.layers.0.mlp.fc1.weight"],
            ["control_model.input_blocks.0.0.weight"],
            ["encoder.down_blocks.0.resnets.0.conv1.weight"],
            ["base_model.model.down_blocks.0.attentions.0.proj_in.lora_A.weight"],
            ["transformer.transformer_blocks.0.attn.to_q.weight"],
        )
    ):
        path = tiny.save(tmp_path / f"{number}.safetensors", {key: torch.ones(2, 2) for key in keys})
        with open_checkpoint(path) as store:
            assert set(store.shapes) == set(keys)
            assert store.contents.notes == ()


def test_where_two_would_be_one_nothing_is_guessed(sd1: tiny.Weights, tmp_path: Path) -> None:
    out = {key: tensor for key, tensor in sd1.items() if key.startswith(f"{UNET}out.")}
    twice = {**sd1, **{_behind(UNET, "_orig_mod.")(key): tensor.clone() for key, tensor in out.items()}}
    path = tiny.save(tmp_path / "twice.safetensors", twice)
    with (
        pytest.raises(
            UnsupportedError, match=r"_orig_mod\.out\.\d.*, which are one tensor without the level _orig_mod"
        ) as caught,
        open_checkpoint(path),
    ):
        pass
    assert caught.value.hint
    models = {
        f"{name}.{key.removeprefix(UNET)}": t.clone() for name in ("a", "b") for key, t in sd1.items() if UNET in key
    }
    with (
        open_checkpoint(tiny.save(tmp_path / "two.safetensors", models)) as store,
        pytest.raises(UnsupportedError, match=r"stand behind 'a\.' and 'b\.'"),
    ):
        recognise(store.shapes)
