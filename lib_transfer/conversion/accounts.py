"""Where every tensor of an adapter's file went: how many were carried, and what became of each of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lib_transfer.formats.unread import PLURALS, Unread


@dataclass(frozen=True)
class Loss:
    """What of a file was not carried for one reason.

    Attributes:
        what: what was lost, in one plain word: a key of :data:`~lib_transfer.formats.unread.PLURALS`.
        count: how many of it.
        tensors: how many tensors of the file that is.
        reason: why, as a sentence or a part of one.
        example: the name of the first.
    """

    what: str
    count: int
    tensors: int
    reason: str
    example: str


@dataclass(frozen=True)
class Accounts:
    """The tensors of a file: those that were carried and those that were lost make up all of them.

    Attributes:
        tensors: how many the file has.
        carried: how many of them the output stands for.
        losses: what became of the others, by kind and reason.
    """

    tensors: int
    carried: int
    losses: tuple[Loss, ...] = ()

    @property
    def words(self) -> str:
        """What was lost, such as "374 biases, 1 module (3 tensors)"; "" where nothing was."""
        return counted((loss.what, loss.count, loss.tensors) for loss in self.losses)

    @property
    def sentence(self) -> str:
        """How many tensors the file has, how many were carried, and what was not."""
        share = "All" if not self.losses else f"{self.carried} of"
        rest = f" Not carried: {self.words}." if self.losses else ""
        return f"{share} {self.tensors} tensors of the file were carried.{rest}"

    @property
    def told(self) -> tuple[str, ...]:
        """:attr:`sentence`, and a line per loss; nothing where nothing was lost."""
        return (self.sentence, *lines(self.losses)) if self.losses else ()

    def facts(self) -> dict[str, Any]:
        """For JSON; :func:`accounts_in` reads it."""
        return {
            "tensors": self.tensors,
            "tensors_carried": self.carried,
            "lost": [asdict(loss) for loss in self.losses],
        }


def account(file: Collection[str], carried: Iterable[str], lost: Sequence[Unread]) -> Accounts:
    """The accounts of a file.

    Args:
        file: the full names of its tensors.
        carried: those that the output stands for.
        lost: those that it does not, with reasons. A tensor that is carried too, or was named before, is not counted.
    """
    left = set(file) - set(carried)
    accounted = len(file) - len(left)
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for item in lost:
        own = left.intersection(item.tensors)
        left -= own
        if own:
            found.setdefault((item.noun, item.reason), []).append((item.name, len(own)))
    if left:
        found[("tensor", "Nothing is known of it.")] = [(name, 1) for name in sorted(left)]
    return Accounts(len(file), accounted, tuple(_loss(*key, items) for key, items in found.items()))


def accounts_in(facts: Mapping[str, Any]) -> Accounts | None:
    """The accounts in the summary of a report; None where it has none, because it is older or was edited."""
    try:
        losses = tuple(Loss(**loss) for loss in facts["lost"])
        accounts = Accounts(int(facts["tensors"]), int(facts["tensors_carried"]), losses)
        return (
            accounts if all(loss.what in PLURALS for loss in losses) and len(accounts.told) <= 1 + len(losses) else None
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def counted(items: Iterable[tuple[str, int, int]]) -> str:
    """Kinds with how many there are and how many tensors that is, in words: those of one kind together."""
    sums: dict[str, tuple[int, int]] = {}
    for what, count, tensors in items:
        before = sums.get(what, (0, 0))
        sums[what] = (before[0] + count, before[1] + tensors)
    return ", ".join(
        f"{count} {what if count == 1 else PLURALS[what]}" + ("" if tensors == count else f" ({tensors} tensors)")
        for what, (count, tensors) in sums.items()
    )


def lines(losses: Iterable[Loss]) -> list[str]:
    """A line per loss, such as "374 biases: the target's layer has none (e.g. the first)"."""
    return [
        f"{counted([(loss.what, loss.count, loss.tensors)])}: {loss.reason.rstrip('.')} (e.g. {loss.example})"
        for loss in losses
    ]


def _loss(what: str, reason: str, items: Sequence[tuple[str, int]]) -> Loss:
    tensors = sum(count for _, count in items)
    return Loss(what, tensors if what == "tensor" else len(items), tensors, reason, items[0][0])
