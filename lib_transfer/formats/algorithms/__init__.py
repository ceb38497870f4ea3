"""The algorithms that can be read, in the order in which they claim a module (the order of A1111 and LyCORIS)."""

from __future__ import annotations

from collections.abc import Mapping

from lib_transfer.formats.algorithms.algorithm import BIAS, Algorithm
from lib_transfer.formats.algorithms.dora import Dora
from lib_transfer.formats.algorithms.full import Full, NormDifference, Replacement
from lib_transfer.formats.algorithms.glora import Glora
from lib_transfer.formats.algorithms.ia3 import Ia3
from lib_transfer.formats.algorithms.loha import Loha
from lib_transfer.formats.algorithms.lokr import Lokr
from lib_transfer.formats.algorithms.lora import Lora
from lib_transfer.formats.algorithms.oft import Boft, Oft
from lib_transfer.formats.algorithms.peft_oft import PeftOft
from lib_transfer.formats.tensor_info import TensorInfo

LORA, LOHA, LOKR = Lora(), Loha(), Lokr()

ALGORITHMS: tuple[Algorithm, ...] = (
    Dora(LORA),
    LORA,
    Dora(LOHA),
    LOHA,
    Ia3(),
    Dora(LOKR),
    LOKR,
    Glora(),
    NormDifference(),
    Full(),
    Boft(),
    Oft(),
    PeftOft(),
    Replacement(),
)


def algorithm_for(infos: Mapping[str, TensorInfo]) -> Algorithm | None:
    """The algorithm that a module with these tensors (by suffix) is written in, or None."""
    # A difference of the bias goes with every algorithm; only where it is alone is it one itself.
    rest = {suffix: info for suffix, info in infos.items() if suffix != BIAS}
    return next((algorithm for given in (rest, infos) for algorithm in ALGORITHMS if algorithm.claims(given)), None)
