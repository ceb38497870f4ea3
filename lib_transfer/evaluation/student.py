"""The factors that are trained on the target: on every module with a role that the LoRA changes on its own checkpoint.

All of them have one form, whatever the LoRA's was: ``up @ down`` with rows of norm 1 in ``down``. Those that reuse gives begin as
the singular vectors and values of its update; the others as in Hu et al. 2021, with random rows and ``up`` zero.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.evaluation.losses import seeded
from lib_transfer.linalg.factors import Factors, thin_svd
from lib_transfer.models.apply import Place
from lib_transfer.update import Update, Updates, total

RANK = 32
"""The rank of factors where the LoRA was not made with one (full differences, LyCORIS products)."""

Role = tuple[bool, str]
"""Whether a module is in a text encoder, and what it does in its block."""


@dataclass(frozen=True)
class RoleStats:
    """What the LoRA is like on all modules of one role, on its own checkpoint.

    Attributes:
        rank: the largest rank that it has there.
        size: the root mean square of ``up``, where ``down`` has rows of norm 1; the mean over the modules.
    """

    rank: int
    size: float


@dataclass(frozen=True, eq=False)
class Student:
    """An adapter for the target, a part of which is trained.

    Attributes:
        fixed: what stays as reuse gives it: full differences, biases, modules that no gradients reach.
        factors: what is trained, by canonical name: float32 on the CPU.
        sizes: what ``up`` of each is expected to be like; see :class:`RoleStats`.
        reused: the names of those that begin with what reuse gives.
    """

    fixed: Updates
    factors: Mapping[str, Factors]
    sizes: Mapping[str, float]
    reused: frozenset[str]

    def whole(self) -> dict[str, Update]:
        """The adapter as it is now; modules that it does not change are left out."""
        made = dict(self.fixed)
        for name, (up, down) in self.factors.items():
            if not bool(up.any()):
                continue
            trained = Update(factors=Factors(up.detach().clone(), down.detach().clone()), rank=up.shape[1])
            made[name] = trained if name not in made else _sum(made[name], trained)
        return made


def role_of(module: Module) -> Role:
    """The role of a module, by which those of two architectures correspond."""
    return module.position.part.startswith("te"), module.position.role


def work_of(role: Role) -> Role | None:
    """The kind of work of a role, by which roles of two architectures correspond that name them differently."""
    of_text, name = role
    if "norm" in name or "mod" in name.lower():
        return None
    kind = next((kind for kind, pattern in _WORK.items() if re.search(pattern, name)), None)
    return None if kind is None else (of_text, kind)


_WORK = {
    "attention": r"(^|[._])(attn\d?|\w*attention)\.|^linear1\.[qkv]$",
    "feed-forward": r"^(\w+_block\.)?((img|txt)_)?(ffn?|mlp[CX]?|feed_forward)\.|^linear1\.mlp$|^linear2$",
}


def stats_of_roles(original: Updates, modules: Iterable[Module], rank: int = 0) -> dict[Role, RoleStats]:
    """What the LoRA is like on each role that it changes.

    Args:
        original: the LoRA on its own checkpoint.
        modules: the modules of that checkpoint.
        rank: the rank that is wanted; 0 for the LoRA's own.
    """
    found: dict[Role, list[tuple[int, float]]] = {}
    for module in modules:
        update = original.get(module.name)
        if update is None or not update.changes_weight or module.kind not in ("linear", "convolution"):
            continue
        own = _rank(update)
        size = update.norm() / math.sqrt(module.shape[0] * own)
        found.setdefault(role_of(module), []).append((own, size))
    return {
        role: RoleStats(rank or max(own for own, _ in seen), fmean(size for _, size in seen))
        for role, seen in found.items()
    }


def by_work(stats: Mapping[Role, RoleStats]) -> dict[Role, RoleStats]:
    """What the LoRA is like on each kind of work that it does."""
    found: dict[Role, list[RoleStats]] = {}
    for role, each in stats.items():
        if (work := work_of(role)) is not None:
            found.setdefault(work, []).append(each)
    return {
        work: RoleStats(max(each.rank for each in seen), fmean(each.size for each in seen))
        for work, seen in found.items()
    }


def begun(
    stats: Mapping[Role, RoleStats], modules: Iterable[Module], places: Mapping[str, Place], reuse: Updates, seed: int
) -> Student:
    """The adapter that training begins with.

    Args:
        stats: see :func:`stats_of_roles`.
        modules: the target's modules.
        places: where they are in the running model; those that it has not, or that no gradients reach, are not trained.
        reuse: what reuse gives for the target; empty where modules do not correspond.
        seed: the seed of random factors.
    """
    fixed = dict(reuse)
    factors: dict[str, Factors] = {}
    sizes: dict[str, float] = {}
    reused = set()
    modules = tuple(modules)
    # Of two architectures that name nothing alike, only the kinds of work correspond.
    unlike = not any(role_of(module) in stats for module in modules if not role_of(module)[0])
    kinds = by_work(stats) if unlike else {}
    for module in modules:
        role, place = role_of(module), places.get(module.name)
        wanted = stats.get(role) or kinds.get(work_of(role) or role)
        if wanted is None or place is None or place.kind == "other" or module.output is None or module.output.rows:
            continue
        rank = min(wanted.rank, *module.matrix_shape)
        there = fixed.get(module.name)
        given = there.factors if there is not None and there.rank is not None else None
        if given is not None and there is not None:
            factors[module.name] = with_unit_rows(given, max(rank, min(given.rank, *given.shape)), module.name, seed)
            reused.add(module.name)
            del fixed[module.name]
            if there.bias is not None:
                fixed[module.name] = Update(bias=there.bias)
        else:
            factors[module.name] = from_zero(module.matrix_shape, rank, module.name, seed)
        sizes[module.name] = wanted.size
    return Student(fixed, factors, sizes, frozenset(reused))


def from_zero(shape: tuple[int, int], rank: int, name: str, seed: int) -> Factors:
    """Factors of no change ``(out, in)``: ``up`` zero, the rows of ``down`` random, of norm 1 in the mean."""
    out, into = shape
    down = torch.randn(rank, into, generator=seeded(seed, "down", name)) / math.sqrt(into)
    return Factors(torch.zeros(out, rank), down)


def with_unit_rows(given: Factors, rank: int, name: str, seed: int) -> Factors:
    """The same change with ``up = U S`` and ``down = V^T``, filled up to ``rank`` with factors of no change."""
    u, s, vh = thin_svd(Factors(given.up.float().cpu(), given.down.float().cpu()))
    new = from_zero((u.shape[0], vh.shape[1]), rank - len(s), name, seed) if rank > len(s) else None
    parts: list[tuple[Tensor, Tensor]] = [(u * s, vh), *([new] if new is not None else [])]
    return Factors(torch.cat([up for up, _ in parts], 1), torch.cat([down for _, down in parts]))


def _rank(update: Update) -> int:
    own = RANK if update.rank is None else update.rank
    return max(1, min(own, *(update.matrix().shape if update.factors is None else update.factors.shape)))


def _sum(fixed: Update, trained: Update) -> Update:
    """Both together; one that has a trained rank and a bias beside it keeps the rank."""
    if fixed.changes_weight:
        return total(fixed, trained)
    return dataclasses.replace(trained, bias=fixed.bias)
