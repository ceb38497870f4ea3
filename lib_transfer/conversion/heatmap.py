"""A picture of a transfer: blocks against roles, one panel per part of the model and quantity."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_transfer.architecture.module import Position
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.errors import RequestError
from lib_transfer.formats.publish import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": "viridis", "aspect": "auto"}

Cell = tuple[Position, float | None]


@dataclass(frozen=True)
class Panel:
    """One quantity to draw: its title and its value per module (None: nothing to show)."""

    title: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Style:
    """How panels are drawn.

    Attributes:
        width: the width of a panel in inches.
        most_labels: the most blocks that are named in a panel; of more every second, third and so on.
        legend: whether each panel has a legend of its own.
    """

    width: float = 7.5
    most_labels: int = 1000
    legend: bool = True


def transfer_panels(modules: Sequence[ModuleReport]) -> list[Panel]:
    """Similarity and energy kept of a transfer."""
    quantities: list[tuple[str, Callable[[ModuleReport], float | None]]] = [
        ("similarity (the smaller of both sides)", lambda m: m.similarity.smaller if m.similarity else None),
        ("energy kept", lambda m: 0.0 if not m.written else m.energy_kept),
    ]
    return [Panel(title, [(m.position, value(m)) for m in modules if m.position]) for title, value in quantities]


def draw(panels: Sequence[Panel], title: str, style: Style = Style()) -> Figure:
    """A figure of all panels that have something to show, one row per part of the model.

    Raises:
        RequestError: matplotlib is not installed.
    """
    panels = [p for p in panels if any(value is not None for _, value in p.cells)]
    parts = list(dict.fromkeys(position.part for p in panels for position, _ in p.cells))
    heights = [_height(len(_labels(panels, part, lambda p: p.role)), style) for part in parts]
    figure = _figure(style.width * max(len(panels), 1), sum(heights) + bool(title) if parts else 2)
    if title:
        figure.suptitle(title)
    axes = figure.subplots(max(len(parts), 1), max(len(panels), 1), squeeze=False, height_ratios=heights or None)
    for row, part in enumerate(parts):
        for column, panel in enumerate(panels):
            _draw_panel(axes[row][column], panel, part, style)
    if not parts:
        axes[0][0].set_axis_off()
        axes[0][0].text(0.5, 0.5, "nothing to show", ha="center")
    return figure


def draw_legend(width: float) -> Figure:
    """The colours of all panels, as a bar of this width in inches.

    Raises:
        RequestError: matplotlib is not installed.
    """
    figure = _figure(width, 0.45)
    axes = figure.subplots()
    axes.imshow([[step / 255 for step in range(256)]], extent=(0, 1, 0, 1), **_COLOURS)
    axes.set_yticks([])
    axes.tick_params(labelsize=7)
    return figure


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - only needed where a picture is asked for
    except ImportError as error:
        raise RequestError(
            "Drawing a heat map needs matplotlib.", hint="Install matplotlib, or leave --plot out."
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write the figure as PNG, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_bytes(path, drawn.getvalue(), overwrite=True)


def _labels(panels: Sequence[Panel], part: str, label: Callable[[Position], str]) -> list[str]:
    """Labels in the order of the forward pass."""
    positions = {position for panel in panels for position, _ in panel.cells if position.part == part}
    return list(dict.fromkeys(label(p) for p in sorted(positions, key=lambda p: p.depth)))


def _height(roles: int, style: Style) -> float:
    """The height of a panel in inches: a large one has more room around it and between its rows."""
    return 2 + 0.22 * roles if style.legend else 0.9 + 0.14 * roles


def _draw_panel(axes: Axes, panel: Panel, part: str, style: Style) -> None:
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
    image = axes.imshow(means, **_COLOURS)
    # What stands in brackets is too long for a small one.
    title = panel.title if style.legend else panel.title.partition(" (")[0]
    axes.set_title(f"{part}: {title}", fontsize=10 if style.legend else 8)
    every = math.ceil(len(blocks) / style.most_labels)
    axes.set_xticks(range(0, len(blocks), every), blocks[::every], rotation=90, fontsize=7)
    axes.set_yticks(range(len(roles)), roles, fontsize=7)
    if style.legend:
        axes.figure.colorbar(image, ax=axes)
