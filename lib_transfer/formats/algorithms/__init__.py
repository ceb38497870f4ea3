"""The algorithms that can be read, in the order in which they claim a module (the order of A1111 and LyCORIS)."""

from __future__ import annotations

from collections.abc import Mapping

from lib_transfer.formats.algorithms.algorithm import Algorithm
from lib_transfer.formats.algorithms.full import Full
from lib_transfer.formats.algorithms.loha import Loha
from lib_transfer.formats.algorithms.lokr import Lokr
from lib_transfer.formats.algorithms.lora import Lora
from lib_transfer.formats.algorithms.norm import NormDifference
from lib_transfer.formats.safetensors_file import TensorInfo

ALGORITHMS: tuple[Algorithm, ...] = (Lora(), Loha(), Lokr(), NormDifference(), Full())


def algorithm_for(infos: Mapping[str, TensorInfo]) -> Algorithm | None:
    """The algorithm that a module with these tensors (by suffix) is written in, or None."""
    return next((algorithm for algorithm in ALGORITHMS if algorithm.claims(infos)), None)
