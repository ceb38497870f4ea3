"""A base without weights: what an adapter's own modules say of the model that it was made for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from lib_transfer.architecture import Architecture, modules, name_index, reference
from lib_transfer.architecture.architecture import Tensors, deepest, full_index, full_shapes
from lib_transfer.architecture.module import Module
from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.checkpoint import Contents, Store
from lib_transfer.formats.matrix_shapes import matrix_shapes
from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.library.base import Base


class _NoStore(Store):
    """Names and shapes of tensors, and no numbers."""

    def __init__(self, title: str, shapes: Tensors) -> None:
        self.contents = Contents(
            title, {key: TensorInfo("F32", shape, 4 * math.prod(shape)) for key, shape in shapes.items()}, {}, ()
        )

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        raise UnsupportedError(f"The weight {key} is needed, and no checkpoint is named.", hint=NAME_ONE)

    def close(self) -> None:
        """Nothing is open."""


NAME_ONE = "Name a checkpoint that the LoRA works on as the target."


def reference_base(architecture: Architecture, adapter: Adapter) -> Base:
    """The modules of ``architecture`` that ``adapter`` names, in the sizes that its tensors have; their weights cannot be read.

    Args:
        architecture: what the adapter is for.
        adapter: the adapter, from its header alone at the least. A module whose size its tensors do not tell has that of the
            full model.
    """
    architecture = deepest(architecture)
    index, full = full_index(architecture), reference(architecture)
    told, sizes = {**_vectors(adapter), **matrix_shapes(adapter)}, full_shapes(architecture)
    shapes: dict[str, tuple[int, ...]] = {}
    changed: dict[str, tuple[Module, tuple[int, int]]] = {}
    for name in adapter.groups:
        for module, _ in index.get(name, ()):
            size = _size(module, sizes[name], told.get(name))
            changed.setdefault(module.name, (module, size))
            shapes.setdefault(module.weight, _stored(module, full[module.weight], size))
    for module, size in _with_partners(changed, (b.module for bindings in index.values() for b in bindings)):
        shapes.setdefault(module.weight, _stored(module, full[module.weight], size))
    biases = {_bias(key): (shape[0],) for key, shape in shapes.items() if _bias(key) in full}
    store = _NoStore(
        architecture.title, {key: (shapes | biases)[key] for key in full if key in shapes or key in biases}
    )
    found = modules(architecture, store.shapes)
    by_name = {module.name: module for module in found}
    return Base(Path(architecture.title), "", store, architecture, found, by_name, name_index(found))


def _vectors(adapter: Adapter) -> dict[str, tuple[int, int]]:
    """The sizes of the groups that are differences of a normalisation, as :func:`matrix_shapes` has those of the others."""
    found = {}
    for name, group in adapter.groups.items():
        shapes = [
            adapter.header.tensors[group.keys[it]].shape for it in ("diff", "w_norm", "b_norm") if it in group.keys
        ]
        if shapes and len(shapes[0]) == 1:
            found[name] = (shapes[0][0], 1)
    return found


def _size(module: Module, whole: tuple[int, int], told: tuple[int, int] | None) -> tuple[int, int]:
    """``(out, in)`` of a module, where the update of ``whole`` rows and columns in the full model has ``told``."""
    out, into = module.matrix_shape
    kernel = math.prod(module.shape[2:])
    if told is None or (out * told[0]) % whole[0] or told[1] % kernel:
        return out, into // kernel
    return out * told[0] // whole[0], told[1] // kernel


def _stored(module: Module, full: tuple[int, ...], size: tuple[int, int]) -> tuple[int, ...]:
    """The shape of the tensor that a module of this size is kept in, which has the shape ``full`` in the full model."""
    out, into = size
    if len(full) < 2:
        return (out,)
    if module.transposed:
        return into, out
    return (full[0] * out // module.shape[0], into, *full[2:])


def _with_partners(
    changed: Mapping[str, tuple[Module, tuple[int, int]]], every: Iterable[Module]
) -> list[tuple[Module, tuple[int, int]]]:
    """The modules that programs load only together with one that is changed, in its size."""
    sizes = {module.fused: size for module, size in changed.values() if module.fused is not None}
    return [(module, sizes[module.fused]) for module in every if module.fused in sizes] if sizes else []


def _bias(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"
