"""What runs of the models gave, kept in the cache folder: it is not paid for twice, and what was killed is picked up again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from lib_transfer.errors import StorageError
from lib_transfer.storage.cache import Cache, entry_key


@dataclass(frozen=True)
class Kept:
    """Tensors by name, all of which belong to one thing: to a checkpoint, to a pair of them, or to one training.

    Attributes:
        cache: where they are kept; its limit holds for them too.
        kind: the kind of entry in the cache.
        owner: what they belong to: every number and text that they depend on.
    """

    cache: Cache
    kind: str
    owner: tuple[object, ...]

    def has(self, *name: object) -> bool:
        """Whether there is an entry, sound or not."""
        return self.cache.path(self.kind, self._key(name)).is_file()

    def get(self, *name: object, only: str | None = None) -> dict[str, Tensor] | None:
        """The tensors of an entry, or the one of this name; None where there is none that can be trusted."""
        return self.cache.get(self.kind, self._key(name), only=only)

    def put(self, *name: object, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, each with one axis at least. Best effort, like everything in the cache."""
        self.cache.put(self.kind, self._key(name), tensors)

    def need(self, *name: object) -> dict[str, Tensor]:
        """The tensors of an entry that has to be there.

        Raises:
            StorageError: it is not.
        """
        found = self.get(*name)
        if found is None:
            why = self.cache.problem or "A file of it was removed meanwhile; start again."
            raise StorageError(f"What the source said could not be kept in {self.cache.folder}.", hint=why)
        return found

    def made(self, *name: object, make: Callable[[], Tensor]) -> Tensor:
        """The tensor that is kept under a name; made and kept now where there is none."""
        found = self.get(*name)
        if found is not None:
            return found["tensor"]
        tensor = make()
        self.put(*name, tensors={"tensor": tensor})
        return tensor

    def drop(self, *name: object) -> None:
        """Remove an entry, if there is one."""
        self.cache.drop(self.kind, self._key(name))

    def _key(self, name: tuple[object, ...]) -> str:
        return entry_key(*self.owner, "of", *name)


@contextmanager
def or_temporary(cache: Cache | None) -> Iterator[Cache]:
    """The cache, or one in a folder that is removed at the end where there is none."""
    if cache is not None:
        yield cache
        return
    with TemporaryDirectory(prefix="transfer-lora-") as folder:
        yield Cache(Path(folder))
