"""What a comparison is about: a LoRA, what was made of it, and the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import RequestError
from lib_transfer.library.checkpoints import Checkpoint, find
from lib_transfer.library.index import FileIndex
from lib_transfer.webui.host import files
from lib_transfer.webui.host.host import Host


@dataclass(frozen=True)
class Subject:
    """What a comparison is about.

    Attributes:
        lora: the name of the LoRA.
        original: its file.
        target: the checkpoint that it is to work on.
        output: the transferred LoRA; None where none was written.
        source: the checkpoint that it was trained on; None where that is not known or not installed.
        guessed: whether the source is a guess of the person's.
    """

    lora: str
    original: Path
    target: Checkpoint
    output: Path | None
    source: Checkpoint | None = None
    guessed: bool = False


def subject_of(outcome: Outcome, original: Path, target: Checkpoint, host: Host, index: FileIndex) -> Subject:
    """The subject of a LoRA that a job was about.

    Args:
        outcome: what became of it.
        original: its file.
        target: the checkpoint that the job was for.
        host: the program.
        index: what the headers of files say.
    """
    installed, facts = host.checkpoints(), index.adapter(original)
    own = find(facts, installed.values()).checkpoint if facts is not None else None
    picked = installed.get(outcome.source)
    return Subject(outcome.name, original, target, outcome.path, own or picked, guessed=own is None)


def shown_subject(outcome: Outcome | None, use: str, host: Host, index: FileIndex) -> Subject:
    """The subject of a LoRA whose result is on the page.

    Args:
        outcome: what became of it.
        use: the name of what was made of it that the page tells to use: the output, or a better one.
        host: the program.
        index: what the headers of files say.

    Raises:
        RequestError: nothing was written, or a file or the target is not there any more; the message says which.
    """
    if outcome is None or outcome.path is None:
        raise RequestError("No transferred LoRA is shown.", hint="Press Transfer first; its pictures can be compared.")
    names = files.adapters(host.adapter_folders())
    original = names.get(outcome.name)
    output = outcome.path if use == outcome.path.stem else names.get(files.by_card(use, names) or "")
    if original is None or output is None or not output.is_file():
        raise RequestError(f"The LoRA {outcome.name} or what was made of it is not in the LoRA folder any more.")
    target = host.checkpoints().get(outcome.target)
    if target is None:
        raise RequestError(f"The checkpoint {outcome.target} is not in the list any more.")
    return replace(subject_of(outcome, original, target, host, index), output=output)
