"""The tensors in a ``data.pkl`` of PyTorch: what its names mean is tensors as places in other files, and nothing else.

The names are those that ``torch.save`` writes for a state dict (``torch/_utils.py``, ``torch/_tensor.py``), and beside them
those of training tools whose leftovers old checkpoints hold: they stand for nothing and are forgotten. Any other name
makes the file be refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from lib_transfer.errors import BadFileError, UnsupportedError
from lib_transfer.formats.stores.pickle_machine import Opaque, run
from lib_transfer.formats.tensor_info import MAX_DIMENSIONS, MAX_NAME, MAX_TENSORS, TORCH_NAME, possible_name
from lib_transfer.kinds import NEITHER, ONLY_THESE

MAX_COUNT = 1 << 48
MAX_LEVELS = 8
MAX_ENTRIES = 2 * MAX_TENSORS


@dataclass(frozen=True)
class Storage:
    """Numbers that are stored in a file of their own.

    Attributes:
        dtype: the safetensors name of their number format; None where the tensors on it say it.
        key: the name of the file.
        count: how many they are; bytes where ``dtype`` is None.
    """

    dtype: str | None
    key: str
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a view of a storage; offset and strides are counted in its own elements, and not checked yet."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class _Kind:
    """The class of a storage, or a dtype."""

    dtype: str | None
    of_storage: bool


class _OpaqueClass:
    """A class of which objects are forgotten."""

    __slots__ = ()


def read_pickle(data: bytes) -> object:
    """The value in a ``data.pkl``: as :func:`~.pickle_machine.run`, with :class:`StoredTensor` for tensors.

    Raises:
        BadFileError: ``pickle_global``: it names something that no model needs; ``pickle``; ``too_many``.
    """
    return run(data, _TorchVocabulary())


def named_tensors(saved: object) -> dict[str, StoredTensor]:
    """The tensors of a state dict, by name.

    Args:
        saved: the value that :func:`read_pickle` gives. Where it has an entry ``state_dict``, only that counts, as in the
            WebUI: what is beside it is the optimizer's. Dicts in dicts give names with dots; all but tensors is left out.

    Raises:
        UnsupportedError: it is no dict of named tensors; the message says what it is, where that is known.
        BadFileError: ``name``, ``duplicate`` or ``too_many``.
    """
    for _ in range(MAX_LEVELS):
        if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), dict):
            break
        saved = saved["state_dict"]
    if isinstance(saved, list):
        raise _a_list(saved)
    if isinstance(saved, dict) and (title := _known_by_its_entries(saved)) is not None:
        raise UnsupportedError(f"it is {title}, {NEITHER}.", hint=ONLY_THESE)
    if not isinstance(saved, dict):
        raise UnsupportedError("it holds no named tensors.")
    found: dict[str, StoredTensor] = {}
    for name, tensor in _walk(saved):
        if not possible_name(name):
            raise BadFileError(f"It has a tensor with an impossible name, {name[:40]!r}.", reason="name")
        if name in found:
            raise BadFileError(f"It names {name!r} twice.", reason="duplicate")
        found[name] = tensor
    return found


def _a_list(saved: list[object]) -> UnsupportedError:
    """What a list is: of tensors in turn ``(out, rank)`` and ``(rank, in)``, as the first trainer of LoRAs wrote them."""
    shapes = [tensor.shape for tensor in saved if isinstance(tensor, StoredTensor)]
    pairs = list(zip(shapes[::2], shapes[1::2], strict=False))
    factors = all(len(up) == len(down) and len(up) > 1 and up[1] == down[0] for up, down in pairs)
    if pairs and factors and len(saved) == len(shapes) == 2 * len(pairs):
        return UnsupportedError(
            "it is a LoRA as cloneofsimo's lora_diffusion first wrote them (2022-23): a list of tensors without names.",
            hint="Convert it with convert_loras_to_safeloras of lora_diffusion, and take the .safetensors file.",
        )
    return UnsupportedError("it is a list without names, so that its tensors cannot be told apart.", hint=ONLY_THESE)


# Entries of what is no model, by what it is.
_ENTRIES = {
    "a hypernetwork": {"layer_structure", "activation_func", "is_layer_norm", "weight_initialization"},
    "a textual-inversion embedding": {"string_to_param"},
}


def _known_by_its_entries(saved: dict[object, object]) -> str | None:
    if any(type(key) is int and isinstance(value, list | tuple) for key, value in saved.items()):
        return "a hypernetwork"  # the WebUI's: a pair of networks for each width
    entries = {key for key, value in saved.items() if not isinstance(value, dict | StoredTensor)}
    return next((title for title, own in _ENTRIES.items() if own & entries), None)


def _walk(saved: dict[str, object]) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor and its name; dicts that contain each other end at a depth, and many of them at a number."""
    waiting: list[tuple[str, dict[str, object], int]] = [("", saved, 1)]
    entries = 0
    while waiting:
        prefix, level, depth = waiting.pop()
        entries += len(level)
        if entries > MAX_ENTRIES:
            raise BadFileError(f"It has more than {MAX_ENTRIES} entries.", reason="too_many")
        for key, value in level.items():
            if not isinstance(key, str):
                continue
            name = prefix + key[: MAX_NAME + 1]
            if isinstance(value, StoredTensor):
                yield name, value
            elif isinstance(value, dict) and depth < MAX_LEVELS:
                waiting.append((name[:MAX_NAME] + ".", value, depth + 1))


