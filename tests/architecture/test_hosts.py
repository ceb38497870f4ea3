"""Every output name is loaded by A1111 1.9.4 and by Forge, onto the right weight; and no name that is, is left out.

What the two hosts accept is stated here anew, from reading their mapping code, on nothing but tensor keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lib_transfer.architecture import Architecture, Module, modules, reference
from tests.architecture.known import BOTH, known

SD1, SDXL = known("sd1"), known("sdxl")

Place = tuple[str, int | None]  # weight key, and which third of its rows (q, k, v of a fused attention)

RESIDUAL = {
    "norm1": "in_layers_0",
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "norm2": "out_layers_0",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}
LAYER_LEAVES = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
OPENCLIP_LEAVES = {"attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}


def _a1111_layers(keys: list[str]) -> dict[str, Place]:
    """A1111 numbers its live modules by their path with underscores; SDXL's text encoders carry 0_ and 1_."""
    layers: dict[str, Place] = {}
    for key in keys:
        path = re.sub(r"^model\.diffusion_model\.", "diffusion_model.", key)
        path = re.sub(r"^cond_stage_model\.", "", path)
        path = re.sub(r"^conditioner\.embedders\.(\d)\.", r"\1_", path)
        if path.endswith(".attn.in_proj_weight"):
            # One MultiheadAttention takes the three projections, told apart by the end of the name.
            base = path.removesuffix(".in_proj_weight").replace(".", "_")
            layers |= {f"{base}_{part}_proj": (key, third) for third, part in enumerate("qkv")}
        elif path.endswith(".weight"):
            layers[path.removesuffix(".weight").replace(".", "_")] = (key, None)
    return layers


def _a1111_path(name: str) -> str:
    """The layer A1111 looks for under a name; names it has no rule for pass unchanged."""
    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (r"lora_unet_conv_in(.*)", lambda m: f"diffusion_model_input_blocks_0_0{m[1]}"),
        (r"lora_unet_conv_out(.*)", lambda m: f"diffusion_model_out_2{m[1]}"),
        (
            r"lora_unet_time_embedding_linear_(\d)(.*)",
            lambda m: f"diffusion_model_time_embed_{2 * int(m[1]) - 2}{m[2]}",
        ),
        (
            r"lora_unet_down_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)",
            lambda m: f"diffusion_model_input_blocks_{3 * int(m[1]) + int(m[3]) + 1}_{_inside(m[2], m[4])}",
        ),
        (
            r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)",
            lambda m: (
                "diffusion_model_middle_block_"
                + (f"1_{m[3]}" if m[1] == "attentions" else f"{2 * int(m[2])}_{RESIDUAL.get(m[3], m[3])}")
            ),
        ),
        (
            r"lora_unet_up_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)",
            lambda m: f"diffusion_model_output_blocks_{3 * int(m[1]) + int(m[3])}_{_inside(m[2], m[4])}",
        ),
        (
            r"lora_unet_down_blocks_(\d+)_downsamplers_0_conv",
            lambda m: f"diffusion_model_input_blocks_{3 * int(m[1]) + 3}_0_op",
        ),
        (
            # The first upsampler is always looked for at place 1: right for SD1, absent in SDXL.
            r"lora_unet_up_blocks_(\d+)_upsamplers_0_conv",
            lambda m: f"diffusion_model_output_blocks_{3 * int(m[1]) + 2}_{1 if m[1] == '0' else 2}_conv",
        ),
        (
            r"lora_te_text_model_encoder_layers_(\d+)_(.+)",
            lambda m: f"transformer_text_model_encoder_layers_{m[1]}_{m[2]}",
        ),
        (
            r"lora_te2_text_model_encoder_layers_(\d+)_(.+)",
            lambda m: (
                f"1_model_transformer_resblocks_{m[1]}_"
                + m[2].replace("mlp_fc1", "mlp_c_fc").replace("mlp_fc2", "mlp_c_proj").replace("self_attn", "attn")
            ),
        ),
    ]
    for pattern, rule in rules:
        if match := re.match(pattern, name):
            return rule(match)
    return name


def _inside(kind: str, rest: str) -> str:
    return f"1_{rest}" if kind == "attentions" else f"0_{RESIDUAL.get(rest, rest)}"


def a1111(keys: list[str]) -> Callable[[str], Place | None]:
    """Which weight A1111 applies an adapter module to, by its name."""
    layers = _a1111_layers(keys)

    def accepts(name: str) -> Place | None:
        candidates = [_a1111_path(name), name.replace("lora_unet", "diffusion_model")]
        if "lora_unet" not in name:
            candidates += [
                name.replace("lora_te1_text_model", "0_transformer_text_model"),
                name.replace("lora_te1_text_model", "transformer_text_model"),
            ]
        return next((layers[path] for path in candidates if path in layers), None)

    return accepts


