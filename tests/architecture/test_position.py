"""Where modules sit: the blocks users know, stages by resolution, and the order of the forward pass."""

from __future__ import annotations

import re

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
