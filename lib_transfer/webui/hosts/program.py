"""A1111, Forge, reForge and Forge Classic as hosts.

They differ, and they change: we look for each thing we use and do without what is missing, and never ask for a version.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.host.abilities import QueueSlot
from lib_transfer.webui.host.host import Active, Host
from lib_transfer.webui.host.settings import PREFIX
from lib_transfer.webui.hosts.abilities import ProgramModels, ProgramPictures, ProgramPrompting
from lib_transfer.webui.hosts.modules import Slot, described, module, way_of_loading

logger = logging.getLogger("transfer_lora")

_FOR_OTHERS = ("listen", "share", "ngrok", "server_name", "webui_is_non_local", "gradio_auth", "gradio_auth_path")
"""The options with which others than the person at this machine see the page, in all the programs."""


class Program(Host):
    """The WebUI that loaded the extension."""

    def __init__(self) -> None:
        self.pictures = ProgramPictures()
        self.prompting = ProgramPrompting(self)

    @property
    def models(self) -> ProgramModels | None:
        """The models of A1111 and of Forge can be run; those of their other relatives cannot."""
        return ProgramModels() if way_of_loading() is not None else None

    def adapter_folders(self) -> tuple[Path, ...]:
        """The LoRA folder, and the one of LyCORIS where there is one."""
        given = module("shared").cmd_opts
        models = Path(module("paths").models_path)
        # Forge Neo takes several folders; the option of A1111 is there only while its Lora extension is on.
        folders = [getattr(given, "lora_dir", None) or models / "Lora"]
        folders += list(getattr(given, "lora_dirs", None) or [])
        folders.append(getattr(given, "lyco_dir_backcompat", None) or models / "LyCORIS")
        found = list(dict.fromkeys(Path(folder) for folder in folders))
        return (found[0], *(folder for folder in found[1:] if folder.is_dir()))

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """The WebUI's list, by file name with folder: titles change once a hash is known."""
        listed = list(module("sd_models").checkpoints_list.values())
        return {checkpoint.name: checkpoint for checkpoint in map(described, listed)}

    def rescan_checkpoints(self) -> None:
        """Do what the WebUI's own refresh button does."""
        module("sd_models").list_models()

    def active(self) -> Active:
        """The selected checkpoint, which on Forge need not be the loaded one."""
        models = module("sd_models")
        wanted = getattr(module("shared").opts, "sd_model_checkpoint", None) or ""
        try:
            info = models.select_checkpoint() if models.checkpoints_list else None
        except FileNotFoundError:
            info = None
        if info is None:
            return Active(None, wanted)
        # When the selected one is gone, select_checkpoint gives the first of the list and says so only on the console.
        known = getattr(models, "checkpoint_aliases", {}).get(wanted) is info or wanted in _names(info)
        return Active(described(info), wanted, fallback=bool(wanted) and not known)

    def encoders(self) -> tuple[Path, ...]:
        """Forge's additional modules (VAE and text encoders), which other programs do not have."""
        chosen = getattr(module("shared").opts, "forge_additional_modules", None) or ()
        return tuple(path for path in map(Path, chosen) if path.is_file())

    def shared(self) -> bool:
        """Whether the WebUI was started for others, or with a password."""
        given = module("shared").cmd_opts
        return any(getattr(given, name, None) for name in _FOR_OTHERS)

    def own_folders(self) -> tuple[Path, ...]:
        """The folder of the cache, and those of the WebUI."""
        paths = module("paths")
        named = (getattr(paths, name, None) for name in ("models_path", "data_path", "script_path"))
        return (*super().own_folders(), *(Path(folder) for folder in named if folder))

    def stored(self, key: str) -> Any:
        """The value in the WebUI's settings."""
        return getattr(module("shared").opts, PREFIX + key, None)

    def default_cache_folder(self) -> Path:
        """A folder beside the WebUI's own caches."""
        return Path(module("paths").data_path) / "cache" / "transfer-lora"

    def adapters_changed(self) -> None:
        """Let the Lora extension list its files again, if it is on; our JavaScript refreshes the page's cards."""
        with contextlib.suppress(ImportError):
            networks = importlib.import_module("networks")
            try:
                networks.list_available_networks()
            except Exception:
                # This is another extension's code. Our file is written in any case.
                logger.exception("Transfer LoRA: the WebUI could not list its LoRAs again")

    def listed_adapter(self, name: str) -> Path | None:
        """The file that the Lora extension would load for ``name`` in a tag; None where it lists none."""
        networks = sys.modules.get("networks")
        # An alias of two files is ignored, as the extension does.
        alone = name.lower() in getattr(networks, "forbidden_network_aliases", ())
        listed = getattr(networks, "available_networks" if alone else "available_network_aliases", {})
        found = listed.get(name)
        return Path(found.filename) if found is not None else None

    @contextmanager
    def gpu_turn(self, task: str) -> Iterator[QueueSlot]:
        """Hold the WebUI's queue: no picture is made meanwhile, and its progress bar and Interrupt button serve us."""
        shared, progress, queue = module("shared"), module("progress"), module("call_queue")
        progress.add_task_to_queue(task)
        with queue.queue_lock:
            shared.state.begin(job=task)
            progress.start_task(task)
            try:
                yield Slot(shared.state)
            finally:
                progress.finish_task(task)
                shared.state.end()


def _names(info: Any) -> set[str]:
    """Every way in which the selected checkpoint may be written in the WebUI's options."""
    own = (getattr(info, attribute, None) for attribute in ("title", "short_title", "name", "filename"))
    return {str(name) for name in (*own, *(getattr(info, "ids", None) or ())) if name}
