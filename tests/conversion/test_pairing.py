"""Which module goes where: relatives of another depth, text encoders that two architectures share, and force."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lib_transfer
from lib_transfer.architecture import Module, reference
from lib_transfer.conversion.pairing import Pairing, pairing
from lib_transfer.conversion.sketches import Sketches
from lib_transfer.errors import MismatchError
from lib_transfer.library.base import Base, open_base
from lib_transfer.storage.cache import Cache
from tests import tiny

UNET = "model.diffusion_model."
WIDTH = 16
Open = Callable[[tiny.Weights, str], Base]


@pytest.fixture
def opened(tmp_path: Path, request: pytest.FixtureRequest) -> Open:
    """Write a checkpoint and open it."""

    def do(weights: tiny.Weights, name: str) -> Base:
        context = open_base(tiny.save(tmp_path / f"{name}.safetensors", weights, torch.float16), name)
        base = context.__enter__()
        request.addfinalizer(lambda: context.__exit__(None, None, None))
        return base

    return do


def found(source: Base, target: Base, tmp_path: Path, *, forced: bool = False) -> Pairing:
    sketches = Sketches(source, target, Cache(tmp_path / "cache"), torch.device("cpu"))
    return pairing(source, target, sketches, forced=forced)


def student(teacher: tiny.Weights, name: str, places: dict[str, str]) -> tiny.Weights:
    """A relative whose blocks were started from the teacher's: ``places`` says which, by the student's path."""
    keys = reference(tiny.architecture(name), width=WIDTH)

    def start(key: str) -> str:
        place = next((p for p in sorted(places, key=len, reverse=True) if key.startswith(UNET + p + ".")), None)
        return key if place is None else UNET + places[place] + key.removeprefix(UNET + place)

    fresh = tiny.weights(name, width=WIDTH, seed=9)
    started = {key: teacher.get(start(key), fresh[key]) for key in keys}
    return tiny.fine_tuned({k: w if w.shape == keys[k] else fresh[k] for k, w in started.items()}, 0.2, seed=5)


def places_of(source: Base, find: Pairing, kind: str) -> dict[str, str | None]:
    """Unit of the source -> unit of the target, read off every weight of the unit, which must agree."""
    told: dict[str, set[str | None]] = {}
    for module in source.modules:
        if re.search(kind, module.position.unit) and module.kind in ("linear", "convolution", "norm"):
            counterpart = find(module).module
            told.setdefault(module.position.unit, set()).add(counterpart and counterpart.position.unit)
    assert all(len(units) == 1 for units in told.values()), {u: s for u, s in told.items() if len(s) != 1}
    return {unit: next(iter(units)) for unit, units in told.items()}


def test_ssd_1b_as_it_was_made(opened: Open, tmp_path: Path) -> None:
    """Its training starts from SDXL's state by name, so the first blocks of each attention correspond (segmind/SSD-1B)."""
    teacher = tiny.weights("sdxl", width=WIDTH)
    source, target = opened(teacher, "sdxl"), opened(student(teacher, "ssd-1b", {}), "ssd")
    there = {m.position.unit for m in target.modules}
    blocks = places_of(source, found(source, target, tmp_path), r"transformer_blocks")
    assert blocks == {unit: unit if unit in there else None for unit in blocks}
    assert sum(unit is not None for unit in blocks.values()) == 4 + 8 + 18 + 4
    back = places_of(target, found(target, source, tmp_path), r"transformer_blocks")
    assert back == {unit: unit for unit in back}


def test_a_student_that_keeps_other_blocks_than_the_first(opened: Open, tmp_path: Path) -> None:
    teacher = tiny.weights("sdxl", width=WIDTH)
    at = "input_blocks.{}.1.transformer_blocks.{}"
    kept = {7: [1, 4, 5, 8], 8: [0, 3, 6, 9]}
    places = {at.format(a, n): at.format(a, block) for a, blocks in kept.items() for n, block in enumerate(blocks)}
    source, target = opened(teacher, "sdxl"), opened(student(teacher, "ssd-1b", places), "ssd")
    blocks = places_of(source, found(source, target, tmp_path), r"input_blocks\.[78]\.1\.transformer_blocks")
    assert {a: b for b, a in places.items()} == {a: b for a, b in blocks.items() if b is not None}


