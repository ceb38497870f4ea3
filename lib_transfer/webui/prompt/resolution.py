"""What a LoRA's name in a prompt stands for with a checkpoint: its copy, itself, or nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib_transfer.errors import CancelledError, RequestError, TransferError
from lib_transfer.library.index import FileIndex
from lib_transfer.library.source_checkpoint import doubts, find
from lib_transfer.webui.host.host import Checkpoint, Turn
from lib_transfer.webui.host.settings import USE_ORIGINAL
from lib_transfer.webui.hosts.program import Program
from lib_transfer.webui.prompt.copies import Copies
from lib_transfer.webui.prompt.overrides import Wish
from lib_transfer.webui.shell.jobs import Job
from lib_transfer.webui.shell.once import Once
from lib_transfer.webui.transfer.form import Order
from lib_transfer.webui.transfer.work import Work, requested

if TYPE_CHECKING:
    from lib_transfer.library.request import TransferRequest

NOTHING = "Nothing of it can be carried to this checkpoint; analyse it in the tab to see why."

logger = logging.getLogger("transfer_lora")


@dataclass(frozen=True)
class Resolved:
    """What a name stands for.

    Attributes:
        name: as in the prompt.
        use: the name to write in its place; "" where the tag is to be taken out.
        method, target_hash: how the copy was made, and the first digits of the target's SHA-256; "" for an original.
        problem: why it is not the copy, or what speaks against it, where the person should know.
    """

    name: str
    use: str
    method: str = ""
    target_hash: str = ""
    problem: str = ""


class Resolver:
    """Finds copies and makes missing ones, within generations of ``host``."""

    def __init__(self, host: Program, index: FileIndex, once: Once) -> None:
        self._host = host
        self._index = index
        self._once = once
        self._copies = Copies(host, index)
        self._nothing: set[str] = set()

    def resolve(self, name: str, target: Checkpoint, wish: Wish) -> Resolved:
        """What ``name`` stands for when pictures are made with ``target``.

        Raises:
            CancelledError: the generation was interrupted meanwhile.
        """
        path = self._host.adapter_named(name)
        if path is None:
            return Resolved(name, "", problem=f"There is no LoRA named {name}, so its tag was taken out of the prompt.")
        if wish.use == "off":
            return Resolved(name, "")
        # The WebUI knows a LoRA by its name alone; the person may have written the folder too.
        original = Resolved(name, name if self._host.listed_adapter(name) else path.stem)
        if wish.use == "original":
            return original
        try:
            return self._copy(original, path, target, wish)
        except CancelledError:
            raise
        except TransferError as error:
            return _instead(original, str(error))
        except Exception as error:
            logger.exception("Transfer LoRA: %r failed", name)
            return _instead(original, f"This is an error in Transfer LoRA itself: {type(error).__name__}: {error}")

    def _copy(self, original: Resolved, path: Path, target: Checkpoint, wish: Wish) -> Resolved:
        """The copy; the original where ``target`` is what it was trained on.

        Raises:
            TransferError: there is no copy, and why.
        """
        facts = self._index.adapter(path)
        if facts is None or facts.problem:
            raise RequestError(facts.problem if facts else f"{path.name} is gone.")
        method, settings = wish.how(self._host)
        match = find(facts, self._host.checkpoints().values())
        if match.checkpoint is None and method.needs_source:
            asks = f" It asks for {match.asks_for}, which is not installed." if match.asks_for else ""
            raise RequestError(f"The checkpoint that it was trained on is not known.{asks}")
        if match.checkpoint is not None and match.checkpoint.path == target.path:
            return original
        source = match.checkpoint if method.needs_source else None
        order = Order({original.name: path}, target, None, method, settings)
        with self._host.within_generation(f"looking for the copy of {original.name}") as turn:
            request = requested(order, path, source, self._host, turn.interrupted)
            if request.source_sha256 == request.target_sha256:
                return original
            found = self._copies.find(request) or self._made(order, request, turn)
        if not _same(self._host.listed_adapter(found.stem), found):
            raise RequestError(f"Another LoRA has the name of its copy, {found.stem}.")
        # That a LoRA names its source by no hash is the common case, and nothing to say with every picture.
        doubt = doubts(facts, source, request.source_sha256) if facts.source_sha256 else ()
        problem = " ".join((f"{original.name}:", *doubt)) if doubt else ""
        return Resolved(original.name, found.stem, method.id, request.target_sha256[:10], problem)

    def _made(self, order: Order, request: TransferRequest, turn: Turn) -> Path:
        """A missing copy, made now.

        Raises:
            TransferError: it was not made, and why.
        """
        if self._host.setting("missing") == USE_ORIGINAL:
            raise RequestError("It has no copy for this checkpoint yet.")
        if request.to_json() in self._nothing:
            raise RequestError(NOTHING)
        job = Job("transfer", tuple(order.adapters))
        job.turn = turn
        job.go()
        Work(order, self._host, self._index, self._once)(job)
        [outcome] = job.outcomes
        if outcome.path is not None:
            self._copies.made(request, outcome.path)
            return outcome.path
        if outcome.status == "nothing carried":
            # It would be worked out anew for every picture.
            self._nothing.add(request.to_json())
            raise RequestError(NOTHING)
        raise RequestError(outcome.message, hint=outcome.hint)


def _instead(original: Resolved, why: str) -> Resolved:
    return replace(original, problem=f"{original.name} is used as it is, not as a copy: {why}")


def _same(listed: Path | None, found: Path) -> bool:
    """Whether the program will take ``found`` by its name; it finds a file that it has not listed yet."""
    try:
        return listed is None or listed == found or listed.samefile(found)
    except OSError:
        return True
