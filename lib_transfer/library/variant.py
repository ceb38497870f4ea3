"""What a checkpoint predicts and sees, where one of its tensors has to be read to tell it, and what it is called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from lib_transfer.architecture import Architecture
from lib_transfer.architecture.variant import Variant, settled, telltale, variant
from lib_transfer.formats.checkpoint import Store, model_name

PREDICTION = "modelspec.prediction_type"
"""The metadata entry in which trainers write what a model predicts: ``epsilon`` (for flows, too) or ``v``."""


def variant_of(architecture: Architecture, checkpoint: Store) -> Variant:
    """What a checkpoint predicts and sees; a tensor is read where its keys do not tell.

    Raises:
        BadFileError, StorageError: that tensor cannot be read.
    """
    found = variant(architecture, checkpoint.shapes)
    key = telltale(architecture, checkpoint.shapes)
    return found if key is None else settled(found, float(checkpoint.read(key, None, torch.float32).std()))


def names_of(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    """What a checkpoint is called, which may tell of what kind it is: by its file or folder, and by its metadata."""
    says = "v-prediction" if metadata.get(PREDICTION) == "v" else ""
    return tuple(filter(None, (model_name(path), metadata.get("modelspec.title"), says)))
