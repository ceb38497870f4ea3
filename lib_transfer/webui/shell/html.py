"""Makes the page's HTML: every template is in the folder ``templates``, and every value in it is escaped."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from lib_transfer import formatting
from lib_transfer.errors import TransferError, internal

logger = logging.getLogger("transfer_lora")


def number(value: object) -> str:
    """A number between 0 and 1 with three digits; "" for anything that is no number."""
    return f"{value:.3f}" if isinstance(value, (int, float)) else ""


def percent(value: object) -> str:
    """A share as a percentage; "" for anything that is no number."""
    return formatting.percent(float(value)) if isinstance(value, (int, float)) else ""


def kept(share: object, unmeasured: object) -> str:
    """The share of an update that was kept, as :func:`lib_transfer.formatting.kept` says it; "" where there is no number."""
    count = unmeasured if isinstance(unmeasured, int) else 0
    return formatting.kept(float(share) if isinstance(share, (int, float)) else None, count)


_PAGE = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGE.filters.update(bytes=formatting.size)


def render(template: str, **values: Any) -> Markup:
    """The HTML that a template makes of ``values``; HTML in them is kept only if it was rendered here too."""
    return Markup(_PAGE.get_template(f"{template}.html").render(values).strip())


def error(message: str, hint: str = "") -> Markup:
    """An error, with what to do about it."""
    return render("error", message=message, hint=hint)


def note(*lines: str) -> Markup:
    """Remarks, each in a line of its own."""
    return render("notes", lines=lines)


def guarded(work: Callable[..., str]) -> Callable[..., str]:
    """``work``, which makes HTML, with errors as HTML too: the page never shows a traceback."""

    @functools.wraps(work)
    def safely(*args: Any) -> str:
        try:
            return work(*args)
        except TransferError as problem:
            return error(problem.message, problem.hint)
        except Exception as problem:
            logger.exception("Transfer LoRA: an event failed")
            ours = internal(problem)
            return error(ours.message, ours.hint)

    return safely
