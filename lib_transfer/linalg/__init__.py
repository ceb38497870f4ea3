"""The mathematics, one function per equation: thin factors, dominant subspaces, similarity, the direct rotation.

Works on tensors alone; knows no files, names or devices. Its modules need torch, so each is imported when it is first
used: what a method declares can be read where no torch is wanted.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lib_transfer.linalg import factors, rotation, subspace

__all__ = ["factors", "rotation", "subspace"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
