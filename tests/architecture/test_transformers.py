"""The diffusion transformers against sd-mecha's tables, diffusers' and transformers' models and conversions.

The oracles convert whole state dicts. They are given tensors whose rows are numbered, one column wide, so that whatever they
cut, swap or copy can be told; modules and names of ours must then stand for the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from lib_transfer.architecture import Architecture, Rows, modules, name_index, recognise, reference
from lib_transfer.architecture.encoders import encoders_in
from tests.architecture.known import known

SD3S = ("sd3-medium", "sd3.5-medium", "sd3.5-large")
FLUXES = ("flux-dev", "flux-schnell", "chroma")
NEWER = ("cosmos-predict2-2b", "z-image", "lumina-2")  # Anima's transformer is that of the first
ALL = (*SD3S, *FLUXES, *NEWER)
EACH = pytest.mark.parametrize("architecture", [known(name) for name in ALL], ids=ALL)
CORE = "model.diffusion_model."


@pytest.mark.parametrize(("name", "identifier"), [("sd3-medium", "sd3-comfyui"), ("flux-dev", "flux-flux")])
def test_reference_is_the_real_key_list(name: str, identifier: str) -> None:
    configs = pytest.importorskip("sd_mecha.extensions.model_configs")
    real = {key: tuple(tensor.shape) for key, tensor in configs.resolve(identifier).keys().items()}
    prefixes, untouched = (CORE, "text_encoders."), ("pos_embed", "logit_scale")
    expected = {key: s for key, s in real.items() if key.startswith(prefixes) and not key.endswith(untouched)}
    assert reference(known(name)) == expected


def _diffusers_model(architecture: Architecture, sizes: Mapping[str, tuple[int, ...]]) -> Any:
    """diffusers' own model of this kind, as wide as a reference in its keys."""
    diffusers = pytest.importorskip("diffusers")
    if architecture.id in NEWER:
        return _newer(diffusers, architecture.id, {k.removeprefix("transformer."): s for k, s in sizes.items()})
    if architecture.id.startswith("sd3"):
        width, context = sizes["transformer.context_embedder.weight"]
        head = sizes.get("transformer.transformer_blocks.0.attn.norm_q.weight", (64 if width == 1536 else 8,))[0]
        heads = {"attention_head_dim": head, "num_attention_heads": width // head}
        pooled = sizes["transformer.time_text_embed.text_embedder.linear_1.weight"][1]
        return diffusers.SD3Transformer2DModel(
            **heads, num_layers={"sd3.5-large": 38}.get(architecture.id, 24), caption_projection_dim=width,
            joint_attention_dim=context, pooled_projection_dim=pooled, pos_embed_max_size=4, sample_size=8,
            dual_attention_layers=tuple(range(13)) if architecture.id == "sd3.5-medium" else (),
            qk_norm=None if architecture.id == "sd3-medium" else "rms_norm",
        )  # fmt: skip
    (head,) = sizes["transformer.transformer_blocks.0.attn.norm_q.weight"]
    width, context = sizes["transformer.context_embedder.weight"]
    shared = {
        "attention_head_dim": head, "num_attention_heads": width // head, "joint_attention_dim": context,
        "axes_dims_rope": (16, 56, 56) if head == 128 else (2, 2, 4),
    }  # fmt: skip
    if architecture.id == "chroma":
        inner = sizes["transformer.distilled_guidance_layer.in_proj.weight"][0]
        return diffusers.ChromaTransformer2DModel(**shared, approximator_hidden_dim=inner)
    pooled = sizes["transformer.time_text_embed.text_embedder.linear_1.weight"][1]
    guidance = architecture.id == "flux-dev"
    return diffusers.FluxTransformer2DModel(**shared, pooled_projection_dim=pooled, guidance_embeds=guidance)


def _newer(diffusers: Any, name: str, sizes: Mapping[str, tuple[int, ...]]) -> Any:
    if name == "z-image":
        (width, _), (head,) = sizes["all_x_embedder.2-1.weight"], sizes["layers.0.attention.norm_q.weight"]
        return diffusers.ZImageTransformer2DModel(
            dim=width, n_heads=width // head, n_kv_heads=width // head, cap_feat_dim=sizes["cap_embedder.1.weight"][1],
            axes_dims=[32, 48, 48] if head == 128 else [2, 2, 4],
        )  # fmt: skip
    if name == "lumina-2":
        (width, _), (head,) = sizes["x_embedder.weight"], sizes["layers.0.attn.norm_q.weight"]
        return diffusers.Lumina2Transformer2DModel(
            hidden_size=width, num_attention_heads=width // head, num_kv_heads=width // head // 3,
            cap_feat_dim=sizes["time_caption_embed.caption_embedder.1.weight"][1],
            axes_dim_rope=(32, 32, 32) if head == 96 else (2, 2, 4), multiple_of=256 if head == 96 else 8,
        )  # fmt: skip
    (width, _), (head,) = sizes["patch_embed.proj.weight"], sizes["transformer_blocks.0.attn1.norm_q.weight"]
    return diffusers.CosmosTransformer3DModel(
        num_attention_heads=width // head, attention_head_dim=head, extra_pos_embed_type=None,
        adaln_lora_dim=sizes["norm_out.linear_1.weight"][0],
        text_embed_dim=sizes["transformer_blocks.0.attn2.to_k.weight"][1],
    )  # fmt: skip


@EACH
@pytest.mark.parametrize("width", [None, 8, 20])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_diffusers_builds_the_same_model(architecture: Architecture, width: int | None) -> None:
    ours = reference(architecture, width=width, style="diffusers")
    with torch.device("meta"):
        model = _diffusers_model(architecture, ours)
    theirs = {f"transformer.{key}": tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    for key in ("pos_embed.pos_embed", "x_pad_token", "cap_pad_token"):
        theirs.pop(f"transformer.{key}", None)
    assert {key: shape for key, shape in ours.items() if key.startswith("transformer.")} == theirs


@pytest.mark.parametrize("width", [None, 8])
def test_transformers_builds_the_same_t5(width: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    prefix = "text_encoder_2."
    ours = {
        key.removeprefix(prefix): shape
        for key, shape in reference(known("flux-dev"), width=width, style="diffusers").items()
        if key.startswith(prefix)
    }
    tokens, size = ours["shared.weight"]
    heads, inner = (
        ours["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"][1],
        ours["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"][0],
    )
    config = transformers.T5Config(
        vocab_size=tokens, d_model=size, d_kv=size // heads, d_ff=inner, num_layers=24, num_heads=heads,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.T5EncoderModel(config).state_dict()
    tied = theirs.pop("encoder.embed_tokens.weight", None)
    assert ours == {key: tuple(tensor.shape) for key, tensor in theirs.items()}
    assert tied is None or tuple(tied.shape) == ours["shared.weight"]


@pytest.mark.parametrize("width", [None, 8])
def test_anima_is_cosmos_predict2_with_an_adapter(width: int | None) -> None:
    """diffusers' adapter, under the names of a folder of diffusers'."""
    diffusers = pytest.importorskip("diffusers")
    ours = reference(known("anima"), width=width, style="diffusers")
    assert {key: s for key, s in ours.items() if key.startswith("transformer.")} == reference(
        known("cosmos-predict2-2b"), width=width, style="diffusers"
    )
    start = "text_conditioner."
    adapter = {key.removeprefix(start): shape for key, shape in ours.items() if key.startswith(start)}
    (tokens, size), (head,) = adapter["embed.weight"], adapter["blocks.0.self_attn.q_norm.weight"]
    with torch.device("meta"):
        built = diffusers.AnimaTextConditioner(
            size, size, size, num_attention_heads=size // head, target_vocab_size=tokens
        )
    assert adapter == {key: tuple(tensor.shape) for key, tensor in built.state_dict().items()}


@pytest.mark.parametrize("width", [None, 8])
@pytest.mark.parametrize(("name", "kind"), [("anima", "Qwen3"), ("lumina-2", "Gemma2")])
def test_transformers_builds_the_same_language_models(name: str, kind: str, width: int | None) -> None:
    transformers = pytest.importorskip("transformers")
    ours = {
        key.removeprefix("text_encoder."): shape
        for key, shape in reference(known(name), width=width, style="diffusers").items()
        if key.startswith("text_encoder.")
    }
    tokens, size = ours["embed_tokens.weight"]
    query, key, inner = (
        ours[f"layers.0.{path}.weight"][0] for path in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    )
    head = ours["layers.0.self_attn.q_norm.weight"][0] if kind == "Qwen3" else (8 if width else 256)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=tokens, hidden_size=size, intermediate_size=inner, head_dim=head,
        num_hidden_layers=28 if kind == "Qwen3" else 26, num_attention_heads=query // head,
        num_key_value_heads=key // head,
    )  # fmt: skip
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}Model")(config)
    assert ours == {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


@EACH
def test_kinds(architecture: Architecture) -> None:
    kinds = {1: "norm", 2: "linear", 4: "convolution"}
    for module in modules(architecture, reference(architecture)):
        table = module.name.endswith(("_embedding", ".shared", ".relative_attention_bias", ".embed_tokens"))
        assert module.kind == ("embedding" if table else kinds[len(module.shape)])


@cache
def _numbered(architecture: Architecture) -> dict[str, Tensor]:
    """A single-file diffusion model, real in its rows, one column wide, with a number of its own in every row."""
    tensors: dict[str, Tensor] = {}
    at = 0
    for key, shape in reference(architecture).items():
        if key.startswith(CORE):
            rows = torch.arange(at, at + shape[0])
            tensors[key] = rows.reshape(-1, *(1 for _ in shape[1:]))
            at += shape[0]
    return tensors


def _converted(architecture: Architecture) -> dict[str, Tensor]:
    """What diffusers makes of it."""
    single_file = pytest.importorskip("diffusers.loaders.single_file_utils")
    kind = "sd3" if architecture.id.startswith("sd3") else architecture.id.split("-")[0]
    named = {"lumina": "lumina2", "z": "z_image_transformer_checkpoint"}
    convert = getattr(single_file, f"convert_{named.get(kind, f'{kind}_transformer_checkpoint')}_to_diffusers")
    tensors = {key.removeprefix(CORE): tensor for key, tensor in _numbered(architecture).items()}
    position = {"pos_embed": torch.zeros(1)} if kind == "sd3" else {}
    converted: dict[str, Tensor] = convert({**tensors, **position})
    converted.pop("pos_embed.pos_embed", None)
    return converted


def _taken(tensor: Tensor, rows: Rows | None) -> Tensor:
    numbers = tensor.flatten()
    return numbers if rows is None else torch.cat([numbers[first:last] for first, last in rows])


def _rows_of_modules(architecture: Architecture, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Per module the rows of its weight, and of its bias."""
    found: dict[str, Tensor] = {}
    for module in modules(architecture, {key: tuple(tensor.shape) for key, tensor in tensors.items()}):
        found[module.name] = _taken(tensors[module.weight], module.rows)
        assert module.shape[0] == len(found[module.name])
        if module.bias is not None:
            found[f"{module.name} bias"] = _taken(tensors[module.bias], module.rows)
    return found


def _assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@EACH
def test_modules_are_the_same_rows_in_both_layouts(architecture: Architecture) -> None:
    single = _rows_of_modules(architecture, _numbered(architecture))
    converted = _converted(architecture)
    for prefix in ("transformer.", ""):
        _assert_equal(_rows_of_modules(architecture, {prefix + k: t for k, t in converted.items()}), single)
    slots = [slot for layout in architecture.layouts if layout.part == "transformer" for slot in layout.slots()]
    assert {name for name in single if not name.endswith(" bias")} == {CORE + slot.path for slot in slots}


def _rows_of_names(architecture: Architecture, updates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Per module what an adapter holds for it; no module is named twice."""
    index = name_index(modules(architecture, reference(architecture)))
    bound = [(module.name, update, rows) for name, update in updates.items() for module, rows in index[name]]
    found = {name: _taken(update, rows) for name, update, rows in bound}
    assert len(found) == len(bound)
    return found


def _same_rows(architecture: Architecture, given: Mapping[str, Tensor], converted: Mapping[str, Tensor]) -> int:
    """Assert that both name the same rows of the same modules; says how many modules these are."""
    ours = _rows_of_names(architecture, given)
    _assert_equal(ours, _rows_of_names(architecture, converted))
    return len(ours)


def _adapter(names: Mapping[str, int], down: str, up: str) -> dict[str, Tensor]:
    """An adapter for modules with so many rows; the rows of its ups are numbered."""
    tensors: dict[str, Tensor] = {}
    at = 1
    for name, rows in names.items():
        tensors[f"{name}.{down}"] = torch.ones(2, 1)
        tensors[f"{name}.{up}"] = torch.arange(at, at + rows, dtype=torch.float64).reshape(-1, 1)
        at += rows
    return tensors


def _ups(tensors: Mapping[str, Tensor], suffix: str) -> dict[str, Tensor]:
    return {key.removesuffix(suffix): tensor for key, tensor in tensors.items() if key.endswith(suffix)}


def _fused(architecture: Architecture, *starts: str) -> dict[str, int]:
    """Module paths of the single file's linear layers and their rows."""
    return {
        key.removeprefix(CORE).removesuffix(".weight"): shape[0]
        for key, shape in reference(architecture).items()
        if key.startswith(tuple(CORE + start for start in starts)) and len(shape) == 2 and key.endswith(".weight")
    }


def _check(convert: str, paths: Mapping[str, int], name: Callable[[str], str], *suffixes: str) -> int:
    utils = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    given = _adapter({name(path): rows for path, rows in paths.items()}, *suffixes)
    norms = {f"{path.removesuffix('.weight')}": torch.zeros(1) for path in _norm_scales()} if "bfl" in convert else {}
    converted = getattr(utils, convert)({**given, **norms})
    return _same_rows(FLUX, _ups(given, f".{suffixes[1]}"), _ups(converted, ".lora_B.weight"))


FLUX = known("flux-dev")
BLOCKS = 19 * 2 * 7 + 38 * 6
"""Linear modules of the blocks: modulation, q, k, v, output and two of the feed-forward; q, k, v, mlp and two more."""


def _norm_scales() -> list[str]:
    return [key.removeprefix(CORE) for key in reference(FLUX) if key.startswith(CORE) and key.endswith(".scale")]


def test_kohya_names_are_those_of_diffusers_conversion() -> None:
    paths = _fused(FLUX, "double_blocks", "single_blocks")
    convert = "_convert_kohya_flux_lora_to_diffusers"
    found = _check(
        convert, paths, lambda path: "lora_unet_" + path.replace(".", "_"), "lora_down.weight", "lora_up.weight"
    )
    assert found == BLOCKS
    assert (
        _check(convert, paths, lambda path: f"diffusion_model.{path}", "lora_down.weight", "lora_up.weight") == BLOCKS
    )


def test_the_last_layer_under_kohya_names_is_swapped_as_in_diffusers_conversion() -> None:
    utils = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    names = {"lora_unet_final_layer_adaLN_modulation_1": 6144, "lora_unet_final_layer_linear": 64}
    given = _adapter(names, "lora_down.weight", "lora_up.weight")
    converted = utils._convert_kohya_flux_lora_to_diffusers(dict(given))
    assert _same_rows(FLUX, _ups(given, ".lora_up.weight"), _ups(converted, ".lora_B.weight")) == 2
    assert converted["norm_out.linear.lora_B.weight"][0, 0] == 1 + 3072


def test_control_names_are_those_of_diffusers_conversion() -> None:
    found = _check(
        "_convert_bfl_flux_control_lora_to_diffusers", _fused(FLUX, ""), str, "lora_A.weight", "lora_B.weight"
    )
    assert found == BLOCKS + 10


def test_control_norms_are_modules_with_and_without_their_parameter() -> None:
    index = name_index(modules(FLUX, reference(FLUX)))
    for key in _norm_scales():
        for name in (key, key.removesuffix(".scale")):
            [(module, rows)] = index[name]
            assert module.weight == CORE + key and rows is None and module.kind == "norm"


def test_kontext_names_are_those_of_diffusers_conversion() -> None:
    paths = _fused(FLUX, "double_blocks", "single_blocks", "final_layer.linear")
    convert = "_convert_fal_kontext_lora_to_diffusers"
    found = _check(convert, paths, lambda path: f"base_model.model.{path}", "lora_A.weight", "lora_B.weight")
    assert found == BLOCKS + 1


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_xlabs_names_are_those_of_diffusers_conversion(prefix: str) -> None:
    double = {f"double_blocks.{n}.processor.{part}": rows for n in range(19) for part, rows in (
        ("qkv_lora1", 9216), ("proj_lora1", 3072), ("qkv_lora2", 9216), ("proj_lora2", 3072)
    )}  # fmt: skip
    single = {f"single_blocks.{n}.processor.{part}": rows for n in range(38) for part, rows in (
        ("qkv_lora", 9216), ("proj_lora", 3072)
    )}  # fmt: skip
    convert = "_convert_xlabs_flux_lora_to_diffusers"
    found = _check(convert, {**double, **single}, lambda path: prefix + path, "down.weight", "up.weight")
    assert found == 19 * 8 + 38 * 4


def test_onetrainer_names_are_those_of_diffusers_conversion() -> None:
    """Of the blocks, diffusers takes only the attention of such files."""
    utils = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    paths = [
        key.removeprefix("transformer.").removesuffix(".weight")
        for key in reference(FLUX, style="diffusers")
        if re.match(r"transformer\..*(attn\.(to|add)_|embedder|norm_out|^transformer\.proj_out).*\.weight$", key)
    ]
    names = {f"lora_transformer_{path.replace('.', '_')}": 6144 if "norm_out" in path else 3072 for path in paths}
    given = _adapter(names, "lora_down.weight", "lora_up.weight")
    alphas = {f"{name}.alpha": torch.tensor(2.0) for name in names}
    converted = utils._convert_kohya_flux_lora_to_diffusers({**given, **alphas})
    found = _same_rows(FLUX, _ups(given, ".lora_up.weight"), _ups(converted, ".lora_B.weight"))
    assert found == 19 * 8 + 38 * 3 + 8 + 1


@EACH
def test_names_of_diffusers_are_its_keys(architecture: Architecture) -> None:
    index = name_index(modules(architecture, reference(architecture)))
    for key in reference(architecture, style="diffusers"):
        path = key.removeprefix("transformer.").removesuffix(".weight")
        if not key.startswith("transformer.") or not key.endswith(".weight"):
            continue
        joined = path.replace(".", "_")
        dotted = (f"transformer.{path}", path, f"base_model.model.{path}", f"transformer.base_model.model.{path}")
        found = {index[name] for name in (f"lora_transformer_{joined}", f"lycoris_{joined}", *dotted)}
        [[(module, rows)]] = found
        halves = ((module.shape[0] // 2, module.shape[0]), (0, module.shape[0] // 2))
        ends = "context_block.adaLN" in module.name and module.shape[0] == 2 * module.shape[1]
        last = module.name.endswith("final_layer.adaLN_modulation.1") and architecture.id not in NEWER
        swapped = last or ends
        assert rows == (halves if swapped else None)


@EACH
def test_names_of_the_single_file_are_its_keys(architecture: Architecture) -> None:
    """And under each of them, the modules of a fused weight have the rows that they have in the weight."""
    found = modules(architecture, reference(architecture))
    index = name_index(found)
    for module in found:
        if module.position.part == "transformer":
            path = re.sub(r"\.(weight|scale)$", "", module.weight.removeprefix(CORE))
            joined = (prefix + path.replace(".", "_") for prefix in ("lora_unet_", "oft_unet_", "lycoris_"))
            dotted = (prefix + path for prefix in ("diffusion_model.", CORE, "", "base_model.model."))
            for name in (*joined, *dotted):
                assert (module, module.rows) in index[name]


def test_other_names_by_hand() -> None:
    index = name_index(modules(FLUX, reference(FLUX)))
    block = "transformer_blocks.3."
    assert index[f"transformer.{block}ff.linear_in"] == index[f"transformer.{block}ff.net.0.proj"]
    assert index[f"lycoris_{block}ff_context.linear_out".replace(".", "_")] == index[f"{block}ff_context.net.2"]
    single = f"{CORE}single_blocks.7.linear1."
    assert [(m.name, rows) for m, rows in index["diffusion_model.single_blocks.7.linear1_qkv"]] == [
        (single + "q", ((0, 3072),)),
        (single + "k", ((3072, 6144),)),
        (single + "v", ((6144, 9216),)),
    ]
    assert [(m.name, rows) for m, rows in index["lora_unet_single_blocks_7_linear1"]] == [
        (single + "q", ((0, 3072),)),
        (single + "k", ((3072, 6144),)),
        (single + "v", ((6144, 9216),)),
        (single + "mlp", ((9216, 21504),)),
    ]


def _as_converted(architecture: Architecture, convert: str, given: dict[str, Tensor], start: str) -> int:
    """Assert that diffusers' conversion names the same rows; says how many modules these are."""
    utils = pytest.importorskip("diffusers.loaders.lora_conversion_utils")
    converted = getattr(utils, convert)(dict(given))
    return _same_rows(architecture, _ups(given, start), _ups(converted, ".lora_B.weight"))


def test_names_of_anima_are_those_of_diffusers_conversion() -> None:
    anima = known("anima")
    names = {f"diffusion_model.{path}": rows for path, rows in _fused(anima, "").items() if path != "llm_adapter.embed"}
    given = _adapter(names, "lora_A.weight", "lora_B.weight")
    found = _as_converted(anima, "_convert_non_diffusers_anima_lora_to_diffusers", given, ".lora_B.weight")
    assert found == 28 * (8 + 2 + 6) + 6 + 6 * 10 + 1


@pytest.mark.parametrize("prefix", ["diffusion_model.", "", "lora_unet_"])
def test_names_of_z_image_are_those_of_diffusers_conversion(prefix: str) -> None:
    """ai-toolkit's, DiffSynth-Studio's, and musubi-tuner's, which no program loads."""
    z_image = known("z-image")
    paths = {
        key.removeprefix("transformer.").removesuffix(".weight"): shape[0]
        for key, shape in reference(z_image, style="diffusers").items()
        if re.search(r"attention\.to_|feed_forward", key)
    }
    kohya = prefix.endswith("_")
    names = {prefix + (path.replace(".", "_") if kohya else path): rows for path, rows in paths.items()}
    ends = ("lora_down.weight", "lora_up.weight") if kohya else ("lora_A.weight", "lora_B.weight")
    given = _adapter(names, *ends)
    convert = "_convert_non_diffusers_z_image_lora_to_diffusers"
    assert _as_converted(z_image, convert, given, f".{ends[1]}") == 34 * 7


def test_fused_names_of_lumina_2_are_those_of_diffusers_conversion() -> None:
    """Keys and values have a third of the rows of the queries."""
    lumina = known("lumina-2")
    paths = _fused(lumina, "layers.", "noise_refiner.", "context_refiner.")
    given = _adapter(
        {f"diffusion_model.{path}": rows for path, rows in paths.items()}, "lora_A.weight", "lora_B.weight"
    )
    convert = "_convert_non_diffusers_lumina2_lora_to_diffusers"
    assert _as_converted(lumina, convert, given, ".lora_B.weight") == 30 * 7 + 28
    index = name_index(modules(lumina, reference(lumina)))
    parts = {module.name[-1]: rows for module, rows in index["lora_unet_layers_3_attention_qkv"]}
    assert parts == {"q": ((0, 2304),), "k": ((2304, 3072),), "v": ((3072, 3840),)}


GGUF_LLM = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
GGUF_OWN = {
    "anima": {
        "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm",
    },
    "lumina-2": {
        "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", GGUF_OWN)
def test_language_models_in_files_of_their_own(name: str) -> None:
    """As they are published, as transformers saves them, and as llama.cpp converts them."""
    architecture = known(name)
    start = next(k.prefix for layout in architecture.text_encoders[:1] for k in layout.key_layouts)
    hf = {key.removeprefix(start): s for key, s in reference(architecture).items() if key.startswith(start)}
    gguf: dict[str, tuple[int, ...]] = {}
    for layer in range(28 if name == "anima" else 26):
        for short, leaf in {**GGUF_LLM, **GGUF_OWN[name]}.items():
            gguf[f"blk.{layer}.{short}.weight"] = hf[f"model.layers.{layer}.{leaf}.weight"]
    gguf |= {"token_embd.weight": hf["model.embed_tokens.weight"], "output_norm.weight": hf["model.norm.weight"]}
    assert len(gguf) == len(hf)
    bare = {key.removeprefix("model."): shape for key, shape in hf.items()}
    for keys in (hf, {**hf, "lm_head.weight": (8, 8)}, bare, gguf):
        [encoder] = encoders_in(architecture, keys)
        assert encoder.layout.part == "te1" and encoder.key_layout.prefix
        there = {encoder.key_layout.prefix + key: shape for key, shape in keys.items() if key != "lm_head.weight"}
        assert {m.weight: m.shape for m in modules(architecture, there) if m.position.part == "te1"} == there
    other = known("lumina-2" if name == "anima" else "anima")
    assert not encoders_in(other, hf), "the two are not taken for each other"


T5_NAMES = {
    "sd3-medium": ("lora_te3_", "text_encoder_3."),
    "flux-dev": ("lora_te3_", "lora_te2_", "text_encoder_2."),
    "chroma": ("lora_te3_", "lora_te_", "text_encoder."),
}


@pytest.mark.parametrize("name", T5_NAMES)
def test_names_of_t5_are_its_keys(name: str) -> None:
    """kohya's, OneTrainer's and diffusers', and ComfyUI's for all."""
    index = name_index(modules(known(name), reference(known(name))))
    prefix = "text_encoders.t5xxl.transformer."
    keys = [key for key in reference(known(name)) if key.startswith(prefix)]
    assert len(keys) == 2 + 24 * 9 + 1
    for key in keys:
        path = key.removeprefix(prefix).removesuffix(".weight")
        for start in (*T5_NAMES[name], prefix):
            [(module, rows)] = index[start + (path.replace(".", "_") if start.endswith("_") else path)]
            assert module.weight == key and rows is None


def test_clip_and_t5_names_of_one_number_do_not_meet() -> None:
    index = name_index(modules(known("sd3-medium"), reference(known("sd3-medium"))))
    weights = {
        "lora_te2_text_model_encoder_layers_31_mlp_fc1": "clip_g.transformer.text_model.encoder.layers.31.mlp.fc1",
        "lora_te2_encoder_block_23_layer_1_DenseReluDense_wo": "t5xxl.transformer.encoder.block.23.layer.1.DenseReluDense.wo",
        "lora_te1_text_projection": "clip_l.transformer.text_projection",
        "text_encoders.clip_g.transformer.text_projection": "clip_g.transformer.text_projection",
    }
    for name, path in weights.items():
        [(module, _)] = index[name]
        assert module.weight == f"text_encoders.{path}.weight"


GGUF_LEAVES = {
    "attn_q": "layer.0.SelfAttention.q", "attn_k": "layer.0.SelfAttention.k", "attn_v": "layer.0.SelfAttention.v",
    "attn_o": "layer.0.SelfAttention.o", "attn_norm": "layer.0.layer_norm", "ffn_norm": "layer.1.layer_norm",
    "ffn_gate": "layer.1.DenseReluDense.wi_0", "ffn_up": "layer.1.DenseReluDense.wi_1",
    "ffn_down": "layer.1.DenseReluDense.wo",
    "attn_rel_b": "layer.0.SelfAttention.relative_attention_bias",
}  # fmt: skip


def test_t5_under_the_names_of_gguf_files() -> None:
    """Forge's loader renames them word by word; this is that table."""
    shapes = reference(FLUX)
    start = "text_encoders.t5xxl.transformer."
    gguf = {
        f"{start}enc.blk.{layer}.{short}.weight": f"{start}encoder.block.{layer}.{leaf}"
        for layer in range(24)
        for short, leaf in GGUF_LEAVES.items()
        if layer == 0 or short != "attn_rel_b"
    }
    gguf[f"{start}token_embd.weight"], gguf[f"{start}enc.output_norm.weight"] = (
        f"{start}shared", f"{start}encoder.final_layer_norm",
    )  # fmt: skip
    tensors = {key: shapes[f"{path}.weight"] for key, path in gguf.items()}
    found = {module.weight: module.name for module in modules(FLUX, tensors)}
    assert found == gguf


def test_a_table_that_only_the_encoder_holds_is_the_shared_one() -> None:
    start = "text_encoders.t5xxl.transformer."
    tensors = reference(FLUX)
    tensors[f"{start}encoder.embed_tokens.weight"] = tensors[f"{start}shared.weight"]
    names = [module.name for module in modules(FLUX, tensors)]
    assert names == [module.name for module in modules(FLUX, reference(FLUX))], "both are one module"
    del tensors[f"{start}shared.weight"]
    found = {module.name: module.weight for module in modules(FLUX, tensors)}
    assert found[f"{start}shared"] == f"{start}encoder.embed_tokens.weight"


@pytest.mark.parametrize("name", ["sd3-medium", "flux-dev", "chroma"])
def test_text_encoders_in_files_of_their_own(name: str) -> None:
    """As they are published: clip_l, clip_g and t5xxl, without what a single file puts before their keys."""
    for comfy, part in {"clip_l": "te1", "clip_g": "te2", "t5xxl": "te3"}.items():
        start = f"text_encoders.{comfy}.transformer."
        keys = {k.removeprefix(start): shape for k, shape in reference(known(name)).items() if k.startswith(start)}
        found = next(iter(encoders_in(known(name), keys)), None)
        assert (found and found.layout.part) == (part if keys else None)
        assert found is None or found.key_layout.prefix == start
    other = {"encoder.block.0.layer.0.SelfAttention.q.weight": (512, 512)}
    assert not encoders_in(known(name), other), "a smaller T5"


def test_norms_that_are_called_weight() -> None:
    """As ComfyUI saves them by now."""
    for name in FLUXES:
        architecture = known(name)
        tensors = {re.sub(r"\.scale$", ".weight", key): shape for key, shape in reference(architecture).items()}
        assert recognise(tensors) is architecture
        found = modules(architecture, tensors)
        before = modules(architecture, reference(architecture))
        renamed = [replace(m, weight=re.sub(r"\.scale$", ".weight", m.weight)) for m in before]
        assert list(found) == renamed
