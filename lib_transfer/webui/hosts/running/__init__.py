"""The program's own model, run for what it can tell: loaded as the program does, and given back as it was."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib_transfer.errors import RequestError, UnsupportedError
from lib_transfer.library.base import encoders_among, open_base
from lib_transfer.models import Model
from lib_transfer.webui.host.abilities import Opener
from lib_transfer.webui.hosts.loading import way_of_loading
from lib_transfer.webui.hosts.running import a1111, forge
from lib_transfer.webui.hosts.running.kinds import Size, kind_of


@contextmanager
def borrowed(size: Size = (0, 0), beside: Sequence[Path] = ()) -> Iterator[Opener]:
    """The program's model, to be exchanged for others one after the other; only within a turn in the program's queue.

    Whatever happens, the person's checkpoint is loaded again at the end, and no option is changed.

    Args:
        size: width and height of pictures in pixels; zeros for what the architecture was trained on.
        beside: files that the program loads beside every checkpoint, text encoders among them.

    Raises:
        UnsupportedError: the program is none whose models can be run from here.
    """
    program = _program()
    with program.borrowed() as load:

        @contextmanager
        def open_model(path: Path) -> Iterator[Model]:
            encoders = encoders_among(path, beside) if beside else ()
            with open_base(path, "", [(encoder, "") for encoder in encoders]) as base:
                kind_of(base, size)
                model = program.model_of(load(_description(path)), base, size)
            try:
                yield model
            finally:
                # Another one is loaded next, and whoever still knows this one must not keep it in memory.
                model.close()

        yield open_model


@contextmanager
def opened(path: Path, size: Size = (0, 0)) -> Iterator[Model]:
    """One checkpoint in the program's memory, and afterwards the person's again; see :func:`borrowed`.

    Raises:
        RequestError: the program does not list it.
        UnsupportedError: it cannot be run here.
    """
    with borrowed(size) as open_model, open_model(path) as model:
        yield model


def _program() -> Any:
    way = way_of_loading()
    if way is None:
        raise UnsupportedError("The models of this WebUI cannot be run from here; those of A1111 and Forge can.")
    return {"a1111": a1111, "forge": forge}[way]


def _description(path: Path) -> Any:
    listed = importlib.import_module("modules.sd_models").checkpoints_list.values()
    for info in listed:
        if Path(info.filename) == path:
            return info
    raise RequestError(f"{path.name} is not in the WebUI's list any more.")
