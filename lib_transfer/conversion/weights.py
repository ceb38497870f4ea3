"""The weight of one module of a checkpoint, read when it is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.errors import NumericError
from lib_transfer.formats.checkpoint import Store
from lib_transfer.formats.finite import is_finite
from lib_transfer.lazy import lazy_property
from lib_transfer.storage.cache import entry_key


def read_weight(checkpoint: Store, module: Module) -> Tensor:
    """A module's weight in float32, its rows in the module's own order.

    Raises:
        BadFileError, StorageError: it cannot be read.
    """
    rows: tuple[tuple[int, int] | None, ...] = module.rows or (None,)
    parts = [checkpoint.read(module.weight, part, torch.float32) for part in rows]
    weight = parts[0] if len(parts) == 1 else torch.cat(parts)
    return weight.T.contiguous() if module.transposed else weight


class Weight:
    """One module's weight, read when first asked for.

    Args:
        checkpoint: the open file that holds it.
        sha256: the hash of that file.
        module: the module whose weight it is.
        device: where the mathematics is done.
    """

    def __init__(self, checkpoint: Store, sha256: str, module: Module, device: torch.device) -> None:
        self.checkpoint = checkpoint
        self.module = module
        self.device = device
        self.key = entry_key(sha256, module.weight, module.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """``(out, in)``, a convolution flattened."""
        return self.module.matrix_shape

    @lazy_property
    def matrix(self) -> Tensor:
        """The weight ``(out, in)`` in float32.

        Raises:
            BadFileError: ``changed``: the file is no longer the one that was opened, and must not be cached as if it were.
        """
        weight = read_weight(self.checkpoint, self.module)
        self.checkpoint.need_unchanged()
        return weight.reshape(self.shape).to(self.device)

    def sound(self) -> Tensor:
        """:attr:`matrix`, once it is known to hold numbers only.

        Raises:
            NumericError: the weight holds NaN or infinity.
        """
        if not is_finite(self.matrix):
            raise NumericError(
                f"The tensor {self.module.weight} of {self.checkpoint.path} holds NaN or infinity.",
                hint="The checkpoint is damaged; download it again or take another copy.",
            )
        return self.matrix
