"""Where modules sit: the blocks users know, stages by resolution, and the order of the forward pass."""

from __future__ import annotations

import re

import pytest

from lib_transfer.architecture import Architecture, Module, modules, reference
from tests.architecture.known import BOTH, known

SD1, SDXL = known("sd1"), known("sdxl")


def _unet(architecture: Architecture) -> list[Module]:
    return [module for module in modules(architecture, reference(architecture)) if module.position.part == "unet"]


@BOTH
def test_blocks_are_those_of_the_block_weight_tools(architecture: Architecture) -> None:
    """Merging tools read the block off the key; time and size embeddings count as BASE, ``out`` as the last block."""
    last = {"sd1": 11, "sdxl": 8}[architecture.id]
    for module in _unet(architecture):
        path = module.name.removeprefix("model.diffusion_model.")
        if match := re.match(r"(in|out)put_blocks\.(\d+)\.", path):
            expected = f"{match[1].upper()}{int(match[2]):02}"
        else:
            expected = {"mid": "MID", "out": f"OUT{last}" if last > 9 else f"OUT0{last}"}.get(path[:3], "BASE")
        assert module.position.block == expected


@BOTH
def test_stages_share_a_resolution(architecture: Architecture) -> None:
    """A stage ends with the layer that changes the resolution."""
    stages: dict[str, set[str]] = {}
    for module in _unet(architecture):
        stages.setdefault(module.position.stage, set()).add(module.position.block)
    size = {"sd1": 4, "sdxl": 3}[architecture.id]
    for level in range(size):
        down = {f"IN{3 * level + number:02}" for number in (1, 2, 3)} - {f"IN{3 * size:02}"}
        assert stages[f"input {level + 1}"] == down | ({"IN00"} if level == 0 else set())
        assert stages[f"output {level + 1}"] == {f"OUT{3 * level + number:02}" for number in (0, 1, 2)}
    assert stages["middle"] == {"MID"}
    assert set(stages) == {"embedding", "middle"} | {
        f"{way} {n + 1}" for way in ("input", "output") for n in range(size)
    }


@BOTH
def test_modules_come_in_forward_order(architecture: Architecture) -> None:
    found = modules(architecture, reference(architecture))
    parts = [module.position.part for module in found]
    assert list(dict.fromkeys(parts)) == {"sd1": ["te1", "unet"], "sdxl": ["te1", "te2", "unet"]}[architecture.id]
    for part in set(parts):
        depths = [module.position.depth for module in found if module.position.part == part]
        assert depths == list(range(len(depths)))
    unet = [module.name.removeprefix("model.diffusion_model.") for module in found if module.position.part == "unet"]
    order = ("time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks", "out.")

    def rank(name: str) -> tuple[int, ...]:
        numbers = (int(word) for word in name.split(".")[1:3] if word.isdigit())
        return (next(place for place, start in enumerate(order) if name.startswith(start)), *numbers)

    ranks = [rank(name) for name in unet]
    assert ranks == sorted(ranks)


@BOTH
def test_one_role_is_one_job(architecture: Architecture) -> None:
    """Whatever block they are in, modules of one role are of one kind and have one name inside their block."""
    jobs: dict[tuple[str, str], set[tuple[str, ...]]] = {}
    for module in modules(architecture, reference(architecture)):
        words = [word for word in module.name.removeprefix("model.diffusion_model.").split(".") if not word.isdigit()]
        jobs.setdefault((module.position.part, module.position.role), set()).add((module.kind, *words[1:]))
    assert {role: found for role, found in jobs.items() if len(found) != 1} == {}


def test_roles_are_the_words_of_the_text_encoder_for_both_layouts() -> None:
    def roles(part: str) -> list[str]:
        found = modules(SDXL, reference(SDXL))
        return [m.position.role for m in found if m.position.part == part and m.position.block == "layer 3"]

    assert roles("te1") == roles("te2")
    assert roles("te1") == [
        "layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj",
        "layer_norm2", "mlp.fc1", "mlp.fc2",
    ]  # fmt: skip


