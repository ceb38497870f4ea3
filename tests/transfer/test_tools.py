"""Adapters written by LyCORIS and by PEFT with diffusers: reused on their own base, they do what the tool itself does.

The oracle is the tool: its merged weights and its forward pass, on diffusers and transformers models that were loaded from
the tiny checkpoints by diffusers' own conversion. Needs the tools, so it is skipped in the environments of the hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import tiny
from tests.transfer import hosts

diffusers = pytest.importorskip("diffusers", reason="the tools are not in this environment")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
kohya = pytest.importorskip("lycoris.kohya")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

LIMIT = {torch.float16: 1e-3, torch.float32: 1e-5}
HOSTS = (False, True)


def _config(name: str, weights: tiny.Weights) -> dict[str, Any]:
    blocks = {"sd1": (8, 16, 32, 32), "sdxl": (8, 16, 32)}[name]
    context = weights[f"{tiny.UNET}output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    common = {
        "block_out_channels": blocks,
        "layers_per_block": 2,
        "cross_attention_dim": context,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "sample_size": 8,
    }
    if name == "sd1":
        return common
    return common | {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": weights[f"{tiny.UNET}label_emb.0.0.weight"].shape[1],
    }


def _as_unet(name: str, weights: tiny.Weights) -> dict[str, Tensor]:
    """A checkpoint's UNet under diffusers' names, by diffusers' conversion."""
    of_unet = {key: w for key, w in weights.items() if key.startswith(tiny.UNET)}
    converted: dict[str, Tensor] = single_file.convert_ldm_unet_checkpoint(
        of_unet, _config(name, weights) | {"class_embed_type": None}
    )
    return converted


def _unet(name: str, weights: tiny.Weights) -> nn.Module:
    model = diffusers.UNet2DConditionModel(**_config(name, weights)).double().eval()
    model.load_state_dict(_as_unet(name, {key: w.double() for key, w in weights.items()}))
    return model


def _as_clip(weights: tiny.Weights, prefix: str) -> dict[str, Tensor]:
    """A text encoder's layers under Hugging Face's names; OpenCLIP's fused projections are cut in three."""
    found: dict[str, Tensor] = {}
    leaves = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for key, weight in weights.items():
        if not key.startswith(prefix):
            continue
        layer, _, leaf = key.removeprefix(prefix).partition(".")
        if "in_proj_" in leaf:
            end = leaf.removeprefix("attn.in_proj_")
            parts = zip("qkv", weight.chunk(3), strict=True)
            found |= {f"encoder.layers.{layer}.self_attn.{part}_proj.{end}": w for part, w in parts}
            continue
        stem, _, end = leaf.rpartition(".")
        stem = leaves.get(stem, stem.replace("attn.out_proj", "self_attn.out_proj").replace("self_self", "self"))
        found[f"encoder.layers.{layer}.{stem}.{end}"] = weight
    return found


def _clip(weights: tiny.Weights, prefix: str) -> nn.Module:
    layers = _as_clip(weights, prefix)
    width = layers["encoder.layers.0.mlp.fc1.weight"].shape[1]
    count = 1 + max(int(key.split(".")[2]) for key in layers)
    config = transformers.CLIPTextConfig(
        vocab_size=64,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=count,
        num_attention_heads=4,
        projection_dim=width,
    )
    model = transformers.CLIPTextModel(config).double().eval()
    above = "text_model." if any(key.startswith("text_model.") for key in model.state_dict()) else ""
    strange = model.load_state_dict({above + key: w.double() for key, w in layers.items()}, strict=False)
    assert not strange.unexpected_keys
    return model


PREFIXES = {
    "sd1": (tiny.TEXT,),
    "sdxl": ("conditioner.embedders.0.transformer.text_model.encoder.layers.", tiny.OPENCLIP),
}


