"""Carry one module's update from the source to the target: the only place where a method is called."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer import methods as registry
from lib_transfer.conversion.compact import Compact, compact
from lib_transfer.conversion.decompositions import Wanted
from lib_transfer.conversion.plan import Obstacle, Pair
from lib_transfer.conversion.relation import Relation, Relations
from lib_transfer.conversion.report import Decision, ModuleReport
from lib_transfer.conversion.shares import share_of, whole_shape, whole_weight
from lib_transfer.errors import NumericError
from lib_transfer.formats.algorithms.algorithm import by
from lib_transfer.formats.finite import is_finite
from lib_transfer.formats.update import Dense, LowRank, Norm, Update
from lib_transfer.library.request import TransferRequest
from lib_transfer.linalg import factors as linalg
from lib_transfer.linalg.factors import Factors
from lib_transfer.methods import Method, Problem


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
            registry.get(request.method),
            Wanted(request.setting("energy"), request.setting("subspace_rank")),
            request.setting("threshold") or 0.0,
            request.setting("below") or "drop",
            bool(request.setting("force")),
            request.setting("strength"),
            request.setting("rank"),
        )


@dataclass(frozen=True)
class Carried:
    """What became of one pair: the report, and what is to be written of it (None: nothing).

    Low-rank factors are balanced; the strength is folded into every form.

    Attributes:
        pair: from the plan.
        report: what became of it.
        update: what is to be written.
        given: of a share of a fused weight: the update before the method.
        rank: that the update was cut to; None for none.
        ranked: whether the adapter's group was made with a rank.
    """

    pair: Pair
    report: ModuleReport
    update: Factors | Dense | Norm | None = None
    given: Factors | None = None
    rank: int | None = None
    ranked: bool = False

    @property
    def is_share(self) -> bool:
        """Whether the update is written as a part of a fused weight's."""
        target = self.pair.target
        shared = target is not None and target.output is not None and target.output.rows is not None
        return shared and self.update is not None


def carry(pair: Pair, settings: Settings, relate: Relations, device: torch.device) -> Carried:
    """Transfer one pair.

    Args:
        pair: from the plan.
        settings: of the request.
        relate: asked only where the method needs to know the weights, or the update its source weight.
        device: where the mathematics is done.

    Raises:
        NumericError: a weight or a result holds NaN or infinity; the message names it.
    """
    group = pair.group
    about = functools.partial(ModuleReport, pair.name, pair.source.position, target=pair.elsewhere)
    if (misfit := group.misfit(whole_shape(pair.bound))) is not None:
        obstacle = pair.obstacle or Obstacle("unsupported", misfit)
        return Carried(pair, about(obstacle.decision, obstacle.reason))
    base = whole_weight(pair.bound, relate.source_weight) if group.algorithm.needs_base else None
    update = share_of(group.update(base), pair.bound[pair.share].rows)
    about = functools.partial(about, norm_before=_norm(update))
    if (unfit := pair.obstacle or _unfit(pair, update, settings)) is not None:
        return Carried(pair, about(unfit.decision, unfit.reason))
    if isinstance(update, Norm) or _stays_as_it_is(update, pair, settings.method):
        assert not isinstance(update, LowRank)
        return _carry_over(pair, update, settings.strength, about("carried over", "as it is"))
    assert pair.target is not None
    try:
        given = compact(update, settings.rank, device)
        related = "subspaces" in settings.method.needs and pair.how != "same encoder"
        relation = relate(pair.source, pair.target) if related else None
        decision, reason, result = _transfer(given.factors, pair, relation, settings)
    except torch.linalg.LinAlgError as error:
        raise NumericError(f"{pair.name}: a decomposition did not converge ({error}).") from error
    if result is not None and given.note:
        reason = f"{reason}, {given.note}"
    if group.algorithm.needs_base and not settings.method.needs_source:
        reason += ", computed with the target's weight because the source's is not known"
    report = about(decision, " ".join((reason, *update.notes)), similarity=relation.similarity if relation else None)
    if result is None:
        return Carried(pair, report)
    finished = _finish(pair, given, result, settings, report)
    ranked = isinstance(update, LowRank) and update.ranked
    return dataclasses.replace(finished, ranked=ranked) if finished.is_share else finished


def _stays_as_it_is(update: LowRank | Dense, pair: Pair, method: Method) -> bool:
    """Whether this is no matter for the method: a bias, another kind of module, or plain reuse of stored numbers."""
    if isinstance(update, LowRank):
        return False
    assert pair.target is not None
    plain = update.stored and ("subspaces" not in method.needs or pair.how == "same encoder")
    return update.weight is None or pair.target.kind not in method.kinds or plain


