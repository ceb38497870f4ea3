"""How strong an adapter of PEFT or diffusers is: what is said of it beside its tensors.

PEFT multiplies the factors by ``lora_alpha / r``, with rs-LoRA by ``lora_alpha / sqrt(r)`` (arXiv 2312.03732), and writes no
tensor for it. diffusers puts the configuration into the file's metadata (``lora_adapter_metadata``, JSON, every key behind
the component's name: ``unet.lora_alpha``), PEFT into ``adapter_config.json`` beside the adapter (:mod:`~.peft_folder`). diffusers
reads the metadata; ComfyUI, A1111 and Forge take 1 instead, as does this where nothing is said.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lib_transfer.formats.algorithms.algorithm import Algorithm
from lib_transfer.formats.module_patterns import NotUnderstoodError, matching
from lib_transfer.formats.peft_folder import CONFIG, config_beside
from lib_transfer.formats.regular_file import open_regular, read_exactly
from lib_transfer.formats.tensor_info import TensorInfo

KEY = "lora_adapter_metadata"
MAX_BYTES = 1 << 20
_WRAPPER = "base_model.model."  # what PEFT puts before a model's own names
_KOHYA = ("lora_", "lycoris_", "oft_")  # names that are no paths in a model, of tools that know nothing of PEFT


@dataclass(frozen=True)
class Said:
    """What a configuration says of one module, and no tensor does.

    Attributes:
        scale: the number that the product of the factors is multiplied by; None where nothing says so.
        exact: whether OFT takes the exact Cayley transform.
        problem: why it cannot be told, as a sentence; None when it can.
    """

    scale: float | None = None
    exact: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class PeftConfig:
    """The configuration of an adapter.

    Attributes:
        components: the settings of each component, by what its modules' names begin with (``unet.``; nothing for all).
        problem: why the configuration cannot be read, as a sentence; None when it can, or when there is none.
    """

    components: Mapping[str, Mapping[str, Any]]
    problem: str | None = None

    def of(self, name: str, algorithm: Algorithm, infos: Mapping[str, TensorInfo]) -> Said:
        """What the configuration says of a module.

        Args:
            name: the module's name in the file.
            algorithm: the one that it is written in.
            infos: its tensors by suffix.
        """
        scaled = "scale" in algorithm.suffixes and infos.keys().isdisjoint({"alpha", "scale"})
        if (not scaled and algorithm.id != "peft-oft") or name.startswith(_KOHYA):
            return Said()
        if self.problem is not None:
            return Said(problem=self.problem)
        found = [prefix for prefix in self.components if name.startswith(prefix)]
        if not found:
            return Said()
        prefix = max(found, key=len)
        settings, path = self.components[prefix], name.removeprefix(prefix).removeprefix(_WRAPPER)
        try:
            if scaled:
                return Said(scale=_scale(settings, path, algorithm.rank(infos)))
            return Said(exact=_is_exact(settings))
        except NotUnderstoodError as error:
            return Said(problem=f"How strong the module is cannot be told: {error}.")


def peft_config(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> PeftConfig:
    """The configuration of the adapter at ``path``, which says ``metadata`` of itself.

    Raises:
        StorageError: there is one beside it, and the system does not let us read it.
    """
    if KEY in metadata:
        return _parsed(metadata[KEY], f"the metadata {KEY}")
    if (beside := config_beside(path)) is None:
        return PeftConfig({})
    stream, state = open_regular(beside)
    with stream:
        if state.size > MAX_BYTES:
            return PeftConfig({}, f"{CONFIG} has {state.size >> 20} MB, which no configuration has.")
        text = bytearray(state.size)
        read_exactly(stream, 0, memoryview(text), state.path)
    return _parsed(text.decode("utf-8", "replace"), CONFIG)


def _parsed(text: str, where: str) -> PeftConfig:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        return PeftConfig({}, f"How strong the module is cannot be told: {where} is no JSON ({type(error).__name__}).")
    if not isinstance(document, dict):
        return PeftConfig({}, f"How strong the module is cannot be told: {where} is no JSON object.")
    components: dict[str, dict[str, Any]] = {}
    for key, value in document.items():
        prefix, _, setting = key.rpartition(".")
        components.setdefault(f"{prefix}." if prefix else "", {})[setting] = value
    return PeftConfig(components)


def _scale(settings: Mapping[str, Any], path: str, rank: int | None) -> float | None:
    """The number that the product of the factors is multiplied by; None where nothing says so."""
    named = next((key for key in ("lora_alpha", "alpha") if key in settings), None)
    if named is None:
        return None
    alpha = _number(_for_module(settings, "alpha_pattern", path, settings[named]), named)
    if rank is None:  # whole matrices of a LoKr have none of their own
        rank = _for_module(settings, "rank_pattern", path, settings.get("r"))
    divisor = _number(rank, "r")
    if divisor <= 0:
        raise NotUnderstoodError(f"r is {divisor:g}")
    return alpha / (math.sqrt(divisor) if settings.get("use_rslora") is True else divisor)


def _for_module(settings: Mapping[str, Any], patterns: str, path: str, default: Any) -> Any:
    """The value of the first pattern that the module's path matches, or ``default``."""
    values = settings.get(patterns) or {}
    if not isinstance(values, dict):
        raise NotUnderstoodError(f"{patterns} is no JSON object")
    found = matching(values, path)
    return default if found is None else values[found]


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e30:
        raise NotUnderstoodError(f"{name} is {str(value)[:24]}")
    return float(value)


def _is_exact(settings: Mapping[str, Any]) -> bool:
    """Whether PEFT's OFT makes rotations by the exact transform instead of the series."""
    if settings.get("use_cayley_neumann", True) is False:
        return True
    if (terms := settings.get("num_cayley_neumann_terms", 5)) != 5:
        raise NotUnderstoodError(f"its rotations are series of {str(terms)[:24]} terms instead of 5")
    return False