class Models:
    """The models of a checkpoint, and what each of their weights is in terms of the checkpoint."""

    def __init__(self, name: str, weights: tiny.Weights) -> None:
        self.name, self.weights = name, weights
        self.unet = _unet(name, weights)
        self.encoders = [_clip(weights, prefix) for prefix in PREFIXES[name]]

    def state(self) -> dict[str, Tensor]:
        """Every weight of the models now, by part and name."""
        found = {f"unet.{key}": w.detach().clone() for key, w in self.unet.state_dict().items()}
        for number, encoder in enumerate(self.encoders, 1):
            plain = {key.removeprefix("text_model."): w.detach().clone() for key, w in encoder.state_dict().items()}
            found |= {f"te{number}.{key}": w for key, w in plain.items() if key.startswith("encoder.layers.")}
        return found

    @torch.no_grad()
    def picture(self) -> Tensor:
        """What the UNet says to a fixed input."""
        generator = torch.Generator().manual_seed(5)
        context = torch.randn(1, 7, self.unet.config.cross_attention_dim, generator=generator).double()
        noise = torch.randn(1, 4, 8, 8, generator=generator).double()
        more: dict[str, Any] = {}
        if self.name == "sdxl":
            pooled = self.unet.config.projection_class_embeddings_input_dim - 6 * 8
            text = torch.randn(1, pooled, generator=generator).double()
            more["added_cond_kwargs"] = {"text_embeds": text, "time_ids": torch.ones(1, 6).double()}
        said: Tensor = self.unet(noise, 500, context, **more).sample
        return said

    def load(self, changed: dict[str, Tensor]) -> None:
        """Put the checkpoint with some weights changed into the UNet."""
        whole = {key: w.double() for key, w in {**self.weights, **changed}.items()}
        self.unet.load_state_dict(_as_unet(self.name, whole))

    def converted(self, checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same for a checkpoint."""
        found = {f"unet.{key}": w for key, w in _as_unet(self.name, checkpoint).items()}
        for number, prefix in enumerate(PREFIXES[self.name], 1):
            found |= {f"te{number}.{key}": w for key, w in _as_clip(checkpoint, prefix).items()}
        return found


def _randomise(modules: Iterable[nn.Module], size: float = 0.05) -> None:
    """Numbers as after a training, in float64, so that the tool's own rounding plays no part."""
    generator = torch.Generator().manual_seed(11)
    for module in modules:
        module.double()
        for parameter in module.parameters():
            parameter.data.copy_(size * torch.randn(parameter.shape, generator=generator))


# What kohya's trainer would train; LyCORIS' own default names two layers twice on this version of diffusers.
PRESET = {
    "enable_conv": True,
    "unet_target_module": ["Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D", "TimestepEmbedding"],
    "unet_target_name": ["conv_in", "conv_out"],
    "text_encoder_target_module": ["CLIPEncoderLayer"],
    "text_encoder_target_name": [],
}


def _assert_same_change(
    models: Models,
    before: dict[str, Tensor],
    after: dict[str, Tensor],
    out: hosts.LoraFile,
    limit: float,
    *,
    but: Callable[[str], bool] = lambda key: False,
) -> None:
    """Every weight changes in both hosts as it did in the tool; those in ``but`` do not change at all."""
    plain = {key: w.double() for key, w in models.weights.items()}
    moved = 0
    for forge_host in HOSTS:
        host = hosts.Host(models.weights, forge_host=forge_host)
        assert not host.unknown(out)
        assert not host.refuses(out)
        converted = models.converted(plain | host.load(out))
        for key, start in before.items():
            expected = after[key] - start
            got = converted[key] - start
            if but(key):
                assert got.norm() == 0, key
                continue
            assert (got - expected).norm() <= limit * expected.norm() + 1e-12, (key, float(expected.norm()))
            moved += bool(expected.norm() > 0)
    assert moved > 100


@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        ("sd1", {"algo": "locon"}, torch.float16),
        ("sd1", {"algo": "locon"}, torch.float32),
        ("sd1", {"algo": "locon", "use_tucker": "True"}, torch.float32),
        ("sd1", {"algo": "full", "train_norm": "True"}, torch.float16),
        ("sd1", {"algo": "full", "train_norm": "True"}, torch.float32),
        ("sdxl", {"algo": "locon"}, torch.float16),
    ],
    ids=["locon-fp16", "locon-fp32", "tucker-fp32", "full-and-norm-fp16", "full-and-norm-fp32", "sdxl-locon-fp16"],
)
def test_lycoris(
    name: str,
    options: dict[str, str],
    dtype: torch.dtype,
    files: tiny.Files,
    transfer: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(kohya.PRESET, "tests", PRESET)
    models = Models(name, files.tensors[f"{name}-source"])
    before = models.state()
    encoders: Any = models.encoders if len(models.encoders) > 1 else models.encoders[0]
    network = kohya.create_network(
        1.0, 3, 1.5, None, encoders, models.unet, conv_dim=2, conv_alpha=1, preset="tests", **options
    )
    _randomise(network.loras)
    network.apply_to(encoders, models.unet, True, True)
    path = tmp_path / "lyco.safetensors"
    network.save_weights(str(path), dtype, {"ss_network_module": "lycoris.kohya"})
    picture = models.picture()
    network.restore()
    for lora in network.loras:
        lora.merge_to(1.0)
    after = models.state()

    result = transfer(path, f"{name}-source", f"{name}-source", method="reuse")
    out = hosts.read(result.path)
    assert {t.dtype for key, t in out.tensors.items() if not key.endswith("alpha")} == {dtype}
    _assert_same_change(
        models, before, after, out, LIMIT[dtype], but=lambda key: key.startswith("te") and "norm" in key
    )
    models.load(files.tensors[f"{name}-source"])
    plain = models.picture()
    models.load(hosts.Host(models.weights, forge_host=False).load(out))
    assert (models.picture() - picture).norm() <= LIMIT[dtype] * (picture - plain).norm()
    reported = [m for m in result.report.modules if m.decision == "unsupported"]
    assert len(reported) == (24 if "train_norm" in options else 0)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("sd1", torch.float32), ("sdxl", torch.float16)],
    ids=["sd1-fp32", "sdxl-fp16"],
)
def test_peft(name: str, dtype: torch.dtype, files: tiny.Files, transfer: Any, tmp_path: Path) -> None:
    """As diffusers' training scripts write a file for WebUIs; on SD1 the text encoder is then called ``lora_te1``."""
    models = Models(name, files.tensors[f"{name}-source"])
    before = models.state()
    unet_layers = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "ff.net.2", "conv1", "conv_shortcut"]
    text_layers = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
    trained = {"unet": (models.unet, unet_layers)}
    trained |= {
        f"text_encoder{'' if i == 0 else f'_{i + 1}'}": (encoder, text_layers)
        for i, encoder in enumerate(models.encoders)
    }
    written: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}
    for part, (model, layers) in trained.items():
        # The rank as alpha: the conversion to kohya's form writes that, whatever PEFT was told.
        config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=layers, init_lora_weights=False)
        tuned = peft.get_peft_model(model, config)
        _randomise([m for m_name, m in tuned.named_modules() if m_name.endswith((".lora_A", ".lora_B"))])
        state = peft.get_peft_model_state_dict(tuned)
        written |= {key.replace("base_model.model", part, 1): w.to(dtype) for key, w in state.items()}
        merged = tuned.merge_and_unload()
        assert merged is model
    converted = diffusers.utils.convert_state_dict_to_kohya(written)
    assert all(converted[key].dtype == torch.int64 for key in converted if key.endswith(".alpha"))
    assert any(key.startswith("lora_te1_") for key in converted)
    path = tiny.save(tmp_path / "peft.safetensors", converted)
    after = models.state()

    result = transfer(path, f"{name}-source", f"{name}-source", method="reuse")
    assert result.report.totals.written == result.report.totals.modules == len(converted) // 3
    _assert_same_change(models, before, after, hosts.read(result.path), LIMIT[dtype])
