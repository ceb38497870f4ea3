"""Pictures made by the WebUI that loaded the extension."""

from __future__ import annotations

import importlib
import io
from contextlib import closing
from pathlib import Path

from lib_transfer.errors import RequestError
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.host.abilities import Picture


class ProgramPictures:
    """Makes pictures as txt2img does, without scripts, and saves none of them."""

    def samplers(self) -> tuple[str, ...]:
        """The names of the samplers that are not hidden in the WebUI's settings."""
        module = importlib.import_module("modules.sd_samplers")
        visible = getattr(module, "visible_sampler_names", None)
        return tuple(visible() if visible is not None else (sampler.name for sampler in module.samplers))

    def draw(self, picture: Picture, checkpoint: Checkpoint) -> bytes:
        """One picture with ``checkpoint``, as a JPEG file; the selected checkpoint stays selected.

        Raises:
            RequestError: the checkpoint is gone, or there is no picture because the WebUI was interrupted.
        """
        processing = importlib.import_module("modules.processing")
        listed = importlib.import_module("modules.sd_models").checkpoints_list.values()
        info = next((info for info in listed if Path(info.filename) == checkpoint.path), None)
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
