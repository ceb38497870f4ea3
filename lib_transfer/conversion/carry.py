"""Carry one module's update from the source to the target: the only place where a method is called."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lib_transfer import methods
from lib_transfer.architecture.module import Binding, Module
from lib_transfer.conversion.compact import Form, form_of
from lib_transfer.conversion.decompositions import Wanted
from lib_transfer.conversion.plan import Obstacle, Pair
from lib_transfer.conversion.relation import Relation, Relations
from lib_transfer.conversion.report import Decision, ModuleReport
from lib_transfer.errors import NumericError
from lib_transfer.formats.adapter import Group
from lib_transfer.formats.algorithms.algorithm import by
from lib_transfer.formats.finite import is_finite
from lib_transfer.library.request import TransferRequest
from lib_transfer.linalg.factors import Factors
from lib_transfer.methods import Method, MethodInput
from lib_transfer.update import Rows, Update, place


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
    about = functools.partial(ModuleReport, pair.name, pair.source.position, target=pair.elsewhere)
    if (misfit := group.misfit(whole_shape(pair.bound))) is not None:
        unfit = pair.obstacle or Obstacle("unsupported", misfit)
        return ModuleResult(pair, about(unfit.decision, unfit.reason))
    update = update_of(group, pair.bound, relate.source_weight).rows(pair.bound[pair.share].rows)
    if update.factors is not None:
        # Hosts read no difference of the bias beside factors: the plan has reported it as not read.
        update = dataclasses.replace(update, bias=None)
    about = functools.partial(about, norm_before=update.norm())
    if (obstacle := pair.obstacle or _obstacle(pair, update, settings)) is not None:
        return ModuleResult(pair, about(obstacle.decision, obstacle.reason))
    if _stays_as_it_is(update, pair, settings.method):
        return _carry_over(pair, update, settings.strength, about("carried over", "as it is"))
    assert pair.target is not None
    try:
        update = update.to(device)
        form = form_of(update, settings.rank)
        related = "subspaces" in settings.method.needs and pair.how != "same encoder"
        relation = relate(pair.source, pair.target) if related else None
        assert form.update.factors is not None
        decision, reason, result = _transfer(form.update.factors, pair, relation, settings)
    except torch.linalg.LinAlgError as error:
        raise NumericError(f"{pair.name}: a decomposition did not converge ({error}).") from error
    if result is not None and form.note:
        reason = f"{reason}, {form.note}"
    if group.algorithm.needs_base and not settings.method.needs_source:
        reason += ", computed with the target's weight because the source's is not known"
    report = about(decision, " ".join((reason, *update.notes)), similarity=relation.similarity if relation else None)
    if result is None:
        return ModuleResult(pair, report)
    return _finish(pair, update, form, result, settings.strength, report)


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
        return Obstacle("unsupported", f"its shape {by(update.shape)} does not fit the source's {by(source.shape)}")
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
    if pair.how == "same encoder":
        return "copied", "the text encoder is the same in both", given
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
    left, right = relation.principal if "principal vectors" in method.needs else (None, None)
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
    after = abs(strength) * (report.norm_before or 0.0)
    report = dataclasses.replace(report, norm_after=after, energy_kept=1.0, change=0.0)
    return ModuleResult(pair, report, update.scaled(strength))


def whole_shape(bound: Sequence[Binding]) -> tuple[int, ...]:
    """Shape of the weight that a group changes, of which the bound modules are the parts.

    Flux and SD3 keep the query, key and value projections of an attention (and in Flux's single blocks the first layer of
    the feed-forward) in one weight. They are decomposed and carried one by one, and joined again when they are written.
    """
    first = bound[0].module.shape
    return (sum(binding.module.shape[0] for binding in bound), *first[1:])


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
