"""Axes for the programs' X/Y/Z plot: the LoRA left out, the original, and transfers by different methods."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from lib_transfer import methods
from lib_transfer.errors import RequestError
from lib_transfer.methods import METHODS, Parameter
from lib_transfer.webui.host.settings import parameters
from lib_transfer.webui.prompt.overrides import USES, override

_COST = 0.5  # between nothing and loading another checkpoint, because the program loads a LoRA for each value


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: the axis's name in the plot's list.
        kind: makes a value of what was typed; raises as ``check`` does.
        put: sets a value on a generation.
        check: raises RequestError for a value that is not allowed.
        choices: every value, where they can be listed.
    """

    label: str
    kind: Callable[[Any], Any]
    put: Callable[[Any, Any], None]
    check: Callable[[Any], object]
    choices: tuple[str, ...] = ()


def axes() -> tuple[Axis, ...]:
    """All our axes."""
    threshold, energy = (next(p for p in parameters() if p.name == name) for name in ("threshold", "energy"))
    ids = tuple(method.id for method in METHODS if not method.runs_models)
    known = (*ids, *methods.FORMER_IDS)
    return (
        Axis("[Transfer LoRA] use", str, lambda p, x: override(p, use=_word(x)), _one_of(USES), USES),
        Axis("[Transfer LoRA] method", str, lambda p, x: override(p, method=_word(x)), _one_of(known), ids),
        _number("[Transfer LoRA] threshold", threshold),
        _number("[Transfer LoRA] subspace energy", energy),
    )


def add() -> None:
    """Add our axes to the plot, if the program has it; only once, even when the page is rebuilt."""
    for data in getattr(importlib.import_module("modules.scripts"), "scripts_data", ()):
        if Path(data.path).name == "xyz_grid.py":
            options = data.module.axis_options
            there = {option.label for option in options}
            options += [_option(data.module, axis) for axis in axes() if axis.label not in there]


def _option(plot: Any, axis: Axis) -> Any:
    """``axis`` as an object of the plot's own kind."""

    def confirm(_: Any, values: Sequence[Any]) -> None:
        try:
            for value in values:
                axis.check(value)
        except RequestError as error:
            raise Refused(str(error)) from error

    choices = (lambda: list(axis.choices)) if axis.choices else None
    return plot.AxisOption(
        axis.label, axis.kind, lambda p, x, _: axis.put(p, x), confirm=confirm, cost=_COST, choices=choices
    )


def _number(label: str, parameter: Parameter) -> Axis:
    return Axis(
        label,
        _Number(),
        lambda p, x: override(p, settings={parameter.name: x}),
        lambda x: methods.checked(parameter, x),
    )


def _one_of(words: tuple[str, ...]) -> Callable[[Any], None]:
    def check(value: Any) -> None:
        if _word(value) not in words:
            raise RequestError(f"{value} is no value of this axis.", hint=f"Choose one of: {', '.join(words)}.")

    return check


class Refused(HTTPException):
    """What the plot is stopped with: the programs show it in the page, and answer their API with its status and sentence.

    They take any other exception for a fault of theirs, with status 500 and a traceback.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(status_code=422, detail=sentence)

    def __str__(self) -> str:
        return str(self.detail)


class _Number:
    """Makes a number of what was typed. The plot takes it for ``float``, and so reads ranges such as ``0.1-0.5 (+0.1)``."""

    def __call__(self, value: Any) -> float:
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise Refused(f"{str(value)[:60]} is no number, and this axis takes numbers.") from error

    def __eq__(self, other: object) -> bool:
        return other is float

    def __hash__(self) -> int:
        return hash(float)


def _word(value: Any) -> str:
    return str(value).strip().lower()
