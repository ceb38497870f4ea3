"""A1111, Forge, reForge and Forge Classic as hosts.

What they have differs and changes: everything is looked for, and done without where it is missing. Nothing here asks for a
version. The programs' own modules are imported when they are used, because not all of them are there when an extension
is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib_transfer.webui.compare.scene import Scene
from lib_transfer.webui.host.host import Active, Checkpoint, Host, Opener, QueueSlot, files
from lib_transfer.webui.host.settings import PREFIX
from lib_transfer.webui.hosts import drawing
from lib_transfer.webui.hosts.loading import way_of_loading

if TYPE_CHECKING:
    from lib_transfer.library.base import Base

logger = logging.getLogger("transfer_lora")


class Program(Host):
    """The WebUI that the extension was loaded by."""

    def adapter_folders(self) -> tuple[Path, ...]:
        """The LoRA folder, and the one of LyCORIS where there is one."""
        given = _module("shared").cmd_opts
        models = Path(_module("paths").models_path)
        # Forge Neo takes several folders; the option of A1111 is there only while its Lora extension is on.
        folders = [getattr(given, "lora_dir", None) or models / "Lora"]
        folders += list(getattr(given, "lora_dirs", None) or [])
        folders.append(getattr(given, "lyco_dir_backcompat", None) or models / "LyCORIS")
        found = list(dict.fromkeys(Path(folder) for folder in folders))
        return (found[0], *(folder for folder in found[1:] if folder.is_dir()))

    def checkpoints(self) -> Mapping[str, Checkpoint]:
        """The WebUI's list, by file name with folder: titles change once a hash is known."""
        listed = list(_module("sd_models").checkpoints_list.values())
        return {checkpoint.name: checkpoint for checkpoint in map(_checkpoint, listed)}

    def rescan_checkpoints(self) -> None:
        """As the WebUI's own refresh button does."""
        _module("sd_models").list_models()

    def active(self) -> Active:
        """The selected checkpoint, which on Forge need not be the loaded one."""
        models = _module("sd_models")
        wanted = getattr(_module("shared").opts, "sd_model_checkpoint", None) or ""
        try:
            info = models.select_checkpoint() if models.checkpoints_list else None
        except FileNotFoundError:
            info = None
        if info is None:
            return Active(None, wanted)
        # When the wanted one is gone, select_checkpoint gives the first of the list and says so on the console only.
        known = getattr(models, "checkpoint_aliases", {}).get(wanted) is info or wanted in _names(info)
        return Active(_checkpoint(info), wanted, fallback=bool(wanted) and not known)

    def encoders(self) -> tuple[Path, ...]:
        """Forge's additional modules (VAE and text encoders), which other programs do not have."""
        chosen = getattr(_module("shared").opts, "forge_additional_modules", None) or ()
        return tuple(path for path in map(Path, chosen) if path.is_file())

    def stored(self, key: str) -> Any:
        """From the WebUI's settings."""
        return getattr(_module("shared").opts, PREFIX + key, None)

    def default_cache_folder(self) -> Path:
        """Beside the WebUI's own caches."""
        return Path(_module("paths").data_path) / "cache" / "transfer-lora"

    def adapters_changed(self) -> None:
        """Let the Lora extension, where it is on, list its files again; the page's cards are refreshed by javascript."""
        with contextlib.suppress(ImportError):
            networks = importlib.import_module("networks")
            try:
                networks.list_available_networks()
            except Exception:
                # Another extension's code; the file is written whatever becomes of the list.
                logger.exception("Transfer LoRA: the WebUI could not list its LoRAs again")

    def listed_adapter(self, name: str) -> Path | None:
        """The file that the Lora extension would load for ``name`` in a tag; None where it lists none."""
        networks = sys.modules.get("networks")
        # By name alone where two files have the same alias, as the extension does.
        alone = name.lower() in getattr(networks, "forbidden_network_aliases", ())
        listed = getattr(networks, "available_networks" if alone else "available_network_aliases", {})
        found = listed.get(name)
        return Path(found.filename) if found is not None else None

    def adapter_named(self, name: str) -> Path | None:
        """The file for ``name`` in a tag: the one the Lora extension lists, else one of that path or name on disk."""
        found = self.listed_adapter(name)
        if found is None and name:
            names = files.adapters(self.adapter_folders())
            found = names.get(name) or names.get(files.by_card(name, names) or "")
        if found is None and name:
            # It may be the alias of a new file.
            self.adapters_changed()
            found = self.listed_adapter(name)
        return found

    def checkpoint_of(self, info: Any) -> Checkpoint:
        """The checkpoint that the WebUI describes by ``info``."""
        return _checkpoint(info)

    def checkpoint_named(self, name: str) -> Checkpoint | None:
        """The checkpoint that the WebUI would take for ``name``."""
        info = _module("sd_models").get_closet_checkpoint_match(name)
        return _checkpoint(info) if info is not None else None

    def draws(self) -> bool:
        """Every WebUI does."""
        return True

    def samplers(self) -> tuple[str, ...]:
        """Those that are not hidden in the WebUI's settings."""
        return drawing.samplers()

    def draw(self, scene: Scene, prompt: str, checkpoint: Checkpoint) -> bytes:
        """As txt2img does, without scripts, saving nothing."""
        return drawing.draw(scene, prompt, checkpoint.path)

    def runs(self) -> bool:
        """A1111's and Forge's can."""
        return way_of_loading() is not None

    def latent_space(self, base: Base) -> str:
        """By architecture."""
        from lib_transfer.webui.hosts.running.kinds import latent_space_of  # noqa: PLC0415

        return latent_space_of(base)

    def models(self, size: tuple[int, int]) -> AbstractContextManager[Opener]:
        """The WebUI's own, loaded as it loads them."""
        from lib_transfer.webui.hosts import running  # noqa: PLC0415 - torch is imported when it is used

        return running.borrowed(size, self.encoders())

    @contextmanager
    def within_generation(self, text: str) -> Iterator[QueueSlot]:
        """Use the progress bar and the interrupt of the generation that is under way; its own numbers come back after."""
        state = _module("shared").state
        kept = {name: getattr(state, name, None) for name in _PROGRESS}
        turn = _Turn(state, "Transfer LoRA: ")
        turn.show(0, 1, 0, 1, text)
        try:
            yield turn
        finally:
            for name, value in kept.items():
                setattr(state, name, value)

    @contextmanager
    def gpu_turn(self, task: str) -> Iterator[QueueSlot]:
        """Hold the WebUI's queue: no picture is made meanwhile, its progress bar is ours, and so is its interrupt."""
        shared, progress, queue = _module("shared"), _module("progress"), _module("call_queue")
        progress.add_task_to_queue(task)
        with queue.queue_lock:
            shared.state.begin(job=task)
            progress.start_task(task)
            try:
                yield _Turn(shared.state)
            finally:
                progress.finish_task(task)
                shared.state.end()


