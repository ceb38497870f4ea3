"""The program's own models, run for an evaluation: loaded as the program loads them, and given back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib_transfer.errors import RequestError, UnsupportedError
from lib_transfer.library.base import Base
from lib_transfer.models import Model
from lib_transfer.webui.host.abilities import Opener
from lib_transfer.webui.hosts.modules import listed, way_of_loading
from lib_transfer.webui.hosts.running import a1111, forge
from lib_transfer.webui.hosts.running.kinds import Kind, Size, chosen_clip_skip, kind_of, same_rng

__all__ = ["borrowed", "clip_skip_of", "latent_space_of"]


def latent_space_of(base: Base) -> str:
    """The name of the autoencoder that a checkpoint works with.

    Raises:
        UnsupportedError: the program does not run such a checkpoint, or none whose models can be run from here.
    """
    return _kind_here(base, (0, 0)).latent_space


def clip_skip_of(base: Base, asked: int | None) -> int:
    """The Clip skip that the program encodes prompts for a checkpoint with.

    Args:
        base: the checkpoint.
        asked: the wanted one; None for the one in the program's settings.

    Raises:
        UnsupportedError: the program is none whose models can be run from here.
    """
    skip: int = _program().clip_skip(base, asked or chosen_clip_skip())
    return skip


@contextmanager
def borrowed(size: Size = (0, 0)) -> Iterator[Opener]:
    """A function that loads one checkpoint after another; only to be used within a slot of the program's queue.

    Whatever happens, the person's checkpoint is loaded again at the end, no option is changed, and the random state is kept.

    Args:
        size: width and height of pictures in pixels; zeros for the size that each checkpoint was trained on.

    Raises:
        UnsupportedError: the program is none whose models can be run from here.
    """
    program = _program()
    with same_rng(), program.borrowed() as load:

        @contextmanager
        def open_model(base: Base, clip_skip: int) -> Iterator[Model]:
            _kind_here(base, size)
            model = program.model_of(load(_description(base.path)), base, size, clip_skip)
            try:
                yield model
            finally:
                # Another one is loaded next, and whoever still knows this one must not keep it in memory.
                model.close()

        yield open_model


def _kind_here(base: Base, size: Size) -> Kind:
    kind = kind_of(base, size)
    if not _program().runs(base.architecture):
        raise UnsupportedError(
            f"{base.path.name} is {base.architecture.title}, which this WebUI does not run.",
            hint="docs/methods-and-evidence.md says which WebUI can verify what.",
        )
    return kind


def _program() -> Any:
    way = way_of_loading()
    if way is None:
        raise UnsupportedError("The models of this WebUI cannot be run from here; those of A1111 and Forge can.")
    return {"a1111": a1111, "forge": forge}[way]


def _description(path: Path) -> Any:
    if (info := listed(path)) is not None:
        return info
    raise RequestError(f"{path.name} is not in the WebUI's list any more.")
