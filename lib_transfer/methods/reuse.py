"""Reuse: what people do today when they load a LoRA on another base, and the baseline of every report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lib_transfer.methods.declaration import LINEAR_AND_CONVOLUTION, Method, Problem

if TYPE_CHECKING:
    from lib_transfer.linalg.factors import Factors


def transfer(problem: Problem) -> Factors:
    """``D`` as it is."""
    return problem.update


METHOD = Method(
    id="reuse",
    title="Reuse (as it is)",
    paper="what every WebUI does when it loads a LoRA on another checkpoint",
    summary="Keeps each update as it is, where the shapes agree.",
    formula="D",
    needs=frozenset({"target weight"}),
    kinds=LINEAR_AND_CONVOLUTION,
    parameters=(),
    transfer=transfer,
)