def test_some_roles_by_hand() -> None:
    position = {module.name.removeprefix("model.diffusion_model."): module.position for module in _unet(SDXL)}
    expected = {
        "label_emb.0.2": "add_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "input_blocks.3.0.op": "downsample",
        "input_blocks.4.0.in_layers.0": "conv1.norm",
        "input_blocks.4.0.in_layers.2": "conv1",
        "input_blocks.4.0.emb_layers.1": "time",
        "input_blocks.4.0.out_layers.3": "conv2",
        "input_blocks.4.0.skip_connection": "skip",
        "input_blocks.4.1.proj_in": "proj_in",
        "input_blocks.4.1.transformer_blocks.1.attn2.to_k": "attn2.to_k",
        "input_blocks.4.1.transformer_blocks.1.attn2.to_out.0": "attn2.to_out.0",
        "input_blocks.4.1.transformer_blocks.0.ff.net.0.proj": "ff.net.0.proj",
        "input_blocks.4.1.transformer_blocks.0.norm3": "norm3",
        "output_blocks.2.2.conv": "upsample",
        "out.2": "conv_out",
    }
    assert {name: position[name].role for name in expected} == expected
    assert position["input_blocks.4.1.transformer_blocks.1.attn2.to_k"].block == "IN04"


TRANSFORMERS = ("sd3-medium", "sd3.5-medium", "sd3.5-large", "flux-dev", "flux-schnell", "chroma")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_blocks_of_a_transformer(name: str) -> None:
    """The unit is the block's path; within a unit no job is done twice."""
    letters = {"double_blocks": "D", "single_blocks": "S", "joint_blocks": "J"}
    seen: set[tuple[str, str, str]] = set()
    for module in modules(known(name), reference(known(name))):
        if module.position.part != "transformer":
            continue
        kind, *rest = module.name.removeprefix("model.diffusion_model.").split(".")
        position = module.position
        if kind in letters:
            number = rest[0]
            assert position.unit == f"{kind}.{number}"
            assert position.block == f"{letters[kind]}{int(number):02}"
            assert position.stage == kind.removesuffix("_blocks")
        elif position.unit:
            assert position.stage == "guidance"
        assert (position.stage, position.unit, position.role) not in seen
        seen.add((position.stage, position.unit, position.role))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_parts_and_depths_of_a_transformer(name: str) -> None:
    found = modules(known(name), reference(known(name)))
    parts = list(dict.fromkeys(module.position.part for module in found))
    encoders = ["te3"] if name == "chroma" else ["te1", "te2", "te3"] if name.startswith("sd3") else ["te1", "te3"]
    assert parts == [*encoders, "transformer"]
    for part in parts:
        depths = [module.position.depth for module in found if module.position.part == part]
        assert depths == list(range(len(depths)))
    stages = list(dict.fromkeys(m.position.stage for m in found if m.position.part == "transformer"))
    blocks = ["joint"] if name.startswith("sd3") else ["double", "single"]
    assert stages == ["embedding", *(["guidance"] if name == "chroma" else []), *blocks, "final"]


def test_chroma_does_the_same_jobs_as_flux() -> None:
    flux, chroma = (
        {m.name: m.position for m in modules(known(name), reference(known(name))) if m.position.part == "transformer"}
        for name in ("flux-dev", "chroma")
    )
    for name in flux.keys() & chroma.keys():
        for word in ("stage", "block", "role", "unit"):
            assert getattr(flux[name], word) == getattr(chroma[name], word)
    only = {position.role for position in chroma.values()} - {position.role for position in flux.values()}
    assert only == {"in_proj", "out_proj", "norm", "in_layer", "out_layer"}


def test_some_roles_of_transformers_by_hand() -> None:
    core = "model.diffusion_model."
    for name, expected in {
        "flux-dev": {
            "double_blocks.3.img_attn.qkv.q": "img_attn.q",
            "double_blocks.3.txt_attn.qkv.v": "txt_attn.v",
            "double_blocks.3.txt_mlp.2": "txt_mlp.2",
            "double_blocks.3.img_attn.norm.key_norm": "img_attn.norm.key_norm",
            "single_blocks.9.linear1.mlp": "linear1.mlp",
            "single_blocks.9.norm.query_norm": "norm.query_norm",
            "time_in.in_layer": "time_in.in_layer",
            "final_layer.linear": "linear",
        },
        "sd3.5-medium": {
            "joint_blocks.2.x_block.attn2.qkv.k": "x_block.attn2.k",
            "joint_blocks.2.x_block.attn2.ln_k": "x_block.attn2.ln_k",
            "joint_blocks.2.context_block.mlp.fc1": "context_block.mlp.fc1",
            "x_embedder.proj": "x_embedder.proj",
        },
    }.items():
        roles = {m.name: m.position.role for m in modules(known(name), reference(known(name)))}
        assert {path: roles[core + path] for path in expected} == expected
