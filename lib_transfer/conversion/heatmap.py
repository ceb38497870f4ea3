"""A picture of a transfer: blocks against roles, one panel per part of the model and quantity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lib_transfer.architecture.module import Position
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.errors import RequestError, StorageError
from lib_transfer.formats.publish import part_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cell = tuple[Position, float | None]


@dataclass(frozen=True)
class Panel:
    """One quantity to draw: its title and its value per module (None: nothing to show)."""

    title: str
    cells: Sequence[Cell]


def transfer_panels(modules: Sequence[ModuleReport]) -> list[Panel]:
    """Similarity and energy kept of a transfer."""
    quantities: list[tuple[str, Callable[[ModuleReport], float | None]]] = [
        ("similarity (the smaller of both sides)", lambda m: m.similarity.smaller if m.similarity else None),
        ("energy kept", lambda m: 0.0 if not m.written else m.energy_kept),
    ]
    return [Panel(title, [(m.position, value(m)) for m in modules if m.position]) for title, value in quantities]


def draw(panels: Sequence[Panel], title: str) -> Figure:
    """A figure of all panels that have something to show, one row per part of the model.

    Raises:
        RequestError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only needed where a picture is asked for
    except ImportError as error:
        raise RequestError(
            "Drawing a heat map needs matplotlib.", hint="Install matplotlib, or leave --plot out."
        ) from error

    panels = [p for p in panels if any(value is not None for _, value in p.cells)]
    parts = list(dict.fromkeys(position.part for p in panels for position, _ in p.cells))
    heights = [2 + 0.22 * len(_labels(panels, part, lambda p: p.role)) for part in parts]
    figure = Figure(figsize=(7.5 * max(len(panels), 1), sum(heights) + 1 if parts else 2), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(max(len(parts), 1), max(len(panels), 1), squeeze=False, height_ratios=heights or None)
    for row, part in enumerate(parts):
        for column, panel in enumerate(panels):
            _draw_panel(axes[row][column], panel, part)
    if not parts:
        axes[0][0].set_axis_off()
        axes[0][0].text(0.5, 0.5, "nothing to show", ha="center")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    part = part_name(path)
    try:
        figure.savefig(part, format="png", dpi=110)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"The heat map {path} cannot be written: {error}.") from error


def _labels(panels: Sequence[Panel], part: str, label: Callable[[Position], str]) -> list[str]:
    """Labels in the order of the forward pass."""
    positions = {position for panel in panels for position, _ in panel.cells if position.part == part}
    return list(dict.fromkeys(label(p) for p in sorted(positions, key=lambda p: p.depth)))


def _draw_panel(axes: Axes, panel: Panel, part: str) -> None:
    blocks = _labels([panel], part, lambda p: p.block)
    roles = _labels([panel], part, lambda p: p.role)
    sums = [[0.0] * len(blocks) for _ in roles]
    counts = [[0] * len(blocks) for _ in roles]
    for position, value in panel.cells:
        if position.part == part and value is not None:
            row, column = roles.index(position.role), blocks.index(position.block)
            sums[row][column] += value
            counts[row][column] += 1
    means = [
        [s / n if n else math.nan for s, n in zip(ss, ns, strict=True)] for ss, ns in zip(sums, counts, strict=True)
    ]
    image = axes.imshow(means, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_title(f"{part}: {panel.title}", fontsize=10)
    axes.set_xticks(range(len(blocks)), blocks, rotation=90, fontsize=7)
    axes.set_yticks(range(len(roles)), roles, fontsize=7)
    axes.figure.colorbar(image, ax=axes)
