"""Transfer one adapter by running both checkpoints: an imitation is trained, and it or reuse is written, whichever is chosen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

from lib_transfer.conversion.jobs import transfer
from lib_transfer.conversion.publish import TransferResult
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import MismatchError
from lib_transfer.evaluation.choice import REUSE
from lib_transfer.evaluation.loading import DiffusersModels, need_packages
from lib_transfer.evaluation.local import check_pair, check_size
from lib_transfer.evaluation.result import Evaluation
from lib_transfer.evaluation.verification import Question, Runner, Training, check_place, evaluate
from lib_transfer.formats.sidecars import carry_sidecars, plan_sidecars
from lib_transfer.library.base import Base, open_hashed
from lib_transfer.library.destination import Destination
from lib_transfer.library.job import Job
from lib_transfer.library.outputs import is_done
from lib_transfer.methods import Value
from lib_transfer.progress import Progress

PLAIN: dict[str, Value] = {"strength": 1.0, "dtype": "fp32", "rank": "full"}
"""The settings with which reuse is judged and trained on: those of the job are applied to what is written."""


def automatic(job: Job, models: Runner | None, runtime: Runtime, progress: Progress) -> TransferResult:
    """Run both checkpoints, and write the LoRA that is chosen.

    Args:
        job: a job by a method that runs models.
        models: what runs them; diffusers when None.
        runtime: the device, and the cache folder: what depends on the checkpoints alone is kept there, and so is what a training
            that was stopped or killed goes on from.
        progress: gets a step for every run of a model; it is asked before each whether to stop.

    Returns:
        The output, with the choice in words among the warnings. Nothing is written where no adapter transfers.

    Raises:
        CancelledError: the person asked to stop.
        StorageError: the output could not be written.
        TransferError: as :func:`~lib_transfer.evaluation.evaluate` says.
    """
    if is_done(job.output, job.request):
        return TransferResult(job.output, "already done", None)
    check_place(job)
    check_size(job.request.setting("size"))
    if models is None:
        need_packages()
    with TemporaryDirectory(prefix="transfer-lora-") as folder, open_hashed(job.files.source, runtime.hashes) as source:
        reuse = _reuse(job, Path(folder) / f"{REUSE}.safetensors", runtime, progress)
        with open_hashed(job.files.target, runtime.hashes) as target:
            if models is None:
                models = DiffusersModels(runtime.torch_device)
                check_pair(models, source, target)
            found = _evaluated(job, reuse, (source, target), models, runtime, progress)
            sidecars = () if found.written is None else _beside(job, found.written, target)
    if found.choice.name is None:
        return TransferResult(None, "nothing carried", None, (), (found.advice,))
    made = TransferResult(found.written, "written", None, sidecars)
    if made.path is None:
        # What reuse gives, written with everything that a transfer carries along.
        made = transfer(job, runtime=runtime, progress=progress)
    assert made.path is not None
    found.note_in(made.path)
    return dataclasses.replace(made, warnings=(*made.warnings, found.advice))


def _evaluated(
    job: Job, reuse: Path | None, bases: tuple[Base, Base], models: Runner, runtime: Runtime, progress: Progress
) -> Evaluation:
    """What running both checkpoints comes to; an imitation is written if it is chosen."""
    request, rank = job.request, job.request.setting("rank")
    question = Question(
        job.files.adapter,
        {} if reuse is None else {REUSE: reuse},
        tuple(request.setting("prompts").splitlines()),
        size=request.setting("size"),
        seed=request.setting("noise_seed"),
        clip_skip=request.setting("clip_skip"),
    )
    training = Training(job, request.setting("runs"), rank if isinstance(rank, int) else 0)
    return evaluate(question, *bases, models, progress, training=training, cache=runtime.cache)


def _reuse(job: Job, file: Path, runtime: Runtime, progress: Progress) -> Path | None:
    """The LoRA as it is on the modules that correspond, in ``file``; None where none does."""
    settings: dict[str, Value] = {**dict(job.request.settings), **PLAIN}
    request = dataclasses.replace(job.request, settings=tuple(sorted(settings.items())))
    alone = dataclasses.replace(job, request=request)
    try:
        return transfer(alone, Destination(file=file), runtime=runtime, progress=progress).path
    except MismatchError:
        return None


def _beside(job: Job, path: Path, target: Base) -> tuple[Path, ...]:
    """The side files of the original, carried to the output at ``path``."""
    note = f"Transferred from {job.request.adapter_name} to {job.request.target_name} ({job.request.method})."
    plan = plan_sidecars(job.files.adapter, path, card_version=target.architecture.card_version, note=note)
    return carry_sidecars(plan).files
