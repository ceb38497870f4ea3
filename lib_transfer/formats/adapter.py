"""An adapter file as named groups of tensors, each knowing its algorithm and how to give its update."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.errors import BadFileError, NumericError, UnsupportedError
from lib_transfer.formats.algorithms import algorithm_for, lora
from lib_transfer.formats.algorithms.algorithm import Algorithm
from lib_transfer.formats.algorithms.dora import MAGNITUDES
from lib_transfer.formats.algorithms.scales import SCALES
from lib_transfer.formats.checkpoint import Contents, Store, open_checkpoint
from lib_transfer.formats.finite import is_finite
from lib_transfer.formats.foreign import what_it_is
from lib_transfer.formats.tensor_names import split_names
from lib_transfer.formats.unread import (
    EMBEDDING,
    EXTRAS,
    LONELY_MAGNITUDE,
    LONELY_SCALE,
    UNKNOWN,
    Unread,
    family_of,
    twice,
)
from lib_transfer.formats.update import Update

MAX_TENSORS = 20_000


@dataclass(frozen=True, eq=False)
class Group:
    """The tensors that change one module, as they are in the file.

    Attributes:
        name: the module as the file names it: prefix, dots and all; nothing here takes the name apart.
        keys: the full names of its tensors in the file, by suffix as :mod:`~.tensor_names` has it.
        tensors: by the same suffixes, in the file's own dtypes.
        algorithm: what the tensors are written in; ``algorithm.needs_base`` says whether :meth:`update` needs a weight.
    """

    name: str
    keys: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    algorithm: Algorithm

    def misfit(self, shape: tuple[int, ...]) -> str | None:
        """Why this cannot be the change of a weight of this shape, before it is formed; None when it can."""
        return self.algorithm.misfit(self.tensors, shape)

    def update(self, base_weight: Tensor | None = None) -> Update:
        """The change of the module, in float32, with every scale folded in.

        Raises:
            NumericError: a number does not fit in float32; the message names the module.
        """
        try:
            return self.algorithm.update(self.tensors, base_weight)
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
    """

    header: Contents
    groups: Mapping[str, Group]
    embeddings: Mapping[str, Mapping[str, Tensor]]
    unsupported: tuple[Unread, ...]

    @property
    def metadata(self) -> Mapping[str, str]:
        """The texts in the file's header."""
        return self.header.metadata

    @property
    def accounted(self) -> bool:
        """Whether every tensor of the file is either in one group or embedding, or reported once as not read."""
        read = [key for group in self.groups.values() for key in group.keys.values()]
        bundled = [f"{EMBEDDING}{name}.{suffix}" for name, suffixes in self.embeddings.items() for suffix in suffixes]
        reported = [key for unread in self.unsupported for key in unread.tensors]
        return sorted(read + bundled + reported) == sorted(self.header.tensors)


@dataclass(frozen=True)
class Description:
    """What an adapter consists of, for a person.

    Attributes:
        algorithms: how many modules are written in each algorithm, by its title.
        ranks: how many modules have each rank.
        convolutions: how many modules change a kernel larger than 1x1.
        dtype: the number format most tensors have.
        prefixes: how many modules begin with each family's prefix; ``other`` for none of them.
        unread: how many modules are not used, by the kind of reason.
    """

    algorithms: dict[str, int]
    ranks: dict[int, int]
    convolutions: int
    dtype: str
    prefixes: dict[str, int]
    unread: dict[str, int]


