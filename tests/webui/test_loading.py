"""The button that makes chosen LoRAs load: it is there for those alone that may not as they are, and what it writes loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab


def _of_diffusers(path: Path) -> dict[str, torch.Tensor]:
    """The LoRA at ``path`` under names that A1111 does not know; the names that it had go into the result."""
    given = {key: tensor.clone() for key, tensor in load_file(path).items()}
    renamed = {"base_model.model." + _dotted(key): tensor for key, tensor in given.items()}
    # Without metadata it may be for Stable Diffusion 2 as well; the active checkpoint decides.
    save_file(renamed, path)
    return given


def _dotted(key: str) -> str:
    """``lora_unet_down_blocks_0_attentions_0_..._attn1_to_q.alpha`` as diffusers' path."""
    name, _, suffix = key.removeprefix("lora_unet_").partition(".")
    words = ("down_blocks", "up_blocks", "mid_block", "transformer_blocks", "to_q", "to_k", "to_v", "to_out")
    for word in words:
        name = name.replace(word, word.replace("_", "+"))
    return f"{name.replace('_', '.').replace('+', '_')}.{suffix}"


def test_a_lora_is_made_to_load(server: Server, window: Callable[..., Tab], tmp_path: Path) -> None:
    models.lora(server.models, "loads", trained_on=None)
    given = _of_diffusers(models.lora(server.models, "odd", trained_on=None, seed=3))
    tab = window(server.url).ready()
    tab.choose("loads")
    assert not tab.part("loadable").is_visible()
    tab.choose("odd")
    tab.part("loadable").wait_for()
    said = tab.part("chosen").inner_text()
    assert "odd may not load as it is." in said and "base_model.model." in said and "loads may not" not in said
    for theme, width in (("light", 1280), ("dark", 400)):
        tab.theme(theme)
        tab.page.set_viewport_size({"width": width, "height": 900})
        tab.shot(tmp_path / f"{theme}-{width}.png")
    assert tab.run("loadable") == "Done: 1 written."
    [[name, status, text]] = tab.rows()
    assert (name, status) == ("odd", "written") and "It loads now" in text
    [path] = (server.loras).glob("odd_converted_*.safetensors")
    assert f"<lora:{path.stem}:1>" in text
    made = load_file(path)
    assert made.keys() == given.keys()
    assert all(torch.equal(made[key].reshape(tensor.shape), tensor) for key, tensor in given.items())
    assert tab.run("loadable") == "Done: 1 there already."