class _TorchVocabulary:
    def find(self, module: str, name: str) -> object:
        """The meaning of a name, or an error that says it."""
        full = f"{module}.{name}"
        found = _MEANINGS.get(full)
        if found is None and (full in _FORGOTTEN or module.split(".", maxsplit=1)[0] in _FORGOTTEN_PACKAGES):
            return _OPAQUE_CLASS
        if found is None:
            raise BadFileError(f"It asks for {full[:100]!r}, which no model needs.", reason="pickle_global")
        return found

    def call(self, function: object, arguments: object) -> object:
        """A tensor, a dict or a tuple; :class:`Opaque` for a class that is forgotten."""
        if function is _OPAQUE_CLASS:
            return Opaque()
        if not isinstance(function, _Function) or not isinstance(arguments, tuple):
            _refuse("It calls what is no function.")
        return function.meaning(*arguments[:8])

    def make(self, kind: object) -> object:
        """An object of a class that is forgotten."""
        if kind is not _OPAQUE_CLASS:
            _refuse("It makes an object of what is no class.")
        return Opaque()

    def external(self, identity: object) -> object:
        """A storage: ``("storage", class, key, device, count)``."""
        if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
            _refuse("It refers to what is no storage.")
        _, kind, key, _, count = identity[:5]
        if not isinstance(kind, _Kind) or not kind.of_storage:
            _refuse("It refers to what is no storage.")
        if type(key) is not str or re.fullmatch(r"\d{1,9}", key, re.ASCII) is None or not _is_count(count):
            _refuse("It refers to an impossible storage.")
        return Storage(kind.dtype, key, count)


