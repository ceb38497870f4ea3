"""The heat maps as pictures, in colours that can be read on a light and on a dark page."""

from __future__ import annotations

import base64
import functools
import io
from typing import TYPE_CHECKING

from lib_transfer.conversion.heatmap import Style, draw, draw_legend, transfer_panels
from lib_transfer.conversion.report import TransferReport
from lib_transfer.errors import RequestError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Midway between black and white, because the person may switch the theme later.
INK = "#808691"

SMALL = Style(width=3.2, most_labels=24, legend=False)
"""So small that two maps stand side by side; their one legend stands below."""


def heat_maps(report: TransferReport) -> list[tuple[str, str]]:
    """The heat maps of a report: for each quantity its name and a ``data:`` address of a PNG.

    A quantity that is the same everywhere is left out. Without matplotlib there are none.
    """
    made = []
    for panel in transfer_panels(report.modules):
        values = [value for _, value in panel.cells if value is not None]
        if values and max(values) - min(values) > 1e-3:
            try:
                made.append((panel.title, _png(draw([panel], "", SMALL))))
            except RequestError:
                return []
    return made


@functools.cache
def legend() -> str:
    """The legend of all heat maps, as a ``data:`` address of a PNG; "" without matplotlib."""
    try:
        return _png(draw_legend(SMALL.width))
    except RequestError:
        return ""


def _png(figure: Figure) -> str:
    from matplotlib.spines import Spine  # noqa: PLC0415 - matplotlib is optional
    from matplotlib.text import Text  # noqa: PLC0415

    for text in figure.findobj(Text):
        text.set_color(INK)
    for spine in figure.findobj(Spine):
        spine.set_edgecolor(INK)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=INK)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=200, transparent=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
