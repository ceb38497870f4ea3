"""Where the output of each adapter of a batch goes: mirrored folders, and a file name that no other LoRA has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lib_transfer.batches.request import BatchRequest
from lib_transfer.errors import OutputExistsError
from lib_transfer.formats.naming import unique_stem
from lib_transfer.library.destination import Destination, output_path
from lib_transfer.library.outputs import Outputs
from lib_transfer.library.request import TransferRequest

HASH = "{hash8}"


class Names:
    """Names for the outputs of one batch, each given once."""

    def __init__(self, outputs: Outputs, batch: BatchRequest) -> None:
        self._outputs = outputs
        self._batch = batch
        self._given: set[str] = set()

    @property
    def need_request(self) -> bool:
        """Whether a name can only be given once the request is known: one without a hash may clash with any other."""
        return HASH not in self._batch.template

    def destination(self, folder: Path, request: TransferRequest | None, damaged: Sequence[Path]) -> Destination:
        """Where the output goes.

        Args:
            folder: the adapter's own, or its mirror.
            request: for the adapter, where it is known already.
            damaged: outputs that say they are the wanted one, and are not.

        Raises:
            OutputExistsError: something is in the way that is to be left alone.
        """
        existing = self._batch.existing
        plain = Destination(folder, template=self._batch.template, overwrite=existing == "overwrite")
        if request is None:
            return plain
        path = output_path(request, Destination(folder, template=self._batch.template))
        in_the_way = [*damaged, *self._of_other_requests(request, path)]
        if in_the_way and existing == "skip":
            raise _refusal(in_the_way[0], damaged)
        if in_the_way and existing == "overwrite" and path in in_the_way:
            self._given.add(path.stem.casefold())
            return plain
        if not damaged and path.stem.casefold() not in self._taken():
            self._given.add(path.stem.casefold())
            return plain
        stem = unique_stem(path.stem, self._taken())
        self._given.add(stem.casefold())
        return named(folder, stem)

    def _of_other_requests(self, request: TransferRequest, path: Path) -> list[Path]:
        """The output of this very adapter for another request, where it has the name that is wanted now."""
        if path.stem.casefold() in self._given:
            return []
        copies = self._outputs.copies.get(request.adapter_name, [])
        wanted = request.to_json()
        return [copy.path for copy in copies if copy.path == path and copy.request != wanted]

    def _taken(self) -> set[str]:
        return self._given | self._outputs.stems.keys()


def named(folder: Path, stem: str) -> Destination:
    """A destination with this very name."""
    return Destination(folder, template=stem.replace("{", "{{").replace("}", "}}"))


def _refusal(path: Path, damaged: Sequence[Path]) -> OutputExistsError:
    if path in damaged:
        return OutputExistsError(
            f"{path} is there, but its numbers are not those it was written with: it was edited or is damaged.",
            hint="Overwriting makes it anew, keeping both leaves it and writes another one beside it.",
        )
    return OutputExistsError(
        f"{path} is there already, made with other settings or from another version of the LoRA.",
        hint="Overwriting retires it, keeping both writes another one beside it.",
    )
