"""What a checkpoint is: the supported ones in all their spellings, and a zoo of things that are not one."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from lib_transfer.architecture import Architecture, Tensors, architectures, modules, recognise, reference
from lib_transfer.architecture.architecture import with_depth
from lib_transfer.architecture.registry import recognise_among
from lib_transfer.errors import UnsupportedError
from tests.architecture.known import ALL, BOTH, known

SD1, SDXL = known("sd1"), known("sdxl")
UNET = "model.diffusion_model."
VAE: Tensors = {
    "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    "first_stage_model.decoder.up.0.block.0.conv1.weight": (128, 256, 3, 3),
    "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
}


def _unet_of(tensors: Tensors, prefix: str = UNET) -> dict[str, tuple[int, ...]]:
    return {prefix + key.removeprefix(UNET): shape for key, shape in tensors.items() if key.startswith(UNET)}


@BOTH
@pytest.mark.parametrize("width", [None, 32])
def test_full_checkpoints_in_any_order_with_all_that_they_carry(architecture: Architecture, width: int | None) -> None:
    tensors = {
        **reference(architecture, width=width),
        **VAE,
        "model_ema.diffusion_modelinput_blocks00weight": (320, 4, 3, 3),
        "model_ema.num_updates": (),
        "betas": (1000,),
        "v_pred": (),
        "conditioner.embedders.1.model.logit_scale": (),
    }
    keys = list(tensors)
    random.Random(0).shuffle(keys)
    assert recognise({key: tensors[key] for key in keys}) is architecture


@BOTH
@pytest.mark.parametrize("prefix", [UNET, "diffusion_model.", ""])
def test_unet_only_files(architecture: Architecture, prefix: str) -> None:
    tensors = _unet_of(reference(architecture), prefix)
    assert recognise(tensors) is architecture
    found = modules(architecture, tensors)
    assert [module.name for module in found] == [
        module.name for module in modules(architecture, reference(architecture)) if module.position.part == "unet"
    ]
    assert {module.weight for module in found} | {module.bias for module in found} - {None} == set(tensors)


def test_old_text_encoder_keys() -> None:
    tensors = reference(SD1)
    old = {key.replace(".text_model.", "."): shape for key, shape in tensors.items()}
    assert old.keys() != tensors.keys()
    assert recognise(old) is SD1
    for before, module in zip(modules(SD1, tensors), modules(SD1, old), strict=True):
        weight = before.weight.replace(".text_model.", ".")
        bias = before.bias and before.bias.replace(".text_model.", ".")
        assert module == replace(before, weight=weight, bias=bias)


@BOTH
@pytest.mark.parametrize("channels", [9, 8])
def test_inpainting_and_pix2pix(architecture: Architecture, channels: int) -> None:
    tensors = {**reference(architecture), f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3)}
    assert recognise(tensors) is architecture
    shapes = {module.name: module.shape for module in modules(architecture, tensors)}
    assert shapes[f"{UNET}input_blocks.0.0"] == (320, channels, 3, 3)


@pytest.mark.parametrize("name", ["ssd-1b", "vega"])
def test_unknown_pruned_relatives_count_as_sdxl(name: str) -> None:
    tensors = reference(known(name), width=32)
    assert set(tensors) < set(reference(SDXL))
    assert recognise_among((SD1, SDXL), tensors) is SDXL
    lacking = {key: shape for key, shape in tensors.items() if "input_blocks.8.1.transformer_blocks.1" not in key}
    assert recognise(lacking) is known(name), "the architecture it lacks the fewest modules of"


@ALL
@pytest.mark.parametrize("style", [None, "diffusers"])
def test_an_exact_architecture_wins_over_the_subset_rule_wherever_it_is_listed(
    architecture: Architecture, style: str | None
) -> None:
    tensors = reference(architecture, width=32, style=style)
    for order in (architectures(), architectures()[::-1]):
        assert recognise_among(order, tensors) is architecture


NEWER = (
    *("cosmos-predict2-2b", "anima", "z-image", "lumina-2"),
    *("flux2-klein-4b", "flux2-klein-9b", "flux2-dev", "qwen-image"),
    *("wan-1.3b", "wan-5b", "wan-14b", "wan-i2v-14b", "ernie-image", "krea-2", "auraflow"),
)
TRANSFORMERS = ("sd3-medium", "sd3.5-medium", "sd3.5-large", "flux-dev", "flux-schnell", "chroma", *NEWER)


ALONE = [(name, prefix) for name in TRANSFORMERS for prefix in (UNET, "diffusion_model.", "", "transformer.")]
# Behind these, names of the model's own are found too.
ALONE += [(name, prefix) for name in NEWER for prefix in ("net.", "model.")]


@pytest.mark.parametrize(("name", "prefix"), ALONE)
def test_transformers_alone(name: str, prefix: str) -> None:
    style = "diffusers" if prefix == "transformer." else None
    whole = reference(known(name), width=8, style=style)
    core = (prefix if style else UNET,)
    tensors = {prefix + key.removeprefix(core[0]): shape for key, shape in whole.items() if key.startswith(core)}
    # diffusers keeps the adapter of Anima in a folder of its own, and without it nothing tells the two apart.
    expected = known("cosmos-predict2-2b" if name == "anima" and style else name)
    assert recognise(tensors) is expected
    found = modules(expected, tensors)
    assert {module.weight for module in found} | {module.bias for module in found} - {None} == set(tensors)
    bare = {key.removeprefix(prefix): shape for key, shape in tensors.items()}
    assert recognise(bare) is expected
    assert [(m.name, m.shape) for m in modules(expected, bare)] == [(m.name, m.shape) for m in found]


@pytest.mark.parametrize("width", [8, 16, None])
@pytest.mark.parametrize("style", [None, "diffusers"])
def test_numbers_of_blocks_and_the_latents_tell_the_sizes_apart(width: int | None, style: str | None) -> None:
    """Of Flux.2 and of Wan, whose sizes have the same names. Both models of 30 blocks have other latents."""
    for name in ("flux2-klein-4b", "flux2-klein-9b", "flux2-dev", "wan-1.3b", "wan-5b", "wan-14b", "wan-i2v-14b"):
        tensors = reference(known(name), width=width, style=style)
        for order in (architectures(), architectures()[::-1]):
            assert recognise_among(order, tensors) is known(name)


def test_wan_that_begins_with_a_picture_is_told_by_what_reads_it() -> None:
    """2.1's has layers for CLIP's states, 2.2's a wider way in alone; first and last pictures have places."""
    first = f"{UNET}patch_embedding.weight"
    tensors = {**reference(known("wan-i2v-14b")), first: (5120, 36, 1, 2, 2), f"{UNET}img_emb.emb_pos": (1, 514, 1280)}
    assert recognise(tensors) is known("wan-i2v-14b")
    assert recognise({**reference(known("wan-14b")), first: (5120, 36, 1, 2, 2)}) is known("wan-14b")


