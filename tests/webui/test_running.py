"""The models of the programs, on stand-ins: run with an adapter on, and given back as they were whatever happens."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from lib_transfer.errors import CancelledError, RequestError, UnsupportedError
from lib_transfer.evaluation.files import updates_of
from lib_transfer.formats.adapter_file import open_adapter
from lib_transfer.library.base import open_base
from lib_transfer.models import applied
from lib_transfer.webui.hosts import running
from lib_transfer.webui.hosts.program import Program as Host
from lib_transfer.webui.hosts.running.kinds import clip_skip_set
from tests.webui import models
from tests.webui.engines import Machine
from tests.webui.programs import Program


@contextmanager
def opened(path: Path, size: tuple[int, int] = (0, 0)):
    """One checkpoint in the program's memory, and afterwards the person's again."""
    with open_base(path, "") as base, running.borrowed(size) as open_model, open_model(base, 1) as model:
        yield model


@pytest.fixture
def machine(program: Program, checkpoints: Path) -> Iterator[Machine]:
    """A program with four checkpoints, none of which is loaded."""
    for path in sorted(checkpoints.glob("*.safetensors")):
        program.add(path, path.stem[0] * 64)
    made = Machine(program)
    yield made
    made.close()


def info(machine: Machine, name: str):
    return next(i for i in machine.program.infos.values() if i.name == name)


def test_the_tab_offers_it(machine: Machine) -> None:
    assert Host().models is not None


def state(machine: Machine) -> tuple[object, ...]:
    """What a person would notice."""
    data = machine.data
    loaded = getattr(data.sd_model, "sd_checkpoint_info", None)
    parameters = repr(getattr(data, "forge_loading_parameters", None))
    return dict(machine.program.opts.data), loaded, parameters, torch.get_rng_state().tolist()


def test_every_module_of_a_checkpoint_is_found_and_an_adapter_does_something_there(
    machine: Machine, checkpoints: Path
) -> None:
    machine.start(info(machine, models.TUNED))
    before = state(machine)
    lora = models.lora(machine.program.folder / "models", "whole", trained_on=None, whole=True)
    path = checkpoints / models.BASE
    with opened(path, (64, 48)) as model, open_base(path, "") as base, open_adapter(lora) as adapter:
        assert model.shape == (4, 6, 8)
        assert model.latent_space == "sd"
        assert set(model.places) == set(base.by_name)
        for name, place in model.places.items():
            module = base.by_name[name]
            weight = getattr(place.module, place.weight)
            assert torch.equal(weight.reshape(-1), base.checkpoint.read(module.weight, None, torch.float32).reshape(-1))
        x, time = torch.ones((1, *model.shape)), torch.tensor([0.5])
        plain = model.noise(x, time, ["a cat"])
        for part in (models_part(updates_of(adapter, base), unet) for unet in (True, False)):
            with applied(model.places, part):
                assert not torch.allclose(model.noise(x, time, ["a cat"]), plain, atol=1e-4)
        assert torch.equal(model.noise(x, time, ["a cat"]), plain)
    assert state(machine) == before
    assert machine.loads == [models.BASE, models.TUNED]


def test_prompts_are_encoded_with_the_clip_skip_and_the_persons_own_stays(machine: Machine, checkpoints: Path) -> None:
    machine.start(info(machine, models.TUNED))
    settings = machine.program.opts.data
    settings["CLIP_stop_at_last_layers"] = 3
    before = state(machine)
    x, time = torch.ones((1, 4, 8, 8)), torch.tensor([0.5])
    with open_base(checkpoints / models.BASE, "") as base, running.borrowed((64, 64)) as open_model:
        assert [running.clip_skip_of(base, asked) for asked in (None, 1, 2)] == [3, 1, 2]
        with open_model(base, 2) as model:
            loaded = machine.data.sd_model
            model.noise(x, time, ["a cat"])
            # Whoever saves the settings between two runs saves the person's.
            assert settings["CLIP_stop_at_last_layers"] == 3
            loaded.get_learned_conditioning = fails
            with pytest.raises(ZeroDivisionError):
                model.noise(x, time, ["a cat"])
            del loaded.get_learned_conditioning
            assert settings["CLIP_stop_at_last_layers"] == 3
        assert list(loaded.encoded_with) == [2]
        assert getattr(loaded, "clip_skip", 3) == 3
    assert state(machine) == before


def test_programs_do_not_follow_every_clip_skip(machine: Machine, checkpoints: Path) -> None:
    """XL is never run with less than 2; A1111 does not look at the setting for it at all."""
    with open_base(checkpoints / models.OTHER, "") as base:
        found = [running.clip_skip_of(base, asked) for asked in (1, 2, 3)]
    assert found == ([2, 2, 3] if machine.program.forge else [2, 2, 2])


def test_a_setting_that_was_not_there_is_not_there_afterwards_and_one_chosen_meanwhile_stays(machine: Machine) -> None:
    settings = machine.program.opts.data
    del settings["CLIP_stop_at_last_layers"]
    with pytest.raises(ZeroDivisionError), clip_skip_set(2):
        raise ZeroDivisionError
    assert "CLIP_stop_at_last_layers" not in settings
    with clip_skip_set(2):
        settings["CLIP_stop_at_last_layers"] = 5
    assert settings["CLIP_stop_at_last_layers"] == 5


def fails(_: object) -> None:
    raise ZeroDivisionError


def models_part(changes, unet: bool):
    """Those of the UNet, or those of the text encoder."""
    found = {name: change for name, change in changes.items() if name.startswith("model.") == unet}
    assert found
    return found


@pytest.mark.parametrize("problem", [None, ZeroDivisionError, CancelledError, KeyboardInterrupt])
def test_the_persons_checkpoint_and_options_come_back_whatever_happens(
    machine: Machine, checkpoints: Path, problem: type[BaseException] | None
) -> None:
    machine.start(info(machine, models.TUNED))
    before = state(machine)

    def use() -> None:
        with running.borrowed() as open_model:
            for name in (models.VARIED, models.BASE):
                with open_base(checkpoints / name, "") as base, open_model(base, 1):
                    assert Path(machine.data.sd_model.sd_checkpoint_info.filename).name == name
                    if problem is not None and name == models.BASE:
                        raise problem

    if problem is None:
        use()
    else:
        with pytest.raises(problem):
            use()
    assert state(machine) == before
    assert machine.loads == [models.VARIED, models.BASE, models.TUNED]


def test_it_comes_back_when_another_cannot_be_loaded(machine: Machine, checkpoints: Path) -> None:
    machine.start(info(machine, models.TUNED))
    before = state(machine)
    machine.fails.add(models.BASE)
    with pytest.raises(RuntimeError, match="cannot be loaded"), opened(checkpoints / models.BASE):
        pass
    assert state(machine) == before
    assert machine.data.sd_model is not None


def test_one_model_is_in_memory_at_a_time_although_somebody_still_knows_the_last(
    machine: Machine, checkpoints: Path
) -> None:
    machine.start(info(machine, models.TUNED))
    seen, known, alive = [], [], []
    machine.before_read = lambda: alive.append(sum(reference() is not None for reference in seen))
    with running.borrowed() as open_model:
        for name in (models.BASE, models.VARIED):
            with open_base(checkpoints / name, "") as base, open_model(base, 1) as model:
                known.append(model)
                seen.append(weakref.ref(next(iter(model.places.values())).module))
    assert alive == [0, 0, 0]
    assert known[0].places == {}
    with pytest.raises(RuntimeError, match="was closed"):
        known[0].noise(torch.zeros((1, 4, 8, 8)), torch.tensor([0.5]), ["a"])


def test_what_cannot_be_run_is_refused_before_anything_is_loaded(machine: Machine, checkpoints: Path, tmp_path) -> None:
    machine.start(info(machine, models.TUNED))
    with pytest.raises(RequestError, match="not in the WebUI's list"), opened(_copy(checkpoints, tmp_path)):
        pass
    assert machine.loads == []


def _copy(checkpoints: Path, folder: Path) -> Path:
    path = folder / "unlisted.safetensors"
    path.write_bytes((checkpoints / models.BASE).read_bytes())
    return path


def test_a_person_who_chooses_another_meanwhile_gets_that(machine: Machine, checkpoints: Path) -> None:
    if not machine.program.forge:
        pytest.skip("A1111 loads what is chosen once the queue is free")
    machine.start(info(machine, models.TUNED))
    chosen = {"checkpoint_info": info(machine, models.VARIED), "additional_modules": []}
    with opened(checkpoints / models.BASE):
        machine.data.forge_loading_parameters = chosen
    assert machine.data.forge_loading_parameters is chosen
    assert machine.data.sd_model.sd_checkpoint_info.name == models.VARIED


def test_where_nothing_was_loaded_nothing_is_afterwards(machine: Machine, checkpoints: Path) -> None:
    if not machine.program.forge:
        pytest.skip("A1111 loads the person's checkpoint when the program starts")
    machine.data.forge_loading_parameters = {"checkpoint_info": info(machine, models.TUNED), "additional_modules": []}
    before, fake = state(machine), machine.data.sd_model
    with opened(checkpoints / models.BASE):
        assert machine.data.sd_model is not fake
    assert state(machine) == before
    assert (machine.data.sd_model, machine.data.forge_hash) == (fake, "")


def test_a_program_whose_models_are_unknown_is_refused(program: Program) -> None:
    assert Host().models is None
    with pytest.raises(UnsupportedError, match="cannot be run from here"), running.borrowed():
        pass
