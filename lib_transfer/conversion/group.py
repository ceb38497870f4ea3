"""Several adapters from one base to another, module by module: each weight and each cache entry is read once for all.

A single transfer is a group of one, and an adapter's output has the same bytes in every group.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from lib_transfer import methods
from lib_transfer.conversion import blocks, output
from lib_transfer.conversion.blocks import Blocks
from lib_transfer.conversion.carry import ModuleResult, Settings, carry, norm_alone
from lib_transfer.conversion.differences import differences, differences_told
from lib_transfer.conversion.nearness import Nearness, nearness
from lib_transfer.conversion.pair import Pair, Stranger
from lib_transfer.conversion.pairing import Pairing, pairing
from lib_transfer.conversion.parallel import over_modules
from lib_transfer.conversion.partly_loaded import unread_embeddings
from lib_transfer.conversion.plan import plan
from lib_transfer.conversion.relation import Relations
from lib_transfer.conversion.renamed import renamed, renamings, without_weight
from lib_transfer.conversion.report import ModuleReport, TransferReport
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.conversion.sketches import Sketches, same_encoders
from lib_transfer.errors import BadFileError, CancelledError, NotEnoughMemoryError, TransferError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.adapter_file import open_adapter, outline_adapter
from lib_transfer.formats.identity import FileStamp, stamp
from lib_transfer.formats.regular_file import changed_error
from lib_transfer.formats.unread import Unread
from lib_transfer.lazy import lazy_property
from lib_transfer.library.base import Base, open_base
from lib_transfer.library.job import Job
from lib_transfer.library.library import architecture_of
from lib_transfer.library.reference_base import reference_base
from lib_transfer.library.request import TransferRequest
from lib_transfer.progress import Progress, check
from lib_transfer.storage.cache import Cache
from lib_transfer.storage.scratch import Spool

Left = Callable[["AdapterRun"], bool]
"""Whether the person has left out one adapter of a group."""


@dataclass(frozen=True)
class Bases:
    """The checkpoints that a group is carried between, opened.

    Attributes:
        source: None where the method needs none; the target stands for it then.
        target: the checkpoint that the group goes to; the modules alone where only names and layout change.
        find: what each module of the source corresponds to in the target.
        blocks: where the source's blocks go, where the target has another number of them.
        adapters: closes the adapters of the group together with them.
        cache: where what is known of pairs of checkpoints is kept.
        stays: whether the adapters stay on the base that they were trained on, and only names and layout change.
    """

    source: Base | None
    target: Base
    find: Pairing
    blocks: Blocks | None
    adapters: ExitStack
    cache: Cache
    stays: bool = False

    @property
    def folder(self) -> Path:
        """Where parts of large outputs wait."""
        return self.cache.folder

    @lazy_property
    def near(self) -> Nearness | None:
        """How far apart the weights are, where they are of one architecture; asked for when the files are known to be theirs."""
        return None if self.source is None else nearness(self.source, self.target, self.cache)

    @property
    def origin(self) -> Base:
        """Whose names the adapters of the group use."""
        return self.source or self.target

    def read_alike(self) -> bool:
        """Whether both have the same text encoders; not known without a source."""
        return self.stays or (self.source is not None and same_encoders(self.source, self.target))

    @property
    def stamps(self) -> tuple[FileStamp, ...]:
        """The states in which the files were opened, in the order of :class:`~lib_transfer.library.job.Files`."""
        bases = [base for base in (self.source, self.target) if base is not None]
        return tuple(stamp for base in bases for stamp in base.checkpoint.stamps)


@contextmanager
def opened(job: Job, runtime: Runtime, cache: Cache) -> Iterator[Bases]:
    """The checkpoints of ``job``, paired, and closed at the end.

    Raises:
        TransferError: one cannot be read, or is no checkpoint of a supported architecture.
    """
    request, files = job.request, job.files
    with ExitStack() as stack:
        source = None
        if files.source and request.source_sha256 is not None:
            source = stack.enter_context(_opened(files.source, request.source_sha256, runtime))
        if request.architecture:
            target = reference_base(architecture_of(request.architecture), outline_adapter(files.adapter))
        else:
            target = stack.enter_context(_opened(files.target, request.target_sha256, runtime))
        sketches = Sketches(source or target, target, cache, runtime.torch_device)
        moved = None if source is None else blocks.by_weights(source, target, cache)
        find = pairing(source or target, target, sketches, forced=Settings.of(request).force, blocks=moved)
        yield Bases(source, target, find, moved, stack, cache, stays=bool(request.architecture))


def _opened(paths: Sequence[Path], sha256: str, runtime: Runtime) -> AbstractContextManager[Base]:
    """The base of these files; that of text encoders is asked of the memory of hashes, where the request put it."""
    return open_base(paths[0], sha256, [(path, runtime.hashes.sha256(path)) for path in paths[1:]])


class AdapterRun:
    """One adapter of a group, and what has become of its modules so far.

    Args:
        job: what is to be done with it.
        bases: the checkpoints of the group, which are the job's.
        writes: whether the parts of an output are kept; without, there is a report alone.

    Attributes:
        problem: why it goes no further; nothing more is computed for it then.

    Raises:
        TransferError: the adapter cannot be read, or does not belong to the source.
    """

    def __init__(self, job: Job, bases: Bases, *, writes: bool) -> None:
        self.job = job
        self.bases = bases
        self.problem: TransferError | None = None
        self.adapter = bases.adapters.enter_context(open_adapter(job.files.adapter))
        # A file that was rewritten after it was hashed would be carried, and cached, under the name of the old one.
        hashed = job.files.stamps
        if hashed and hashed != self.stamps:
            others = set(hashed) ^ set(self.stamps)  # a folder may have more files now, or fewer
            raise changed_error(min(stamp.path for stamp in others))
        self.planned = plan(
            self.adapter,
            bases.origin,
            bases.target,
            bases.find,
            bases.read_alike,
            weightless=bases.source is None,
            stays=bases.stays,
            inserted=self.inserted,
        )
        self._renamed: dict[int, tuple[int, ...]] = {}
        if bases.stays:
            self._renamed = renamings(self.planned.pairs, bases.target)
        self.dtype = output.output_dtype(job.request.setting("dtype"), self.adapter)
        self._writes = writes
        self._spool = Spool(bases.folder)
        self._results: list[ModuleResult | None] = [None] * len(self.planned.pairs)

    @property
    def _apart(self) -> tuple[str, ...]:
        """What sets the checkpoint that the adapter was trained on apart from the target, as far as it is known."""
        bases = self.bases
        if bases.stays:
            return ()
        if bases.source is None:
            return differences_told(self.adapter.metadata, bases.target)
        near = () if bases.near is None else (bases.near.told,)
        return (*differences(bases.source, bases.target), *near)

    @property
    def inserted(self) -> str:
        """What blocks get that were inserted into the target."""
        return self.job.request.setting("inserted") or "empty"

    @property
    def request(self) -> TransferRequest:
        """What the result depends on."""
        return self.job.request

    @property
    def stamps(self) -> tuple[FileStamp, ...]:
        """The states in which its files were opened."""
        return (*self.adapter.header.stamps, *self.bases.stamps)

    @property
    def results(self) -> list[ModuleResult]:
        """What became of the pairs that were carried, in the order of the adapter."""
        return [result for result in self._results if result is not None]

    def carry(self, place: int, settings: Settings, relate: Relations, device: torch.device) -> None:
        """Carry the pair at ``place`` of the plan, and make its part of the output at once, which is all that is kept."""
        try:
            result = self._carried(place, settings, relate, device)
            self._results[place] = dataclasses.replace(result, tensors=self._spool.keep(result.tensors))
        except NotEnoughMemoryError:
            raise
        except TransferError as error:
            self.problem = error

    def _carried(self, place: int, settings: Settings, relate: Relations, device: torch.device) -> ModuleResult:
        pairs = self.planned.pairs
        if place in self._renamed:
            places = self._renamed[place]
            return renamed([pairs[it] for it in places], places.index(place), self.bases.target, self.dtype)
        if self.bases.stays and pairs[place].group.algorithm.needs_base:
            return without_weight(pairs[place])
        carried = carry(pairs[place], settings, relate, device)
        return output.with_tensors(carried, self.dtype, writes=self._writes)

    def join(self, settings: Settings) -> None:
        """Join the shares of fused weights, once every pair was carried."""
        if self.problem is None:
            self._results = [*output.join_shares(self.results, self.bases.target, settings, self.dtype)]

    def report(self) -> TransferReport:
        """The report, once every pair was carried.

        Raises:
            TransferError: the problem, where there is one.
        """
        if self.problem is not None:
            raise self.problem
        # Embeddings alone are no output.
        nothing = not any(result.report.written for result in self.results)
        left = unread_embeddings(self.planned.embeddings, "Nothing else of the adapter was carried.") if nothing else ()
        return TransferReport(
            request=json.loads(self.request.to_json()),
            method=methods.get(self.request.method).title,
            source_architecture=self.bases.source.architecture.title if self.bases.source else None,
            target_architecture=self.bases.target.architecture.title,
            modules=(*(result.report for result in self.results), *map(_lost, self.planned.strangers)),
            unread=(*(_sized(item, self.adapter) for item in self.planned.unread), *left),
            notes=(
                *self.planned.notes,
                *self._apart,
                *(blocks.told(self.bases.blocks, self.inserted) if self.bases.blocks else ()),
            ),
            file=tuple(self.adapter.header.tensors),
            bundled=() if left else tuple(output.embeddings(self.planned.embeddings)),
            near=self.bases.near,
        )

    def still_the_same(self) -> None:
        """Raise :class:`BadFileError` if an input was rewritten while it was being read."""
        changed = [opened.path for opened in self.stamps if stamp(opened.path) != opened]
        if changed:
            raise BadFileError(
                f"{changed[0]} changed during the transfer, so nothing was written.",
                reason="changed",
                hint="Start again.",
            )


def carry_all(
    runs: Sequence[AdapterRun],
    runtime: Runtime,
    cache: Cache,
    progress: Progress,
    left: Left = lambda _: False,
    begins: float = 0.0,
) -> None:
    """Carry every module of every run; what goes wrong for one of them is its ``problem`` and nobody else's.

    Args:
        runs: the runs of one group, whose requests differ in the adapter alone.
        runtime: device and number of modules at a time.
        cache: where decompositions are kept.
        progress: is told of every module of the bases, and asked before every adapter's part of it whether to stop.
        left: is asked as often whether to leave out this run.
        begins: the share of the modules to begin at; those before it come last. No result depends on it.

    Raises:
        CancelledError: the person asked to stop.
        NotEnoughMemoryError: there is too little memory for a module.
    """
    first = runs[0]
    settings, device = Settings.of(first.request), runtime.torch_device
    relations = Relations(first.bases.origin, first.bases.target, settings.wanted, cache, device)

    def one(shared: Sequence[tuple[AdapterRun, int]]) -> None:
        relate = relations.keeping()
        for number, (run, place) in enumerate(shared):
            if number:
                check(progress)
            if run.problem is None and left(run):
                run.problem = CancelledError("Skipped; nothing was written.")
            if run.problem is None:
                run.carry(place, settings, relate, device)

    modules = _by_module(runs)
    first_module = int(begins * len(modules))
    modules = [*modules[first_module:], *modules[:first_module]]
    one_adapter = f"{first.request.adapter_name} to {first.request.target_name}"
    words = one_adapter if len(runs) == 1 else f"{len(runs)} LoRAs to {first.request.target_name}"
    progress.start(len(modules), words)
    over_modules(modules, one, lambda shared: _pair(*shared[0]).name, runtime.threads, progress)
    for run in runs:
        run.join(settings)
    cache.prune()


def _sized(item: Unread, adapter: Adapter) -> Unread:
    """The same with its size, where it is a difference of a weight that stands in the file number by number."""
    found = [adapter.differences[key].double() for key in item.tensors if key in adapter.differences]
    size = math.hypot(*(float(tensor.norm()) for tensor in found))
    return dataclasses.replace(item, size=size) if found and math.isfinite(size) else item


def _lost(stranger: Stranger) -> ModuleReport:
    """The report of a group that the origin has no module for."""
    group = stranger.group
    norm, tensors = norm_alone(group), tuple(group.keys.values())
    return ModuleReport(
        group.name, stranger.position, "no counterpart", stranger.reason, norm_before=norm, tensors=tensors
    )


def _by_module(runs: Sequence[AdapterRun]) -> list[list[tuple[AdapterRun, int]]]:
    """Every pair of every run, those of one module of the source together."""
    found: dict[str, list[tuple[AdapterRun, int]]] = {}
    for run in runs:
        for place, pair in enumerate(run.planned.pairs):
            found.setdefault(pair.source.name, []).append((run, place))
    return list(found.values())


def _pair(run: AdapterRun, place: int) -> Pair:
    return run.planned.pairs[place]
