"""What a LoRA's name in a prompt stands for with a checkpoint: the transferred LoRA, the original, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lib_transfer.errors import CancelledError, RequestError, TransferError, internal
from lib_transfer.library.adapters import Found
from lib_transfer.library.checkpoints import Checkpoint, doubts
from lib_transfer.library.decide import Convert, Failed, LeftOut, decide
from lib_transfer.library.index import FileIndex
from lib_transfer.library.job import Job as TransferJob
from lib_transfer.library.library import Library
from lib_transfer.library.outputs import Outputs
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.host.settings import USE_ORIGINAL
from lib_transfer.webui.prompt.overrides import Overrides
from lib_transfer.webui.shell.jobs import Job, KeyedLock
from lib_transfer.webui.transfer.form import Order
from lib_transfer.webui.transfer.work import Work, library_of, settings_for

NOTHING = "Nothing of it can be carried to this checkpoint; analyse it in the tab to see why."

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Resolved:
    """What a name stands for.

    Attributes:
        name: the name as it is in the prompt.
        use: the name to write in its place; "" where the tag is to be removed.
        method, target_hash: how the transferred LoRA was made, and the first digits of the target's SHA-256; "" for an
            original.
        problem: why it is not the transferred LoRA, or what speaks against it, where the person should know.
    """

    name: str
    use: str
    method: str = ""
    target_hash: str = ""
    problem: str = ""


class Resolver:
    """Finds transferred LoRAs and makes missing ones, within generations of ``host``."""

    def __init__(self, host: Host, index: FileIndex, lock: KeyedLock) -> None:
        assert host.prompting is not None
        self._host, self._prompting = host, host.prompting
        self._index = index
        self._lock = lock
        self._outputs = Outputs(index)
        self._nothing: set[str] = set()

    def resolve(self, name: str, target: Checkpoint, overrides: Overrides) -> Resolved:
        """What ``name`` stands for when pictures are made with ``target``.

        Raises:
            CancelledError: the generation was interrupted meanwhile.
        """
        path = self._prompting.adapter_named(name)
        if path is None:
            return Resolved(name, "", problem=f"There is no LoRA named {name}, so its tag was taken out of the prompt.")
        if overrides.use == "off":
            return Resolved(name, "")
        # The WebUI knows a LoRA by its name alone; the person may have written the folder too.
        original = Resolved(name, name if self._host.listed_adapter(name) else path.stem)
        if overrides.use == "original":
            return original
        try:
            return self._transferred(original, path, target, overrides)
        except CancelledError:
            raise
        except TransferError as error:
            return _instead(original, str(error))
        except Exception as error:
            logger.exception("Transfer LoRA: %r failed", name)
            return _instead(original, internal(error).message)

    def _transferred(self, original: Resolved, path: Path, target: Checkpoint, overrides: Overrides) -> Resolved:
        """The transferred LoRA; the original where ``target`` is what it was trained on.

        Raises:
            TransferError: there is no transferred LoRA, and why.
        """
        order = Order({original.name: path}, target, None, *overrides.how(self._host))
        words = f"looking for the copy of {original.name}"
        with self._prompting.within_generation(words) as turn:
            progress = Job("transfer", tuple(order.adapters))
            progress.turn = turn
            progress.go()
            progress.begin(0)
            progress.start(0, words)
            library = library_of(self._host, self._index, progress, self._outputs)
            adapter = Found(original.name, path)
            with _skipped(progress):
                settings = settings_for(order, self._host)
                # Unless the plot asks for another, the best that there is: one that was made by running models.
                settings = replace(settings, takes_better=not (overrides.method or overrides.settings))
                decision = decide(adapter, target, settings, library, thorough=True)
            if isinstance(decision, LeftOut) and decision.why == "trained on the target":
                return original
            if isinstance(decision, LeftOut | Failed):
                raise RequestError(decision.sentence, hint=decision.hint)
            if isinstance(decision, Convert):
                with _skipped(progress):
                    job = decision.job(library.hashes, progress)
                found = self._made(order, decision, job, library, progress)
            else:
                job, found = decision.job, decision.path
        if not _same(self._host.listed_adapter(found.stem), found):
            raise RequestError(f"Another LoRA has the name of its copy, {found.stem}.")
        # That a LoRA names its source by no hash is the common case, and nothing to say with every picture.
        hashes = job.request.source_sha256, job.request.target_sha256
        doubt = doubts(decision.facts, decision.source, hashes[0]) if decision.facts.source_sha256 else ()
        problem = " ".join((f"{original.name}:", *doubt)) if doubt else ""
        return Resolved(original.name, found.stem, job.request.method, hashes[1][:10], problem)

    def _made(self, order: Order, decision: Convert, asked: TransferJob, library: Library, progress: Job) -> Path:
        """A missing transferred LoRA, made now.

        Raises:
            TransferError: it was not made, and why.
        """
        if self._host.setting("missing") == USE_ORIGINAL:
            raise RequestError("It has no copy for this checkpoint yet.")
        if asked.request.digest in self._nothing:
            raise RequestError(NOTHING)
        outcome = Work(order, self._host, self._index, self._lock).convert(progress, decision, library)
        if outcome.path is not None:
            return outcome.path
        if outcome.status == "nothing carried":
            # It would be worked out anew for every picture.
            self._nothing.add(asked.request.digest)
            raise RequestError(NOTHING)
        raise RequestError(outcome.message, hint=outcome.hint)


@contextmanager
def _skipped(job: Job) -> Iterator[None]:
    """The person skipped the LoRA, which is something else than interrupting the generation.

    Raises:
        RequestError: this LoRA was skipped.
    """
    try:
        yield
    except CancelledError:
        if job.interrupted:
            raise
        raise RequestError("Skipped; nothing was written.") from None


def _instead(original: Resolved, why: str) -> Resolved:
    return replace(original, problem=f"{original.name} is used as it is, not as a copy: {why}")


def _same(listed: Path | None, found: Path) -> bool:
    """Whether the program will take ``found`` by its name; it finds a file that it has not listed yet."""
    try:
        return listed is None or listed == found or listed.samefile(found)
    except OSError:
        return True
