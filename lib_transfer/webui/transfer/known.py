"""What outputs say of themselves, how they were made and what their verifications came to, and the answers that this gives."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lib_transfer import methods
from lib_transfer.conversion.outcome import Outcome
from lib_transfer.errors import TransferError
from lib_transfer.evaluation.record import records_in
from lib_transfer.evaluation.runs import expected_runs
from lib_transfer.evaluation.verification import INPUTS
from lib_transfer.formats.identity import stamp
from lib_transfer.formats.metadata import PREFIX
from lib_transfer.formats.safetensors_file import read_header
from lib_transfer.library.outputs import Outputs
from lib_transfer.webui.shell.events import TabEvents
from lib_transfer.webui.transfer.answer import Answer, Known, Ways, answer


def answers(outcomes: Sequence[Outcome], outputs: Outputs, tab: TabEvents) -> list[tuple[Outcome, Answer]]:
    """Each of ``outcomes`` with its answer.

    Args:
        outcomes: what became of LoRAs.
        outputs: what is in the LoRA folders; looked at where something was analysed.
        tab: the program, and how long a run of a model takes in it.
    """
    if any(outcome.status == "analysed" for outcome in outcomes):
        outputs.look(tab.host.adapter_folders())
    run = tab.run_seconds.get(0)
    seconds = None if run is None else run * expected_runs(INPUTS).all
    ways = Ways(tab.host.models is not None, tab.host.pictures is not None, seconds)
    return [(outcome, answer(outcome, known(outcome, outputs), ways)) for outcome in outcomes]


def known(outcome: Outcome, outputs: Outputs) -> Known:
    """What is known of the output of a LoRA; of one that was analysed, of the output of the same request.

    Args:
        outcome: what became of the LoRA.
        outputs: what was in the LoRA folders at the last look.
    """
    path = outcome.path
    if path is None and outcome.report is not None:
        path = _output(outcome.report.request, outputs)
    if path is not None:
        try:
            return replace(_read(path, stamp(path)), name=path.stem)
        except TransferError:
            # It is gone or damaged; what is known of it is in the outcome.
            pass
    return _described(outcome.report.request) if outcome.report is not None else Known()


def _output(request: Mapping[str, Any], outputs: Outputs) -> Path | None:
    for path, text in outputs.of_adapter(str(request["adapter"]["name"])):
        if json.loads(text) == request:
            return path
    return None


@functools.lru_cache(maxsize=4096)
def _read(path: Path, _: object) -> Known:
    """What the output at ``path`` says, read once for every state that it is in."""
    metadata = read_header(path).metadata
    return _described(_object(metadata.get(f"{PREFIX}request")), metadata)


def _described(request: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Known:
    method, settings = request.get("method"), request.get("settings")
    strength = settings.get("strength") if isinstance(settings, dict) else None
    target = request.get("target")
    return Known(
        converted=isinstance(target, dict) and "architecture" in target,
        method=methods.FORMER_IDS.get(method, method) if isinstance(method, str) else "",
        strength=float(strength) if isinstance(strength, int | float) else 1.0,
        verified=next(iter(records_in(metadata or {})), None),
    )


def _object(text: str | None) -> dict[str, Any]:
    """A JSON object in the metadata of a file, which anyone may have made; an empty one for anything else."""
    try:
        content = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
