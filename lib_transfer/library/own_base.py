"""What a LoRA stays on whose names and layout alone change: its own base, which takes no checkpoint."""

from __future__ import annotations

from pathlib import Path

from lib_transfer import methods
from lib_transfer.architecture import architectures
from lib_transfer.errors import RequestError, UnsupportedError
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.library.decide import TransferSettings
from lib_transfer.library.destination import HASH, Existing
from lib_transfer.library.index import AdapterFacts
from lib_transfer.library.library import architecture_of

METHOD = "reuse"
TEMPLATE = f"{{lora}}_converted_{HASH}"


def own_base(facts: AdapterFacts, asked: str = "") -> Checkpoint:
    """The base of a LoRA, as a target without a file.

    Args:
        facts: what the LoRA's header says.
        asked: the id of an architecture, where the person names one.

    Raises:
        UnsupportedError: it is for something that is not supported, or it is not known for what.
        RequestError: it may be for several bases and none is named, or there is none of this id.
    """
    if asked:
        return _standing_for(asked)
    found = [it for it in architectures() if it.title in facts.architectures]
    if not found:
        known = f"It is for {facts.base}, which is not supported." if facts.architectures else ""
        raise UnsupportedError(facts.problem or known or facts.doubt or "What it is for is not known.")
    if len({it.family for it in found}) > 1:
        raise RequestError(
            f"It may be for {facts.base}, and nothing in it tells which.",
            hint="Choose a checkpoint of its base as the target; on the command line name the base with --base "
            f"({', '.join(it.id for it in found)}).",
        )
    return _standing_for(found[0].id)


def _standing_for(identifier: str) -> Checkpoint:
    architecture = architecture_of(identifier)
    return Checkpoint(architecture.title, Path(architecture.title), architecture=architecture.id)


def staying(output: Path | None, existing: Existing = "skip") -> TransferSettings:
    """How LoRAs are written that stay on their base: everything is kept, in files that are called after them."""
    values = methods.settings(methods.get(METHOD), {"rank": "full"})
    return TransferSettings(METHOD, values, output=output, template=TEMPLATE, existing=existing, same_base=True)
