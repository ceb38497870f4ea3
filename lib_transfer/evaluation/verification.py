"""What is verified, as files: do transferred adapters move the target as the original moves the source?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_transfer.conversion.output import output_dtype
from lib_transfer.evaluation.changes import changes_of, copied
from lib_transfer.evaluation.prompts import prompts_of
from lib_transfer.evaluation.study import Plan
from lib_transfer.formats.adapter import open_adapter
from lib_transfer.formatting import duration
from lib_transfer.library.base import Base
from lib_transfer.models.apply import Changes
from lib_transfer.models.sampling import STEPS

REUSE = "plain reuse"
"""The original as it is, on the target."""

INPUTS = 8

GROUPS, BLOCKS = 15, 70
"""Of SDXL, which has most: groups of modules, and transformer blocks."""


@dataclass(frozen=True)
class Wanted:
    """What is verified.

    Attributes:
        original: the file of the adapter that was transferred.
        transferred: files of what was made of it, by what they are called.
        prompts: of the inputs; none for those that the original's metadata suggest.
        number: of inputs.
        seed: of all noise.
        steps: of the sampling of each input.
    """

    original: Path
    transferred: Mapping[str, Path]
    prompts: Sequence[str] = ()
    number: int = INPUTS
    seed: int = 0
    steps: int = STEPS


@dataclass(frozen=True, eq=False)
class Gathered:
    """What is compared.

    Attributes:
        original: the adapter by modules of the source.
        candidates: by name, by modules of the target; plain reuse too, where the shapes allow it.
        prompts: of the inputs.
        metadata: of the original.
        dtype: the number format that most of the original's tensors have (fp16 for float8).
    """

    original: Changes
    candidates: Mapping[str, Changes]
    prompts: tuple[str, ...]
    metadata: Mapping[str, str]
    dtype: torch.dtype

    @property
    def reuse(self) -> str | None:
        """What plain reuse is called, if it is among the candidates."""
        return REUSE if REUSE in self.candidates else None


def gathered(wanted: Wanted, source: Base, target: Base) -> Gathered:
    """Read every adapter that is compared.

    Raises:
        MismatchError: nothing of an adapter fits its base.
        TransferError: a file cannot be read.
    """
    with ExitStack() as stack:
        adapter = stack.enter_context(open_adapter(wanted.original))
        original = changes_of(adapter, source)
        candidates: dict[str, Changes] = {
            name: changes_of(stack.enter_context(open_adapter(path)), target)
            for name, path in wanted.transferred.items()
        }
        again = copied(original, source, target)
        if again:
            candidates[REUSE] = again
        prompts = tuple(wanted.prompts) or prompts_of(adapter.metadata)
        return Gathered(original, candidates, prompts, dict(adapter.metadata), output_dtype(None, adapter))


def verifying(wanted: Wanted, found: Gathered, latent_space: str) -> Plan:
    """The plan that says of the adapters that were gathered what they are worth, and makes no others.

    Args:
        wanted: inputs and seed.
        found: the adapters.
        latent_space: the target's.
    """
    return Plan(found.prompts, wanted.number, wanted.seed, wanted.steps, latent_space=latent_space)


def cost(number: int, transferred: int = 1, seconds_per_run: float | None = None, *, improve: bool = False) -> str:
    """What a verification takes, in words, before it begins.

    Args:
        number: of inputs.
        transferred: how many adapters are verified beside plain reuse.
        seconds_per_run: of a model, where that is known.
        improve: whether better ones are looked for, too; then it is what it takes at most, on SDXL.
    """
    plan = Plan(("",), number)
    if improve:
        most = {str(group): str(group) for group in range(GROUPS)}
        plan = dataclasses.replace(
            plan, pursue="", group=most, reconstruct=True, distil=True, fitting=number, blocks=BLOCKS
        )
    return ("At most " if improve else "") + cost_of(plan, transferred + 1, seconds_per_run)


def cost_of(plan: Plan, candidates: int, seconds_per_run: float | None = None) -> str:
    """What a study takes, in words, before it begins."""
    sampling, rest = plan.runs(candidates)
    said = f"{rest} runs of the models and {sampling} for sampling the inputs"
    if seconds_per_run is None:
        return f"{said}; how long that takes is said once it runs."
    return f"{said}, about {duration((sampling + rest) * seconds_per_run)}."