def _refuse(what: str) -> NoReturn:
    raise BadFileError(what, reason="pickle")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _numbers(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_DIMENSIONS or not all(_is_count(n) for n in value):
        _refuse("It has a tensor of an impossible shape.")
    return value


# What these functions are called with comes from the file, so that everything may be missing.


def _tensor(*arguments: object) -> StoredTensor:
    """``_rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks, metadata)``."""
    if len(arguments) < 4:
        _refuse("It has an incomplete tensor.")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or storage.dtype is None:
        _refuse("It has a tensor without a number format.")
    return _view(storage, storage.dtype, offset, shape, strides)


def _typed_tensor(*arguments: object) -> StoredTensor:
    """``_rebuild_tensor_v3``: as v2 on a storage of bytes, with the dtype after the hooks."""
    if len(arguments) < 7:
        _refuse("It has an incomplete tensor.")
    storage, offset, shape, strides, _, _, dtype = arguments[:7]
    if not isinstance(storage, Storage) or not isinstance(dtype, _Kind) or dtype.dtype is None:
        _refuse("It has a tensor without a number format.")
    return _view(storage, dtype.dtype, offset, shape, strides)


def _view(storage: Storage, dtype: str, offset: Any, shape: object, strides: object) -> StoredTensor:
    tensor = StoredTensor(storage, dtype, offset, _numbers(shape), _numbers(strides))
    if not _is_count(offset) or len(tensor.shape) != len(tensor.strides):
        _refuse("It has a tensor of an impossible shape.")
    return tensor


def _parameter(data: object = None, *_: object) -> StoredTensor:
    """``_rebuild_parameter(data, requires_grad, backward_hooks)`` and the one with a state after these."""
    if not isinstance(data, StoredTensor):
        _refuse("It has a parameter that is no tensor.")
    return data


def _of_type(function: object = None, _: object = None, arguments: object = None, *__: object) -> StoredTensor:
    """``_rebuild_from_type_v2(function, type, arguments, state)``: a tensor with attributes of its own."""
    if function not in (_TENSOR, _TYPED_TENSOR, _PARAMETER) or not isinstance(arguments, tuple):
        _refuse("It has a tensor of an unknown type.")
    found = function.meaning(*arguments[:8])
    assert isinstance(found, StoredTensor)
    return found


def _dict(pairs: object = (), *_: object) -> dict[str, object]:
    """``OrderedDict(pairs)``, where Python 2 wrote each pair as a list; a factory of a defaultdict is forgotten."""
    found = {}
    for pair in pairs if isinstance(pairs, list) else ():
        if isinstance(pair, list | tuple) and len(pair) == 2 and type(pair[0]) is str:
            found[pair[0]] = pair[1]
    return found


def _size(numbers: object = (), *_: object) -> tuple[int, ...]:
    return _numbers(numbers)


@dataclass(frozen=True)
class _Function:
    meaning: Callable[..., object]


_OPAQUE_CLASS = _OpaqueClass()
_TENSOR, _TYPED_TENSOR, _PARAMETER = _Function(_tensor), _Function(_typed_tensor), _Function(_parameter)
_STORAGES = {
    "Bool": "BOOL",
    "Byte": "U8",
    "Char": "I8",
    "Short": "I16",
    "Int": "I32",
    "Long": "I64",
    "Half": "F16",
    "BFloat16": "BF16",
    "Float": "F32",
    "Double": "F64",
}
_MEANINGS: dict[str, object] = {
    "collections.OrderedDict": _Function(_dict),
    "collections.defaultdict": _Function(_dict),
    "torch.Size": _Function(_size),
    "torch._utils._rebuild_tensor_v2": _TENSOR,
    "torch._utils._rebuild_tensor_v3": _TYPED_TENSOR,
    "torch._utils._rebuild_parameter": _PARAMETER,
    "torch._utils._rebuild_parameter_with_state": _PARAMETER,
    "torch._tensor._rebuild_from_type_v2": _Function(_of_type),
    "torch.storage.UntypedStorage": _Kind(None, True),
    "torch.storage._UntypedStorage": _Kind(None, True),
    **{f"torch.{name}Storage": _Kind(dtype, True) for name, dtype in _STORAGES.items()},
    **{f"torch.{name}": _Kind(dtype, False) for dtype, name in TORCH_NAME.items()},
}

# Leftovers of training: callbacks, settings, counters. Their objects are forgotten; nothing of these packages is imported.
_FORGOTTEN_PACKAGES = frozenset({"pytorch_lightning", "lightning", "lightning_fabric", "omegaconf"})
_BUILT_IN = "bool bytearray bytes complex dict float frozenset int list object set slice str tuple"
_FORGOTTEN = frozenset(
    {
        "_codecs.encode",
        "argparse.Namespace",
        "collections.Counter",
        "numpy.dtype",
        "numpy.ndarray",
        "torch.Tensor",
        "torch.device",
        "torch.nn.modules.container.ParameterDict",
        "torch.nn.modules.container.ParameterList",
        "torch.nn.parameter.Parameter",
        "typing.Any",
        *(
            f"{where}.{name}"
            for where in ("pathlib", "pathlib._local")
            for name in ("Path", "PosixPath", "WindowsPath")
        ),
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
        *(f"{module}.{name}" for module in ("__builtin__", "builtins") for name in _BUILT_IN.split()),
    }
)
