"""Adapters of transformers since Anima written by PEFT with diffusers and by LyCORIS: reused, they do what the tool did.

The oracle is the tool: its merged weights in diffusers' own model, which was loaded from the tiny single file by diffusers' own
conversion. Needs the tools, so it is skipped in the environments of the hosts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lib_transfer
from lib_transfer.architecture import reference
from tests import tiny
from tests.architecture.test_newest_transformers import BUILD, CONVERT, NO_MODULES
from tests.transfer import hosts

diffusers = pytest.importorskip("diffusers", reason="the tools are not in this environment")
peft = pytest.importorskip("peft")
lycoris = pytest.importorskip("lycoris")
single_file = pytest.importorskip("diffusers.loaders.single_file_utils")

CORE, WIDTH = "model.diffusion_model.", 16

# The layers that are trained, by the ends of their names or by a pattern; the class of the pipeline, and those of the modules
# that LyCORIS trains.
TRAINED: dict[str, tuple[list[str] | str, str, list[str]]] = {
    "anima": (
        ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "norm2.linear_1"],
        "",
        ["Attention", "FeedForward"],
    ),
    "z-image": (
        ["to_q", "to_k", "to_v", "to_out.0", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"],
        "ZImagePipeline",
        ["Attention", "ZImageAttention", "FeedForward"],
    ),
    "lumina-2": (
        ["to_q", "to_k", "to_v", "to_out.0", "linear_1", "linear_2", "linear_3", "norm1.linear"],
        "Lumina2Pipeline",
        ["Attention", "LuminaFeedForward"],
    ),
    "flux2-klein-4b": (
        # The output of the single blocks' attention is a layer, and that of the others' a list of layers.
        r".*(to_[qkv]|add_[qkv]_proj|to_add_out|linear_in|linear_out|to_qkv_mlp_proj)|single_transformer_blocks.*attn\.to_out",
        "Flux2KleinPipeline",
        ["Flux2Attention", "Flux2ParallelSelfAttention", "Flux2FeedForward"],
    ),
    "qwen-image": (
        ["to_q", "to_k", "add_v_proj", "to_out.0", "img_mlp.net.2", "txt_mod.1"],
        "QwenImagePipeline",
        ["Attention", "FeedForward"],
    ),
    "wan-1.3b": (["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"], "WanPipeline", ["WanAttention"]),
    "ernie-image": (
        ["to_q", "to_k", "to_v", "to_out.0", "gate_proj", "up_proj", "linear_fc2"],
        "",
        ["ErnieImageFeedForward"],
    ),
    "krea-2": (["to_q", "to_k", "to_gate", "to_out.0", "ff.up", "ff.down"], "Krea2Pipeline", ["Krea2Attention"]),
    "auraflow": (
        ["to_q", "to_k", "to_out.0", "add_q_proj", "linear_1", "out_projection", "norm1.linear"],
        "AuraFlowPipeline",
        ["Attention", "AuraFlowFeedForward"],
    ),
}  # fmt: skip


CONVERTED_BY = {
    **CONVERT,
    "anima": "convert_cosmos_transformer_checkpoint_to_diffusers",
    "z-image": "convert_z_image_transformer_checkpoint_to_diffusers",
}

ALGORITHM = {"z-image": "lokr", "lumina-2": "lokr"}
"""What LyCORIS trains; LoHa where nothing is said."""


def _convert(base: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A single file's transformer under diffusers' names, by diffusers; Qwen-Image has these in single files too."""
    core = {
        key.removeprefix(CORE): w for key, w in tensors.items() if key.startswith(CORE) and "llm_adapter" not in key
    }
    if base == "lumina-2":
        return _lumina(core)
    if base not in CONVERTED_BY:
        return core
    more = {"positional_encoding": torch.zeros(1)} if base == "auraflow" else {}
    converted: dict[str, Tensor] = getattr(single_file, CONVERTED_BY[base])({**core, **more})
    return {key: w for key, w in converted.items() if key not in NO_MODULES}


