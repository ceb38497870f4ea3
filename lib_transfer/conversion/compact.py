"""How a module's update goes through a method and is written: as factors of which rank, or whole.

An update that was made with a rank keeps it. One of another kind (LoHa, LoKr, DoRA, a full difference, ...) has none, or one
that says little: it gets the smallest rank that keeps :data:`ENERGY` of its squared norm. It is cut to that rank before it
goes through the method; a rotation keeps the singular values, so for it the order makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.formats.algorithms.algorithm import is_thin
from lib_transfer.formats.update import Dense, LowRank
from lib_transfer.linalg import factors as linalg
from lib_transfer.linalg.dense import Spectrum, trivial
from lib_transfer.linalg.factors import Factors

ENERGY = 0.99
"""What an update without a rank of its own keeps of its squared norm, where no rank is asked for."""

LARGEST_RANK = 256
"""The largest rank that is chosen for an update; a whole SDXL adapter of this rank has about 1.4 GB in fp16."""

ENOUGH = f"as a LoRA of the rank that keeps {ENERGY:.0%} of its energy"
TOO_LITTLE = f"as a LoRA of rank {LARGEST_RANK}, the largest, which keeps less than {ENERGY:.0%} of its energy"
WHOLE = "as a full difference"
NO_BIAS = "the difference of the bias is left out, because hosts read none beside a LoRA"


@dataclass(frozen=True)
class Compact:
    """An update as factors.

    Attributes:
        factors: float32, on the device; what goes through the method.
        rank: of the output; None for everything that the method gives.
        rank_before: of the update as it is in the adapter.
        whole: whether the result is written as a full difference (``.diff``) instead of factors.
        note: for the report, a part of a sentence; may be empty.
        bias: a difference of the bias that is written beside it.
        given: the update with nothing cut off, as a matrix ``(out, in*kh*kw)`` or as factors.
    """

    factors: Factors
    rank: int | None
    rank_before: int
    given: Tensor | Factors
    whole: bool = False
    note: str = ""
    bias: Tensor | None = None

    def distance(self, result: Factors) -> float:
        """``||result - given||_F``."""
        if isinstance(self.given, Factors):
            return linalg.distance(result, self.given)
        return float(torch.addmm(self.given, result.up, result.down, beta=-1).double().norm())


def compact(update: LowRank | Dense, rank: str | int, device: torch.device) -> Compact:
    """``update``, which changes a weight, as factors for the asked ``rank``: ``same``, ``full`` or a number.

    Everything is kept with ``full``, as a full difference where factors would take more room than that. With ``same`` a full
    difference of the adapter is one again where no rank up to :data:`LARGEST_RANK` is enough. With both it is one where a
    difference of the bias belongs to it: hosts read none beside factors.
    """
    if isinstance(update, LowRank):
        factors = Factors(update.up.to(device), update.down.to(device))
        if update.ranked:
            kept = None if rank == "full" else update.rank if rank == "same" else int(rank)
            return Compact(factors, kept, update.rank, factors)
        return _of(Spectrum(factors), rank, factors, factors)
    assert update.weight is not None
    matrix = update.weight.reshape(update.weight.shape[0], -1).to(device)
    return _of(Spectrum(matrix), rank, matrix, trivial(matrix), stored=update.stored, bias=update.bias)


def _of(
    spectrum: Spectrum,
    rank: str | int,
    given: Tensor | Factors,
    everything: Factors,
    *,
    stored: bool = False,
    bias: Tensor | None = None,
) -> Compact:
    """The same for an update without a rank of its own; ``everything`` are factors of all of it."""
    before = max(spectrum.rank, 1)
    wanted = max(spectrum.rank_for_energy(ENERGY), 1)
    thin = is_thin(before, *everything.shape) and bias is None
    if (rank == "full" and not thin) or (rank == "same" and stored and (bias is not None or wanted > LARGEST_RANK)):
        return Compact(everything, None, before, given, whole=True, note=WHOLE, bias=bias)
    if rank == "full":
        return Compact(spectrum.factors(before), None, before, given)
    if rank == "same":
        kept, note = min(wanted, LARGEST_RANK), ENOUGH if wanted <= LARGEST_RANK else TOO_LITTLE
    else:
        kept, note = int(rank), NO_BIAS if bias is not None else ""
    return Compact(spectrum.factors(kept), kept, before, given, note=note)
