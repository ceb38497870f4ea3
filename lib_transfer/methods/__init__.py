"""The methods, one file each, and their registry. A new method is a new file and one more name in ``METHODS``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

from lib_transfer.errors import RequestError
from lib_transfer.methods import auto, lora_x, prolora, reuse, rotation
from lib_transfer.methods.declaration import COMMON_PARAMETERS, Method, MethodInput, Parameter, Value

METHODS: tuple[Method, ...] = (auto.METHOD, rotation.METHOD, prolora.METHOD, lora_x.METHOD, reuse.METHOD)
AUTO, DEFAULT = auto.METHOD.id, rotation.METHOD.id
"""The method that runs models; and that which takes seconds, for where nobody asks for another."""

LONGEST_TEXT = 20_000
"""The most characters of a setting that is a text."""

FORMER_IDS = {"copy": reuse.METHOD.id}
"""Ids that methods had before, which are still understood wherever an id is read."""

__all__ = [
    "AUTO",
    "DEFAULT",
    "FORMER_IDS",
    "METHODS",
    "Method",
    "MethodInput",
    "Parameter",
    "Value",
    "get",
    "parameters",
    "settings",
]


def get(method: str) -> Method:
    """The method of this id, which may be one of :data:`FORMER_IDS`.

    Raises:
        RequestError: there is none; the nearest id is named.
    """
    by_id = {m.id: m for m in METHODS}
    method = FORMER_IDS.get(method, method)
    if method not in by_id:
        near = difflib.get_close_matches(method, by_id, n=1)
        raise RequestError(
            f'There is no method "{method}".',
            hint=f'Did you mean "{near[0]}"?' if near else f"Methods: {', '.join(by_id)}.",
        )
    return by_id[method]


def parameters(method: Method) -> tuple[Parameter, ...]:
    """Every setting of ``method``: its own, then those that all methods share."""
    return (*method.parameters, *COMMON_PARAMETERS)


def settings(method: Method, given: Mapping[str, Value]) -> dict[str, Value]:
    """All settings of ``method``: those given, checked, and the defaults of the rest.

    A fixed ``subspace_rank`` takes the place of ``energy``.

    Raises:
        RequestError: a setting that the method does not have, or a value out of its range.
    """
    declared = {p.name: p for p in parameters(method)}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if name not in declared:
            raise RequestError(
                f'The method "{method.id}" has no setting "{name}".', hint=f"It has: {', '.join(declared)}."
            )
    if "energy" in given and "subspace_rank" in given:
        raise RequestError("Both an energy and a fixed subspace rank are given.", hint="Give one of them.")
    result = {name: checked(p, given[name]) if name in given else p.default for name, p in declared.items()}
    if "subspace_rank" in given:
        result["energy"] = None
    return result


def checked(parameter: Parameter, value: Value) -> Value:
    """``value`` in the parameter's type.

    Raises:
        RequestError: the value is not of the parameter's kind or out of its range; the message names both.
    """
    name = parameter.name.replace("_", " ")
    if parameter.kind == "flag":
        if isinstance(value, bool):
            return value
        raise RequestError(f"The setting {name} is yes or no, not {value!r}.")
    if parameter.kind == "text":
        if isinstance(value, str) and len(value) <= LONGEST_TEXT:
            return "\n".join(filter(None, map(str.strip, value.splitlines())))
        raise RequestError(f"The setting {name} is no text of at most {LONGEST_TEXT} characters.")
    if parameter.choices and value in parameter.choices:
        return value
    if parameter.kind == "choice":
        raise RequestError(
            f"The setting {name} cannot be {value!r}.", hint=f"It is one of: {', '.join(parameter.choices)}."
        )
    number = as_number(value)
    whole = parameter.kind in ("whole", "rank")
    low, high = parameter.minimum, parameter.maximum
    fits = low is not None and high is not None and low <= number <= high
    if not fits or math.isnan(number) or (whole and number != int(number)):
        words = f"{' or '.join(parameter.choices)} or " if parameter.choices else ""
        kind = "a whole number" if whole else "a number"
        raise RequestError(
            f"The setting {name} cannot be {value!r}.", hint=f"It is {words}{kind} from {low:g} to {high:g}."
        )
    return int(number) if whole else number


def as_number(value: Value) -> float:
    """``value`` as a number; NaN when it is none."""
    if value is None or isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
