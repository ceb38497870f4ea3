"""Attributes that are computed when first asked for: once for each object, and for several objects at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

import pytest

from lib_transfer.conversion.relation import Relation
from lib_transfer.conversion.weights import Weight
from lib_transfer.lazy import lazy_property
from lib_transfer.linalg.subspace import Overlap

TOGETHER = 20.0
"""Seconds after which a thread gives up waiting for the other one."""


@dataclass(frozen=True)
class Asked:
    meeting: Barrier
    times: list[int] = field(default_factory=list)

    @lazy_property
    def number(self) -> int:
        """A number that takes the presence of two threads to compute."""
        self.times.append(1)
        self.meeting.wait(TOGETHER)
        return 7


def test_two_objects_are_computed_at_the_same_time() -> None:
    meeting = Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda one: one.number, [Asked(meeting), Asked(meeting)])) == [7, 7]


def test_an_object_is_computed_once() -> None:
    one = Asked(Barrier(1))
    assert (one.number, one.number, len(one.times)) == (7, 7, 1)


def test_what_failed_is_computed_again() -> None:
    class Fails:
        tries = 0

        @lazy_property
        def number(self) -> int:
            self.tries += 1
            if self.tries == 1:
                raise ValueError("not yet")
            return self.tries

    one = Fails()
    with pytest.raises(ValueError, match="not yet"):
        _ = one.number
    assert one.number == 2


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Weight, "matrix"), (Relation, "similarity"), (Relation, "turns"), (Relation, "equal"), (Overlap, "product")],
)
def test_the_mathematics_of_modules_wait_for_no_lock(owner: type, name: str) -> None:
    assert isinstance(vars(owner)[name], lazy_property)
