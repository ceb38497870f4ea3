"""Tells in which way the WebUI loads its models."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Literal


def way_of_loading() -> Literal["a1111", "forge"] | None:
    """As A1111 does, as Forge does, or None for a way that we do not know."""
    models = importlib.import_module("modules.sd_models")
    if hasattr(getattr(models, "model_data", None), "forge_loading_parameters"):
        return "forge"
    # Other relatives of Forge load as A1111 does, but build different objects.
    known = hasattr(models, "SkipWritingToConfig") and not _has("modules_forge")
    return "a1111" if known else None


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:
        return False
