"""Run both models, one after the other, and find out what adapters are worth; train a better one where that is asked for.

The target makes its own pictures (unless they are kept), the source makes its own and those with the LoRA and says what it has to
say of all, then the target is asked, and trained. What passes between them is kept on disk: the models are never in memory
together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import cycle, islice

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.evaluation.choice import IMITATION, REUSE, choose, may_win
from lib_transfer.evaluation.gain import gain
from lib_transfer.evaluation.imitation import COST, Imitation, imitate, looks
from lib_transfer.evaluation.judge import Judge
from lib_transfer.evaluation.kept import Kept, or_temporary
from lib_transfer.evaluation.observation import Observation, Observer, Prompts
from lib_transfer.evaluation.pictures import Own, own_kept, own_pictures
from lib_transfer.evaluation.prompts import PLAIN
from lib_transfer.evaluation.result import Evaluation
from lib_transfer.evaluation.runs import Amounts, Runs, planned
from lib_transfer.evaluation.student import Student, begun, stats_of_roles
from lib_transfer.evaluation.teacher import Batches
from lib_transfer.evaluation.thresholds import FAR
from lib_transfer.models.model import Model
from lib_transfer.progress import Progress
from lib_transfer.storage.cache import Cache
from lib_transfer.update import Updates

ALGORITHM = 1
"""Rises whenever what is kept of a stopped evaluation cannot be gone on with any more."""

Open = Callable[[], AbstractContextManager[Model]]
"""Brings a model into memory for as long as the context lasts."""


@dataclass(frozen=True, eq=False)
class Pair:
    """Two bases that can be brought into memory, and what is known of them before they are.

    Attributes:
        source, target: bring the models into memory.
        source_modules, target_modules: the modules of the checkpoints; an imitation needs them.
        one_space: whether both have the same latents.
        source_id, target_id: what tells a checkpoint, and the way that it is run, from all others; empty where nothing that
            belongs to it is to be kept.
    """

    source: Open
    target: Open
    source_modules: Sequence[Module] = ()
    target_modules: Sequence[Module] = ()
    one_space: bool = True
    source_id: str = ""
    target_id: str = ""


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters that are compared.

    Attributes:
        original: the adapter on the source, by canonical name of its modules.
        candidates: adapters on the target, by name; that which is the original as it is is called :data:`.REUSE`.
    """

    original: Updates
    candidates: Mapping[str, Updates]

    @property
    def reuse(self) -> Updates:
        """The original as it is on the target; empty where the shapes do not allow it."""
        return self.candidates.get(REUSE, {})


@dataclass(frozen=True)
class Setup:
    """The pictures that the models make and are asked about.

    Attributes:
        prompts: the prompts with the adapter's trigger words, taken in turn; those of held-out pictures come first.
        plain: prompts without them.
        amounts: how much of everything is made.
        seed: the seed of all noise.
        rank: the rank of an imitation; 0 for the original's own.
    """

    prompts: Sequence[str]
    plain: Sequence[str] = PLAIN
    amounts: Amounts = field(default_factory=Amounts)
    seed: int = 0
    rank: int = 0

    def shared_out(self) -> Prompts:
        """The prompt of every picture."""
        amounts, plain = self.amounts, min(self.amounts.plain, self.amounts.taught)
        styled = tuple(islice(cycle(self.prompts), amounts.held + amounts.taught - plain))
        without = tuple(islice(cycle(self.plain), amounts.own + plain))
        held, own = amounts.held, amounts.own
        return Prompts(styled[:held], styled[held:] + without[own:], without[:own])


def compare(
    pair: Pair,
    adapters: Adapters,
    setup: Setup,
    progress: Progress,
    *,
    imitating: bool = False,
    insist: bool = False,
    cache: Cache | None = None,
    work: str = "",
) -> Evaluation:
    """Find out what adapters are worth on the target, as reproductions of the original on the source.

    Args:
        pair: the models; they are never in memory together.
        adapters: the original, and what is compared with it.
        setup: the pictures.
        progress: gets a step for every run of a model; it is asked before each whether to stop.
        imitating: whether an imitation is made, where the domain gap allows it or reuse is not possible.
        insist: whether to make it even where the gap is large and reuse is possible.
        cache: where what depends on the checkpoints alone is kept, and, with ``work``, what a stopped evaluation made; nothing
            is kept when not given.
        work: what this evaluation depends on; one of the same ``work`` goes on where the last one was stopped or killed.
            :func:`forget` removes what is kept for that.

    Raises:
        CancelledError: the person asked to stop; every model is as it was.
        MismatchError: an adapter does not fit the model.
        NumericError: a model gives NaN or infinity.
        StorageError: what the source said could not be kept.
    """
    with or_temporary(None) as own, or_temporary(cache) as shared:
        comparison = _Comparison(pair, adapters, setup, progress, imitating, insist, shared, own, work)
        progress.start(comparison.runs.all - comparison.saved(), "running the models")
        target_own = comparison.target_own()
        observation = comparison.observed(target_own)
        with pair.target() as target:
            return comparison.judged(target, target_own, observation)


