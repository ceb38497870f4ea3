"""Checkpoints as running models, against diffusers' UNet and transformers' text encoders on the same weights."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib_transfer.errors import UnsupportedError
from lib_transfer.evaluation import loading, prompts
from lib_transfer.library.base import Base, open_base
from lib_transfer.models.model import predict
from tests import tiny
from tests.evaluation import nets

WIDTH = 32
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["sd1", "sdxl"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def weights(name: str) -> tiny.Weights:
    return tiny.weights(name, width=WIDTH)


@pytest.fixture(scope="module")
def path(name: str, weights: tiny.Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("models") / f"{name}.safetensors", weights)


def unet(name: str, weights: tiny.Weights) -> nn.Module:
    """Diffusers' own, filled by its own conversion."""
    diffusers = pytest.importorskip("diffusers", reason="the tools are not in this environment")
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    blocks = {"sd1": (32, 64, 128, 128), "sdxl": (32, 64, 128)}[name]
    config: dict[str, Any] = {
        "block_out_channels": blocks,
        "layers_per_block": 2,
        "cross_attention_dim": weights[f"{tiny.UNET}output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "norm_num_groups": 32,
        "sample_size": 8,
        # What diffusers calls the dimension of a head is the number of heads.
        "attention_head_dim": 8 if name == "sd1" else tuple(max(width // 64, 1) for width in blocks),
    }
    if name == "sdxl":
        config |= {
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": weights[f"{tiny.UNET}label_emb.0.0.weight"].shape[1],
        }
    of_unet = {key: w for key, w in weights.items() if key.startswith(tiny.UNET)}
    converted = single_file.convert_ldm_unet_checkpoint(of_unet, config | {"class_embed_type": None})
    model = diffusers.UNet2DConditionModel(**config).eval()
    model.load_state_dict(converted)
    return model


def test_the_unet_says_what_diffusers_says(name: str, weights: tiny.Weights, path: Path) -> None:
    theirs = unet(name, weights)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(2, 4, 8, 8, generator=generator)
    context = torch.randn(2, 7, theirs.config.cross_attention_dim, generator=generator)
    more: dict[str, Any] = {}
    vector = None
    if name == "sdxl":
        pooled = theirs.config.projection_class_embeddings_input_dim - 6 * 8
        text = torch.randn(2, pooled, generator=generator)
        more["added_cond_kwargs"] = {"text_embeds": text, "time_ids": torch.tensor([[64, 48, 0, 8, 32, 16]] * 2)}
        told = loading.sinusoids(torch.tensor([64, 48, 0, 8, 32, 16]), 8).reshape(1, -1).expand(2, -1)
        vector = torch.cat([text, told], dim=1)
    with torch.no_grad(), open_base(path, "") as base:
        family = loading.family_of(base)
        layers = {m.name: loading._layer(base, m, CPU, torch.float32) for m in base.modules}
        network = loading.UNet(loading.Leaves(layers).below("model.diffusion_model"), family.heads).eval()
        ours = network(x, torch.tensor([10, 900]), context, vector)
        expected = theirs(x, torch.tensor([10, 900]), context, **more).sample
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_blocks_go_by_their_names(name: str, path: Path) -> None:
    with open_base(path, "") as base, loading.loaded(base, CPU, 8) as model:
        units = [m.name.removesuffix(".attn1.to_q") for m in base.modules if m.name.endswith("attn1.to_q")]
        assert list(model.blocks) == units
        for unit in units:
            to_q = model.places[f"{unit}.attn1.to_q"].module
            assert any(module is to_q for module in model.blocks[unit].modules())


def hugging_face(weights: tiny.Weights, prefix: str, act: str) -> nn.Module:
    """Transformers' own text encoder."""
    transformers = pytest.importorskip("transformers", reason="the tools are not in this environment")
    leaves = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    found: dict[str, Tensor] = {}
    for key, weight in weights.items():
        if not key.startswith(prefix):
            continue
        rest = key.removeprefix(prefix)
        rest = rest.replace("token_embedding.weight", "embeddings.token_embedding.weight") if rest[0] == "t" else rest
        if rest == "positional_embedding":
            rest = "embeddings.position_embedding.weight"
        elif rest == "text_projection":
            continue
        elif "in_proj_" in rest:
            layer, _, end = rest.removeprefix("transformer.resblocks.").partition(".attn.in_proj_")
            parts = zip("qkv", weight.chunk(3), strict=True)
            found |= {f"encoder.layers.{layer}.self_attn.{part}_proj.{end}": w for part, w in parts}
            continue
        rest = rest.replace("transformer.resblocks", "encoder.layers").replace("attn.out_proj", "self_attn.out_proj")
        rest = rest.replace("self_self_", "self_").replace("ln_final", "final_layer_norm")
        for here, there in leaves.items():
            rest = rest.replace(f".{here}.", f".{there}.")
        found[rest] = weight
    width = found["encoder.layers.0.mlp.fc1.weight"].shape[1]
    table = found["embeddings.token_embedding.weight"]
    config = transformers.CLIPTextConfig(
        vocab_size=table.shape[0],
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=1 + max(int(key.split(".")[2]) for key in found if key.startswith("encoder.layers.")),
        num_attention_heads=max(width // 64, 1),
        hidden_act=act,
        eos_token_id=2,
        max_position_embeddings=77,
    )
    model = transformers.CLIPTextModel(config).eval()
    above = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    model.load_state_dict({above + key: w for key, w in found.items()}, strict=False)
    return model


@pytest.mark.parametrize("more", [0, 1])
def test_text_encoders_say_what_transformers_says(name: str, weights: tiny.Weights, path: Path, more: int) -> None:
    """With ``more`` layers left out than usual, as Clip skip does: the hidden states count from the end."""
    acts = {"sd1": ["quick_gelu"], "sdxl": ["quick_gelu", "gelu"]}[name]
    with torch.no_grad(), open_base(path, "") as base:
        layers = {m.name: loading._layer(base, m, CPU, torch.float32) for m in base.modules}
        for given, act in zip(loading.family_of(base).encoders, acts, strict=True):
            ours = loading._encoder(base, loading.Leaves(layers), given, more)
            vocabulary = ours.token.num_embeddings
            numbers = torch.randint(0, vocabulary - 1, (2, 77), generator=torch.Generator().manual_seed(2))
            numbers[0, 9] = numbers[1, 40] = vocabulary - 1
            model = hugging_face(weights, given.path, act)
            theirs = model(numbers, output_hidden_states=True)
            context, vector = ours(numbers)
            expected = theirs.hidden_states[-1 - given.skip - more]
            if name == "sd1":
                expected = last_norm(model)(expected) if more else theirs.last_hidden_state
            torch.testing.assert_close(context, expected, rtol=1e-3, atol=1e-4)
            if given.pooled:
                last = theirs.last_hidden_state[[0, 1], [9, 40]]
                wanted = last @ weights[f"{given.path}text_projection"]
                torch.testing.assert_close(vector, wanted, rtol=1e-3, atol=1e-4)
            else:
                assert vector is None


def last_norm(model: torch.nn.Module) -> torch.nn.Module:
    """The last normalisation of an encoder of transformers."""
    [norm] = [module for name, module in model.named_modules() if name.endswith("final_layer_norm")]
    return norm


def test_prompts_are_encoded_with_the_clip_skip_that_was_asked_for(path: Path, name: str) -> None:
    inputs, own = nets.inputs(2), loading.OwnModels(CPU)
    usual = {"sd1": 1, "sdxl": 2}[name]
    with open_base(path, "") as base:
        assert [own.clip_skip(base, asked) for asked in (None, 1, 2, 3)] == [usual, usual, 2, 3]
        said = {}
        for skip in (usual, usual + 1):
            with own.opener((64, 64)) as open_model, open_model(base, skip) as model:
                said[skip] = predict(model, inputs)
        with loading.loaded(base, CPU, 8) as model:
            assert torch.equal(predict(model, inputs), said[usual])
    assert not torch.allclose(said[usual], said[usual + 1], atol=1e-4)


def test_a_loaded_model_answers_and_follows_its_prompts(path: Path) -> None:
    inputs = nets.inputs(2)
    with open_base(path, "") as base, loading.loaded(base, CPU, 8) as model:
        assert set(model.places) == {module.name for module in base.modules}
        one = predict(model, inputs)
        again = predict(model, inputs)
        other = predict(model, inputs.with_latents(inputs.clean, inputs.noise).only([1, 0]))
    assert one.shape == (2, 4, 8, 8)
    assert torch.isfinite(one).all()
    assert torch.equal(one, again)
    torch.testing.assert_close(other, one.flip(0), rtol=1e-3, atol=1e-4)


def test_a_model_is_gone_when_the_next_one_comes(path: Path) -> None:
    def built(base: Base) -> weakref.ref[object]:
        with loading.loaded(base, CPU, 8) as model:
            return weakref.ref(next(iter(model.blocks.values())))

    with open_base(path, "") as base:
        left = built(base)
        gc.collect()
        assert left() is None


def test_what_cannot_be_run_is_said(weights: tiny.Weights, name: str, tmp_path: Path) -> None:
    only = {key: w for key, w in weights.items() if key.startswith(tiny.UNET)}
    bare = tiny.save(tmp_path / "bare.safetensors", only)
    with (
        open_base(bare, "") as base,
        pytest.raises(UnsupportedError, match=r"bare\.safetensors has no text encoder at"),
        loading.loaded(base, CPU, 8),
    ):
        pass
    odd = dict(weights) | {"edm_mean": torch.zeros(1), "edm_std": torch.zeros(1)}
    marked = tiny.save(tmp_path / "edm.safetensors", odd)
    with open_base(marked, "") as base, pytest.raises(UnsupportedError, match="predicts EDM"):
        loading.family_of(base)


def test_other_families_are_refused(tmp_path: Path) -> None:
    flux = tiny.save(tmp_path / "flux.safetensors", tiny.weights("flux-dev", width=WIDTH))
    with open_base(flux, "") as base, pytest.raises(UnsupportedError, match="cannot be run without a WebUI"):
        loading.family_of(base)


def test_tokens_begin_and_end_and_are_cut() -> None:
    for prompt in ("", "a red house", "word " * 200):
        numbers = prompts.tokens(prompt, 0)
        assert len(numbers) == 77
        assert numbers[0] == 49406
        assert numbers.count(49407) == 1
        assert max(numbers) == 49407
    assert prompts.tokens("a red house", 0) == prompts.tokens("a red house", 0) != prompts.tokens("a blue house", 0)