def _lumina(core: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers cuts the projections at the rows of the full size."""
    fused = {key: core.pop(key) for key in list(core) if ".qkv." in key}
    converted: dict[str, Tensor] = single_file.convert_lumina2_to_diffusers(core)
    for key, weight in fused.items():
        name, part = key.replace("attention.qkv", "attn.to_{}"), weight.shape[0] // 5
        parts = weight.split([3 * part, part, part])
        converted |= {name.format(word): w for word, w in zip("qkv", parts, strict=True)}
    return converted


def _anima(diffusers: Any, sizes: Any) -> Any:
    return diffusers.CosmosTransformer3DModel(
        num_attention_heads=sizes["proj_out.weight"][1] // 16, attention_head_dim=16, extra_pos_embed_type=None,
        adaln_lora_dim=sizes["norm_out.linear_1.weight"][0],
        text_embed_dim=sizes["transformer_blocks.0.attn2.to_k.weight"][1],
    )  # fmt: skip


def _z_image(diffusers: Any, sizes: Any) -> Any:
    width = sizes["all_final_layer.2-1.linear.weight"][1]
    return diffusers.ZImageTransformer2DModel(
        dim=width, n_heads=width // 8, n_kv_heads=width // 8, axes_dims=[2, 2, 4],
        cap_feat_dim=sizes["cap_embedder.1.weight"][1],
    )  # fmt: skip


def _lumina_2(diffusers: Any, sizes: Any) -> Any:
    width = sizes["norm_out.linear_2.weight"][1]
    return diffusers.Lumina2Transformer2DModel(
        hidden_size=width, num_attention_heads=width // 8, num_kv_heads=width // 24, axes_dim_rope=(2, 2, 4),
        cap_feat_dim=sizes["time_caption_embed.caption_embedder.1.weight"][1], multiple_of=8,
    )  # fmt: skip


BUILD_FIRST = {"anima": _anima, "z-image": _z_image, "lumina-2": _lumina_2}


def _model(base: str, tensors: dict[str, Tensor]) -> Any:
    sizes = {
        key.removeprefix("transformer."): shape
        for key, shape in reference(tiny.architecture(base), width=WIDTH, style="diffusers").items()
    }
    model = {**BUILD, **BUILD_FIRST}[base](diffusers, sizes).double()
    strange = model.load_state_dict({key: w.double() for key, w in _convert(base, tensors).items()}, strict=False)
    assert not strange.unexpected_keys
    assert all(key.endswith((*NO_MODULES, "scale_shift_table", "_pad_token")) for key in strange.missing_keys)
    return model


def _randomise(parameters: Any) -> None:
    generator = torch.Generator().manual_seed(11)
    for parameter in parameters:
        parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))


def _by_peft(base: str, model: Any, folder: Path) -> Path:
    """As diffusers' pipelines save it."""
    layers, pipeline, _ = TRAINED[base]
    tuned = peft.get_peft_model(
        model, peft.LoraConfig(r=3, lora_alpha=3, target_modules=layers, init_lora_weights=False)
    )
    _randomise(p for name, p in tuned.named_parameters() if ".lora_" in name)
    state = {
        key.removeprefix("base_model.model."): w.detach().float().contiguous()
        for key, w in peft.get_peft_model_state_dict(tuned).items()
    }
    path = folder / "pytorch_lora_weights.safetensors"
    if pipeline:
        getattr(diffusers, pipeline).save_lora_weights(folder, transformer_lora_layers=state)
    else:  # diffusers has no loader for it yet
        tiny.save(path, {f"transformer.{key}": w for key, w in state.items()})
    tuned.merge_and_unload()
    return path


def _by_lycoris(base: str, model: Any, folder: Path) -> Path:
    """As SimpleTuner does."""
    # The rank as alpha: LyCORIS scales LoHa and LoKr twice when it merges them.
    lycoris.LycorisNetwork.apply_preset({"target_module": TRAINED[base][2]})
    network = lycoris.create_lycoris(model, 1.0, linear_dim=3, linear_alpha=3, algo=ALGORITHM.get(base, "loha"))
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
@pytest.mark.parametrize("base", TRAINED)
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
    assert result.path is not None
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
    assert moved >= (26 * 6 if base in BUILD_FIRST else 20)
