"""What sets source and target apart although their modules correspond, as sentences: weights do not tell what it does to a LoRA.

What checkpoints predict, see and how they are run is in their files or known of their architectures. Which one of several
published models of one architecture they are only their names and metadata say, and a sentence that goes by these says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lib_transfer.architecture import Architecture
from lib_transfer.architecture.sampling import EPSILON, SAMPLINGS, V
from lib_transfer.architecture.siblings import Sibling, in_words, named
from lib_transfer.architecture.variant import Variant
from lib_transfer.formats.metadata import source_hints
from lib_transfer.library.base import Base
from lib_transfer.library.variant import PREDICTION, names_of, variant_of

FEW_STEPS = (
    "A model that was distilled for few steps is run with little guidance or none, so another strength may suit a LoRA."
)


@dataclass(frozen=True)
class _Said:
    """What the names of a checkpoint say.

    Attributes:
        siblings: the published models that they name.
        prediction: what it predicts by them; "" where they say nothing.
    """

    siblings: tuple[Sibling, ...]
    prediction: str

    def completed(self, by_file: str | None) -> tuple[str, str]:
        """What is predicted, and what tells it where that is not the file: markers are lost when checkpoints are merged."""
        if self.prediction and by_file == EPSILON:
            return self.prediction, ", as its name says"
        return by_file or "", ""


def differences(source: Base, target: Base) -> tuple[str, ...]:
    """A sentence for everything that differs: the architecture, what is predicted and seen, how it is run, what the names say.

    Raises:
        BadFileError, StorageError: a tensor that tells cannot be read.
    """
    one, other = (variant_of(base.architecture, base.checkpoint) for base in (source, target))
    found = []
    if source.architecture.id != target.architecture.id:
        found.append(f"The LoRA was trained on {source.architecture.title}; the target is {target.architecture.title}.")
    if one.input != other.input:
        found.append(f"Beside the noisy image the source sees {_seen(one)}, and the target {_seen(other)}.")
    says = [_named(base) for base in (source, target)]
    ours, theirs = (it.completed(variant.prediction) for it, variant in zip(says, (one, other), strict=True))
    return (
        *found,
        *_predictions("The source predicts", ours, theirs),
        *_runs(source.architecture, target.architecture),
        *_siblings("the source", *says),
    )


def differences_told(metadata: Mapping[str, str], target: Base) -> tuple[str, ...]:
    """The same as far as an adapter's metadata tell, where the checkpoint that it was trained on is not at hand.

    Args:
        metadata: the adapter's metadata.
        target: the checkpoint that it goes to.

    Raises:
        BadFileError, StorageError: a tensor that tells cannot be read.
    """
    hints = source_hints(metadata)
    texts = tuple(filter(None, (hints.name, hints.base_version)))
    if not texts or (hints.sha256 and target.sha256.startswith(hints.sha256)):
        return ()
    ours = _said(target.architecture, texts)
    theirs = _named(target)
    trained = V if metadata.get(PREDICTION) == "v" else ours.prediction
    predicts = theirs.completed(variant_of(target.architecture, target.checkpoint).prediction)
    return (
        *(_predictions("By its metadata the LoRA was trained to predict", (trained, ""), predicts) if trained else ()),
        *_siblings("what the LoRA was trained on", ours, theirs),
    )


def _named(base: Base) -> _Said:
    return _said(base.architecture, names_of(base.path, base.checkpoint.metadata))


def _said(architecture: Architecture, texts: Sequence[str]) -> _Said:
    siblings = named(architecture.family, texts)
    return _Said(siblings, next((sibling.prediction for sibling in siblings if sibling.prediction), ""))


def _predictions(begins: str, one: tuple[str, str], other: tuple[str, str]) -> tuple[str, ...]:
    """That two predict something else. By a name alone, one velocity is like another."""
    by_name = bool(one[1] or other[1])
    if one[0] == other[0] or (by_name and V in one[0] and V in other[0]):
        return ()
    return (
        f"{begins} {''.join(one)}, the target {''.join(other)}: "
        "what a LoRA does may change with that, however alike the weights are.",
    )


def _runs(source: Architecture, target: Architecture) -> tuple[str, ...]:
    """How differently the programs run two architectures: what guides them, and how far the noise is shifted."""
    one, other = SAMPLINGS[source.id], SAMPLINGS[target.id]
    found = []
    if one.distilled != other.distilled:
        which, what = ("source", "target") if one.distilled else ("target", "source")
        found.append(f"The {which} takes the guidance scale as an input (distilled guidance), and the {what} does not.")
    if one.shift is not None and other.shift is not None and one.shift != other.shift:
        found.append(
            f"The noise levels of the source are shifted by {one.shift:.3g}, those of the target by {other.shift:.3g}."
        )
    return tuple(found)


def _siblings(what: str, one: _Said, other: _Said) -> tuple[str, ...]:
    """What two names say, where it is not the same."""
    if one.siblings == other.siblings:
        return ()
    told = f"As far as names tell, {what} is {in_words(one.siblings)}, and the target is {in_words(other.siblings)}."
    few_steps = [any(it.few_steps for it in said.siblings) for said in (one, other)]
    return (told, FEW_STEPS) if few_steps[0] != few_steps[1] else (told,)


def _seen(of: Variant) -> str:
    return of.input or "nothing"