@pytest.mark.parametrize("name", NEWER)
@pytest.mark.parametrize("prefix", ["transformer.", UNET, "diffusion_model.", ""])
def test_both_kinds_of_names_behind_any_prefix(name: str, prefix: str) -> None:
    """The original names behind diffusers' prefix, and diffusers' behind those of the single files."""
    style, start = (None, UNET) if prefix == "transformer." else ("diffusers", "transformer.")
    whole = reference(known(name), width=8, style=style)
    tensors = {prefix + key.removeprefix(start): shape for key, shape in whole.items() if key.startswith(start)}
    found = recognise(tensors)
    assert found.family == known(name).family and len(modules(found, tensors)) >= len(known(name).core.slots())


@pytest.mark.parametrize("style", [None, "diffusers"])
@pytest.mark.parametrize("depth", [2, 28, 40, 52, 61])
def test_anima_has_as_many_blocks_as_its_file(depth: int, style: str | None) -> None:
    deep = with_depth(known("anima"), depth)
    tensors = {**reference(deep, width=8, style=style), f"{UNET}blocks.99999.mlp.layer1.scale": ()}
    found = recognise(tensors)
    assert found == deep and found.title == "Anima"
    units = {module.position.unit for module in modules(found, tensors) if module.position.part == "transformer"}
    assert units == {"", *(f"blocks.{number}" for number in range(depth))}
    blocks = [module.position.block for module in modules(found, tensors) if module.position.part == "te2"]
    assert len(set(blocks)) == 8, "the blocks of its adapter are not those of the model"


