"""The algorithms that can be read, in the order in which they claim a module (the order of A1111 and LyCORIS)."""

from __future__ import annotations

from collections.abc import Iterable

from lib_transfer.formats.algorithms.algorithm import Algorithm
from lib_transfer.formats.algorithms.full import Full
from lib_transfer.formats.algorithms.lora import Lora
from lib_transfer.formats.algorithms.norm import NormDifference

ALGORITHMS: tuple[Algorithm, ...] = (Lora(), NormDifference(), Full())


def algorithm_for(suffixes: Iterable[str]) -> Algorithm | None:
    """The algorithm that a module with these suffixes is written in, or None."""
    found = set(suffixes)
    return next((algorithm for algorithm in ALGORITHMS if algorithm.signature & found), None)
