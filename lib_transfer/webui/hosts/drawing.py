"""A picture made by the WebUI that the extension was loaded by."""

from __future__ import annotations

import importlib
import io
from contextlib import closing
from pathlib import Path

from lib_transfer.errors import RequestError
from lib_transfer.webui.compare.form import Scene


def samplers() -> tuple[str, ...]:
    """Names of the samplers that the WebUI shows."""
    module = importlib.import_module("modules.sd_samplers")
    visible = getattr(module, "visible_sampler_names", None)
    return tuple(visible() if visible is not None else (sampler.name for sampler in module.samplers))


def draw(scene: Scene, prompt: str, checkpoint: Path) -> bytes:
    """One picture with ``checkpoint``, as a JPEG file; the WebUI's own choice of a checkpoint stays.

    Raises:
        RequestError: the checkpoint is gone, or there is no picture because the WebUI was interrupted.
    """
    processing = importlib.import_module("modules.processing")
    listed = importlib.import_module("modules.sd_models").checkpoints_list.values()
    info = next((info for info in listed if Path(info.filename) == checkpoint), None)
    if info is None:
        raise RequestError(f"{checkpoint.name} is not in the WebUI's list any more.")
    p = processing.StableDiffusionProcessingTxt2Img(
        prompt=prompt,
        negative_prompt=scene.negative,
        seed=scene.seed,
        sampler_name=scene.sampler,
        steps=scene.steps,
        cfg_scale=scene.cfg,
        width=scene.width,
        height=scene.height,
        do_not_save_samples=True,
        do_not_save_grid=True,
        override_settings={"sd_model_checkpoint": info.name},
    )
    with closing(p):
        made = processing.process_images(p)
    if not made.images:
        raise RequestError("It was interrupted.")
    file = io.BytesIO()
    # Without subsampling and nearly without loss: it is looked at for small differences.
    made.images[0].convert("RGB").save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()
