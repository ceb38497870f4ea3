"""The form in which an update goes through a method and is written: factors of some rank, or a full difference.

An update that was made with a rank keeps it. One of another kind (LoHa, LoKr, DoRA, a full difference, ...) has none, or one
that says little: it gets the smallest rank that keeps :data:`ENERGY` of its squared norm. It is cut to that rank before it
goes through the method; a rotation keeps the singular values, so for it the order makes no difference.
"""

from __future__ import annotations

from dataclasses import dataclass

from lib_transfer.linalg.dense import trivial
from lib_transfer.linalg.factors import is_thin
from lib_transfer.update import Update

ENERGY = 0.99
"""The share of its squared norm that an update without a rank of its own keeps, where no rank is asked for."""

LARGEST_RANK = 256
"""The largest rank that is chosen for an update; a whole SDXL adapter of this rank has about 1.4 GB in fp16."""

ENOUGH = f"as a LoRA of the rank that keeps {ENERGY:.0%} of its energy"
TOO_LITTLE = f"as a LoRA of rank {LARGEST_RANK}, the largest, which keeps less than {ENERGY:.0%} of its energy"
WHOLE = "as a full difference"


@dataclass(frozen=True)
class Form:
    """The form in which an update goes through the method and is written.

    Attributes:
        update: the update as factors, cut to what is to be kept of it, with the whole change of the bias.
        rank: the rank of the output; None for everything that the method gives.
        rank_before: the rank of the update as it is in the adapter.
        whole: whether the result is written as a full difference (``.diff``) instead of factors.
        note: a part of a sentence for the report; may be empty.
    """

    update: Update
    rank: int | None
    rank_before: int
    whole: bool = False
    note: str = ""


def form_of(update: Update, rank: str | int) -> Form:
    """The form of ``update``, which changes a weight, for the asked ``rank``: ``same``, ``full`` or a number.

    Everything is kept with ``full``, as a full difference where factors would take more room than that. With ``same`` a full
    difference of the adapter is one again where no rank up to :data:`LARGEST_RANK` is enough. With both it is one where the
    adapter holds a difference of the bias too: A1111 reads that beside a full difference alone.
    """
    if update.rank is not None:
        return Form(update, None if rank == "full" else update.rank if rank == "same" else int(rank), update.rank)
    spectrum, biased = update.spectrum(), update.bias is not None and update.stored
    before = max(spectrum.rank, 1)
    wanted = max(spectrum.rank_for_energy(ENERGY), 1)
    if rank == "full":
        whole = biased or not is_thin(before, *spectrum.shape)
    else:
        whole = rank == "same" and update.stored and (biased or wanted > LARGEST_RANK)
    if whole:
        everything = trivial(update.matrix()) if update.factors is None else update.factors
        return Form(Update(factors=everything, bias=update.bias), None, before, whole=True, note=WHOLE)
    if rank == "full":
        return Form(Update(factors=spectrum.factors(before), bias=update.bias), None, before)
    if rank == "same":
        kept, note = min(wanted, LARGEST_RANK), ENOUGH if wanted <= LARGEST_RANK else TOO_LITTLE
    else:
        kept, note = int(rank), ""
    return Form(Update(factors=spectrum.factors(kept), bias=update.bias), kept, before, note=note)
