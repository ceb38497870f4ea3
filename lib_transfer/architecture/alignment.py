"""Which blocks of a model correspond to which of a relative of another depth, from a matrix of scores."""

from __future__ import annotations

from collections.abc import Sequence


def align(scores: Sequence[Sequence[float]]) -> tuple[int | None, ...]:
    """The monotone one-to-one assignment of rows to columns with the largest sum of scores.

    Blocks keep their order when a model is pruned or distilled, so a later block never corresponds to an earlier one than
    its predecessor does. Dynamic programming over prefixes (as for the alignment of sequences, Needleman and Wunsch 1970,
    without a cost for gaps). Pairs whose score is not positive are never assigned.

    Args:
        scores: ``scores[i][j]`` of row ``i`` and column ``j``.

    Returns:
        The column of every row, or None where it has none. Of equally good assignments, the one that pairs early.
    """
    rows, columns = len(scores), len(scores[0]) if scores else 0
    best = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            paired = scores[i][j] + best[i + 1][j + 1] if scores[i][j] > 0 else -1.0
            best[i][j] = max(paired, best[i + 1][j], best[i][j + 1])
    assigned: list[int | None] = [None] * rows
    i = j = 0
    while i < rows and j < columns:
        if scores[i][j] > 0 and best[i][j] == scores[i][j] + best[i + 1][j + 1]:
            assigned[i] = j
            i, j = i + 1, j + 1
        elif best[i][j] == best[i][j + 1]:
            j += 1
        else:
            i += 1
    return tuple(assigned)


def spread(rows: int, columns: int) -> tuple[int | None, ...]:
    """For blocks that nothing is known of: the column at the same relative depth, none of them used twice."""
    if rows <= columns:
        return tuple(_share(row, rows, columns) for row in range(rows))
    taken = {_share(column, columns, rows): column for column in range(columns)}
    return tuple(taken.get(row) for row in range(rows))


def _share(index: int, of: int, among: int) -> int:
    """The place among ``among`` that is as deep as ``index`` is in ``of`` (not more than ``among``)."""
    return round(index * (among - 1) / max(of - 1, 1))
