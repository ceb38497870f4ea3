"""Files of the transformers since Anima in other forms: quantised, and as folders of diffusers'."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lib_transfer
from lib_transfer.architecture import modules, reference
from lib_transfer.conversion.weights import read_weight
from lib_transfer.library.base import open_base
from tests import tiny
from tests.transfer import hosts
from tests.transfer.families import named
from tests.transfer.transformers import CORE, WIDTH, adapter_of, bare, in_gguf, key_of, mixed, reused, written_as


@pytest.mark.parametrize("form", [bare, mixed, in_gguf])
@pytest.mark.parametrize("base", ["anima", "z-image", "lumina-2", "flux2-klein-4b", "qwen-image", "wan-1.3b", "krea-2"])
def test_quantised_checkpoints_are_the_same_modules(
    base: str, form: Callable[[Path, tiny.Weights], tiny.Weights], tmp_path: Path
) -> None:
    tensors = {key: w for key, w in tiny.weights(base, width=WIDTH).items() if not key.endswith(".bias")}
    path = tmp_path / f"base.{'gguf' if form is in_gguf else 'safetensors'}"
    meant = form(path, tensors)
    expected = {m.name: m for m in modules(tiny.architecture(base), {k: tuple(w.shape) for k, w in tensors.items()})}
    with open_base(path, "0") as opened:
        assert opened.architecture.id == base
        read = {module.name: read_weight(opened.checkpoint, module) for module in opened.modules}
        keys = {module.name: module.weight for module in opened.modules}
    assert {name for name in expected if name.startswith(CORE)} == {name for name in read if name.startswith(CORE)}
    for name, weight in read.items():
        [(first, last)] = expected[name].rows or ((0, weight.shape[0]),)
        # What stands before all names of a file is left out where it is known to be no part of them.
        stored = meant.get(keys[name], meant.get(f"net.{keys[name]}"))
        assert stored is not None, keys[name]
        torch.testing.assert_close(weight, stored[first:last].float(), rtol=1e-6, atol=1e-7)


def test_anima_in_folders_of_diffusers(tmp_path: Path, runtime: lib_transfer.Runtime) -> None:
    """Transformer, adapter and text encoder of Anima in folders of their own."""
    shapes = reference(tiny.architecture("anima"), width=WIDTH, style="diffusers")
    generator = torch.Generator().manual_seed(1)
    folder = tmp_path / "anima"
    for part, stem in (("transformer", "diffusion_pytorch_model"), ("text_conditioner", "diffusion_pytorch_model"),
                       ("text_encoder", "model")):  # fmt: skip
        (folder / part).mkdir(parents=True)
        tensors = {
            key.removeprefix(f"{part}."): torch.randn(shape, generator=generator)
            for key, shape in shapes.items()
            if key.startswith(f"{part}.")
        }
        assert len(tensors) == {"transformer": 567, "text_conditioner": 118, "text_encoder": 310}[part]
        tiny.save(folder / part / f"{stem}.safetensors", tensors)
    assert lib_transfer.inspect(folder)["architecture"] == "Anima"
    names = {
        "transformer.transformer_blocks.3.attn1.to_q": (16, 16),
        "text_conditioner.blocks.2.cross_attn.k_proj": (8, 8),
        "text_encoder.layers.3.mlp.up_proj": (24, 8),
    }
    made: tiny.Weights = {}
    for name, shape in names.items():
        made |= tiny.factors(name, shape)
    file = tiny.save(tmp_path / "style.safetensors", made)
    request = lib_transfer.request(file, source=folder, target=folder, runtime=runtime, rank="full", threshold=0.0)
    result = lib_transfer.transfer(request, runtime=runtime)
    assert hosts.read(result.path).deltas().keys() == {
        "lora_unet_blocks_3_self_attn_q_proj", "lora_unet_llm_adapter_blocks_2_cross_attn_k_proj",
        "lora_te_layers_3_mlp_up_proj",
    }  # fmt: skip


@pytest.mark.parametrize("base", ["flux2-klein-4b", "qwen-image", "wan-14b"])
def test_a_transformer_in_a_folder_of_diffusers(base: str, tmp_path: Path, runtime: lib_transfer.Runtime) -> None:
    """The transformer beside a language model that no LoRA is for; and the second transformer of Wan 2.2 by itself."""
    shapes = reference(tiny.architecture(base), width=WIDTH, style="diffusers")
    generator = torch.Generator().manual_seed(1)
    tensors = {
        key.removeprefix("transformer."): torch.randn(shape, generator=generator) for key, shape in shapes.items()
    }
    folder = tmp_path / "model"
    for part in ("transformer", "transformer_2", "text_encoder"):
        (folder / part).mkdir(parents=True)
    classes = {"flux2-klein-4b": "Flux2Transformer2DModel", "qwen-image": "QwenImageTransformer2DModel"}
    for part in ("transformer", "transformer_2"):
        tiny.save(folder / part / "diffusion_pytorch_model.safetensors", tensors)
        (folder / part / "config.json").write_text(
            json.dumps({"_class_name": classes.get(base, "WanTransformer3DModel")})
        )
    language = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 4)}
    tiny.save(folder / "text_encoder" / "model.safetensors", language)
    title = tiny.architecture(base).title
    assert lib_transfer.inspect(folder)["architecture"] == title
    assert lib_transfer.inspect(folder / "transformer_2")["architecture"] == title
    changes = dict(named(base, "diffusers", 2))
    single = {key_of(path): torch.zeros(shape) for path, shape in _whole(base).items()}
    made, meant = adapter_of(changes, single)
    written = reused(tiny.save(tmp_path / "style.safetensors", made), folder, runtime)
    for path, delta in meant.items():
        assert (written.deltas()[written_as(path)] - delta).norm() <= 1e-5 * delta.norm(), path


def _whole(base: str) -> dict[str, tuple[int, ...]]:
    """Path and shape of every weight of a single file."""
    shapes = reference(tiny.architecture(base), width=WIDTH)
    return {key.removeprefix(CORE).removesuffix(".weight"): s for key, s in shapes.items() if key.endswith(".weight")}
