"""What only some programs can do. A host has an object for each of these abilities, or None."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lib_transfer.library.base import Base
    from lib_transfer.library.checkpoints import Checkpoint
    from lib_transfer.models import Model


@dataclass(frozen=True)
class Picture:
    """What a picture is made from.

    Attributes:
        prompt, negative: the prompts, as written.
        sampler: the sampler's name in the program.
        steps, cfg: the number of sampling steps, and the scale of classifier-free guidance.
        width, height: the size in pixels.
        seed: the seed of the noise.
    """

    prompt: str
    negative: str
    sampler: str
    steps: int
    cfg: float
    width: int
    height: int
    seed: int


class Pictures(Protocol):
    """Makes pictures."""

    def samplers(self) -> tuple[str, ...]:
        """The names of the samplers that can be used."""

    def draw(self, picture: Picture, checkpoint: Checkpoint) -> bytes:
        """A picture as a JPEG file. To be called only while a slot of the program's queue is held."""


class QueueSlot(Protocol):
    """A place in the program's queue for the GPU, while it is held."""

    def show(self, job: int, jobs: int, step: int, steps: int, text: str) -> None:
        """Set the program's own progress bar to ``step`` of ``steps`` in ``job`` of ``jobs``."""

    def interrupted(self) -> bool:
        """Whether the program's own Interrupt button was pressed."""

    def skipped(self) -> bool:
        """Whether the program's own Skip button was pressed since the last call."""

    def stop(self) -> None:
        """Stop what the program itself is doing in this slot, such as a picture."""


class Opener(Protocol):
    """Loads a checkpoint, in place of the one that is loaded, for as long as the context lasts."""

    def __call__(self, base: Base, clip_skip: int) -> AbstractContextManager[Model]: ...


class Models(Protocol):
    """Runs the program's models: what an evaluation calls a runner.

    Attributes:
        on_gpu: whether they run on something faster than the processor.
    """

    @property
    def on_gpu(self) -> bool: ...

    def latent_space(self, base: Base) -> str:
        """The name of the autoencoder that a checkpoint works with.

        Raises:
            UnsupportedError: models of this kind cannot be run.
        """

    def clip_skip(self, base: Base, asked: int | None) -> int:
        """The Clip skip that prompts for a checkpoint are encoded with; ``asked`` is None for the person's own."""

    def opener(self, size: tuple[int, int]) -> AbstractContextManager[Opener]:
        """A function that loads one checkpoint after another; at the end the person's own checkpoint is loaded again.

        To be called only while a slot of the program's queue is held.

        Args:
            size: width and height of the pictures in pixels; zeros for the size that a checkpoint was trained on.
        """


class Prompting(Protocol):
    """What is needed to change the prompts of a generation that is under way."""

    def adapter_named(self, name: str) -> Path | None:
        """The LoRA file that ``name`` in a tag means; None where there is none."""

    def checkpoint_of(self, info: Any) -> Checkpoint:
        """The checkpoint that the program describes by its own object ``info``."""

    def checkpoint_named(self, name: str) -> Checkpoint | None:
        """The checkpoint that the program would take for ``name``."""

    def within_generation(self, text: str) -> AbstractContextManager[QueueSlot]:
        """The progress bar and the interrupt of the generation; its own progress is put back at the end."""
