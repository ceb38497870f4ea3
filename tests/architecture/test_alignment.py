"""The alignment against every monotone assignment there is."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib_transfer.architecture.alignment import align, spread

scores = st.integers(1, 5).flatmap(
    lambda columns: st.lists(
        st.lists(st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0]), min_size=columns, max_size=columns), max_size=5
    )
)


def _best(given_scores: list[list[float]]) -> float:
    rows, columns = len(given_scores), len(given_scores[0]) if given_scores else 0
    sums = [0.0]
    for size in range(1, min(rows, columns) + 1):
        for chosen in combinations(range(rows), size):
            for to in combinations(range(columns), size):
                pairs = [given_scores[i][j] for i, j in zip(chosen, to, strict=True)]
                sums += [sum(pairs)] if all(score > 0 for score in pairs) else []
    return max(sums)


@settings(max_examples=200)
@given(scores)
def test_nothing_monotone_is_better(matrix: list[list[float]]) -> None:
    assigned = align(matrix)
    assert len(assigned) == len(matrix)
    columns = [column for column in assigned if column is not None]
    assert columns == sorted(set(columns)), "in order, and none twice"
    gained = [matrix[row][column] for row, column in enumerate(assigned) if column is not None]
    assert all(score > 0 for score in gained)
    assert sum(gained) == _best(matrix)


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        (3, 3, (0, 1, 2)),
        (4, 10, (0, 3, 6, 9)),
        (10, 4, (0, None, None, 1, None, None, 2, None, None, 3)),
        (1, 5, (0,)),
        (5, 1, (0, None, None, None, None)),
        (0, 3, ()),
    ],
)
def test_spread_keeps_the_relative_depth(rows: int, columns: int, expected: tuple[int | None, ...]) -> None:
    assert spread(rows, columns) == expected
