"""The optional abilities of the WebUI that loaded the extension: its pictures, its models, and its generations."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_transfer.errors import RequestError
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.host import files
from lib_transfer.webui.host.abilities import Opener, Picture, QueueSlot
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.hosts.modules import Slot, described, listed, module

if TYPE_CHECKING:
    from lib_transfer.library.base import Base

# What the WebUI's progress bar is made from.
_PROGRESS = ("job_count", "job_no", "sampling_steps", "sampling_step", "textinfo")


class ProgramPictures:
    """Makes pictures as txt2img does, without scripts, and saves none of them."""

    def samplers(self) -> tuple[str, ...]:
        """The names of the samplers that are not hidden in the WebUI's settings."""
        samplers = module("sd_samplers")
        visible = getattr(samplers, "visible_sampler_names", None)
        return tuple(visible() if visible is not None else (sampler.name for sampler in samplers.samplers))

    def draw(self, picture: Picture, checkpoint: Checkpoint) -> bytes:
        """One picture with ``checkpoint``, as a JPEG file; the selected checkpoint stays selected.

        Raises:
            RequestError: the checkpoint is gone, or there is no picture because the WebUI was interrupted.
        """
        processing = module("processing")
        info = listed(checkpoint.path)
        if info is None:
            raise RequestError(f"{checkpoint.path.name} is not in the WebUI's list any more.")
        p = processing.StableDiffusionProcessingTxt2Img(
            prompt=picture.prompt,
            negative_prompt=picture.negative,
            seed=picture.seed,
            sampler_name=picture.sampler,
            steps=picture.steps,
            cfg_scale=picture.cfg,
            width=picture.width,
            height=picture.height,
            do_not_save_samples=True,
            do_not_save_grid=True,
            override_settings={"sd_model_checkpoint": info.name},
        )
        with closing(p):
            made = processing.process_images(p)
        if not made.images:
            raise RequestError("The picture was interrupted.")
        file = io.BytesIO()
        # Without subsampling and nearly without loss, because small differences matter here.
        made.images[0].convert("RGB").save(file, "JPEG", quality=95, subsampling=0)
        return file.getvalue()


class ProgramModels:
    """Runs the WebUI's own models, loaded as the WebUI loads them."""

    @property
    def on_gpu(self) -> bool:
        """Whether the WebUI runs its models on something faster than the processor."""
        return str(module("devices").device) != "cpu"

    def latent_space(self, base: Base) -> str:
        """The autoencoder follows from the architecture.

        Raises:
            UnsupportedError: models of this kind cannot be run.
        """
        return _running().latent_space_of(base)

    def clip_skip(self, base: Base, asked: int | None) -> int:
        """The Clip skip that the WebUI encodes prompts with; see :func:`running.clip_skip_of`."""
        skip: int = _running().clip_skip_of(base, asked)
        return skip

    def opener(self, size: tuple[int, int]) -> AbstractContextManager[Opener]:
        """A function that loads checkpoints one after another; see :func:`running.borrowed`."""
        return _running().borrowed(size)


def _running() -> Any:
    # It imports the engine, which nothing else at the program's start needs.
    return importlib.import_module("lib_transfer.webui.hosts.running")


class ProgramPrompting:
    """Looks up what prompts name, and borrows the progress bar of a generation."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def adapter_named(self, name: str) -> Path | None:
        """The file that the Lora extension lists for ``name``, else one of that path or name on disk."""
        found = self._host.listed_adapter(name)
        if found is None and name:
            names = files.adapters(self._host.adapter_folders())
            found = names.get(name) or names.get(files.by_card(name, names) or "")
        if found is None and name:
            # It may be the alias of a new file.
            self._host.adapters_changed()
            found = self._host.listed_adapter(name)
        return found

    def checkpoint_of(self, info: Any) -> Checkpoint:
        """The checkpoint that the WebUI describes by ``info``."""
        return described(info)

    def checkpoint_named(self, name: str) -> Checkpoint | None:
        """The checkpoint that the WebUI would take for ``name``."""
        info = module("sd_models").get_closet_checkpoint_match(name)
        return described(info) if info is not None else None

    @contextmanager
    def within_generation(self, text: str) -> Iterator[QueueSlot]:
        """Use the generation's progress bar and interrupt; the bar shows its own progress again at the end."""
        state = module("shared").state
        kept = {name: getattr(state, name, None) for name in _PROGRESS}
        slot = Slot(state, "Transfer LoRA: ")
        slot.show(0, 1, 0, 1, text)
        try:
            yield slot
        finally:
            for name, value in kept.items():
                setattr(state, name, value)
