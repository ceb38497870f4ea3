"""Stand-ins for the programs, with the names and signatures that reference/hosts.md gives for A1111 1.9.4 and Forge."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class Info:
    """``sd_models.CheckpointInfo``."""

    def __init__(self, path: Path, sha256: str | None, legacy: str) -> None:
        self.filename, self.name, self.sha256, self.hash = str(path), path.name, sha256, legacy
        self.shorthash = sha256[:10] if sha256 else None
        self.title = f"{path.name} [{self.shorthash}]" if sha256 else path.name
        self.short_title = self.title
        self.ids = [legacy, path.name, self.title]


class State:
    """``shared.state``."""

    def __init__(self) -> None:
        self.interrupted = self.skipped = self.stopping_generation = False
        self.job, self.job_count, self.job_no, self.sampling_step, self.sampling_steps = "", 0, 0, 0, 0
        self.textinfo: str | None = None
        self.log: list[str] = []

    def begin(self, job: str = "(unknown)") -> None:
        self.job, self.job_count = job, -1
        self.interrupted = self.skipped = self.stopping_generation = False
        self.log.append(f"begin {job}")

    def end(self) -> None:
        self.job, self.job_count = "", 0
        self.log.append("end")


class Options:
    """``shared.opts``: an unknown option is an AttributeError."""

    def __init__(self, **values: Any) -> None:
        self.data = values
        self.data_labels: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("data", {}):
            return self.data[name]
        if name in self.__dict__.get("data_labels", {}):
            return self.data_labels[name].default
        raise AttributeError(name)

    def add_option(self, key: str, info: Any) -> None:
        self.data_labels[key] = info


class OptionInfo:
    """``shared.OptionInfo``."""

    def __init__(
        self, default=None, label="", component=None, component_args=None, onchange=None, section=None, refresh=None
    ) -> None:
        self.default, self.label, self.component, self.component_args = default, label, component, component_args
        self.section, self.onchange = section, onchange


class Script:
    """``scripts.Script``: what the programs look for in it."""

    infotext_fields = paste_field_names = None
    args_from = args_to = 1

    def title(self) -> str:
        raise NotImplementedError

    def process(self, p, *args) -> None:
        pass

    def before_process_batch(self, p, *args, **kwargs) -> None:
        pass


class Program:
    """One of the programs, in ``sys.modules`` for as long as ``monkeypatch`` lasts.

    Args:
        forge: with no checkpoint ``select_checkpoint`` gives None, and ``opts.sd_model_checkpoint`` holds a name; A1111
            raises, and holds a title.
    """

    def __init__(self, folder: Path, monkeypatch: Any, *, forge: bool) -> None:
        self.forge, self.folder = forge, folder
        self.loras, self.data = folder / "models" / "Lora", folder / "data"
        for place in (self.loras, self.data):
            place.mkdir(parents=True)
        self.printed: list[str] = []
        self.listed = 0
        self.state, self.opts, self.infos = State(), Options(sd_model_checkpoint=None), {}
        self.callbacks: dict[str, Any] = {}
        queue = threading.Lock()
        self.tasks: list[str] = []
        made = {
            "modules": {},
            "modules.paths": {"models_path": str(folder / "models"), "data_path": str(self.data)},
            "modules.shared": {
                "cmd_opts": SimpleNamespace(lora_dir=str(self.loras)),
                "opts": self.opts,
                "state": self.state,
                "OptionInfo": OptionInfo,
            },
            "modules.sd_models": {
                "checkpoints_list": self.infos,
                "checkpoint_aliases": {},
                "list_models": lambda: None,
                "select_checkpoint": self.select_checkpoint,
            },
            "modules.sd_samplers": {"samplers": [SimpleNamespace(name="Euler")]},
            "modules.scripts": {"Script": Script, "AlwaysVisible": object(), "scripts_data": []},
            "modules.call_queue": {"queue_lock": queue},
            "modules.progress": {
                "add_task_to_queue": lambda task: self.tasks.append(f"queued {task}"),
                "start_task": lambda task: self.tasks.append(f"started {task}"),
                "finish_task": lambda task: self.tasks.append(f"finished {task}"),
            },
            "modules.script_callbacks": {
                f"on_{name}": lambda callback, _name=name: self.registered(_name, callback)
                for name in ("ui_tabs", "ui_settings", "after_component", "infotext_pasted")
            },
            "networks": {"list_available_networks": self.list_available_networks},
        }
        self.queue = queue
        for name, content in made.items():
            module = ModuleType(name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, name, module)
            if name.startswith("modules."):
                setattr(sys.modules["modules"], name.partition(".")[2], module)

    def registered(self, name: str, callback: Any) -> None:
        """Several callbacks of a name are all called."""
        before = self.callbacks.get(name)

        def both(*given: Any, **named: Any) -> Any:
            before(*given, **named)
            return callback(*given, **named)

        self.callbacks[name] = callback if before is None else both

    def list_available_networks(self) -> None:
        self.listed += 1

    def add(self, path: Path, sha256: str | None = None, legacy: str = "00000000") -> Info:
        """Put a checkpoint into the program's list."""
        info = Info(path, sha256, legacy)
        self.infos[info.title] = info
        aliases = sys.modules["modules.sd_models"].checkpoint_aliases
        aliases.update(dict.fromkeys((*info.ids, info.title), info))
        return info

    def select(self, info: Info) -> None:
        """Choose a checkpoint, as the drop-down does."""
        self.opts.data["sd_model_checkpoint"] = info.name if self.forge else info.title

    def remove(self, info: Info) -> None:
        """Take a checkpoint out of the list, as after its file was removed."""
        del self.infos[info.title]
        aliases = sys.modules["modules.sd_models"].checkpoint_aliases
        for name in [name for name, known in aliases.items() if known is info]:
            del aliases[name]

    def select_checkpoint(self) -> Info | None:
        wanted = self.opts.sd_model_checkpoint
        info = sys.modules["modules.sd_models"].checkpoint_aliases.get(wanted)
        if info is not None:
            return info
        if not self.infos:
            if self.forge:
                return None
            raise FileNotFoundError("No checkpoints found.")
        info = next(iter(self.infos.values()))
        if wanted is not None:
            self.printed.append(f"Checkpoint {wanted} not found; loading fallback {info.title}")
        return info