def test_koala_whose_blocks_have_other_numbers(opened: Open, tmp_path: Path) -> None:
    """One residual block a stage on the way down: numbers shift, layers that change the resolution stay what they are."""
    teacher = tiny.weights("sdxl", width=WIDTH)
    shift = {"input_blocks.1": "input_blocks.1", "input_blocks.3": "input_blocks.4", "input_blocks.5": "input_blocks.7"}
    places = {f"{a}.{part}": f"{b}.{part}" for a, b in shift.items() for part in (0, 1)}
    places |= {"input_blocks.2.0.op": "input_blocks.3.0.op", "input_blocks.4.0.op": "input_blocks.6.0.op"}
    source, target = opened(teacher, "sdxl"), opened(student(teacher, "koala-700m", places), "koala")
    find = found(source, target, tmp_path)
    by_name = {m.name.removeprefix(UNET): m for m in source.modules}

    def goes_to(path: str) -> str | None:
        counterpart = find(by_name[path]).module
        return counterpart and counterpart.name.removeprefix(UNET)

    assert goes_to("input_blocks.3.0.op") == "input_blocks.2.0.op"
    assert goes_to("input_blocks.6.0.op") == "input_blocks.4.0.op"
    assert goes_to("input_blocks.4.0.in_layers.2") == "input_blocks.3.0.in_layers.2"
    assert goes_to("input_blocks.4.1.proj_in") == "input_blocks.3.1.proj_in"
    assert goes_to("time_embed.0") == "time_embed.0"
    assert goes_to("middle_block.0.in_layers.2") is None
    deep = "input_blocks.{}.1.transformer_blocks.{}.attn2.to_k"
    assert [goes_to(deep.format(7, n)) for n in range(5)] == [deep.format(5, n) for n in range(5)]
    assert {goes_to(deep.format(7, n)) for n in range(5, 10)} == {None}


@pytest.mark.parametrize(
    ("name", "lacking", "kept"),
    [("sdxl", "conditioner.embedders.1.", "te1"), ("flux-dev", "text_encoders.t5xxl.", "te1")],
)
def test_a_text_encoder_that_is_not_there_takes_no_other_with_it(
    opened: Open, tmp_path: Path, name: str, lacking: str, kept: str
) -> None:
    """Layers of two encoders have the same numbers."""
    weights = tiny.weights(name, width=8)
    fewer = {key: w for key, w in tiny.fine_tuned(weights).items() if not key.startswith(lacking)}
    source, target = opened(weights, "whole"), opened(fewer, "fewer")
    find = found(source, target, tmp_path)
    for module in source.modules:
        expected = None if module.name.startswith(lacking) else module.name
        counterpart = find(module).module
        assert (counterpart and counterpart.name) == expected
    assert any(m.position.part == kept for m in target.modules)


def test_modules_of_one_architecture_go_by_name(opened: Open, tmp_path: Path) -> None:
    weights = tiny.weights("sd1", width=8)
    source, target = opened(weights, "a"), opened(tiny.fine_tuned(weights), "b")
    find = found(source, target, tmp_path)
    assert all(find(m).module == target.by_name[m.name] and find(m).how == "by name" for m in source.modules)
    assert not (tmp_path / "cache").exists(), "and no weight was looked at"


def adapter(source: Base, path: Path, wanted: Callable[[Module], bool]) -> Path:
    chosen = [m for m in source.modules if m.kind == "linear" and m.output_name and wanted(m)]
    made: tiny.Weights = {}
    for number, module in enumerate(chosen):
        made |= tiny.factors(str(module.output_name), module.shape, seed=number)
    return tiny.save(path, made)


