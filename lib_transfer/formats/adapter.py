"""An adapter as named groups of tensors, each knowing its algorithm and how to give its update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lib_transfer.errors import NumericError
from lib_transfer.formats.algorithms.algorithm import BIAS, Algorithm, checked, vector
from lib_transfer.formats.checkpoint import Contents
from lib_transfer.formats.unread import Unread
from lib_transfer.update import Update


@dataclass(frozen=True, eq=False)
class Group:
    """The tensors that change one module, as they are in the file.

    Attributes:
        name: the module as the file names it: prefix, dots and all; nothing here takes the name apart.
        keys: the full names of its tensors in the file, by suffix as :mod:`~.tensor_names` has it.
        tensors: the tensors by the same suffixes, in the file's own dtypes; where the file is still open, read when asked for.
        algorithm: what the tensors are written in; ``algorithm.needs_base`` says whether :meth:`update` needs a weight.
        scale: the number that PEFT's configuration says the factors are multiplied by; None where it says none.
    """

    name: str
    keys: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    algorithm: Algorithm
    scale: float | None = None

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Why this cannot be the change of a weight of this shape, before it is formed; None when it can."""
        return self.algorithm.misfit(self.tensors, shape)

    def update(self, base_weight: Tensor | None = None) -> Update:
        """The change of the module, in float32, with every scale folded in.

        Raises:
            NumericError: a number does not fit in float32; the message names the module.
        """
        tensors = dict(self.tensors)
        if self.scale is not None:
            tensors["scale"] = torch.tensor(self.scale, dtype=torch.float64)
        beside = None if BIAS in self.algorithm.suffixes else tensors.pop(BIAS, None)
        try:
            update = self.algorithm.update(tensors, base_weight)
            bias = vector(beside)
            if bias is None:
                return update
            return replace(update, bias=bias if update.bias is None else checked(update.bias + bias))
        except NumericError as error:
            raise NumericError(f"{self.name}: {error.message}") from error


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA file that was read.

    Attributes:
        header: what the file says of itself; ``header.stamps`` tell whether it changed since.
        groups: what can be used, by module name, in the order of the names.
        embeddings: bundled textual-inversion embeddings: the tensors by suffix, by the embedding's name.
        unsupported: every other tensor, with the reason why it is not used.
        differences: those of them that are differences of a weight, by their full names.
    """

    header: Contents
    groups: Mapping[str, Group]
    embeddings: Mapping[str, Mapping[str, Tensor]]
    unsupported: tuple[Unread, ...]
    differences: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts in the file's header."""
        return self.header.metadata
