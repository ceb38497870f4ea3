"""The job of making LoRAs load: each one written under names that the programs for its base read, whatever the target is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lib_transfer.architecture import architectures
from lib_transfer.batches.loadable import make_loadable
from lib_transfer.conversion.outcome import Outcome, failed
from lib_transfer.errors import CancelledError, RequestError
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.index import FileIndex
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.library.own_base import staying
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.transfer.form import chosen_names, output_folder
from lib_transfer.webui.transfer.work import EXISTING, library_of, runtime

NO_TARGET = Checkpoint("", Path())


def in_need(lines: object, host: Host, index: FileIndex) -> dict[str, Path]:
    """The chosen LoRAs that may not load as they are, by name.

    Raises:
        RequestError: there is none.
    """
    known = files.adapters(host.adapter_folders())
    chosen = {name: known[name] for name in chosen_names(lines, known)}
    found = {
        name: path for name, path in chosen.items() if (facts := index.adapter(path)) is not None and facts.obstacles
    }
    if not found:
        raise RequestError("None of the chosen LoRAs needs other names.", hint="Use them as they are.")
    return found


@dataclass(frozen=True)
class Loading:
    """What is to be made to load, and what is needed for it.

    Attributes:
        adapters: the paths of the LoRAs by name.
        host: the program.
        index: what the headers of files say.
        target: the architecture of the target that is chosen, which decides where a LoRA fits several.
    """

    adapters: Mapping[str, Path]
    host: Host
    index: FileIndex
    target: str = ""

    def __call__(self, job: Job) -> None:
        """Work on every LoRA; one that fails does not keep the others back.

        Raises:
            CancelledError: the job was stopped.
        """
        library = library_of(self.host, self.index, job, Outputs(self.index))
        library.look()
        written = False
        try:
            for number, (name, path) in enumerate(self.adapters.items()):
                job.begin(number)
                outcome = self._one(job, Found(name, path), library)
                if outcome.path is not None and library.outputs is not None:
                    library.outputs.add(outcome.path)
                written = written or outcome.status == "written"
                job.settled(outcome)
        finally:
            if written:
                self.host.adapters_changed()

    def _one(self, job: Job, adapter: Found, library: Library) -> Outcome:
        began = time.monotonic()
        try:
            settings = staying(output_folder(self.host), EXISTING[str(self.host.setting("exists"))])
            fitting = library.adapter(adapter.path).architectures
            asked = self.target if len(fitting) > 1 and self.target in fitting else ""
            base = next((it.id for it in architectures() if it.title == asked), "")
            outcome = make_loadable(adapter, settings, library, runtime(self.host), base=base)
        except CancelledError:
            if job.interrupted:
                raise
            outcome = Outcome(adapter.name, "", "", "left out", "Skipped; nothing was written.")
        except Exception as error:
            outcome = failed(adapter.name, None, NO_TARGET, error)
        return replace(outcome, seconds=time.monotonic() - began)