def _unfit(pair: Pair, update: Update, settings: Settings) -> Obstacle | None:
    """What the update itself has against being carried."""
    assert pair.target is not None
    source, target, method = pair.source, pair.target, settings.method
    if isinstance(update, LowRank):
        shape: tuple[int, ...] = (update.up.shape[0], update.down.shape[1])
        fits = shape == source.matrix_shape
        known = target.kind in method.kinds
    else:
        shape = tuple(update.weight.shape) if update.weight is not None else ()
        fits = update.weight is None or (
            update.weight.shape[:1] == source.shape[:1] and update.weight.numel() == torch.Size(source.shape).numel()
        )
        fits = fits and (update.bias is None or update.bias.shape[0] == source.shape[0])
        known = isinstance(update, Dense) or target.kind == "norm"
    if not fits:
        return Obstacle("unsupported", f"its shape {by(shape)} does not fit the source's {by(source.shape)}")
    if not known:
        return Obstacle("unsupported", f"this kind of update does not go with a {target.kind} module")
    alike = source.shape == target.shape or source.matrix_shape == target.matrix_shape
    if alike and pair.how != "forced":
        return None
    mapped = settings.force and method.maps_dimensions
    if mapped and not isinstance(update, Norm) and not _stays_as_it_is(update, pair, method):
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
        return "copied", "as it is", method.transfer(Problem(given))
    similarity = relation.similarity
    if relation.rank == 0:
        return "below threshold", "a weight is all zeros and spans no subspace", None
    if similarity.smaller is None or pair.how == "forced":
        assert method.maps_dimensions is not None
        mapped = method.maps_dimensions(Problem(given, *relation.subspaces))
        why = "the dimensions differ" if pair.how != "forced" else "the models are unrelated"
        return "transferred", f"forced: {why}, so nothing says which direction corresponds", mapped
    if similarity.smaller < settings.threshold:
        reason = f"the smaller similarity is below {settings.threshold:g}"
        return (
            ("copied", f"{reason}: as it is", given) if settings.below == "copy" else ("below threshold", reason, None)
        )
    left, right = relation.principal if "principal vectors" in method.needs else (None, None)
    reason = f"by {method.id}" + (", to the block it is most like" if pair.how == "aligned" else "")
    return "transferred", reason, method.transfer(Problem(given, *relation.subspaces, left, right))


def _finish(pair: Pair, given: Compact, result: Factors, settings: Settings, report: ModuleReport) -> Carried:
    """Bring the result to the output rank and the strength, and measure it."""
    before = report.norm_before or 0.0
    output = result if given.whole else linalg.balanced(result, given.rank)
    if not (is_finite(output.up) and is_finite(output.down)):
        raise NumericError(f"{pair.name}: the result holds NaN or infinity.", hint="The module's weights are damaged.")
    after = linalg.norm(output)
    written: Factors | Dense
    if given.whole:
        bias = None if given.bias is None else given.bias * settings.strength
        after = math.hypot(after, 0.0 if given.bias is None else float(given.bias.norm()))
        written = Dense((output.up @ output.down * settings.strength).cpu(), bias)
    else:
        scaled = linalg.scale(output, settings.strength)
        written = Factors(scaled.up.cpu(), scaled.down.cpu())
    comparable = given.factors.shape == output.shape and before > 0
    measured = dataclasses.replace(
        report,
        rank_before=given.rank_before,
        rank_after=None if given.whole else output.rank,
        norm_after=abs(settings.strength) * after,
        energy_kept=(after / before) ** 2 if before > 0 else None,
        change=given.distance(output) / before if comparable else None,
    )
    before_method = Factors(given.factors.up.cpu(), given.factors.down.cpu())
    return Carried(pair, measured, written, before_method, given.rank)


def _carry_over(pair: Pair, update: Dense | Norm, strength: float, report: ModuleReport) -> Carried:
    """A full, bias or normalisation difference: as it is, times the strength."""

    def scaled(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor * strength

    after = abs(strength) * (report.norm_before or 0.0)
    report = dataclasses.replace(report, norm_after=after, energy_kept=1.0, change=0.0)
    return Carried(pair, report, type(update)(scaled(update.weight), scaled(update.bias), update.notes))


def _norm(update: Update) -> float:
    """Frobenius norm of the whole change."""
    if isinstance(update, LowRank):
        return linalg.norm(Factors(update.up, update.down))
    parts = [t.double().square().sum() for t in (update.weight, update.bias) if t is not None]
    return math.sqrt(float(sum(parts)))