# What the WebUI's progress bar is made from.
_PROGRESS = ("job_count", "job_no", "sampling_steps", "sampling_step", "textinfo")


class _Turn:
    """A turn in the WebUI's queue, with ``prefix`` before every text: its ``shared.state`` is ours for so long."""

    def __init__(self, state: Any, prefix: str = "") -> None:
        self._state = state
        self._prefix = prefix

    def show(self, job: int, jobs: int, step: int, steps: int, text: str) -> None:
        """Move the WebUI's progress bar."""
        self._state.job_count, self._state.job_no = jobs, job
        self._state.sampling_steps, self._state.sampling_step = max(steps, 1), step
        self._state.textinfo = self._prefix + text

    def interrupted(self) -> bool:
        """Whether Interrupt was pressed, or on newer programs "stop after this one"."""
        return bool(self._state.interrupted or getattr(self._state, "stopping_generation", False))

    def skipped(self) -> bool:
        """Whether Skip was pressed since the last time."""
        skipped, self._state.skipped = bool(self._state.skipped), False
        return skipped

    def stop(self) -> None:
        """As Interrupt does."""
        self._state.interrupted = True


def _module(name: str) -> Any:
    return importlib.import_module(f"modules.{name}")


def _checkpoint(info: Any) -> Checkpoint:
    path = Path(info.filename)
    name = str(getattr(info, "name", "") or path.name).replace("\\", "/").lstrip("/")
    return Checkpoint(name, path, getattr(info, "sha256", None) or None, getattr(info, "hash", None) or None)


def _names(info: Any) -> set[str]:
    """Everything that the person's choice may be written as."""
    own = (getattr(info, attribute, None) for attribute in ("title", "short_title", "name", "filename"))
    return {str(name) for name in (*own, *(getattr(info, "ids", None) or ())) if name}
