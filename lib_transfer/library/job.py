"""A job: a request, the files that it is about, and where the output goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lib_transfer import methods
from lib_transfer.errors import RequestError
from lib_transfer.formats.checkpoint import checkpoint_stamps, model_name
from lib_transfer.formats.identity import FileStamp, file_sha256
from lib_transfer.formats.naming import fill_template, safe_stem
from lib_transfer.formats.peft_folder import adapter_file, adapter_home, adapter_name, config_beside
from lib_transfer.library.destination import Destination
from lib_transfer.library.request import TransferRequest
from lib_transfer.methods import Method, Value
from lib_transfer.progress import SILENT, Progress
from lib_transfer.storage.hashes import Hashes

Model = str | Path | Sequence[str | Path]
"""A checkpoint; or a checkpoint, and text encoders in files of their own."""


@dataclass(frozen=True)
class Files:
    """Where the inputs lie on this machine.

    Attributes:
        adapter: the LoRA.
        source: the checkpoint it was trained on, and text encoders in files of their own; empty where there is none.
        target: the checkpoint it goes to, and likewise; empty where only names and layout change.
        stamps: the states in which they were hashed, in this order.
    """

    adapter: Path
    source: tuple[Path, ...]
    target: tuple[Path, ...]
    stamps: tuple[FileStamp, ...] = ()

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file."""
        return (self.adapter, *self.source, *self.target)


@dataclass(frozen=True)
class Job:
    """What :func:`lib_transfer.transfer` and :func:`lib_transfer.analyse` take; made by :func:`lib_transfer.request`.

    Attributes:
        request: what the result depends on.
        files: where the inputs lie.
        destination: where the output goes.
    """

    request: TransferRequest
    files: Files
    destination: Destination = field(default_factory=Destination)

    @property
    def output(self) -> Path:
        """The file that the output is written to.

        Raises:
            RequestError: the name is the adapter's own (the hosts know a LoRA by its file name, in whatever folder it is).
        """
        request, destination = self.request, self.destination
        if destination.file is not None:
            path = destination.file.with_suffix("") if destination.file.suffix == ".safetensors" else destination.file
            path = path.with_name(safe_stem(path.name) + ".safetensors")
        else:
            stem = fill_template(
                destination.template,
                lora=request.adapter_name,
                source=request.source_name or "",
                target=request.target_name,
                method=request.method,
                rank=str(request.setting("rank")),
                hash8=request.hash8,
            )
            path = (destination.folder or adapter_home(self.files.adapter)) / f"{stem}.safetensors"
        if path.stem.casefold() == request.adapter_name.casefold():
            raise RequestError(
                f"The output would have the adapter's own name, {path.stem}.",
                hint="WebUIs know a LoRA by its file name alone; choose another.",
            )
        return path


def make_job(
    adapter: str | Path,
    *,
    target: Model,
    source: Model | None = None,
    method: str = methods.DEFAULT,
    architecture: str = "",
    settings: Mapping[str, Value],
    hashes: Hashes,
    destination: Destination | None = None,
    progress: Progress = SILENT,
) -> Job:
    """The job of transferring ``adapter`` from the checkpoint ``source`` to the checkpoint ``target``. Hashes the files.

    Args:
        adapter: the path of the LoRA, or of a folder that PEFT saved one as.
        source, target: paths of checkpoints; a sequence of them where text encoders lie in files of their own, the
            checkpoint first. Without a source only methods that declare no need of it can run.
        method: the id of a method.
        architecture: the id of the architecture that the adapter is for, where only names and layout change; there is no
            target then, which is an empty sequence.
        settings: the method's settings (:func:`lib_transfer.methods.parameters`); those left out take their defaults.
        hashes: where the files' content hashes are remembered.
        destination: where the output goes; the adapter's own folder when not given.
        progress: is told the bytes that are read to hash the files, and asked whether to stop.

    Raises:
        RequestError: the method or a setting is unknown, a value is out of range, or there is no source where one is
            needed.
        BadFileError, StorageError: a file cannot be read.
        CancelledError: the person asked to stop.
    """
    chosen = methods.get(method)
    checked = methods.settings(chosen, settings)
    adapter, of_source, of_target = (
        adapter_file(Path(adapter)),
        _source(chosen, source),
        model_paths(target) if target else (),
    )
    every = (adapter, *of_source, *of_target)
    files = Files(adapter, of_source, of_target, tuple(s for path in every for s in checkpoint_stamps(path)))
    config = config_beside(adapter)
    digests = hashes.of(every, progress)
    request = TransferRequest(
        adapter_name=adapter_name(adapter),
        adapter_sha256=digests[adapter],
        source_name=model_name(of_source[0]) if of_source else None,
        source_sha256=digests[of_source[0]] if of_source else None,
        target_name=model_name(of_target[0]) if of_target else "",
        target_sha256=digests[of_target[0]] if of_target else "",
        method=chosen.id,
        settings=tuple(sorted(checked.items())),
        config_sha256=None if config is None else file_sha256(config),
        source_encoders=tuple(sorted(digests[path] for path in of_source[1:])),
        target_encoders=tuple(sorted(digests[path] for path in of_target[1:])),
        architecture=architecture,
    )
    return Job(request, files, destination or Destination())


def model_paths(model: Model) -> tuple[Path, ...]:
    """The checkpoint and its text encoders, these in an order that does not depend on how they were given."""
    first, *encoders = [model] if isinstance(model, str | Path) else model
    return (Path(first), *sorted(map(Path, encoders)))


def _source(method: Method, source: Model | None) -> tuple[Path, ...]:
    """The source as the method needs it: a source that is given but not needed plays no part."""
    if not method.needs_source:
        return ()
    if source is None:
        raise RequestError(
            f'The method "{method.id}" needs the checkpoint that the adapter was trained on.',
            hint="Name it as the source, or take the method reuse, which does without.",
        )
    return model_paths(source)
