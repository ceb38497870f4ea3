"""The axes of the X/Y/Z plot, on a stand-in with the plot's names and signatures (scripts/xyz_grid.py of both programs)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from copy import copy
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI, HTTPException
from fastapi.testclient import TestClient

from lib_transfer.webui.host.settings import PREFIX
from tests.webui import models
from tests.webui.generations import Generations, Txt2Img, generation, request_of


class AxisOption:
    """``xyz_grid.AxisOption``."""

    def __init__(self, label, type, apply, *, confirm=None, cost=0.0, choices=None) -> None:  # noqa: A002
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


@pytest.fixture
def plot(made: Generations) -> Callable[..., list[Any]]:
    """A plot: the passes of its cells, and the generation they are made of."""
    grid = SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Nothing", str, lambda p, x, xs: None)])
    data = SimpleNamespace(path="/webui/scripts/xyz_grid.py", module=grid)
    other = SimpleNamespace(path="/webui/scripts/loopback.py", module=SimpleNamespace())
    sys.modules["modules.scripts"].scripts_data[:] = [other, data]
    for _ in range(2):  # once more when the page is made anew
        made.program.callbacks["ui_settings"]()
    labels = [option.label for option in grid.axis_options]
    assert len(labels) == len(set(labels)) == 5

    def cells(prompt: str, label: str, *values: str, box: bool = False) -> list[Any]:
        [axis] = [option for option in grid.axis_options if option.label == f"[Transfer LoRA] {label}"]
        if axis.choices is not None:
            assert set(values) <= set(axis.choices())
        xs = [axis.type(value) for value in values]
        p = Txt2Img(made, prompt, script_args=(0, box))
        axis.confirm(p, xs)
        with generation(made.program):
            for x in xs:
                cell = copy(p)
                axis.apply(cell, x, xs)
                made.run(cell)
        return made.passes[-len(xs) :]

    return cells


@pytest.mark.parametrize("prompt", ["a <tlora:cat:0.5>", "a <lora:cat:0.5>"])
def test_off_original_and_transferred_side_by_side(
    made: Generations, plot: Callable[..., list[Any]], prompt: str
) -> None:
    off, original, transferred = plot(prompt, "use", "off", "original", "transferred")
    assert [p.prompt for p in (off, original, transferred)] == ["a "] * 3
    assert off.loras == ()
    assert original.loras == (("cat.safetensors", 0.5, 0.5),)
    assert transferred.loras == ((made.copies()[0].name, 0.5, 0.5),)
    # The plot leaves nothing behind.
    made.generate("<lora:cat:1>")
    assert made.last == (("cat.safetensors", 1.0, 1.0),)


def test_where_a_tag_of_ours_stands_the_others_stay(made: Generations, plot: Callable[..., list[Any]]) -> None:
    models.lora(made.models, "detail", seed=3)
    off, original = plot("<tlora:cat:1><lora:detail:1>", "use", "off", "original")
    assert off.loras == (("detail.safetensors", 1.0, 1.0),)
    assert original.loras == (("cat.safetensors", 1.0, 1.0), ("detail.safetensors", 1.0, 1.0))
    [off] = plot("<tlora:cat:1><lora:detail:1>", "use", "off", box=True)
    assert off.loras == ()


def test_methods_have_a_copy_each(made: Generations, plot: Callable[..., list[Any]]) -> None:
    names = ["rotation", "prolora", "lora-x", "reuse"]
    passes = plot("<tlora:cat:1>", "method", *names)
    assert [json.loads(request_of(made.program.loras / p.loras[0][0]))["method"] for p in passes] == names


def test_threshold_and_energy_take_the_place_of_the_settings(made: Generations, plot: Callable[..., list[Any]]) -> None:
    made.program.opts.data[PREFIX + "subspace_rank"] = 4
    for label, value, told in (
        ("threshold", "0.1", '"threshold": 0.1'),
        ("subspace energy", "0.5", '"energy": 0.5'),
    ):
        [made_with] = plot("<tlora:cat:1>", label, value)
        assert told in request_of(made.program.loras / made_with.loras[0][0])
    assert len(made.copies()) == 2


@pytest.mark.parametrize(
    ("label", "typed", "said"),
    [
        ("use", "sideways", "sideways is no value of this axis. Choose one of: off, original, transferred."),
        ("method", "magic", "magic is no value of this axis."),
        ("threshold", "1.5", "1.5"),
        ("threshold", "nan", "nan"),
        ("threshold", "half", "half is no number, and this axis takes numbers."),
        ("subspace energy", "", " is no number"),
    ],
)
def test_a_value_that_is_not_allowed_is_a_sentence_before_any_picture(
    made: Generations, plot: Callable[..., list[Any]], label: str, typed: str, said: str
) -> None:
    """As the programs' own code asks: for the type, for the values, and for the status of their answer."""
    grid = sys.modules["modules.scripts"].scripts_data[1].module
    [axis] = [option for option in grid.axis_options if option.label == f"[Transfer LoRA] {label}"]
    app = FastAPI()

    @app.post("/plot")
    def plotted() -> None:
        axis.confirm(None, [axis.type(value) for value in [typed]])

    answer = TestClient(app, raise_server_exceptions=True).post("/plot")
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    # In the page, they write the exception as a text.
    with pytest.raises(HTTPException) as raised:
        plotted()
    assert said in str(raised.value)
    assert made.passes == []


def test_the_plot_reads_ranges_of_numbers(made: Generations, plot: Callable[..., list[Any]]) -> None:
    grid = sys.modules["modules.scripts"].scripts_data[1].module
    types = {option.label.removeprefix("[Transfer LoRA] "): option.type for option in grid.axis_options}
    assert {label for label, kind in types.items() if kind == float} == {"threshold", "subspace energy"}  # noqa: E721
    assert {label for label, kind in types.items() if kind == int} == set()  # noqa: E721