def runs_of(pair: Pair, adapters: Adapters, setup: Setup, *, imitating: bool = False) -> Runs:
    """How often :func:`compare` runs the models, at most; what is kept from before takes none of them."""
    return planned(setup.amounts, len(adapters.candidates), imitating=imitating, one_space=pair.one_space)


def forget(cache: Cache, work: str, amounts: Amounts, steps: int) -> None:
    """Remove what an evaluation with a training of ``steps`` kept in order to go on where it was stopped."""
    kept = of_work(cache, work)
    for what, number in (("held", amounts.held), ("taught", amounts.taught), ("teacher", steps)):
        for place in range(number):
            kept.drop(what, place)
    kept.drop("observed")
    kept.drop("state", steps)


def of_work(cache: Cache, work: str) -> Kept:
    """What is kept of an evaluation."""
    return Kept(cache, "imitations", (ALGORITHM, work))


@dataclass(frozen=True, eq=False)
class _Comparison:
    """One comparison; the attributes are the arguments of :func:`compare`, and a cache that ends with it."""

    pair: Pair
    adapters: Adapters
    setup: Setup
    progress: Progress
    imitating: bool
    insist: bool
    shared: Cache
    temporary: Cache
    work: str

    @property
    def runs(self) -> Runs:
        """The runs, at most."""
        return runs_of(self.pair, self.adapters, self.setup, imitating=self.imitating)

    @property
    def prompts(self) -> Prompts:
        """The prompt of every picture."""
        return self.setup.shared_out()

    @property
    def batches(self) -> Batches | None:
        """The training; None where there is none."""
        steps = self.runs.steps
        return Batches(self.prompts.taught, steps, self.setup.amounts.batch, self.setup.seed) if steps else None

    def of_target(self) -> Kept:
        """What is kept of the target by itself."""
        return self._kept("the target", self.pair.target_id)

    def of_source(self) -> Kept:
        """What is kept of the source by itself."""
        return self._kept("the source", self.pair.source_id)

    def _kept(self, what: str, *ids: str) -> Kept:
        """What is kept of checkpoints; no longer than this comparison where nothing tells which they are."""
        known = all(ids)
        owner = (*(ids if known else (what,)), self.prompts.own, self.setup.seed, self.setup.amounts.sampling)
        return Kept(self.shared if known else self.temporary, "pictures", (*owner, self.pair.one_space))

    def of_work(self) -> Kept:
        """What is kept of this evaluation."""
        return of_work(self.shared if self.work else self.temporary, self.work)

    def observer(self) -> Observer:
        """How the source is observed."""
        of_pair = self._kept("both", self.pair.source_id, self.pair.target_id)
        return Observer(
            self.adapters.original, self.prompts, self.setup.amounts, self.setup.seed, self.batches, self.pair.one_space,
            self.wanted, self.of_source(), of_pair, self.of_work(), self.progress,
        )  # fmt: skip

    def wanted(self, gap: float) -> bool:
        """Whether an imitation is worth making at this domain gap."""
        return self.insist or not self.adapters.reuse or gap <= FAR

    def saved(self) -> int:
        """How many of the announced runs were made before, and are kept."""
        runs, observer, kept, amounts = self.runs, self.observer(), self.of_work(), self.setup.amounts
        saved = 0
        draws = amounts.own_draws
        for own, number in ((self.of_target(), runs.target_own), (observer.of_source, runs.source_own)):
            made = sum(own.has("own", place) for place in range(amounts.own))
            saved += number if own.has("own and said", draws) else made * 2 * amounts.sampling
        saved += runs.source_sees * observer.of_pair.has("source's losses")
        saved += amounts.own * draws * observer.of_pair.has("target's losses")
        if observer.remembered() is not None:
            saved += runs.held + runs.taught + runs.teacher
        else:
            pictures = [("held", amounts.held), *([("taught", amounts.taught)] if self.batches else [])]
            made = sum(kept.has(what, place) for what, number in pictures for place in range(number))
            saved += made * 2 * amounts.sampling
            taught = sum(kept.has("teacher", step) for step in range(runs.steps)) if self.pair.one_space else 0
            saved += taught * amounts.batch
        return saved + self._trained_before()

    def _trained_before(self) -> int:
        kept = self.of_work().get("state", self.runs.steps, only="step")
        step = 0 if kept is None else int(kept["step"])
        amounts = self.setup.amounts
        looked = sum(place <= step for place in looks(self.runs.steps))
        return step * amounts.batch * COST + looked * amounts.held * amounts.held_draws

    def target_own(self) -> Own:
        """The target's own pictures; it is brought into memory where they are not kept."""
        kept, amounts = self.of_target(), self.setup.amounts
        found = own_kept(kept, amounts.own_draws)
        if found is not None:
            return found
        with self.pair.target() as target:
            return own_pictures(
                target, self.prompts.own, self.setup.seed, amounts.sampling, amounts.own_draws, kept, self.progress,
                decode=not self.pair.one_space,
            )  # fmt: skip

    def observed(self, target_own: Own) -> Observation:
        """What the source makes and says; it is brought into memory where that is not kept."""
        observer = self.observer()
        found = observer.remembered()
        if found is not None:
            return found
        with self.pair.source() as source:
            return observer.observed(source, target_own)

    def judged(self, target: Model, target_own: Own, seen: Observation) -> Evaluation:
        """The evaluation of every adapter, and of the one that is trained, with the target in memory."""
        judge = Judge(target, self.observer(), target_own, seen)
        gap = judge.gap()
        updates = dict(self.adapters.candidates)
        effects = {name: judge.effect(name, it) for name, it in updates.items()}
        reuse = effects.get(REUSE)
        gains = {name: gain(it, None if name == REUSE else reuse) for name, it in effects.items()}
        notes: list[str] = []
        made = None
        if self.batches is not None and seen.taught is not None and self.wanted(gap):
            if self.insist or may_win(gains):
                made, notes = self._imitated(target, seen, judge)
            else:
                notes = [f"{IMITATION} was left out: reuse leaves nothing that could be measured."]
        if made is not None:
            updates[IMITATION] = made.updates
            gains[IMITATION] = gain(judge.effect(IMITATION, made.updates), reuse)
            made = dataclasses.replace(made, gains=(*made.gains, gains[IMITATION].share))
        return Evaluation(gains, updates, gap, choose(gains, gap), tuple(notes), curve=made)

    def _imitated(self, target: Model, seen: Observation, judge: Judge) -> tuple[Imitation | None, list[str]]:
        """The imitation, or why there is none."""
        assert self.batches is not None
        assert seen.taught is not None
        if not target.differentiable:
            return None, [f"{IMITATION} was left out: this program runs the model without gradients."]
        stats = stats_of_roles(self.adapters.original, self.pair.source_modules, self.setup.rank)
        student = begun(stats, self.pair.target_modules, target.places, self.adapters.reuse, self.setup.seed)
        if not student.factors:
            return None, [f"{IMITATION} was left out: the target has no module that does what the LoRA's modules do."]
        clean = seen.taught.latents_of(target)
        for again in (True, False):
            made = self._trained(target, student, clean, judge)
            if made is not None or not again:
                break
            # Once more, from the state that was kept: other work on the GPU may have ended by then.
            torch.cuda.empty_cache()
        small = f"{IMITATION} was left out: the GPU's memory is too small for it at this size of pictures."
        return made, [] if made is not None else [f"{small} Ask for a smaller size."]

    def _trained(self, target: Model, student: Student, clean: Tensor, judge: Judge) -> Imitation | None:
        """The trained adapter; None where the GPU's memory is too small."""
        assert self.batches is not None
        try:
            return imitate(
                target, student, clean, self.batches, self.of_work(), self.progress,
                teacher=self.pair.one_space, look=judge.share,
            )  # fmt: skip
        except torch.cuda.OutOfMemoryError:
            return None
