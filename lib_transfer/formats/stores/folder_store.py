"""A model in a diffusers folder: a pipeline, or one model of it, in one file or in shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from torch import Tensor

from lib_transfer.errors import BadFileError
from lib_transfer.formats.regular_file import FileStamp, stamp
from lib_transfer.formats.stores.folder import SCHEDULER, Part, parts_of, read_json, weight_files
from lib_transfer.formats.stores.store import Contents, Store


class FolderStore(Store):
    """The tensors of a diffusers folder, under the names of the subfolders: ``unet.conv_in.weight``.

    Its metadata hold ``scheduler.prediction_type`` where a scheduler tells it.

    Args:
        path: the folder.
        open_file: opens one of its files.

    Raises:
        BadFileError: as :func:`~.folder.parts_of`; ``layout``: an index names a tensor that its shard does not hold; or what
            ``open_file`` raises.
        UnsupportedError, StorageError: as ``open_file``.
    """

    def __init__(self, path: str | os.PathLike[str], open_file: Callable[[Path], Store]) -> None:
        folder = Path(path)
        self._places: dict[str, tuple[Store, str]] = {}
        # Until the end, so that every file is closed when one cannot be opened.
        with ExitStack() as stack:
            stamps: dict[Path, FileStamp] = {}
            for part in parts_of(folder):
                stores = {file: stack.enter_context(open_file(file)) for file in part.files}
                stamps |= {file: store.stamps[0] for file, store in stores.items()}
                self._places |= _places(part, stores)
            files = weight_files(folder)
            tensors = {name: store.info(key) for name, (store, key) in self._places.items()}
            every = tuple(stamps[file] if file in stamps else stamp(file) for file in files)
            self.contents = Contents(os.fspath(path), tensors, _metadata(folder), every)
            self._files = stack.pop_all()

    def close(self) -> None:
        """Let go of the files."""
        self._files.close()

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        store, own = self._places[key]
        return store._load(own, rows)


def _places(part: Part, stores: Mapping[Path, Store]) -> dict[str, tuple[Store, str]]:
    """The store and the name of each tensor of a part, by the name it has here."""
    if part.index is None:
        (store,) = stores.values()
        return {part.prefix + key: (store, key) for key in store.contents.tensors}
    for key, file in part.shards.items():
        if key not in stores[file].contents.tensors:
            raise BadFileError(
                f"{file} holds no tensor {key}, which {part.index.name} says it does.",
                reason="layout",
                hint="The files do not belong together; download them again.",
            )
    return {part.prefix + key: (stores[file], key) for key, file in part.shards.items()}


def _metadata(folder: Path) -> dict[str, str]:
    config = read_json(path) if (path := folder.joinpath(*SCHEDULER)).is_file() else None
    prediction = config.get("prediction_type") if isinstance(config, dict) else None
    return {"scheduler.prediction_type": prediction} if isinstance(prediction, str) else {}
