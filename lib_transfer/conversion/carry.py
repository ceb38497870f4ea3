"""Carry one module's update from the source to the target: the only place where a method is called."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib_transfer import methods
from lib_transfer.architecture.module import Binding, Module
from lib_transfer.conversion.compact import Form, form_of
from lib_transfer.conversion.decision import Decision
from lib_transfer.conversion.decompositions import Wanted
from lib_transfer.conversion.pair import Obstacle, Pair, whole_shape
from lib_transfer.conversion.relation import Relation, Relations
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.errors import NumericError
from lib_transfer.formats.adapter import Group
from lib_transfer.formats.algorithms.algorithm import BIAS, by
from lib_transfer.formats.algorithms.lora import BIASES, SPARSE
from lib_transfer.formats.finite import is_finite
from lib_transfer.formats.unread import Unread
from lib_transfer.library.request import TransferRequest
from lib_transfer.linalg.factors import Factors
from lib_transfer.methods import Method, MethodInput
from lib_transfer.update import Rows, Update, place

_LARGEST = 1 << 28
"""How many numbers an update may have that is formed only to be measured."""


@dataclass(frozen=True)
class Settings:
    """The settings of a request that concern a single module."""

    method: Method
    wanted: Wanted
    threshold: float
    below: str
    force: bool
    strength: float
    rank: str | int

    @classmethod
    def of(cls, request: TransferRequest) -> Settings:
        """The settings of ``request``; those its method does not have take a value without effect."""
        return cls(
            methods.get(request.method),
            Wanted(request.setting("energy"), request.setting("subspace_rank")),
            request.setting("threshold") or 0.0,
            request.setting("below") or "drop",
            bool(request.setting("force")),
            request.setting("strength"),
            request.setting("rank"),
        )


@dataclass(frozen=True, eq=False)
class ModuleResult:
    """What became of one pair of the plan: the report, and what is written.

    Attributes:
        pair: the pair.
        report: what became of it.
        update: what is to be written, with the strength in it and factors that share the singular values evenly; None
            where nothing is, or once there are tensors.
        before: the update before the method; None where no method was called.
        tensors: the tensors of the output, by name; empty where the module is left out, or is a share of a fused weight
            that another result's tensors are for.
    """

    pair: Pair
    report: ModuleReport
    update: Update | None = None
    before: Update | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def share(self) -> tuple[Rows, Update] | None:
        """The rows of a fused weight that the update is for, and the update; None where it is written by itself, or not."""
        output = self.pair.target.output if self.pair.target is not None else None
        if output is None or output.rows is None or self.update is None:
            return None
        return output.rows, self.update


def carry(pair: Pair, settings: Settings, relate: Relations, device: torch.device) -> ModuleResult:
    """Transfer one pair.

    Args:
        pair: a pair of the plan.
        settings: the settings of the request.
        relate: the relations of weights, and the source's weights; asked only where the method needs the one, or
            the update is made from the other.
        device: the device that the mathematics is done on.

    Raises:
        NumericError: a weight or a result holds NaN or infinity; the message names it.
    """
    group = pair.group
    tensors = tuple(group.keys.values())
    about = functools.partial(
        ModuleReport,
        pair.name,
        pair.source.position,
        target=pair.elsewhere,
        tensors=tensors,
        inserted=tuple(str(copy.output_name) for copy in pair.copies),
    )
    if (misfit := group.misfit(whole_shape(pair.bound))) is not None:
        unfit = pair.obstacle or Obstacle("unsupported", misfit)
        # The size of the whole is that of the first share, so that it is counted once.
        return ModuleResult(
            pair, about(unfit.decision, unfit.reason, norm_before=0.0 if pair.share else norm_alone(group))
        )
    update = _kept_apart(update_of(group, pair.bound, relate.source_weight), pair)
    about = functools.partial(about, norm_before=update.norm())
    homeless = _homeless(update, pair)
    if homeless and update.changes_weight:
        update = dataclasses.replace(update, bias=None)
        biases = tuple(group.keys[suffix] for suffix in (BIAS, *BIASES) if suffix in group.keys)
        about = functools.partial(about, left=(Unread(pair.name, biases, "extra", homeless, "bias"),))
    elif homeless:
        return ModuleResult(pair, about("unsupported", homeless))
    if (obstacle := pair.obstacle or _obstacle(pair, update, settings)) is not None:
        return ModuleResult(pair, about(obstacle.decision, obstacle.reason, left=()))
    if _stays_as_it_is(update, pair, settings.method):
        reason = ", ".join(filter(None, ("as it is", pair.remark)))
        return _carry_over(pair, update, settings.strength * pair.factor, about("carried over", reason))
    return _converted(pair, update.to(device), settings, relate, about)


def _converted(
    pair: Pair, update: Update, settings: Settings, relate: Relations, about: Callable[..., ModuleReport]
) -> ModuleResult:
    """The result for an update that goes through the method; it is on the device that the mathematics is done on."""
    assert pair.target is not None
    method = settings.method
    try:
        form = form_of(update, settings.rank)
        related = "subspaces" in method.needs and pair.how != "same encoder"
        relation = relate(pair.source, pair.target) if related else None
        assert form.update.factors is not None
        decision, reason, result = _transfer(form.update.factors, pair, relation, settings)
    except torch.linalg.LinAlgError as error:
        raise NumericError(f"{pair.name}: a decomposition did not converge ({error}).") from error
    if result is not None:
        reason = ", ".join(filter(None, (reason, form.note, pair.remark, _of_bias(form, pair))))
    if pair.group.algorithm.needs_base and not method.needs_source:
        reason += f", computed with the target's weight, because the method {method.id} takes no source"
    report = about(decision, " ".join((reason, *update.notes)), similarity=relation.similarity if relation else None)
    if result is None:
        return ModuleResult(pair, report)
    return _finish(pair, update, form, result, settings.strength * pair.factor, report)


def _kept_apart(update: Update, pair: Pair) -> Update:
    """What of a group's update is the pair's; a bias of another width than the weight has is nobody's share of it."""
    rows = pair.bound[pair.share].rows
    if rows is None or update.bias is None or update.bias.shape[0] == whole_shape(pair.bound)[0]:
        return update.rows(rows)
    return dataclasses.replace(dataclasses.replace(update, bias=None).rows(rows), bias=update.bias)


