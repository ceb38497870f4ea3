"""Which architecture an adapter was made for."""

from __future__ import annotations

from lib_transfer.architecture import Architecture, identify_adapter
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.matrix_shapes import matrix_shapes
from lib_transfer.formats.metadata import source_hints


def candidates(adapter: Adapter) -> tuple[Architecture, ...]:
    """Those that its names and shapes fit best; several where these do not tell, none where nothing fits."""
    return identify_adapter(list(adapter.groups), matrix_shapes(adapter))


def identify(adapter: Adapter) -> tuple[Architecture, ...]:
    """:func:`candidates`, of which the adapter's metadata may choose: it decides nothing that names and shapes do."""
    found = candidates(adapter)
    hints = source_hints(adapter.metadata)
    said = (hints.base_version, hints.architecture)
    chosen = tuple(a for a in found if a.base_model_version in said or a.modelspec_architecture in said)
    return chosen or found