def test_what_tells_anima_from_cosmos_predict2() -> None:
    """The adapter, more blocks than 28, or Qwen3; else it is what ComfyUI takes it for."""
    whole = reference(known("anima"), width=8)
    core = {key: shape for key, shape in whole.items() if key.startswith(UNET) and "llm_adapter" not in key}
    qwen = {key: shape for key, shape in whole.items() if key.startswith("text_encoders.")}
    assert recognise(core) is known("cosmos-predict2-2b")
    assert recognise({**core, **qwen}) is known("anima")
    deep = reference(with_depth(known("anima"), 40), width=8)
    assert recognise({key: shape for key, shape in deep.items() if "llm_adapter" not in key}).id == "anima"


def test_what_no_adapter_changes_does_not_matter() -> None:
    """The branch of Anima 3.8B for a second language model; a norm in older files; counters of NVIDIA's training."""
    for name, keys in {
        "anima": ("anima_v2_connector.blocks.0.q_proj.weight",),
        "lumina-2": ("norm_final.weight",),
        "z-image": ("norm_final.weight", "x_pad_token", "cap_pad_token"),
        "cosmos-predict2-2b": ("pos_embedder.seq", "accum_iteration", "blocks.0.mlp.layer1._extra_state"),
        "qwen-image": ("time_text_embed.addition_t_embedding.weight", "__index_timestep_zero__"),
        "krea-2": ("blocks.0.mod.lin", "last.modulation.lin"),
        "auraflow": ("register_tokens", "positional_encoding"),
    }.items():
        tensors = {**reference(known(name), width=8), **{UNET + key: (8,) for key in keys}}
        assert recognise(tensors) is known(name)


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({**reference(known("z-image")), "__ming_image__": (1,)}, "a Ming-Image checkpoint"),
        (
            {**reference(known("cosmos-predict2-2b")), f"{UNET}x_embedder.proj.1.weight": (5120, 68)},
            "a Cosmos-Predict2 14B",
        ),
        (
            {
                **reference(known("qwen-image"), width=8),
                f"{UNET}txt_norm.weight": (2560,),
                f"{UNET}proj_out.weight": (128, 8),
            },
            "a Mage-Flow",
        ),
    ],
)
def test_a_model_whose_modules_are_anothers_is_told(tensors: Tensors, what: str) -> None:
    with pytest.raises(UnsupportedError, match=f"This is {what}.*not supported yet"):
        recognise(tensors)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_pruned_transformers_are_what_they_were(name: str) -> None:
    """Flux Lite has 8 of 19 double blocks; others lack single or joint ones, or layers."""
    blocks = r"double_blocks\.(8|9|1\d)|single_blocks\.(1[7-9]|[23]\d)"
    blocks += r"|(joint_blocks|transformer_blocks|blocks|layers|single_layers)\.(1[4-9]|2[0-2])"
    lacking = re.compile(rf"{UNET}({blocks})\.")
    whole = reference(known(name), width=8)
    tensors = {key: shape for key, shape in whole.items() if not lacking.match(key)}
    assert len(tensors) < len(whole)
    assert recognise(tensors) is known(name)


