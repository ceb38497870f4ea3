"""What a checkpoint is, the modules it is made of, and every name adapters have for them.

Works on tensor keys and shapes, never on files, and is mostly data: an architecture is one file (:mod:`.sd1`,
:mod:`.sdxl`) that describes its parts, and one entry in :mod:`.registry`.
"""

from __future__ import annotations

from lib_transfer.architecture.architecture import Architecture, Tensors, modules, name_index, reference
from lib_transfer.architecture.identity import Identity, identify_adapter, identity
from lib_transfer.architecture.module import Binding, Kind, Module, Name, Position, Rows
from lib_transfer.architecture.registry import architectures, recognise

__all__ = [
    "Architecture",
    "Binding",
    "Identity",
    "Kind",
    "Module",
    "Name",
    "Position",
    "Rows",
    "Tensors",
    "architectures",
    "identify_adapter",
    "identity",
    "modules",
    "name_index",
    "recognise",
    "reference",
]