def forge(keys: list[str], diffusers_unet: dict[str, str]) -> Callable[[str], Place | None]:
    """Which weight Forge applies an adapter module to: it builds the whole dictionary of names from the model's keys.

    ``diffusers_unet`` is the UNet's diffusers key -> checkpoint key.
    """
    names: dict[str, Place] = {}
    for key in keys:
        if key.startswith("model.diffusion_model.") and key.endswith(".weight"):
            path = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
            names["lora_unet_" + path.replace(".", "_")] = (key, None)
        if key == "conditioner.embedders.1.model.text_projection":
            names["lora_te2_text_projection"] = (key, None)
        for prefixes, layer, leaf, third in _forge_text(key):
            for prefix in prefixes:
                names[f"{prefix}text_model_encoder_layers_{layer}_{leaf.replace('.', '_')}"] = (key, third)
    for path, key in diffusers_unet.items():
        if path.endswith(".weight"):
            names["lora_unet_" + path.removesuffix(".weight").replace(".", "_")] = (key, None)
    return names.get


def _forge_text(key: str) -> list[tuple[tuple[str, ...], str, str, int | None]]:
    """Of a text encoder, Forge names the six linear layers of each layer; OpenCLIP is split into them on loading."""
    if match := re.match(r"(?:cond_stage_model|conditioner\.embedders\.0)\..*\.layers\.(\d+)\.(.+)\.weight$", key):
        return [(("lora_te_", "lora_te1_"), match[1], match[2], None)] if match[2] in LAYER_LEAVES else []
    if match := re.match(r"conditioner\.embedders\.1\..*\.resblocks\.(\d+)\.(.+)$", key):
        if match[2] == "attn.in_proj_weight":
            return [(("lora_te2_",), match[1], f"self_attn.{part}_proj", third) for third, part in enumerate("qkv")]
        leaf = OPENCLIP_LEAVES.get(match[2].removesuffix(".weight"))
        return [(("lora_te2_",), match[1], leaf, None)] if leaf is not None else []
    return []


def _diffusers_unet(architecture: Architecture, keys: list[str]) -> dict[str, str]:
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    config = {"layers_per_block": 2} | ({"addition_embed_type": "text_time"} if architecture is SDXL else {})
    unet = {key: key for key in keys if key.startswith("model.diffusion_model.")}
    converted: dict[str, str] = single_file.convert_ldm_unet_checkpoint(unet, config)
    return converted


def _place(module: Module) -> Place:
    return module.weight, None if module.rows is None else module.rows[0][0] // module.shape[0]


@BOTH
def test_a1111_loads_every_output_name_onto_its_module(architecture: Architecture) -> None:
    keys = list(reference(architecture))
    accepts = a1111(keys)
    for module in modules(architecture, reference(architecture)):
        if module.output_name is not None:
            assert module.output in module.names
            # The projection of the second encoder is Forge's alone; A1111 passes over it.
            expected = None if module.output_name == "lora_te2_text_projection" else _place(module)
            assert accepts(module.output_name) == expected, module.output_name


@BOTH
def test_forge_loads_every_output_name_onto_its_module(architecture: Architecture) -> None:
    keys = list(reference(architecture))
    accepts = forge(keys, _diffusers_unet(architecture, keys))
    for module in modules(architecture, reference(architecture)):
        if module.output_name is not None:
            assert accepts(module.output_name) == _place(module), module.output_name


@BOTH
def test_modules_without_an_output_name_have_none_that_both_load(architecture: Architecture) -> None:
    keys = list(reference(architecture))
    hosts = (a1111(keys), forge(keys, _diffusers_unet(architecture, keys)))
    silent = [module for module in modules(architecture, reference(architecture)) if module.output_name is None]
    for module in silent:
        for name, _ in module.names:
            assert not all(accepts(name) for accepts in hosts), name
    assert {module.kind for module in silent} == {"norm", "embedding"}
    assert not any(module.position.part == "unet" for module in silent)


def test_the_exceptions_by_hand() -> None:
    output = {
        module.name: module.output_name
        for architecture in (SD1,)
        for module in modules(architecture, reference(architecture))
    }
    unet = "model.diffusion_model."
    assert output[f"{unet}out.0"] == "lora_unet_out_0"
    assert output[f"{unet}output_blocks.2.1.conv"] == "lora_unet_up_blocks_0_upsamplers_0_conv"
    assert output[f"{unet}input_blocks.0.0"] == "lora_unet_conv_in"
    text = "cond_stage_model.transformer.text_model."
    assert output[f"{text}encoder.layers.0.mlp.fc1"] == "lora_te_text_model_encoder_layers_0_mlp_fc1"
    assert output[f"{text}final_layer_norm"] is None
    output = {module.name: module.output_name for module in modules(SDXL, reference(SDXL))}
    assert output[f"{unet}output_blocks.2.2.conv"] == "lora_unet_output_blocks_2_2_conv"
    assert output[f"{unet}label_emb.0.0"] == "lora_unet_label_emb_0_0"
    text = "conditioner.embedders.1.model.transformer.resblocks.3."
    assert output[f"{text}attn.in_proj.v"] == "lora_te2_text_model_encoder_layers_3_self_attn_v_proj"
    assert output[f"{text}ln_1"] is None
