"""A card: what a verification found on two checkpoints, as JSON that people can publish. No names, no paths and no prompts."""

from __future__ import annotations

from typing import Any

import torch

from lib_transfer.evaluation.choice import REUSE
from lib_transfer.evaluation.result import Evaluation
from lib_transfer.version import VERSION

SCHEMA = "transfer-lora-card/1"
"""What a card begins with; it rises when an entry changes its meaning. ``docs/card.schema.json`` describes every entry."""


def card(found: Evaluation, *, seconds: float, device: str) -> dict[str, Any]:
    """The card of a verification.

    Args:
        found: the verification of files.
        seconds: the time that it took.
        device: ``cpu`` or ``cuda``.
    """
    facts, subject = found.facts(), found.subject
    assert subject is not None
    # File names may tell more than a person wants to publish.
    roles = {name: name if name == REUSE else "transferred" for name in found.gains}
    conditions = dict(facts["conditions"])
    conditions["prompts"] = len(conditions["prompts"])
    source, target = subject.architectures
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "torch": torch.__version__,
        "device": device,
        "seconds": round(seconds, 1),
        "adapter": {"sha256": subject.adapter},
        "source": {"architecture": source, "sha256": subject.source},
        "target": {"architecture": target, "sha256": subject.target},
        "gap": facts["gap"],
        "verdict": facts["verdict"],
        "best": roles.get(facts["best"]),
        "adapters": [{"role": roles[name], **gain} for name, gain in facts["gains"].items()],
        "conditions": conditions,
    }
