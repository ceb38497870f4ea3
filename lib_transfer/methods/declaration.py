"""What a method is: one declaration from which the tab, the command line, the metadata and the plots all read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lib_transfer.linalg.factors import Factors
    from lib_transfer.linalg.rotation import Turn
    from lib_transfer.linalg.subspace import Subspace

Value = str | int | float | bool | None
Need = Literal["source weight", "target weight", "subspaces", "rotations"]


@dataclass(frozen=True)
class Parameter:
    """One setting of a method.

    Attributes:
        name: as in the request and the metadata; the command line's flag is the same with dashes.
        kind: ``number``, ``whole``, ``choice``, ``flag``, ``text``, or ``rank`` (a whole number or one of ``choices``).
        default: what holds when nothing is said; None means "not set".
        help: one line for a person.
        minimum, maximum: bounds of a number, both allowed.
        choices: the allowed words.
    """

    name: str
    kind: Literal["number", "whole", "choice", "flag", "text", "rank"]
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class MethodInput:
    """One module's transfer: everything a method may look at.

    Attributes:
        update: the adapter's update of the source module as thin factors, float32, strength 1.
        source, target: the subspaces of both weights, where the method needs them.
        left, right: the rotations between them, where the method needs them and the dimensions agree.
    """

    update: Factors
    source: Subspace | None = None
    target: Subspace | None = None
    left: Turn | None = None
    right: Turn | None = None

    def subspaces(self) -> tuple[Subspace, Subspace]:
        """Both subspaces; for methods that declare the need of them."""
        assert self.source is not None
        assert self.target is not None
        return self.source, self.target


@dataclass(frozen=True)
class Method:
    """A way to carry a module's update from one base to another.

    Attributes:
        id: as in requests and on the command line.
        title: as shown to people.
        paper: where it is published, or who it is from.
        summary: what it does, in a sentence.
        formula: the transferred update.
        needs: what has to be computed for it.
        kinds: the kinds of module it works on.
        parameters: its settings, beside those that every method has.
        transfer: the pure function from what is given to the transferred factors; the rank may grow.
        maps_dimensions: the function for modules whose dimensions differ, where there is one.
        runs_models: whether both checkpoints are run; the weights alone give what it begins with, then.
    """

    id: str
    title: str
    paper: str
    summary: str
    formula: str
    needs: frozenset[Need]
    kinds: frozenset[str]
    parameters: tuple[Parameter, ...]
    transfer: Callable[[MethodInput], Factors]
    maps_dimensions: Callable[[MethodInput], Factors] | None = None
    runs_models: bool = False

    @property
    def needs_source(self) -> bool:
        """Whether the source checkpoint is needed at all."""
        return "source weight" in self.needs


SUBSPACE_PARAMETERS = (
    Parameter(
        "energy",
        "number",
        0.99,
        "the subspace rank is chosen so that the subspace holds this share of the source weight's squared singular values",
        minimum=0.01,
        maximum=1.0,
    ),
    Parameter(
        "subspace_rank",
        "whole",
        None,
        "a fixed subspace rank in place of the energy (LoRA-X uses 320)",
        minimum=1,
        maximum=65536,
    ),
    Parameter(
        "threshold",
        "number",
        0.8,
        "the smallest similarity of a module's subspaces at which it is transferred",
        minimum=0.0,
        maximum=1.0,
    ),
    Parameter(
        "below",
        "choice",
        "drop",
        "what happens to modules below the threshold: drop leaves them out, copy keeps their update as it is",
        choices=("drop", "copy"),
    ),
)

COMMON_PARAMETERS = (
    Parameter("strength", "number", 1.0, "a factor for the whole update", minimum=-16.0, maximum=16.0),
    Parameter(
        "rank",
        "rank",
        "same",
        "output rank of each module: same as the input's, full for all that the method produces, or a number",
        minimum=1,
        maximum=4096,
        choices=("same", "full"),
    ),
    Parameter(
        "dtype",
        "choice",
        None,
        "number format of the output (default: the input's)",
        choices=("fp16", "bf16", "fp32"),
    ),
    Parameter(
        "inserted",
        "choice",
        "empty",
        "what blocks get that were inserted into a deeper relative as copies (Anima): empty leaves them alone, copy gives them "
        "the update of the block that they were copied from, share divides it evenly among them and that block",
        choices=("empty", "copy", "share"),
    ),
)

LINEAR_AND_CONVOLUTION = frozenset({"linear", "convolution"})
