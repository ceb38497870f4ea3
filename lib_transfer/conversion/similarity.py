"""How alike two checkpoints are, module by module: what can be told before any adapter is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lib_transfer.architecture.module import Module
from lib_transfer.conversion import blocks
from lib_transfer.conversion.decompositions import Wanted
from lib_transfer.conversion.differences import differences
from lib_transfer.conversion.heatmap import Panel
from lib_transfer.conversion.nearness import nearness
from lib_transfer.conversion.pairing import pairing
from lib_transfer.conversion.parallel import over_modules
from lib_transfer.conversion.relation import Relations, Similarity
from lib_transfer.conversion.report import module_row, similarity_dict
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.conversion.sketches import Sketches
from lib_transfer.conversion.verdict import table
from lib_transfer.errors import MismatchError
from lib_transfer.formats.checkpoint import model_name
from lib_transfer.library.base import open_base
from lib_transfer.methods.declaration import LINEAR_AND_CONVOLUTION
from lib_transfer.progress import Progress
from lib_transfer.version import SCHEMA


@dataclass(frozen=True)
class SimilarityReport:
    """Similarities of the modules that two checkpoints share.

    Attributes:
        source, target: file names.
        architecture: title.
        modules: pairs of module and similarity, in forward order.
        missing: modules of the source that the target lacks.
        notes: what sets the two apart beside that, and how near they are, as sentences.
    """

    source: str
    target: str
    architecture: str
    modules: tuple[tuple[Module, Similarity], ...]
    missing: tuple[Module, ...]
    notes: tuple[str, ...] = ()

    def panels(self) -> list[Panel]:
        """For a heat map: the smaller similarity as it is, and corrected for chance."""
        return [
            Panel("similarity", [(m.position, s.smaller) for m, s in self.modules]),
            Panel("corrected for chance", [(m.position, s.smaller_corrected) for m, s in self.modules]),
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "schema": SCHEMA,
            "source": self.source,
            "target": self.target,
            "architecture": self.architecture,
            "modules": [{**module_row(m), "similarity": similarity_dict(s)} for m, s in self.modules],
            "missing": [m.name for m in self.missing],
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """For a terminal: lowest and mean per stage."""
        groups: dict[tuple[str, str], list[Similarity]] = {}
        for module, similarity in self.modules:
            groups.setdefault((module.position.part, module.position.stage), []).append(similarity)
        rows = [("part", "stage", "modules", "lowest", "mean", "mean, corrected for chance")]
        rows += [(*key, str(len(found)), *_numbers(found)) for key, found in groups.items()]
        rows += [("all", "", str(len(self.modules)), *_numbers([s for _, s in self.modules]))]
        missing = f"{len(self.missing)} modules of the source are not in the target." if self.missing else ""
        return "\n".join([*table(rows), *([missing] if missing else []), *self.notes])


def compare(source: Path, target: Path, wanted: Wanted, *, runtime: Runtime, progress: Progress) -> SimilarityReport:
    """Similarity of every weight of one checkpoint to its counterpart in the other.

    Raises:
        MismatchError: they are of unrelated architectures, or share no weight.
        TransferError: a file cannot be read, or the person stopped it.
    """
    with ExitStack() as stack:
        one, other = (stack.enter_context(open_base(p, runtime.hashes.sha256(p, progress))) for p in (source, target))
        if one.architecture.family != other.architecture.family:
            raise MismatchError(
                f"{source.name} is {one.architecture.title}, {target.name} is {other.architecture.title}: "
                "their weights do not correspond."
            )
        weights = [m for m in one.modules if m.kind in LINEAR_AND_CONVOLUTION]
        cache, device = runtime.cache, runtime.torch_device
        moved = blocks.by_weights(one, other, cache)
        find = pairing(one, other, Sketches(one, other, cache, device), blocks=moved)
        pairs = [(m, counterpart) for m in weights if (counterpart := find(m).module) is not None]
        if not pairs:
            raise MismatchError(f"{source.name} and {target.name} share no weight.")
        relate = Relations(one, other, wanted, cache, device)
        progress.start(len(pairs), f"{model_name(source)} and {model_name(target)}")
        similarities = over_modules(
            pairs, lambda pair: relate(*pair).similarity, lambda pair: pair[0].name, runtime.threads, progress
        )
        cache.prune()
        found = tuple((module, s) for (module, _), s in zip(pairs, similarities, strict=True))
        paired = {module.name for module, _ in pairs}
        missing = tuple(m for m in weights if m.name not in paired)
        near = nearness(one, other, cache)
        notes = (*differences(one, other), *(() if near is None else (near.told,)))
        return SimilarityReport(source.name, target.name, one.architecture.title, found, missing, notes)


def _numbers(similarities: Sequence[Similarity]) -> tuple[str, str, str]:
    raw = [s.smaller for s in similarities if s.smaller is not None]
    corrected = [s.smaller_corrected for s in similarities if s.smaller_corrected is not None]
    if not raw:
        return "", "", ""
    return f"{min(raw):.3f}", f"{fmean(raw):.3f}", f"{fmean(corrected):.3f}"
