"""Verify transferred LoRAs with the networks of diffusers: for the command line and the Python interface."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lib_transfer.conversion.jobs import transfer
from lib_transfer.conversion.runtime import Runtime
from lib_transfer.errors import RequestError
from lib_transfer.evaluation.conditions import MOST_CLIP_SKIP
from lib_transfer.evaluation.loading import DiffusersModels, need_packages
from lib_transfer.evaluation.loading.autoencoder import need_autoencoder
from lib_transfer.evaluation.result import Evaluation, Subject
from lib_transfer.evaluation.verification import INPUTS, Question, evaluate
from lib_transfer.library.base import Base, open_hashed
from lib_transfer.library.destination import Destination
from lib_transfer.library.job import Job, Model, make_job
from lib_transfer.progress import Progress, Silent


def verify(
    adapter: str | Path,
    *,
    source: Model,
    target: Model,
    transferred: Sequence[str | Path] = (),
    prompts: Sequence[str] = (),
    inputs: int = INPUTS,
    size: int = 0,
    seed: int = 0,
    clip_skip: int = 0,
    runtime: Runtime | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Run both checkpoints: does a transferred LoRA do to the target what the original does to the source?

    Stable Diffusion 1, 2 and XL are run, with the networks of diffusers and transformers (the extra ``models``): float32 on the
    CPU, half precision on a GPU.

    Args:
        adapter: the path of the original LoRA.
        source, target: paths of the checkpoint that it was trained on and of the other one; a sequence of them where text
            encoders lie in files of their own, the checkpoint first.
        transferred: paths of what was made of it for the target; what the default method makes when there are none.
        prompts: the prompts of the pictures; those that the LoRA's metadata suggest when there are none.
        inputs: the number of held-out pictures that gains are taken on.
        size: width and height of the pictures in pixels; 0 for the size that the target was trained on.
        seed: the seed of all noise.
        clip_skip: the Clip skip that prompts are encoded with, 1 to 12; 0 for what the LoRA was trained with where its
            metadata say so, else for what the checkpoint was. It is never less than that (XL: 2).
        runtime: the device, and the cache folder, which remembers hashes, what depends on the checkpoints alone.
        progress: gets a step for every run of a model; it is asked before each whether to stop.
        announce: called before the models are run, with a sentence that says how many runs it takes.

    Returns:
        The gain of every transferred LoRA and of reuse, as a share of what the original gains on its own checkpoint (see
        :mod:`lib_transfer.evaluation.gain`), the domain gap of the checkpoints, and which of the LoRAs to keep.

    Raises:
        CancelledError: the person asked to stop; nothing was written.
        MismatchError: nothing of a LoRA fits its checkpoint.
        NumericError: a model gives NaN or infinity.
        RequestError: there is no such size or Clip skip.
        UnsupportedError: a checkpoint cannot be run, or a package that running it needs is not installed.
        TransferError: a file cannot be read or written.
    """
    runtime, progress = runtime or Runtime(), progress or Silent()
    need_packages()
    check_size(size)
    _check_clip_skip(clip_skip)
    job = make_job(
        adapter,
        target=target,
        source=source,
        settings={},
        hashes=runtime.hashes,
        progress=progress,
    )
    models = DiffusersModels(runtime.torch_device)
    with ExitStack() as stack:
        of_source, of_target = (
            stack.enter_context(open_hashed(paths, runtime.hashes)) for paths in (job.files.source, job.files.target)
        )
        check_pair(models, of_source, of_target)
        made = [Path(path) for path in transferred] or [stack.enter_context(_transferred(job, runtime, progress))]
        question = Question(
            job.files.adapter, {path.name: path for path in made}, prompts, inputs, size, seed, clip_skip=clip_skip
        )
        found = evaluate(question, of_source, of_target, models, progress, announce=announce, cache=runtime.cache)
        request, architectures = job.request, (of_source.architecture.id, of_target.architecture.id)
        assert request.source_sha256 is not None
        subject = Subject(request.adapter_sha256, request.source_sha256, request.target_sha256, architectures)
        return dataclasses.replace(found, subject=subject)


def check_size(size: int) -> None:
    """Raise unless pictures of this size can be made."""
    # Halved three times in the UNet, and once in the autoencoder for each of three levels.
    if size % 64:
        raise RequestError(f"Pictures of {size} pixels cannot be made.", hint="Choose a multiple of 64.")


def _check_clip_skip(clip_skip: int) -> None:
    """Raise unless prompts can be encoded with this Clip skip."""
    if not 0 <= clip_skip <= MOST_CLIP_SKIP:
        raise RequestError(f"There is no Clip skip {clip_skip}.", hint=f"Choose one from 1 to {MOST_CLIP_SKIP}.")


def check_pair(models: DiffusersModels, source: Base, target: Base) -> None:
    """Raise unless the two can be compared here."""
    if models.latent_space(source) != models.latent_space(target):
        # Pictures go from one to the other then.
        need_autoencoder(source)
        need_autoencoder(target)


@contextmanager
def _transferred(job: Job, runtime: Runtime, progress: Progress) -> Iterator[Path]:
    """What the default method makes of the LoRA, for as long as it is looked at."""
    with tempfile.TemporaryDirectory(prefix="transfer-lora-") as folder:
        file = Path(folder) / f"{job.request.method}.safetensors"
        result = transfer(job, Destination(file=file), runtime=runtime, progress=progress)
        if result.path is None:
            raise RequestError("Nothing of the LoRA could be transferred to the target, so there is nothing to verify.")
        yield result.path