def transferred(source: Base, target: Base, lora: Path, tmp_path: Path, **how: object) -> lib_transfer.TransferResult:
    (tmp_path / "out").mkdir(exist_ok=True)
    runtime = lib_transfer.Runtime(device="cpu", cache_folder=tmp_path / "cache")
    request = lib_transfer.request(lora, source=source.path, target=target.path, runtime=runtime, **how)  # type: ignore[arg-type]
    return lib_transfer.transfer(request, lib_transfer.Destination(folder=tmp_path / "out"), runtime=runtime)


@pytest.fixture
def strangers(opened: Open) -> tuple[Base, Base]:
    """SD1 and SDXL with the same first text encoder, one in float32's words and one in float16's."""
    sd1, sdxl = tiny.weights("sd1", width=8), tiny.weights("sdxl", width=8)
    text = "conditioner.embedders.0.transformer."
    shared = {
        key: sd1["cond_stage_model.transformer." + key.removeprefix(text)] for key in sdxl if key.startswith(text)
    }
    return opened(sd1, "sd1"), opened(sdxl | shared, "sdxl")


def test_a_shared_text_encoder_is_carried_as_it_is(strangers: tuple[Base, Base], tmp_path: Path) -> None:
    source, target = strangers
    lora = adapter(source, tmp_path / "style.safetensors", lambda m: m.position.part == "te1" or "attn1" in m.name)
    result = transferred(source, target, lora, tmp_path)
    assert result.report is not None and result.path is not None
    told = {m.name: m for m in result.report.modules}
    text = [m for name, m in told.items() if name.startswith("lora_te_")]
    assert {m.decision for m in text if "layers_11" not in m.name} == {"copied"}
    assert {m.reason for m in text if "layers_11" not in m.name} == {"the text encoder is the same in both"}
    assert all("no effect" in m.reason for m in text if "layers_11" in m.name)
    assert {m.decision for n, m in told.items() if n.startswith("lora_unet_")} == {"no counterpart"}
    from safetensors.torch import load_file

    given, out = load_file(lora), load_file(result.path)
    for layer in range(11):
        name = f"text_model_encoder_layers_{layer}_mlp_fc1"
        alpha = float(given[f"lora_te_{name}.alpha"]) / 3
        expected = alpha * given[f"lora_te_{name}.lora_up.weight"] @ given[f"lora_te_{name}.lora_down.weight"]
        got = out[f"lora_te1_{name}.lora_up.weight"] @ out[f"lora_te1_{name}.lora_down.weight"]
        assert (got - expected).norm() <= 1e-5 * expected.norm()
    assert not [name for name in out if "layers_11" in name or name.startswith("lora_unet")]


def test_a_text_encoder_that_was_trained_is_not(opened: Open, strangers: tuple[Base, Base], tmp_path: Path) -> None:
    _, target = strangers
    changed = opened(tiny.fine_tuned(tiny.weights("sd1", width=8), 0.01), "trained")
    lora = adapter(changed, tmp_path / "style.safetensors", lambda m: m.position.part == "te1")
    with pytest.raises(MismatchError, match="do not correspond"):
        transferred(changed, target, lora, tmp_path)


def test_force_goes_through_the_map_for_unequal_dimensions(strangers: tuple[Base, Base], tmp_path: Path) -> None:
    source, target = strangers
    lora = adapter(source, tmp_path / "style.safetensors", lambda m: "attn2.to_k" in m.name)
    result = transferred(source, target, lora, tmp_path, method="lora-x", force=True, subspace_rank=4)
    assert result.report is not None
    assert {m.decision for m in result.report.modules} == {"transferred"}
    assert all("unrelated" in m.reason and m.similarity is not None for m in result.report.modules)
    with pytest.raises(MismatchError, match="do not correspond"):
        transferred(source, target, lora, tmp_path, method="lora-x")
