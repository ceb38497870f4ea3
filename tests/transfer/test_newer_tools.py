"""Adapters of the newer transformers written by PEFT with diffusers and by LyCORIS: reused, they do what the tool did.

The oracle is the tool: its merged weights in diffusers' own model, which was loaded from the tiny single file by diffusers' own
conversion. Needs the tools, so it is skipped in the environments of the hosts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lib_transfer
from tests import tiny
from tests.transfer import hosts

diffusers = pytest.importorskip("diffusers", reason="the tools are not in this environment")
peft = pytest.importorskip("peft")
lycoris = pytest.importorskip("lycoris")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

CORE, WIDTH = "model.diffusion_model.", 16


def _convert(base: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A single file's transformer under diffusers' names, by diffusers."""
    core = {
        key.removeprefix(CORE): w for key, w in tensors.items() if key.startswith(CORE) and "llm_adapter" not in key
    }
    if base == "anima":
        converted: dict[str, Tensor] = single_file.convert_cosmos_transformer_checkpoint_to_diffusers(core)
    elif base == "z-image":
        converted = single_file.convert_z_image_transformer_checkpoint_to_diffusers(core)
    else:
        # It cuts the projections at the rows of the full size.
        fused = {key: core.pop(key) for key in list(core) if ".qkv." in key}
        converted = single_file.convert_lumina2_to_diffusers(core)
        for key, weight in fused.items():
            name, part = key.replace("attention.qkv", "attn.to_{}"), weight.shape[0] // 5
            parts = weight.split([3 * part, part, part])
            converted |= {name.format(word): w for word, w in zip("qkv", parts, strict=True)}
    return converted


def _model(base: str, tensors: dict[str, Tensor]) -> nn.Module:
    sizes = _convert(base, tensors)
    width = sizes[
        {"anima": "proj_out", "z-image": "all_final_layer.2-1.linear", "lumina-2": "norm_out.linear_2"}[base]
        + ".weight"
    ].shape[1]
    if base == "anima":
        model = diffusers.CosmosTransformer3DModel(
            num_attention_heads=width // 16, attention_head_dim=16, extra_pos_embed_type=None,
            adaln_lora_dim=sizes["norm_out.linear_1.weight"].shape[0],
            text_embed_dim=sizes["transformer_blocks.0.attn2.to_k.weight"].shape[1],
        )  # fmt: skip
    elif base == "z-image":
        model = diffusers.ZImageTransformer2DModel(
            dim=width, n_heads=width // 8, n_kv_heads=width // 8, axes_dims=[2, 2, 4],
            cap_feat_dim=sizes["cap_embedder.1.weight"].shape[1],
        )  # fmt: skip
    else:
        model = diffusers.Lumina2Transformer2DModel(
            hidden_size=width, num_attention_heads=width // 8, num_kv_heads=width // 24, axes_dim_rope=(2, 2, 4),
            cap_feat_dim=sizes["time_caption_embed.caption_embedder.1.weight"].shape[1], multiple_of=8,
        )  # fmt: skip
    strange = model.double().load_state_dict({key: w.double() for key, w in sizes.items()}, strict=False)
    assert not strange.unexpected_keys and set(strange.missing_keys) <= {"x_pad_token", "cap_pad_token"}
    return model


def _randomise(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(11)
    for parameter in parameters:
        parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


LAYERS = {
    "anima": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm2.linear_1"],
    "z-image": ["to_q", "to_k", "to_v", "to_out.0", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"],
    "lumina-2": ["to_q", "to_k", "to_v", "to_out.0", "linear_1", "linear_2", "linear_3", "norm1.linear"],
}


def _by_peft(base: str, model: Any, folder: Path) -> Path:
    """As diffusers' pipelines save it; those of Anima save nothing yet, but read the same names."""
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=LAYERS[base], init_lora_weights=False)
    tuned = peft.get_peft_model(model, config)
    _randomise(p for name, p in tuned.named_parameters() if ".lora_" in name)
    state = {
        key.removeprefix("base_model.model."): w.detach().float().contiguous()
        for key, w in peft.get_peft_model_state_dict(tuned).items()
    }
    if base == "anima":
        tiny.save(folder / "pytorch_lora_weights.safetensors", {f"transformer.{key}": w for key, w in state.items()})
    else:
        pipeline = {"z-image": diffusers.ZImagePipeline, "lumina-2": diffusers.Lumina2Pipeline}[base]
        pipeline.save_lora_weights(folder, transformer_lora_layers=state)
    tuned.merge_and_unload()
    return folder / "pytorch_lora_weights.safetensors"


def _by_lycoris(base: str, model: Any, folder: Path) -> Path:
    """As SimpleTuner does."""
    # The rank as alpha: LyCORIS scales LoHa and LoKr twice when it merges them.
    names = ["Attention", "ZImageAttention", "FeedForward", "LuminaFeedForward"]
    lycoris.LycorisNetwork.apply_preset({"target_module": names})
    network = lycoris.create_lycoris(
        model, 1.0, linear_dim=3, linear_alpha=3, algo="loha" if base == "anima" else "lokr"
    )
    network.apply_to()
    network.double()
    _randomise(network.parameters())
    path = folder / "lycoris.safetensors"
    network.save_weights(str(path), torch.float32, {})
    network.restore()
    for lora in network.loras:
        lora.merge_to(1.0)
    return path


@pytest.mark.parametrize("tool", [_by_peft, _by_lycoris])
@pytest.mark.parametrize("base", LAYERS)
def test_what_a_tool_trained_is_written_in_names_that_load(
    base: str, tool: Any, runtime: lib_transfer.Runtime, tmp_path: Path
) -> None:
    tensors = tiny.weights(base, width=WIDTH)
    checkpoint = tiny.save(tmp_path / "base.safetensors", tensors)
    model = _model(base, tensors)
    before = {key: w.detach().clone() for key, w in model.state_dict().items()}
    adapter = tool(base, model, tmp_path)
    after = model.state_dict()
    request = lib_transfer.request(
        adapter, target=checkpoint, runtime=runtime, method="reuse", rank="full", dtype="fp32"
    )
    result = lib_transfer.transfer(request, runtime=runtime)
    assert result.report is not None and not result.report.unread and not result.report.accounts.losses
    changed = {key: w.double() for key, w in tensors.items()}
    keys = {f"lora_unet_{key.removeprefix(CORE).removesuffix('.weight').replace('.', '_')}": key for key in changed}
    for name, group in hosts.read(result.path).names.items():
        # What does not compress stays a difference.
        changed[keys[name]] += group["diff"].double() if "diff" in group else hosts.delta(group)
    moved = 0
    for key, weight in _convert(base, changed).items():
        expected, got = after[key] - before[key], weight - before[key]
        assert (got - expected).norm() <= 1e-5 * expected.norm() + 1e-12, key
        moved += bool(expected.norm() > 0)
    assert moved >= 26 * 6
