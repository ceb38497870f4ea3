"""LoRAs made to load without a checkpoint: the same numbers under names that load, whatever family of names they came in.

What a name means, and what is written for it, is written out by hand in the tests that this one borrows the tables of; the
numbers are compared in float64, and where the layout stays, bit by bit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import lib_transfer
from lib_transfer.conversion.outcome import Outcome
from tests import tiny
from tests.balance import need_balance
from tests.transfer import hosts
from tests.transfer.families import BASES, all_families
from tests.transfer.test_spellings import FLUX_NAMES, _low_rank, _sdxl
from tests.transfer.transformers import WIDTH, adapter_of, written_as

Convert = Callable[..., Outcome]
CORE = "model.diffusion_model."


@pytest.fixture
def convert(runtime: lib_transfer.Runtime, tmp_path: Path) -> Convert:
    def run(file: Path, **options: object) -> Outcome:
        (tmp_path / "out").mkdir(exist_ok=True)
        return lib_transfer.convert(file, output=tmp_path / "out", runtime=runtime, **options)  # type: ignore[arg-type]

    return run


def _same(outcome: Outcome, expected: Mapping[str, Tensor]) -> hosts.LoraFile:
    """The output, once it was seen to hold these changes and nothing else that is not zero."""
    assert outcome.status == "written" and outcome.path is not None, outcome.message
    assert outcome.report is not None and not outcome.report.unread and not outcome.report.accounts.losses
    need_balance(outcome.report)
    file = hosts.read(outcome.path)
    got = {name: delta for name, delta in file.deltas().items() if delta.norm() > 0}
    assert got.keys() == expected.keys()
    for name, delta in expected.items():
        assert (got[name] - delta).norm() <= 1e-6 * delta.norm(), name
    return file


@pytest.mark.parametrize("base", BASES)
def test_every_family_of_names_of_each_transformer(base: str, convert: Convert, tmp_path: Path) -> None:
    weights = tiny.weights(base, width=WIDTH)
    made, meant = adapter_of(all_families(base), weights)
    outcome = convert(tiny.save(tmp_path / "style.safetensors", made), base=base)
    assert outcome.notes and outcome.path is not None and outcome.path.stem.startswith("style_converted_")
    file = _same(outcome, {written_as(path): delta for path, delta in meant.items()})
    assert file.names.keys() == file.deltas().keys()
    again = convert(outcome.path, base=base)
    assert (again.status, again.why) == ("left out", "loads as it is")
    assert convert(tmp_path / "style.safetensors", base=base).status == "already done"


def test_sdxl_of_diffusers_and_of_onetrainer(convert: Convert, files: tiny.Files, tmp_path: Path) -> None:
    tensors: tiny.Weights = {}
    expected: dict[str, Tensor] = {}
    for seed, (name, kohya, shape) in enumerate(_sdxl(files)):
        made, update = _low_rank(name, shape, seed)
        tensors |= made
        expected |= dict(zip(kohya, update.chunk(len(kohya)), strict=True))
    outcome = convert(tiny.save(tmp_path / "style.safetensors", tensors, metadata={"ss_sd_model_name": "mine.ckpt"}))
    file = _same(outcome, expected)
    # Of an OpenCLIP attention, A1111 loads all four projections or none.
    assert sum("layers_5_self_attn" in name for name in file.names) == 4
    assert file.metadata["ss_sd_model_name"] == "mine.ckpt" and "transfer_lora.request" in file.metadata
    assert hosts.a1111_version(file.metadata) == "SDXL"
    host = hosts.Host(files.tensors["sdxl-source"], forge_host=False)
    assert len(host.unknown(file)) == len(file.names["lora_te2_text_projection"])


def test_flux_of_many_tools(convert: Convert, tmp_path: Path) -> None:
    tensors: tiny.Weights = {}
    expected: dict[str, Tensor] = {}
    for seed, (name, (kohya, (first, end))) in enumerate(FLUX_NAMES.items()):
        width = 24 if "lora_te1" in kohya else 16 if "lora_te3" in kohya else 8
        rows = {"qkv": 3, "linear1": 7, "lin": 6}.get(kohya.rpartition("_")[2], end - first)
        made, update = _low_rank(name, ((end - first) * width, width), seed)
        tensors |= made
        whole = expected.setdefault(kohya, torch.zeros(rows * width, width, dtype=torch.float64))
        whole[first * width : end * width] += update
    _same(convert(tiny.save(tmp_path / "style.safetensors", tensors)), expected)


def test_what_keeps_its_layout_keeps_its_bits(convert: Convert, tmp_path: Path) -> None:
    """LoRA in bfloat16, LoHa, LoKr and DoRA under names of diffusers; none of it needs a weight, a bias stays beside it."""
    block = "transformer.transformer_blocks.{}.attn1.to_q"
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    lora = {"lora_A.weight": random(4, 2048).bfloat16(), "lora_B.weight": random(2048, 4).bfloat16()}
    loha = {f"hada_w{n}_{x}": random(*((2048, 4) if x == "a" else (4, 2048))).half() for n in (1, 2) for x in "ab"}
    lokr = {"lokr_w1": random(16, 16).half(), "lokr_w2": random(128, 128).half()}
    dora = {**{k: t.half() for k, t in lora.items()}, "lora_magnitude_vector": random(2048).abs().half()}
    kinds = (lora, loha, lokr, dora)
    tensors = {f"{block.format(n)}.{suffix}": t for n, kind in enumerate(kinds) for suffix, t in kind.items()}
    outcome = convert(tiny.save(tmp_path / "style.safetensors", tensors))
    assert outcome.status == "written" and outcome.path is not None
    assert outcome.report is not None and not outcome.report.accounts.losses
    names = hosts.read(outcome.path).names
    words = {
        "lora_A.weight": "lora_down.weight",
        "lora_B.weight": "lora_up.weight",
        "lora_magnitude_vector": "dora_scale",
    }
    for number, kind in enumerate(kinds):
        written = names[f"lora_unet_blocks_{number}_self_attn_q_proj"]
        given = {words.get(suffix, suffix): tensor for suffix, tensor in kind.items()}
        for suffix, tensor in given.items():
            assert written[suffix].dtype == tensor.dtype
            assert torch.equal(written[suffix].reshape(tensor.shape), tensor), suffix
        assert written.keys() - given.keys() <= {"alpha"}
    assert names["lora_unet_blocks_3_self_attn_q_proj"]["dora_scale"].shape == (2048, 1)
    assert float(names["lora_unet_blocks_0_self_attn_q_proj"]["alpha"]) == 4


def test_a_dora_for_a_third_of_a_weight_asks_for_the_checkpoint(convert: Convert, tmp_path: Path) -> None:
    """Its magnitude is of the rows of q alone, and programs take it for the whole weight."""
    weights = tiny.weights("flux-dev")
    checkpoint = tiny.save(tmp_path / "flux.safetensors", weights, torch.float16)
    name = "transformer.transformer_blocks.0.attn.to_q"
    made = tiny.factors(name, (8, 8), 2, alpha=None)
    made = {key.replace("lora_up", "lora_B").replace("lora_down", "lora_A"): t for key, t in made.items()}
    made[f"{name}.lora_magnitude_vector"] = torch.ones(8)
    made |= tiny.factors("single_blocks.0.linear1", (56, 8), 2)  # a bare name
    file = tiny.save(tmp_path / "style.safetensors", made)
    outcome = convert(file, base="flux-dev")
    assert outcome.status == "written" and outcome.report is not None, outcome.message
    [lost] = [module for module in outcome.report.modules if not module.written]
    assert lost.tensors and "checkpoint" in lost.reason
    whole = convert(file, target=checkpoint, existing="both")
    assert whole.status == "written" and whole.report is not None
    assert all(module.written for module in whole.report.modules)


def test_factors_of_different_scales_become_one_pair(convert: Convert, tmp_path: Path) -> None:
    """q, k and v of kohya's names of diffusers, with alphas that are no powers of two apart, in float16."""
    made: tiny.Weights = {}
    expected = torch.zeros(3 * 3840, 3840, dtype=torch.float64)
    for number, (word, alpha, rank) in enumerate((("q", 3.0, 4), ("k", 4.0, 4), ("v", 1.0, 3))):
        name = f"lora_unet_layers_0_attention_to_{word}"
        part = {key: t.half() for key, t in tiny.factors(name, (3840, 3840), rank, alpha=alpha, seed=number).items()}
        expected[number * 3840 : (number + 1) * 3840] = hosts.delta(
            {key.removeprefix(f"{name}."): tensor for key, tensor in part.items()}
        )
        made |= part
    file = _same(
        convert(tiny.save(tmp_path / "style.safetensors", made)), {"lora_unet_layers_0_attention_qkv": expected}
    )
    assert file.names["lora_unet_layers_0_attention_qkv"]["lora_down.weight"].shape[0] == 11