# A prefix names the tool that wrote the file; which module a name means is looked up elsewhere, not parsed here.
_PREFIXES = (
    "lora_unet_",
    "lora_te_",
    "lora_te1_",
    "lora_te2_",
    "lora_te3_",
    "lora_transformer_",
    "lora_prior_",
    "lycoris_",
    "oft_unet_",
    "base_model.model.",
    "diffusion_model.",
    "transformer.",
    "unet.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "text_encoders.",
)


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Read the LoRA file at ``path``.

    A module that is broken or written in an algorithm that is not supported is reported in ``unsupported``; the others
    are read.

    Raises:
        BadFileError: the file is damaged or beyond the limits (see :func:`~.checkpoint.open_checkpoint`).
        UnsupportedError: it is a sound file of another kind, as its tensor names tell; no tensor was loaded.
        NumericError: a tensor holds NaN or infinity.
        StorageError: the file cannot be read.
    """
    with open_checkpoint(path) as file:
        return _assembled(file.contents, lambda key, idle: file.read(key) if idle else _finite(key, file))


def outline_adapter(path: str | os.PathLike[str]) -> Adapter:
    """The LoRA file at ``path`` from its header alone, with tensors that have shapes and no numbers.

    Enough for :func:`describe`, in a few milliseconds for a file of any size.

    Raises:
        BadFileError, UnsupportedError, StorageError: as :func:`read_adapter`.
    """
    with open_checkpoint(path) as file:
        header = file.contents
    return _assembled(header, lambda key, _: torch.empty(header.tensors[key].shape, device="meta"))


def _assembled(header: Contents, load: Callable[[str, bool], Tensor]) -> Adapter:
    """The adapter, with tensors from ``load``, which is told whether the numbers matter."""
    if not header.tensors:
        raise BadFileError(f"{header.path} holds no tensors.", reason="empty")
    if len(header.tensors) > MAX_TENSORS:
        count = len(header.tensors)
        raise BadFileError(f"{header.path} holds {count} tensors; the limit is {MAX_TENSORS}.", reason="too_many")
    if (kind := what_it_is(header.tensors)) is not None:
        raise UnsupportedError(f"{header.path} is {kind}, not a LoRA.", hint="Choose a LoRA file.")
    groups: dict[str, Group] = {}
    unread: list[Unread] = []
    bundled = _embeddings(header.tensors)
    own = {key for suffixes in bundled.values() for key in suffixes.values()}
    for name, suffixes in split_names(header.tensors.keys() - own).items():
        algorithm, rest = _sort(name, suffixes, header)
        unread.extend(rest)
        if algorithm is not None:
            owned = {suffix: key for key, suffix in suffixes.items() if suffix in algorithm.suffixes}
            idle = algorithm.idle(owned)
            tensors = {suffix: load(key, suffix in idle) for suffix, key in owned.items()}
            groups[name] = Group(name, owned, tensors, algorithm)
    if not groups and not bundled and all(item.kind == "unknown" for item in unread):
        first = ", ".join(sorted(header.tensors)[:3])
        raise UnsupportedError(f"{header.path} is not a LoRA: none of its tensors is known ({first}, ...).")
    embeddings = {name: {suffix: load(key, False) for suffix, key in keys.items()} for name, keys in bundled.items()}
    return Adapter(header, groups, embeddings, tuple(unread))


def describe(adapter: Adapter) -> Description:
    """What ``adapter`` consists of: algorithms, ranks, convolutions, number format, name families, what is not read."""
    groups = adapter.groups.values()
    low_rank = [_low_rank_shape(group) for group in groups if lora.DOWN in group.tensors]
    dtypes = Counter(info.dtype for info in adapter.header.tensors.values() if info.shape)
    return Description(
        algorithms=dict(Counter(group.algorithm.title for group in groups)),
        ranks=dict(sorted(Counter(rank for rank, _ in low_rank).items())),
        convolutions=sum(kernel > 1 for _, kernel in low_rank),
        dtype=dtypes.most_common(1)[0][0] if dtypes else "",
        prefixes=dict(Counter(_prefix(group.name) for group in groups)),
        unread=dict(Counter(item.kind for item in adapter.unsupported)),
    )


def _embeddings(keys: Iterable[str]) -> dict[str, dict[str, str]]:
    """The full names of each bundled embedding's tensors by suffix, split at the first dot, as A1111 does."""
    found: dict[str, dict[str, str]] = {}
    for key in sorted(keys):
        name, dot, suffix = key.removeprefix(EMBEDDING).partition(".")
        if key.startswith(EMBEDDING) and dot:
            found.setdefault(name, {})[suffix] = key
    return found


def _sort(name: str, suffixes: Mapping[str, str], header: Contents) -> tuple[Algorithm | None, list[Unread]]:
    """The algorithm to read a module with, if it can be read, and what of the module is not read."""
    infos = {suffix: header.tensors[key] for key, suffix in suffixes.items()}
    algorithm = algorithm_for(infos)
    kind, reason = "", ""
    if (family := family_of(infos)) is not None:
        kind, reason = family.kind, family.reason
    elif algorithm is None or not (MAGNITUDES & infos.keys()) <= algorithm.suffixes:
        kind, reason = _lonely(infos)
    elif (sentence := twice(item for item in suffixes.items() if item[1] in algorithm.suffixes)) is not None:
        kind, reason = "broken", sentence
    else:
        own = {suffix: info for suffix, info in infos.items() if suffix in algorithm.suffixes}
        kind, reason = "broken", algorithm.problem(own) or ""
    if reason or algorithm is None:
        return None, [Unread(name, tuple(suffixes), kind, reason)]
    extras = [(key, suffix) for key, suffix in suffixes.items() if suffix not in algorithm.suffixes]
    return algorithm, [Unread(name, (key,), "extra", EXTRAS.get(suffix, UNKNOWN)) for key, suffix in extras]


def _lonely(suffixes: Collection[str]) -> tuple[str, str]:
    """Kind and reason for a module that belongs to no algorithm."""
    if not MAGNITUDES.isdisjoint(suffixes):
        return "broken", LONELY_MAGNITUDE
    return ("broken", LONELY_SCALE) if set(SCALES).issuperset(suffixes) else ("unknown", UNKNOWN)


def _low_rank_shape(group: Group) -> tuple[int, int]:
    """Rank and number of kernel positions of a LoRA group."""
    core = group.tensors.get(lora.MID, group.tensors[lora.DOWN])
    return group.tensors[lora.DOWN].shape[0], math.prod(core.shape[2:])


def _prefix(name: str) -> str:
    return next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "other")


def _finite(key: str, file: Store) -> Tensor:
    tensor = file.read(key)
    if not is_finite(tensor):
        raise NumericError(
            f"{key} in {file.path} holds NaN or infinity.", hint="The file is damaged; its training broke down."
        )
    return tensor