def _homeless(update: Update, pair: Pair) -> str:
    """Why the target has no place for the difference of the bias, as a part of a sentence; empty where it has, or none is."""
    if update.bias is None or pair.target is None:
        return ""
    own, source, target = update.bias.shape[0], pair.source.shape[0], pair.target.shape[0]
    if own != source:
        return f"a difference of the bias with {own} numbers does not fit the checkpoint's layer with {source} outputs"
    if source != target:
        return f"a difference of the bias with {source} numbers does not fit the target's layer with {target} outputs"
    if pair.target.bias is None:
        return "the target's layer has no bias, so there is nothing that a difference of it can be added to"
    return ""


def _of_bias(form: Form, pair: Pair) -> str:
    """Which program does not read a difference of the bias that is written beside factors, as a part of a sentence."""
    unread = form.update.bias is not None and not form.whole and "A1111" in pair.hosts
    return "with the difference of the bias, which Forge and ComfyUI read and A1111 does not" if unread else ""


def norm_alone(group: Group) -> float | None:
    """The norm of a group's update where it takes no weight of a model to know it, and is small enough to be formed."""
    if group.algorithm.needs_base or not SPARSE.isdisjoint(group.keys):
        return None
    tensors = dict(group.tensors)
    numbers = [math.prod(tensor.shape) for tensor in tensors.values()]
    # The largest that two tensors can make together; a layer of the largest model that is supported has fewer.
    if group.algorithm.id not in ("lora", "full", "norm") and math.prod(sorted(numbers)[-2:]) > _LARGEST:
        return None
    try:
        return group.update().norm()
    except NumericError:
        return None


def _stays_as_it_is(update: Update, pair: Pair, method: Method) -> bool:
    """Whether the method has no part in this: a bias, another kind of module, or reuse of the very numbers of the file."""
    assert pair.target is not None
    reused = update.stored and ("subspaces" not in method.needs or pair.how == "same encoder")
    return update.factors is None and (update.weight is None or pair.target.kind not in method.kinds or reused)


def _obstacle(pair: Pair, update: Update, settings: Settings) -> Obstacle | None:
    """What prevents the transfer of the update, now that its shape and form are known."""
    assert pair.target is not None
    source, target, method = pair.source, pair.target, settings.method
    if not update.fits(source.shape):
        return Obstacle("unsupported", f"its shape {by(update.shape)} does not fit the checkpoint's {by(source.shape)}")
    wrong_kind = update.factors is not None and target.kind not in method.kinds
    if wrong_kind or (update.is_of_norm and target.kind != "norm"):
        return Obstacle("unsupported", f"this kind of update does not go with a {target.kind} module")
    alike = source.shape == target.shape or source.matrix_shape == target.matrix_shape
    if alike and pair.how != "forced":
        return None
    if settings.force and method.maps_dimensions and not _stays_as_it_is(update, pair, method):
        return None
    what = (
        f"source {by(source.shape)} and target {by(target.shape)} differ" if not alike else "the models are unrelated"
    )
    return Obstacle("unsupported", f"{what}, nothing says what corresponds")