@pytest.mark.parametrize("style", [None, "diffusers"])
@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("flux-dev", ("time_in.", "timestep_embedder.")),
        ("flux-dev", ("vector_in.", "text_embedder.")),
        ("flux-dev", ("img_in.", "x_embedder.")),
        ("flux-schnell", ("final_layer.adaLN", "norm_out.")),
        ("chroma", ("guidance_layer.out_proj.", "guidance_layer.out_proj.")),
        ("chroma", ("txt_in.", "context_embedder.")),
        ("sd3-medium", ("t_embedder.", "timestep_embedder.")),
        ("sd3.5-medium", ("y_embedder.", "text_embedder.")),
        ("sd3.5-large", ("final_layer.linear.", "transformer.proj_out.")),
    ],
)
def test_a_transformer_without_its_ends_is_none(name: str, lacking: tuple[str, str], style: str | None) -> None:
    part = lacking[0 if style is None else 1]
    whole = reference(known(name), width=8, style=style)
    tensors = {key: shape for key, shape in whole.items() if part not in key}
    assert len(tensors) < len(whole)
    with pytest.raises(UnsupportedError, match="is missing"):
        recognise(tensors)


def test_flux_dev_without_guidance_is_schnell() -> None:
    tensors = {key: shape for key, shape in reference(known("flux-dev")).items() if "guidance_in" not in key}
    assert recognise(tensors) is known("flux-schnell")


def test_what_comes_with_a_transformer_does_not_matter() -> None:
    tensors = {
        **reference(known("flux-dev"), width=8),
        "vae.decoder.conv_in.weight": (512, 16, 3, 3),
        "text_encoders.t5xxl.logit_scale": (),
        f"{UNET}scaled_fp8": (2,),
        f"{UNET}img_in.scale_weight": (),
    }
    assert recognise(tensors) is known("flux-dev")
    tensors = {**reference(known("sd3.5-medium"), width=8), f"{UNET}pos_embed": (1, 147456, 1536)}
    assert recognise(tensors) is known("sd3.5-medium")


def _keys(*keys: str) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(keys, (8, 8))