def test_a_file_that_loads_is_not_written_again(convert: Convert, tmp_path: Path) -> None:
    for base, name, shape in (
        ("", "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", (640, 640)),
        ("", "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q", (640, 640)),
        ("", "diffusion_model.blocks.3.self_attn.q_proj", (2048, 2048)),
        ("flux-dev", "transformer.single_transformer_blocks.3.attn.to_q", (3072, 3072)),
        ("", "diffusion_model.layers.3.attention.to_q", (3840, 3840)),
    ):
        outcome = convert(tiny.save(tmp_path / "fine.safetensors", tiny.factors(name, shape)), base=base)
        assert (outcome.status, outcome.why) == ("left out", "loads as it is"), name
    assert not list((tmp_path / "out").iterdir())


def test_an_attention_that_a1111_passes_over_is_completed(convert: Convert, tmp_path: Path) -> None:
    """kohya's names, and q and v alone of an OpenCLIP attention."""
    name = "lora_te2_text_model_encoder_layers_3_self_attn_{}_proj"
    made = {key: t for word in "qv" for key, t in tiny.factors(name.format(word), (1280, 1280)).items()}
    outcome = convert(tiny.save(tmp_path / "style.safetensors", made), base="sdxl")
    assert any("A1111 passes over" in note for note in outcome.notes)
    assert outcome.path is not None
    file = hosts.read(outcome.path)
    assert file.names.keys() == {name.format(word) for word in ("q", "k", "v", "out")}
    assert all(torch.equal(file.tensors[key], tensor) for key, tensor in made.items())


