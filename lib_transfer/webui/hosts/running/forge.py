"""How Forge loads another model (its modules/sd_models.py)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lib_transfer.webui.hosts.running.forge_model import clip_skip, model_of, runs

__all__ = ["borrowed", "clip_skip", "model_of", "runs"]


@contextmanager
def borrowed() -> Iterator[Callable[[Any], Any]]:
    """A function that loads a checkpoint, given by Forge's description of it; at the end everything is as it was.

    Forge loads what ``forge_loading_parameters`` say when it is needed. Where nothing was loaded yet, nothing is afterwards.
    """
    models, options = importlib.import_module("modules.sd_models"), importlib.import_module("modules.shared").opts
    data = models.model_data
    wanted, hashed = data.forge_loading_parameters, options.data.get("sd_checkpoint_hash")
    unloaded = None if hasattr(data.sd_model, "forge_objects") else data.sd_model
    given: Any = None
    patched: list[tuple[Any, Any]] = []

    def put_back() -> None:
        """Nothing of a model may be held while another is loaded."""
        for model, objects in patched:
            model.forge_objects = objects
        patched.clear()

    def load(info: Any) -> Any:
        nonlocal given
        put_back()
        beside = getattr(options, "forge_additional_modules", None) or []
        given = {"checkpoint_info": None, "additional_modules": beside, "unet_storage_dtype": None, **wanted}
        data.forge_loading_parameters = given = {**given, "checkpoint_info": info}
        model = _loaded(models)
        patched.append((model, model.forge_objects))
        # Without the LoRAs and the patches of the last picture.
        model.forge_objects = model.forge_objects_original.shallow_copy()
        return model

    try:
        yield load
    finally:
        put_back()
        # Where the person chose another checkpoint meanwhile, that one is loaded.
        if data.forge_loading_parameters is given:
            data.forge_loading_parameters = wanted
        if unloaded is None:
            _loaded(models)
        elif given is not None:
            data.sd_model, data.forge_hash = unloaded, ""
            importlib.import_module("backend.memory_management").unload_all_models()
            if hashed is None:
                options.data.pop("sd_checkpoint_hash", None)
            else:
                options.data["sd_checkpoint_hash"] = hashed


def _loaded(models: Any) -> Any:
    """What the parameters say, loaded; Forge takes a model that could not be loaded for one that was."""
    if models.model_data.sd_model is None:
        models.model_data.forge_hash = ""
    model, _ = models.forge_model_reload()
    return model
