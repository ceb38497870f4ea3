"""The button that makes chosen LoRAs load: it is there for those alone that may not as they are, and what it writes loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.webui import models
from tests.webui.conftest import Server
from tests.webui.driver import Tab
from tests.webui.test_batch import Batch


def _of_diffusers(path: Path, metadata: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
    """The LoRA at ``path`` under names that A1111 does not know; the names that it had go into the result."""
    given = {key: tensor.clone() for key, tensor in load_file(path).items()}
    renamed = {"base_model.model." + dotted(key): tensor for key, tensor in given.items()}
    # Without metadata it may be for Stable Diffusion 2 as well; the active checkpoint decides.
    save_file(renamed, path, metadata)
    return given


def dotted(key: str) -> str:
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


def test_a_batch_makes_those_load_that_do_not(server: Server, window: Callable[..., Tab]) -> None:
    models.lora(server.models, "loading/sound")
    given = {}
    for seed, name in enumerate(("loading/odd", "loading/deeper/odder")):
        path = models.lora(server.models, name, seed=seed)
        given[path.stem] = _of_diffusers(path, {"ss_base_model_version": "sd_v1"})
    tab = window(server.url).ready()
    view = Batch(tab)
    tab.pick("batch_folder", "loading/")
    view.part("loadable").locator("input").check()
    before = server.files()
    assert "2 LoRAs: 2 to convert." in view.run("plan") and server.files() == before
    assert view.run("run") == "Done: 2 written."
    assert {name.removeprefix("loading/"): result for name, result in view.rows().items()} == {
        "odd": "written",
        "deeper/odder": "written",
    }
    view.page.locator("#transfer_lora_batch_table button", has_text="loading/odd").click()
    view.part("details").get_by_text("24 of its 24 modules have the paths of diffusers").wait_for()
    assert view.run("run") == "Done: 2 already done."
    made = {path.stem.partition("_converted_")[0]: load_file(path) for path in server.loras.rglob("*_converted_*")}
    for stem, tensors in given.items():
        assert made[stem].keys() == tensors.keys()
        assert all(torch.equal(made[stem][key].reshape(tensor.shape), tensor) for key, tensor in tensors.items())
