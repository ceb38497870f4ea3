"""Auto: make of an adapter what moves the target most as the original moves the source, and keep that, or nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from lib_transfer.evaluation.groups import groups
from lib_transfer.evaluation.study import Plan, Study
from lib_transfer.evaluation.verification import Gathered, Wanted
from lib_transfer.evaluation.writing import write
from lib_transfer.library.base import Base
from lib_transfer.library.destination import to_replace
from lib_transfer.library.job import Job
from lib_transfer.library.request import TransferRequest
from lib_transfer.methods import Value

METHOD = "auto"

RANK = 32
"""Of a reconstruction."""


def improving(wanted: Wanted, found: Gathered, target: Base, latent_space: str, rank: int = RANK) -> Plan:
    """The plan that looks for better adapters than those that were gathered.

    The strengths of plain reuse are fitted where it is possible (of the first transferred adapter elsewhere), and a
    reconstruction is made, also on top of that; the one or else the other is distilled. Fitting takes as many inputs more.

    Args:
        wanted: inputs and seed.
        found: the adapters.
        target: the base, for what its modules do.
        latent_space: the target's.
        rank: of the reconstruction.
    """
    first = found.reuse or next(iter(found.candidates), None)
    group = groups(target.modules)
    blocks = {module.position.unit for module in target.modules if module.position.role.startswith("attn1.")}
    return Plan(
        found.prompts,
        wanted.number,
        wanted.seed,
        wanted.steps,
        pursue=first,
        group={} if first is None else {name: group[name] for name in found.candidates[first]},
        reconstruct=bool(blocks),
        distil=True,
        rank=rank,
        fitting=wanted.number,
        latent_space=latent_space,
        blocks=len(blocks),
    )


def save(found: Study, job: Job, given: Gathered, target: Base) -> Path | None:
    """Write the adapter that a study chose, with what was measured in its metadata; None where it chose none.

    Args:
        found: the study.
        job: with the request from :func:`request_of`, and where the output goes.
        given: what was compared, for the original's metadata.
        target: the base that it is for.

    Raises:
        StorageError, OutputExistsError, UnsupportedError: as :func:`write` says.
    """
    name = found.choice.name
    if name is None:
        return None
    path = job.output
    over = to_replace(path, job.destination) == path
    changes = found.changes[name]
    return write(changes, job.request, given.metadata, target, found.facts(), path, given.dtype, overwrite=over).path


def request_of(transfer: TransferRequest, plan: Plan, size: int) -> TransferRequest:
    """The request for an improved adapter: all that its result depends on.

    Args:
        transfer: the request of the transfer that it is compared with.
        plan: of the study.
        size: of the latents.
    """
    settings: dict[str, Value] = {
        **dict(transfer.settings),
        "from": plan.pursue or "",
        "inputs": plan.number,
        "latents": size,
        "prompts": json.dumps(list(plan.prompts)),
        "reconstruction_rank": plan.rank,
        "seed": plan.seed,
    }
    return dataclasses.replace(transfer, method=METHOD, settings=tuple(sorted(settings.items())))