ZOO: dict[str, tuple[Tensors, str]] = {
    "kohya lora": (_keys("lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"), "a LoRA, not a checkpoint"),
    "peft lora": (_keys("unet.down_blocks.0.attentions.0.proj_in.lora_A.weight"), "a LoRA, not a checkpoint"),
    "generic lora": (_keys("diffusion_model.input_blocks.1.1.proj_in.lora_B.weight"), "a LoRA, not a checkpoint"),
    "old diffusers lora": (_keys("down_blocks.0.attn1.processor.to_q_lora.up.weight"), "a LoRA, not a checkpoint"),
    "loha": (_keys("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a"), "a LoRA, not a checkpoint"),
    "lokr": (_keys("lora_unet_mid_block_attentions_0_proj_in.lokr_w1"), "a LoRA, not a checkpoint"),
    "glora": (_keys("lora_unet_mid_block_attentions_0_proj_in.a1.weight"), "a LoRA, not a checkpoint"),
    "ia3": (_keys("lora_unet_mid_block_attentions_0_proj_in.on_input"), "a LoRA, not a checkpoint"),
    "full difference": (_keys("diffusion_model.input_blocks.1.1.proj_in.diff"), "a LoRA, not a checkpoint"),
    "text encoder lora": (_keys("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"), "a LoRA"),
    "controlnet": (_keys("control_model.input_blocks.0.0.weight", "control_model.zero_convs.0.0.weight"), "ControlNet"),
    "bare controlnet": (
        {**_unet_of(reference(SD1), ""), **_keys("input_hint_block.0.weight", "zero_convs.0.0.weight")},
        "a ControlNet, not a checkpoint",
    ),
    "diffusers controlnet": (_keys("controlnet_cond_embedding.conv_in.weight", "down_blocks.0.x.weight"), "ControlNet"),
    "motion module": (_keys("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"), "a motion module"),
    "ip-adapter": (_keys("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"), "an IP-Adapter"),
    "embedding": ({"emb_params": (4, 768)}, "a textual-inversion embedding"),
    "sdxl embedding": ({"clip_g": (4, 1280), "clip_l": (4, 768)}, "a textual-inversion embedding"),
    "vae": (dict(VAE), "a VAE, not a checkpoint"),
    "bare vae": (
        _keys("encoder.down.0.block.0.conv1.weight", "decoder.conv_in.weight"),
        "a VAE, not a checkpoint",
    ),
    "diffusers vae": (_keys("encoder.down_blocks.0.resnets.0.conv1.weight"), "a VAE, not a checkpoint"),
    "sd2 unclip": (
        {**reference(known("sd2")), f"{UNET}label_emb.0.0.weight": (1280, 1536)},
        "a Stable Diffusion 2.x unCLIP checkpoint, which is not supported yet",
    ),
    "half of flux 2": (
        {key: shape for key, shape in reference(known("flux2-dev"), width=8).items() if "stream_modulation" not in key},
        "Flux.2 dev comes nearest, but double_stream_modulation_img.lin.weight is missing (and 2 more)",
    ),
    "chroma radiance": (
        {
            **reference(known("chroma"), width=8),
            f"{UNET}nerf_blocks.0.norm.scale": (8,),
            f"{UNET}img_in_patch.weight": (),
        },
        "a Chroma Radiance checkpoint, which is not supported yet",
    ),
    "hunyuan": (
        _keys("double_blocks.0.img_attn.qkv.weight", "txt_in.individual_token_refiner.blocks.0.norm1.weight"),
        "a HunyuanVideo or HunyuanImage checkpoint, which is not",
    ),
    "hidream": (_keys("caption_projection.0.linear.weight", "pos_embed.proj.weight"), "a HiDream checkpoint"),
    "auraflow without an end": (
        {key: shape for key, shape in reference(known("auraflow"), width=8).items() if "final_linear" not in key},
        "AuraFlow comes nearest, but final_linear.weight is missing.",
    ),
    "pixart": (_keys("t_block.1.weight", "y_embedder.y_proj.fc1.weight"), "a PixArt checkpoint"),
    "omnigen 2": (_keys("ref_image_refiner.0.attn.to_q.weight", "layers.0.attn.to_q.weight"), "an OmniGen2 checkpoint"),
    "half of z-image": (
        {key: shape for key, shape in reference(known("z-image"), width=8).items() if "final_layer" not in key},
        "Z-Image comes nearest, but final_layer.adaLN_modulation.1.weight is missing (and 1 more)",
    ),
    "qwen 2.1": (_keys("txt_in.text_norm.weight", "transformer_blocks.0.img_mlp.gate_up.weight"), "a Qwen-Image 2.1"),
    "wan with a face": (
        {**reference(known("wan-14b"), width=8), f"{UNET}face_adapter.fuser_blocks.0.linear2.weight": (8, 8)},
        "a Wan Animate checkpoint",
    ),
    "wan of another latent": (
        {**reference(known("wan-5b"), width=8), f"{UNET}head.head.weight": (256, 8)},
        "Wan 2.1 1.3B comes nearest, but head.head.weight has 256 rows instead of 64",
    ),
    "ltx": (_keys("adaln_single.emb.timestep_embedder.linear_1.bias", "proj_out.weight"), "an LTX-Video checkpoint"),
    "cascade": (_keys("clip_txt_mapper.weight", "clf.1.weight"), "a Stable Cascade checkpoint"),
    "redux": (_keys("redux_up.weight", "redux_down.weight"), "a Flux Redux model, not a checkpoint"),
    "flux controlnet": (_keys("controlnet_blocks.0.weight", "double_blocks.0.img_attn.qkv.weight"), "a ControlNet"),
    "xlabs lora": (_keys("double_blocks.0.processor.qkv_lora1.down.weight"), "a LoRA, not a checkpoint"),
    "control lora": (_keys("img_in.lora_A.weight", "single_blocks.0.norm.key_norm.scale"), "a LoRA, not a checkpoint"),
    "one flux module more": (
        {**reference(known("flux-dev"), width=8), f"{UNET}double_blocks.0.img_mlp.gate_proj.weight": (8, 8)},
        "Flux.1 dev comes nearest, but double_blocks.0.img_mlp.gate_proj.weight is not part of it",
    ),
    "half of flux": (
        {key: shape for key, shape in reference(known("flux-schnell")).items() if ".final_layer." not in key},
        "is missing (and ",
    ),
    "some of a diffusers unet": (
        _keys("conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"),
        "comes nearest, but conv_norm_out.weight is missing (and 5 more)",
    ),
    "text encoder": (_keys("text_model.encoder.layers.0.mlp.fc1.weight"), "a text encoder, not a checkpoint"),
    "new text encoder": (_keys("encoder.layers.0.mlp.fc1.weight"), "a text encoder, not a checkpoint"),
    "t5": (_keys("encoder.block.0.layer.0.SelfAttention.q.weight"), "a text encoder, not a checkpoint"),
    "clip vision": (_keys("vision_model.encoder.layers.0.mlp.fc1.weight"), "a CLIP vision model"),
    "video": ({**reference(SD1), f"{UNET}input_blocks.1.1.time_stack.0.norm1.weight": (320,)}, "Stable Video"),
    "upscaler": (_keys("model.0.weight", "model.1.sub.0.RDB1.conv1.0.weight"), "an upscaler, not a checkpoint"),
    "unknown model with everything": (
        {
            "model.diffusion_model.blocks.0.attn.weight": (8, 8),
            **VAE,
            "cond_stage_model.encoder.layers.0.w.weight": (8,),
        },
        "not a checkpoint of a known kind",
    ),
    "empty": ({}, "it holds no tensors"),
    "one module more": (
        {**reference(SD1), f"{UNET}input_blocks.1.1.transformer_blocks.0.fuser.linear.weight": (320, 768)},
        "Stable Diffusion 1.x comes nearest, but input_blocks.1.1.transformer_blocks.0.fuser.linear.weight is not part",
    ),
    "sdxl without vector conditioning": (
        {key: shape for key, shape in reference(SDXL).items() if "label_emb" not in key},
        "Stable Diffusion XL comes nearest, but label_emb.0.0.weight is missing (and 1 more)",
    ),
    "a shard": (
        {key: shape for key, shape in reference(SDXL).items() if "output_blocks" not in key and ".out." not in key},
        "Stable Diffusion XL comes nearest, but out.0.weight is missing (and 1 more)",
    ),
}


@pytest.mark.parametrize("name", ZOO)
def test_what_is_not_a_checkpoint_is_called_by_its_name(name: str) -> None:
    tensors, reason = ZOO[name]
    with pytest.raises(UnsupportedError) as caught:
        recognise(tensors)
    assert reason in caught.value.message


def test_a_tensor_of_the_wrong_kind_is_named() -> None:
    packed = f"{UNET}input_blocks.1.0.in_layers.2.weight"
    with pytest.raises(UnsupportedError, match=re.escape(packed)):
        modules(SD1, {**reference(SD1), packed: (460800, 1)})


def test_a_fused_weight_that_is_not_three_parts_is_named() -> None:
    key = "conditioner.embedders.1.model.transformer.resblocks.7.attn.in_proj_weight"
    with pytest.raises(UnsupportedError, match=re.escape(key)):
        modules(SDXL, {**reference(SDXL), key: (3841, 1280)})


def test_biases_that_a_file_lacks_are_none() -> None:
    tensors = {key: shape for key, shape in reference(SD1).items() if not key.endswith("proj_in.bias")}
    for module in modules(SD1, tensors):
        assert module.bias is None or module.bias in tensors
        if module.name.endswith("proj_in"):
            assert module.bias is None
