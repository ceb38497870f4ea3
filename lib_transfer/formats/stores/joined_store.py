"""Several stores as one: a checkpoint whose text encoders lie in files of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import Tensor

from lib_transfer.formats.stores.store import Contents, Store


class JoinedStore(Store):
    """A store, and tensors of others under names of this one.

    Args:
        first: the store whose path and metadata it has.
        others: further stores, with the names under which their tensors stand here.
        hidden: tensors of the first that others stand for.
    """

    def __init__(
        self, first: Store, others: Sequence[tuple[Store, Mapping[str, str]]], hidden: Collection[str] = ()
    ) -> None:
        self._stores = (first, *(store for store, _ in others))
        self._places = {key: (first, key) for key in first.contents.tensors if key not in hidden}
        for store, names in others:
            self._places |= {name: (store, key) for name, key in names.items()}
        tensors = {name: store.info(key) for name, (store, key) in self._places.items()}
        stamps = tuple(stamp for store in self._stores for stamp in store.stamps)
        self.contents = Contents(first.path, tensors, first.metadata, stamps)

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        store, own = self._places[key]
        return store._load(own, rows)

    def close(self) -> None:
        for store in self._stores:
            store.close()
