"""The request: everything that the result of a transfer depends on, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_transfer import methods as registry
from lib_transfer.errors import RequestError
from lib_transfer.formats.checkpoint import checkpoint_stamps, model_name
from lib_transfer.formats.identity import FileStamp, file_sha256
from lib_transfer.formats.peft_config import config_beside
from lib_transfer.methods import Method, Value
from lib_transfer.storage.hashes import Hashes

Model = str | Path | Sequence[str | Path]
"""A checkpoint; or a checkpoint, and text encoders in files of their own."""

ALGORITHM = 1
"""Rises whenever the same request would give another result than before."""


@dataclass(frozen=True)
class Files:
    """Where the inputs lie on this machine; not part of what the result depends on.

    Attributes:
        adapter: the LoRA.
        source: the checkpoint it was trained on, and text encoders in files of their own; empty where there is none.
        target: the checkpoint it goes to, and likewise.
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
class TransferRequest:
    """What is to be transferred, from where, to where and how.

    Two equal requests give the same output, so an output that carries an equal request is already done. Made by
    :func:`request`; ``files`` takes no part in equality.

    Attributes:
        adapter_name, source_name, target_name: file names without extension, names of folders.
        adapter_sha256, source_sha256, target_sha256: of the files' contents, hex. Source is None where the method needs
            no source checkpoint.
        method: its id.
        settings: every setting of the method, sorted by name.
        config_sha256: of the configuration that PEFT wrote beside the adapter; None where there is none.
        algorithm: :data:`ALGORITHM` when it was made.
        source_encoders, target_encoders: SHA-256 of text encoders in files of their own.
        files: where the inputs lie.
    """

    adapter_name: str
    adapter_sha256: str
    source_name: str | None
    source_sha256: str | None
    target_name: str
    target_sha256: str
    method: str
    settings: tuple[tuple[str, Value], ...]
    config_sha256: str | None = None
    algorithm: int = ALGORITHM
    source_encoders: tuple[str, ...] = ()
    target_encoders: tuple[str, ...] = ()
    files: Files | None = field(default=None, compare=False, repr=False)

    def setting(self, name: str) -> Any:
        """The value of one setting; None where the method does not have it."""
        return dict(self.settings).get(name)

    def to_json(self) -> str:
        """The request as it is written into the output: one line of JSON, the same for equal requests."""
        adapter = {"name": self.adapter_name, "sha256": self.adapter_sha256}
        identity = {
            "adapter": adapter if self.config_sha256 is None else {**adapter, "config_sha256": self.config_sha256},
            "source": _base(self.source_name, self.source_sha256, self.source_encoders) if self.source_sha256 else None,
            "target": _base(self.target_name, self.target_sha256, self.target_encoders),
            "method": self.method,
            "settings": dict(self.settings),
            "algorithm": self.algorithm,
        }
        return json.dumps(identity, sort_keys=True, ensure_ascii=True)

    @property
    def digest(self) -> str:
        """The SHA-256 of :meth:`to_json`, in hex: equal for equal requests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def hash8(self) -> str:
        """Eight hex digits that stand for the request in file names."""
        return self.digest[:8]


def _base(name: str | None, sha256: str | None, encoders: tuple[str, ...]) -> dict[str, Any]:
    known: dict[str, Any] = {"name": name, "sha256": sha256}
    return {**known, "encoders": list(encoders)} if encoders else known


def request(
    adapter: str | Path,
    *,
    target: Model,
    source: Model | None = None,
    method: str = registry.DEFAULT,
    settings: Mapping[str, Value],
    hashes: Hashes,
    cancelled: Callable[[], bool] = lambda: False,
) -> TransferRequest:
    """The request to transfer ``adapter`` from checkpoint ``source`` to checkpoint ``target``.

    Args:
        adapter: path.
        source, target: paths; a sequence of them where text encoders lie in files of their own, the checkpoint first.
            Without a source only methods that declare no need of it can run.
        method: id of a method.
        settings: the method's settings (:func:`lib_transfer.methods.parameters`); those left out take their defaults.
        hashes: where the files' content hashes are remembered.
        cancelled: asked while hashing whether to stop.

    Raises:
        RequestError: unknown method or setting, value out of range, or no source where one is needed.
        BadFileError, StorageError: a file cannot be read.
    """
    chosen = registry.get(method)
    checked = registry.settings(chosen, settings)
    files = Files(Path(adapter), _source(chosen, source), _paths(target))
    files = dataclasses.replace(files, stamps=tuple(s for path in files.all for s in checkpoint_stamps(path)))
    config = config_beside(files.adapter)
    with ThreadPoolExecutor(len(files.all)) as pool:
        digests = dict(zip(files.all, pool.map(lambda path: hashes.sha256(path, cancelled), files.all), strict=True))
    return TransferRequest(
        adapter_name=files.adapter.stem,
        adapter_sha256=digests[files.adapter],
        source_name=model_name(files.source[0]) if files.source else None,
        source_sha256=digests[files.source[0]] if files.source else None,
        target_name=model_name(files.target[0]),
        target_sha256=digests[files.target[0]],
        method=chosen.id,
        settings=tuple(sorted(checked.items())),
        config_sha256=None if config is None else file_sha256(config),
        source_encoders=tuple(sorted(digests[path] for path in files.source[1:])),
        target_encoders=tuple(sorted(digests[path] for path in files.target[1:])),
        files=files,
    )


def _paths(model: Model) -> tuple[Path, ...]:
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
    return _paths(source)


def files_of(request: TransferRequest) -> Files:
    """Where the inputs of ``request`` lie.

    Raises:
        RequestError: it does not say, because it was read from an output's metadata.
    """
    if request.files is None:
        raise RequestError("The request does not say where its files lie.", hint="Make it with lib_transfer.request().")
    return request.files
