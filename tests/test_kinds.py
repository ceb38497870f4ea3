"""What files that nobody can transfer are called: a table by hand, of names and shapes as in the wild."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lib_transfer
from lib_transfer.architecture import recognise
from lib_transfer.architecture.unsupported_checkpoints import UNSUPPORTED
from lib_transfer.errors import TransferError, UnsupportedError
from lib_transfer.formats.adapter_file import outline_adapter
from lib_transfer.formats.checkpoint import open_checkpoint
from lib_transfer.kinds import KINDS
from tests import tiny

NEITHER = "neither a LoRA nor a checkpoint of an image model"
ONLY_THESE = "Only LoRAs and checkpoints of image models can be used here."
Keys = dict[str, tuple[int, ...]]


def sparse(path: Path, keys: Keys) -> Path:
    """A safetensors file of zeros that takes no room on the disk, whatever the shapes."""
    header, place = {}, 0
    for key, shape in keys.items():
        size = 2 * torch.Size(shape).numel()
        header[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + place)
    return path


def square(*keys: str) -> Keys:
    return dict.fromkeys(keys, (4, 4))


# What is neither a LoRA nor a checkpoint: its title, and files of it.
OTHER: dict[str, tuple[str, Keys]] = {
    "layerdiffuse, attention": (
        "a LayerDiffuse model (transparency)",
        square(
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight::lora::0",
            "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight::lora::1",
        ),
    ),
    "layerdiffuse, convolutions": (
        "a LayerDiffuse model (transparency)",
        {"diffusion_model.input_blocks.0.0.weight::diff::0": (4, 4, 3, 3)},
    ),
    "layerdiffuse, decoder": (
        "a LayerDiffuse model (transparency)",
        {"latent_conv_in.weight": (4, 4, 1, 1), "down_blocks.0.resnets.0.conv1.weight": (4, 4, 3, 3)},
    ),
    "lllite": (
        "a ControlNet-LLLite",
        square("lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight"),
    ),
    "control-lora": (
        "a Control-LoRA (a ControlNet)",
        {"lora_controlnet": (), **square("input_blocks.1.0.in_layers.2.up", "zero_convs.0.0.weight")},
    ),
    "controlnet": (
        "a ControlNet",
        square("control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"),
    ),
    "controlnet, bare": ("a ControlNet", square("input_hint_block.0.weight", "input_blocks.0.0.weight")),
    "controlnet, diffusers": (
        "a ControlNet",
        square("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
    ),
    "controlnet, flux": ("a ControlNet", square("controlnet_blocks.0.weight", "double_blocks.0.img_attn.qkv.weight")),
    "controlnet, z-image": (
        "a ControlNet",
        square("control_layers.0.attention.qkv.weight", "control_all_x_embedder.2-1.weight"),
    ),
    "photomaker": ("a PhotoMaker model", square("id_encoder.vision_model.encoder.layers.0.mlp.fc1.weight")),
    "pulid": ("a PuLID model", square("pulid_ca.0.to_q.weight")),
    "ip-adapter": ("an IP-Adapter", square("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight")),
    "face-id": ("an IP-Adapter", square("ip_adapter.0.to_q_lora.down.weight", "image_proj.norm.weight")),
    "ip-adapter, flux": (
        "an IP-Adapter",
        square("double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", "ip_adapter_proj_model.proj.weight"),
    ),
    "t2i-adapter": ("a T2I-Adapter", square("body.0.block1.weight", "conv_in.weight")),
    "t2i-adapter, diffusers": (
        "a T2I-Adapter",
        square("adapter.body.0.resnets.0.block1.weight", "adapter.conv_in.weight"),
    ),
    "redux": ("a Flux Redux model", square("redux_up.weight", "redux_down.weight")),
    "llama lora": (
        "an adapter of a language model",
        square("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"),
    ),
    "gpt-2 lora": (
        "an adapter of a language model",
        square("base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"),
    ),
    "bert lora": (
        "an adapter of a language model",
        square("base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"),
    ),
    "motion lora": (
        "a motion LoRA of AnimateDiff",
        square(
            "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor"
            ".to_q_lora.down.weight"
        ),
    ),
    "motion module": (
        "a motion module of AnimateDiff",
        square("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"),
    ),
    "embedding": ("a textual-inversion embedding", {"emb_params": (4, 768)}),
    "embedding, sdxl": ("a textual-inversion embedding", {"clip_l": (4, 768), "clip_g": (4, 1280)}),
    "embedding, diffusers": ("a textual-inversion embedding", {"<cat-toy>": (768,)}),
    "hypernetwork": ("a hypernetwork", square("768.0.linear.0.weight", "768.1.linear.0.weight")),
    "dino": ("a vision model", {"cls_token": (1, 1, 4), "blocks.0.attn.qkv.weight": (12, 4)}),
    "vae": (
        "a VAE",
        {"first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3), "first_stage_model.quant_conv.weight": (8, 8, 1, 1)},
    ),
    "vae, bare": ("a VAE", square("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight")),
    "vae, diffusers": ("a VAE", square("encoder.down_blocks.0.resnets.0.conv1.weight", "quant_conv.weight")),
    "vae, wan": ("a VAE", square("encoder.downsamples.0.residual.0.gamma", "decoder.middle.0.residual.2.weight")),
    "taesd": (
        "a small VAE (TAESD)",
        {"1.weight": (4, 4, 3, 3), "3.conv.0.weight": (4, 4, 3, 3), "3.conv.0.bias": (4,)},
    ),
    "clip vision": ("a CLIP vision model", square("vision_model.encoder.layers.0.mlp.fc1.weight")),
    "clip-l": ("a text encoder", square("text_model.encoder.layers.0.self_attn.q_proj.weight")),
    "clip-l, new": ("a text encoder", square("encoder.layers.0.self_attn.q_proj.weight")),
    "open_clip": ("a text encoder", square("transformer.resblocks.0.attn.in_proj_weight")),
    "t5": ("a text encoder", square("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight")),
    "t5 of llama.cpp": ("a text encoder", square("enc.blk.0.attn_q.weight", "token_embd.weight")),
    "encoder of a checkpoint": (
        "a text encoder",
        {"conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": (4,)},
    ),
    "qwen": ("a language model", square("model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight")),
    "llama.cpp": ("a language model", square("blk.0.attn_q.weight", "token_embd.weight", "output_norm.weight")),
    "gpt-2": ("a language model", square("h.0.attn.c_attn.weight", "wte.weight")),
    "esrgan": ("an upscaler", square("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight")),
    "realesrgan": ("an upscaler", square("conv_first.weight", "body.0.rdb1.conv1.weight")),
}
# What the hint says where it is more than that only LoRAs and checkpoints can be transferred.
HINTS = dict.fromkeys(("a text encoder", "a language model"), "name the checkpoint first")

# Checkpoints that are recognised and not supported, by the names of the model's repository and by those of diffusers.
ADALN = "adaln_single.emb.timestep_embedder.linear_1.weight"
FAMILIES: dict[str, tuple[str, Keys]] = {
    "radiance": (
        "a Chroma Radiance checkpoint",
        square("double_blocks.0.img_attn.qkv.weight", "nerf_blocks.0.norm.scale"),
    ),
    "hunyuan": (
        "a HunyuanVideo or HunyuanImage checkpoint",
        square("double_blocks.0.img_attn.qkv.weight", "txt_in.individual_token_refiner.blocks.0.norm1.weight"),
    ),
    "hunyuan, diffusers": (
        "a HunyuanVideo checkpoint",
        square("transformer_blocks.0.attn.to_q.weight", "context_embedder.token_refiner.refiner_blocks.0.norm1.weight"),
    ),
    "ovis": (
        "an Ovis-Image checkpoint",
        {**square("double_blocks.0.img_mlp.gate_proj.weight"), "txt_norm.weight": (2048,)},
    ),
    "longcat": (
        "a LongCat-Image checkpoint",
        {"double_blocks.0.img_attn.qkv.weight": (4, 4), "txt_in.weight": (4, 3584)},
    ),
    "hidream": (
        "a HiDream checkpoint",
        square("caption_projection.0.linear.weight"),
    ),
    "kandinsky 5": ("a Kandinsky 5 checkpoint", square("visual_transformer_blocks.0.cross_attention.to_key.weight")),
    "kandinsky": (
        "a Kandinsky checkpoint",
        square("down_blocks.0.resnets.0.conv1.weight", "encoder_hid_proj.image_embeds.weight"),
    ),
    "deepfloyd": (
        "a DeepFloyd IF checkpoint",
        square("down_blocks.0.resnets.0.conv1.weight", "encoder_hid_proj.weight", "add_embedding.pool.k_proj.weight"),
    ),
    "kolors": (
        "a Kolors checkpoint",
        square("down_blocks.0.resnets.0.conv1.weight", "encoder_hid_proj.weight", "add_embedding.linear_1.weight"),
    ),
    "hunyuan-dit": ("a Hunyuan-DiT checkpoint", square("blocks.0.attn1.Wqkv.weight", "mlp_t5.0.weight")),
    "pixart": ("a PixArt checkpoint", square("t_block.1.weight", "y_embedder.y_proj.fc1.weight")),
    "pixart, diffusers": (
        "a PixArt checkpoint",
        square(
            ADALN,
            "pos_embed.proj.weight",
            "caption_projection.linear_1.weight",
        ),
    ),
    "sana": (
        "a Sana checkpoint",
        {
            "caption_norm.weight": (4,),
            **square("transformer_blocks.0.ff.conv_inverted.weight", "patch_embed.proj.weight"),
        },
    ),
    "omnigen 2": ("an OmniGen2 checkpoint", square("layers.0.attn.to_q.weight", "ref_image_patch_embedder.weight")),
    "newbie": (
        "a NewBie checkpoint",
        {
            "cap_embedder.1.weight": (2304, 2304),
            **square("clip_text_pooled_proj.0.weight", "layers.0.attention.qkv.weight"),
        },
    ),
    "z-image omni": (
        "a Z-Image Omni checkpoint",
        square("siglip_embedder.0.weight", "noise_refiner.0.attention.qkv.weight"),
    ),
    "zeta-chroma": (
        "a Zeta-Chroma checkpoint",
        square("dec_net.cond_embed.weight", "noise_refiner.0.attention.qkv.weight"),
    ),
    "ming": ("a Ming-Image checkpoint", square("__ming_image__", "noise_refiner.0.attention.qkv.weight")),
    "qwen-image 2.1": (
        "a Qwen-Image 2.1 checkpoint",
        {"txt_in.text_norm.weight": (4,), **square("transformer_blocks.0.img_mlp.proj.weight")},
    ),
    "lens": ("a Lens checkpoint", square("transformer_blocks.0.img_mlp.w1.weight")),
    "mage-flow": (
        "a Mage-Flow checkpoint",
        {"txt_norm.weight": (2560,), "proj_out.weight": (128, 4), "transformer_blocks.0.attn.to_q.weight": (4, 4)},
    ),
    "cosmos-predict2 14b": (
        "a Cosmos-Predict2 14B checkpoint",
        {"x_embedder.proj.1.weight": (5120, 68), **square("blocks.0.self_attn.q_proj.weight")},
    ),
    "cosmos-predict2 14b, diffusers": (
        "a Cosmos-Predict2 14B checkpoint",
        {"patch_embed.proj.weight": (5120, 68), **square("transformer_blocks.0.norm1.linear_1.weight")},
    ),
    "cosmos": (
        "a Cosmos checkpoint",
        square("blocks.block0.blocks.0.block.attn.to_q.0.weight", "t_embedder.1.linear_1.weight"),
    ),
    "wan vace": ("a Wan VACE checkpoint", square("vace_blocks.0.before_proj.weight", "blocks.0.self_attn.q.weight")),
    "wan animate": (
        "a Wan Animate checkpoint",
        square("face_adapter.fuser_blocks.0.k_norm.weight", "blocks.0.self_attn.q.weight"),
    ),
    "wan s2v": (
        "a Wan S2V checkpoint",
        square("casual_audio_encoder.encoder.final_linear.weight", "blocks.0.self_attn.q.weight"),
    ),
    "wan humo": (
        "a Wan HuMo checkpoint",
        square("audio_proj.audio_proj_glob_1.layer.weight", "blocks.0.self_attn.q.weight"),
    ),
    "wan camera": ("a Wan Camera checkpoint", square("control_adapter.conv.weight", "blocks.0.self_attn.q.weight")),
    "wan scail": ("a Wan SCAIL checkpoint", square("patch_embedding_pose.weight", "blocks.0.self_attn.q.weight")),
    "mochi": ("a Mochi checkpoint", square("blocks.0.attn.qkv_x.weight", "t5_yproj.weight")),
    "mochi, diffusers": (
        "a Mochi checkpoint",
        square("transformer_blocks.0.norm1_context.linear_1.weight", "time_embed.pooler.to_q.weight"),
    ),
    "cogvideox": (
        "a CogVideoX or CogView checkpoint",
        square("model.diffusion_model.transformer.layers.0.attention.query_key_value.weight"),
    ),
    "cogvideox, diffusers": (
        "a CogVideoX or CogView checkpoint",
        square("transformer_blocks.0.attn1.to_q.weight", "patch_embed.text_proj.weight"),
    ),
    "ltx 2": (
        "an LTX-2 checkpoint",
        square(
            "transformer_blocks.0.attn1.to_q.weight",
            "audio_patchify_proj.weight",
            ADALN,
        ),
    ),
    "ltx": (
        "an LTX-Video checkpoint",
        square("transformer_blocks.0.attn1.to_q.weight", ADALN),
    ),
    "ideogram": (
        "an Ideogram checkpoint",
        square("transformer_blocks.0.attn.to_q.weight", "embed_image_indicator.weight"),
    ),
    "cascade": ("a Stable Cascade checkpoint", square("down_blocks.0.0.depthwise.weight", "clip_txt_mapper.weight")),
    "svd": (
        "a Stable Video Diffusion checkpoint",
        square("model.diffusion_model.input_blocks.1.1.time_stack.0.norm1.weight"),
    ),
    "svd, diffusers": (
        "a Stable Video Diffusion checkpoint",
        square("down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q.weight"),
    ),
    "unclip": (
        "a Stable Diffusion 2.x unCLIP checkpoint",
        square("model.diffusion_model.label_emb.0.0.weight", "model.diffusion_model.input_blocks.1.1.proj_in.weight"),
    ),
}


def test_every_row_of_the_code_has_one_here() -> None:
    assert {title for title, _ in OTHER.values()} == {kind.title for kind in KINDS if kind.role == "other"}
    assert {what for what, _ in FAMILIES.values()} == {family.what for family in UNSUPPORTED}


@pytest.mark.parametrize("name", OTHER)
def test_another_kind_of_file_is_named_in_one_sentence(name: str, tmp_path: Path) -> None:
    title, keys = OTHER[name]
    path = sparse(tmp_path / "x.safetensors", keys)
    with pytest.raises(UnsupportedError) as inspected:
        lib_transfer.inspect(path)
    assert inspected.value.message == f"{path} is {title}, {NEITHER}."
    assert HINTS.get(title, ONLY_THESE) in inspected.value.hint
    with pytest.raises(UnsupportedError) as as_adapter:
        outline_adapter(path)
    assert str(as_adapter.value) == f"{path} is {title}, not a LoRA of an image model. Choose a LoRA file."
    with open_checkpoint(path) as store, pytest.raises(UnsupportedError) as as_checkpoint:
        recognise(store.shapes)
    assert str(as_checkpoint.value) == f"This is {title}, not a checkpoint. Choose a full checkpoint."


UNETS = ("", "model.diffusion_model.", "diffusion_model.")
BEHIND = [
    (name, prefix)
    for name in FAMILIES
    for prefix in (*UNETS, "net.", "transformer.", "odd.")
    if name != "unclip" or prefix in UNETS
]


@pytest.mark.parametrize(("name", "prefix"), BEHIND)
def test_a_family_that_is_not_supported_is_named(name: str, prefix: str, tmp_path: Path) -> None:
    what, keys = FAMILIES[name]
    if any(key.startswith("model.") for key in keys):
        keys = {key.removeprefix("model.diffusion_model."): shape for key, shape in keys.items()}
    path = sparse(tmp_path / "x.safetensors", {prefix + key: shape for key, shape in keys.items()})
    with pytest.raises(UnsupportedError) as caught:
        lib_transfer.inspect(path)
    assert caught.value.message == f"x.safetensors: This is {what}, which is not supported yet."
    with pytest.raises(UnsupportedError, match=r"is (a full checkpoint|a diffusion model|not a LoRA)") as as_adapter:
        outline_adapter(path)
    assert prefix == "odd." or "is not a LoRA: none" not in as_adapter.value.message or name == "cogvideox"


def _pickled(saved: Callable[[], object]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        torch.save(saved(), folder / "x.pt")
        return folder / "x.pt"

    return make


def _written(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "x.safetensors").write_bytes(content)
        return folder / "x.safetensors"

    return make


def _header(header: object, data: bytes = b"") -> Callable[[Path], Path]:
    text = json.dumps(header).encode()
    return _written(len(text).to_bytes(8, "little") + text + data)


def _sparse(**keys: tuple[int, ...]) -> Callable[[Path], Path]:
    return lambda folder: sparse(
        folder / "x.safetensors", {key.replace("__", "."): shape for key, shape in keys.items()}
    )


def _peft(*names: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name in names:
            (folder / "x" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "x" / name).write_text("{}")
        return folder / "x"

    return make


AGAIN, NEW = "download it again", "Downloading it again does not help"
ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
UNET = "model__diffusion_model__"
# Damaged and odd files: how one is made, what is said of it, and what is advised.
ODD: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "empty": (_written(b""), "has only 0 bytes", AGAIN),
    "zeros": (_written(bytes(100)), "begins with zeros", AGAIN),
    "a page": (_written(b"<!DOCTYPE html><html>"), "is an HTML page", "download the file again"),
    "a pointer": (_written(b"version https://git-lfs.github.com/spec/v1\n"), "a Git-LFS pointer", "git lfs pull"),
    "cut": (_header({"a": ENTRY}, bytes(4)), "is cut off", AGAIN),
    "no tensors": (_header({}), "holds no tensors", ""),
    "an unknown number format": (
        _header({"a": {**ENTRY, "dtype": "F7"}}, bytes(8)),
        "unknown number format 'F7'",
        AGAIN,
    ),
    "metadata that are a list": (
        _header({"__metadata__": [1], "a": ENTRY}, bytes(8)),
        "metadata that are not pairs",
        NEW,
    ),
    "old pickle": (_written(b"\x80\x02}q\x00."), "as PyTorch wrote before 1.6", "save it as safetensors"),
    "unknown names": (
        _sparse(some__thing=(2,)),
        f"is {NEITHER} of a known kind",
        ONLY_THESE,
    ),
    "two models": (
        _sparse(ema__input_blocks__0__0__weight=(4, 4), online__input_blocks__0__0__weight=(4, 4)),
        "stand behind 'ema.' and 'online.'",
        "save the one that is meant",
    ),
    "two whole models, with their text encoders": (
        _sparse(
            **{
                f"{which}__{key}": (4, 4)
                for which in ("ema", "model")
                for key in (
                    f"{UNET}input_blocks__0__0__weight",
                    "cond_stage_model__transformer__text_model__encoder__layers__0__mlp__fc1__weight",
                )
            }
        ),
        "stand behind 'ema.model.diffusion_model.' and 'model.model.diffusion_model.'",
        "save the one that is meant",
    ),
    "one tensor twice": (
        _sparse(**{f"{UNET}_orig_mod__a__weight": (4, 4), f"{UNET}a__weight": (4, 4)}),
        "holds model.diffusion_model._orig_mod.a.weight and model.diffusion_model.a.weight",
        "Save the one that is meant",
    ),
    "an unknown diffusion model": (
        _sparse(**{f"{UNET}blocks__0__odd__weight": (4, 4), "cond_stage_model__x__weight": (4,)}),
        "not a checkpoint of a known kind: it holds model.diffusion_model.blocks.0.odd.weight",
        "",
    ),
    "cloneofsimo's list": (
        _pickled(lambda: [torch.ones(8, 4), torch.ones(4, 8), torch.ones(16, 4), torch.ones(4, 8)]),
        "a LoRA as cloneofsimo's lora_diffusion first wrote them",
        "convert_loras_to_safeloras",
    ),
    "another list": (_pickled(lambda: [torch.ones(3), torch.ones(3)]), "a list without names", ONLY_THESE),
    "hypernetwork of the WebUI": (
        _pickled(lambda: {768: ({"linear.0.weight": torch.ones(3, 3)},) * 2, "step": 3, "name": "x"}),
        f"it is a hypernetwork, {NEITHER}",
        ONLY_THESE,
    ),
    "embedding of the WebUI": (
        _pickled(lambda: {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.ones(1, 768)}, "step": 3}),
        f"is a textual-inversion embedding, {NEITHER}",
        ONLY_THESE,
    ),
    "first embeddings": (
        _pickled(lambda: {"string_to_token": {}, "string_to_param": torch.nn.ParameterDict({"*": torch.ones(1, 768)})}),
        f"is a textual-inversion embedding, {NEITHER}",
        ONLY_THESE,
    ),
    "embedding of diffusers": (
        _pickled(lambda: {"<cat>": torch.ones(768)}),
        f"is a textual-inversion embedding, {NEITHER}",
        ONLY_THESE,
    ),
    "a number": (_pickled(lambda: 3), "holds no named tensors", ""),
    "no such file": (lambda folder: folder / "none", "does not exist", "moved or renamed"),
    "an empty folder": (lambda folder: folder, "has none of the folders unet", "Name a checkpoint"),
    "an adapter without tensors": (
        _peft("adapter_config.json"),
        "the adapter's tensors are missing",
        "not be complete",
    ),
    "adapters of several components": (
        _peft("unet/adapter_config.json", "text_encoder/adapter_config.json"),
        "it has one in each of the folders text_encoder, unet",
        "Name one of these folders",
    ),
    "quantised": (
        _sparse(**{f"{UNET}input_blocks__0__0__weight": (4, 4), f"{UNET}input_blocks__0__0__weight__absmax": (4,)}),
        "quantised weights",
        "fp16",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_a_damaged_or_odd_file_is_told_what_is_wrong_and_what_helps(name: str, tmp_path: Path) -> None:
    make, said, advice = ODD[name]
    with pytest.raises(TransferError) as caught:
        lib_transfer.inspect(make(tmp_path))
    assert said in caught.value.message
    assert advice in caught.value.hint
    assert bool(advice) == bool(caught.value.hint)
    assert caught.value.message.endswith(".")
    assert "As a checkpoint" not in str(caught.value)


def test_what_can_be_transferred_is_not_taken_for_another_kind(files: tiny.Files, tmp_path: Path) -> None:
    assert lib_transfer.inspect(files["sd1-source"])["kind"] == "checkpoint"
    names = {
        "kohya": "lora_unet_down_blocks_0_attentions_0_proj_in.lora_{}.weight",
        "te": "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_{}.weight",
        "ernie": "base_model.model.layers.0.mlp.gate_proj.lora_{}.weight",
        "peft te": "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_{}.weight",
    }
    for name, form in names.items():
        ends = ("A", "B") if "base_model" in form or form.startswith("text") else ("down", "up")
        path = sparse(tmp_path / f"{name}.safetensors", {form.format(end): (4, 4) for end in ends})
        assert lib_transfer.inspect(path)["kind"] == "adapter", name


SOME = "lora_unet_down_blocks_0_attentions_0_"


@pytest.mark.parametrize("ends", ["up", "alpha", "nothing"])
def test_inspect_says_that_an_adapter_changes_nothing(ends: str, tmp_path: Path) -> None:
    made = tiny.factors(f"{SOME}proj_in", (8, 8))
    zero = {"up": "lora_up.weight", "alpha": "alpha"}.get(ends)
    tensors = {key: 0 * tensor if zero and key.endswith(zero) else tensor for key, tensor in made.items()}
    notes = lib_transfer.inspect(tiny.save(tmp_path / "a.safetensors", tensors))["notes"]
    assert notes == (["Every update in it is zero: it changes nothing."] if zero else [])
    # What is not read may change something.
    tensors[f"{SOME}proj_out.lora_up.weight"] = torch.ones(8, 2)
    assert lib_transfer.inspect(tiny.save(tmp_path / "b.safetensors", tensors))["notes"] == []


def test_inspect_counts_modules_with_names_that_are_not_known(tmp_path: Path) -> None:
    names = (f"{SOME}proj_in", f"{SOME}proj_out", "warp.core")
    tensors = {key: tensor for name in names for key, tensor in tiny.factors(name, (8, 8)).items()}
    facts = lib_transfer.inspect(tiny.save(tmp_path / "a.safetensors", tensors))
    [note] = facts["notes"]
    assert note.startswith("The names of 1 of its modules are not those of Stable Diffusion 1.x")
    assert note.endswith("(first: warp.core).")


@pytest.mark.parametrize("level", ["text_model.", ""])
def test_a_text_encoders_folder_of_pefts_is_for_the_models_with_one_encoder(level: str, tmp_path: Path) -> None:
    name = f"base_model.model.{level}encoder.layers.0.self_attn.q_proj"
    made = {f"{name}.lora_A.weight": torch.ones(2, 768), f"{name}.lora_B.weight": torch.ones(768, 2)}
    tiny.save(tmp_path / "adapter_model.safetensors", made)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    assert lib_transfer.inspect(tmp_path)["architecture"] == ["Stable Diffusion 1.x"]