def _transfer(
    given: Factors, pair: Pair, relation: Relation | None, settings: Settings
) -> tuple[Decision, str, Factors | None]:
    """Apply the method, or say why not."""
    method = settings.method
    if pair.how == "same encoder" or (relation is not None and relation.equal and pair.how != "forced"):
        what = "text encoder" if pair.how == "same encoder" else "weight"
        return "copied", f"the {what} is the same in both", given
    if relation is None:
        return "copied", "as it is", method.transfer(MethodInput(given))
    similarity = relation.similarity
    if relation.rank == 0:
        return "below threshold", "a weight is all zeros and spans no subspace", None
    if similarity.smaller is None or pair.how == "forced":
        assert method.maps_dimensions is not None
        mapped = method.maps_dimensions(MethodInput(given, *relation.subspaces))
        why = "the dimensions differ" if pair.how != "forced" else "the models are unrelated"
        return "transferred", f"forced: {why}, so nothing says which direction corresponds", mapped
    if similarity.smaller < settings.threshold:
        reason = f"the smaller similarity is below {settings.threshold:g}"
        return (
            ("copied", f"{reason}: as it is", given) if settings.below == "copy" else ("below threshold", reason, None)
        )
    left, right = relation.turns if "rotations" in method.needs else (None, None)
    reason = f"by {method.id}" + (", to the block it is most like" if pair.how == "aligned" else "")
    return "transferred", reason, method.transfer(MethodInput(given, *relation.subspaces, left, right))


def _finish(
    pair: Pair, update: Update, form: Form, result: Factors, strength: float, report: ModuleReport
) -> ModuleResult:
    """Bring the method's result to the output's form, rank and strength, and measure it.

    Args:
        pair: the pair.
        update: the whole update, with nothing cut off.
        form: the form in which it went through the method.
        result: what the method made of it.
        strength: the factor on the output.
        report: the report so far.
    """
    output = Update(factors=result, bias=form.update.bias)
    if not form.whole:
        output = output.recompressed(form.rank)
    assert output.factors is not None
    if not all(map(is_finite, output.factors)):
        raise NumericError(f"{pair.name}: the result holds NaN or infinity.", hint="The module's weights are damaged.")
    before, after = report.norm_before or 0.0, output.norm()
    comparable = form.update.shape == output.shape and before > 0
    measured = dataclasses.replace(
        report,
        rank_before=form.rank_before,
        rank_after=None if form.whole else output.rank,
        norm_after=abs(strength) * after,
        energy_kept=(after / before) ** 2 if before > 0 else None,
        change=update.distance(output.factors) / before if comparable else None,
    )
    written = Update(weight=output.matrix(), bias=output.bias) if form.whole else output
    return ModuleResult(pair, measured, written.scaled(strength).to("cpu"), form.update.to("cpu"))


def _carry_over(pair: Pair, update: Update, strength: float, report: ModuleReport) -> ModuleResult:
    """The result for a full, bias or normalisation difference: as it is, times the strength."""
    before, after = report.norm_before or 0.0, update.norm()
    kept = (after / before) ** 2 if report.left and before > 0 else 1.0
    report = dataclasses.replace(report, norm_after=abs(strength) * after, energy_kept=kept, change=0.0)
    return ModuleResult(pair, report, update.scaled(strength))


def update_of(group: Group, bound: Sequence[Binding], read: Callable[[Module], Tensor]) -> Update:
    """The update of the whole weight that a group changes; it must not be a misfit for :func:`whole_shape`.

    Args:
        group: a group of the adapter.
        bound: the modules that it changes; several where it is for a fused weight.
        read: reads a module's weight, float32 and in its own shape; asked only where the update is made from the weight.

    Raises:
        NumericError: a number does not fit in float32, or a weight holds NaN or infinity.
    """
    return group.update(_whole_weight(bound, read) if group.algorithm.needs_base else None)


def _whole_weight(bound: Sequence[Binding], read: Callable[[Module], Tensor]) -> Tensor:
    """The weight that a group changes, its rows in the order in which the group has them."""
    if len(bound) == 1 and bound[0].rows is None:
        return read(bound[0].module)
    whole = torch.empty(whole_shape(bound))
    for module, rows in bound:
        place(whole, rows, read(module))
    return whole