def test_folders_of_peft_and_their_scale(convert: Convert, tmp_path: Path) -> None:
    folder = tmp_path / "style"
    folder.mkdir()
    name = "base_model.model.transformer_blocks.3.attn2.to_v"
    up, down = torch.randn(2048, 4), torch.randn(4, 1024)
    tiny.save(folder / "adapter_model.safetensors", {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 10, "target_modules": ["to_v"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    outcome = convert(folder)
    assert any("adapter_config.json" in note for note in outcome.notes)
    expected = 2.5 * up.double() @ down.double()
    _same(outcome, {"lora_unet_blocks_3_cross_attn_v_proj": expected})


def test_what_cannot_be_made_to_load_says_why(convert: Convert, tmp_path: Path) -> None:
    foreign = tiny.factors("visual_transformer_blocks_3_ff_in_layer", (64, 64))
    outcome = convert(tiny.save(tmp_path / "foreign.safetensors", foreign))
    assert outcome.status == "failed" and "Kandinsky" in outcome.message
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\0\0\0\0\0\0\0{not json")
    assert convert(broken).status == "failed"
    # Names of a block that several models have, in no model's size.
    unclear = convert(tiny.save(tmp_path / "unclear.safetensors", tiny.factors("blocks.0.self_attn.q", (8, 8))))
    assert unclear.status == "failed" and "wan-14b" in unclear.hint
    assert not list((tmp_path / "out").iterdir())
    named = convert(tmp_path / "unclear.safetensors", base="wan-14b")
    assert named.status == "written"
    wrong = convert(tmp_path / "unclear.safetensors", base="wan-15b")
    assert wrong.status == "failed" and "wan-14b" in wrong.hint
