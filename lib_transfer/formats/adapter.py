"""An adapter file as named groups of tensors, each knowing its algorithm and how to give its update."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lib_transfer.errors import BadFileError, NumericError, UnsupportedError
from lib_transfer.formats.algorithms import algorithm_for, lora
from lib_transfer.formats.algorithms.algorithm import BIAS, SCALES, Algorithm, checked, vector
from lib_transfer.formats.algorithms.dora import MAGNITUDES
from lib_transfer.formats.algorithms.full import NormDifference
from lib_transfer.formats.algorithms.peft_oft import PeftOft
from lib_transfer.formats.checkpoint import Contents, open_checkpoint
from lib_transfer.formats.finite import is_finite
from lib_transfer.formats.numbered import told_apart
from lib_transfer.formats.peft_config import PeftConfig, Said, peft_config
from lib_transfer.formats.tensor_info import FLOATS, TensorInfo
from lib_transfer.formats.tensor_names import split_names
from lib_transfer.formats.unread import (
    EMBEDDING,
    EXTRAS,
    LEARNED,
    LEARNED_TOKEN,
    LONELY_BIAS,
    LONELY_MAGNITUDE,
    LONELY_SCALE,
    NOUNS,
    UNKNOWN,
    Unread,
    family_of,
    twice,
)
from lib_transfer.kinds import kind_of
from lib_transfer.spelling import usual
from lib_transfer.update import Update

MAX_TENSORS = 20_000


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
    "net.",
    "unet.",
    "text_conditioner.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "text_encoders.",
    "clip_l.",
    "clip_g.",
    "t5.",
    "unet:",
    "text_encoder:",
    "unet",
)


@contextmanager
def open_adapter(path: str | os.PathLike[str]) -> Iterator[Adapter]:
    """The LoRA file at ``path``, of which no more is in memory than what is asked for; closed at the end.

    A module that is broken or written in an algorithm that is not supported is reported in ``unsupported``; the others
    can be read. Every number is looked at once, tensor by tensor, before anything is done with any.

    Raises:
        BadFileError: the file is damaged or beyond the limits (see :func:`~.checkpoint.open_checkpoint`); reading a
            tensor raises it when the file changed meanwhile.
        UnsupportedError: it is a sound file of another kind, as its tensor names tell; no tensor was loaded.
        NumericError: a tensor holds NaN or infinity.
        StorageError: the file cannot be read.
    """
    with open_checkpoint(path) as file:

        def read(key: str) -> Tensor:
            file.need_unchanged()
            return file.read(key)

        adapter = _assembled(file.contents, read)
        for key in _that_matter(adapter):
            if not is_finite(read(key)):
                raise NumericError(
                    f"{file.contents.name_in_file(key)} in {file.path} holds NaN or infinity.",
                    hint="The file is damaged; its training broke down.",
                )
        yield adapter


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """The LoRA file at ``path``, all of it in memory.

    Raises:
        BadFileError, UnsupportedError, NumericError, StorageError: as :func:`open_adapter`.
    """
    with open_adapter(path) as adapter:
        groups = {name: replace(group, tensors=dict(group.tensors)) for name, group in adapter.groups.items()}
        embeddings = {name: dict(tensors) for name, tensors in adapter.embeddings.items()}
        return replace(adapter, groups=groups, embeddings=embeddings, differences=dict(adapter.differences))


def outline_adapter(path: str | os.PathLike[str]) -> Adapter:
    """The LoRA file at ``path`` from its header alone, with tensors that have shapes and no numbers.

    Enough for :func:`describe`, in a few milliseconds for a file of any size.

    Raises:
        BadFileError, UnsupportedError, StorageError: as :func:`read_adapter`.
    """
    with open_checkpoint(path) as file:
        header = file.contents
    return _assembled(header, lambda key: torch.empty(header.tensors[key].shape, device="meta"))


def _assembled(header: Contents, load: Callable[[str], Tensor]) -> Adapter:
    """The adapter, with tensors from ``load``, which is called when they are asked for."""
    if not header.tensors:
        raise BadFileError(f"{header.path} holds no tensors.", reason="empty")
    if len(header.tensors) > MAX_TENSORS:
        count = len(header.tensors)
        raise BadFileError(f"{header.path} holds {count} tensors; the limit is {MAX_TENSORS}.", reason="too_many")
    kind = kind_of({key: info.shape for key, info in header.tensors.items()})
    if kind is not None and kind.role != "adapter":
        raise UnsupportedError(
            f"{header.path} is {kind.title}, not a LoRA of an image model.", hint="Choose a LoRA file."
        )
    groups: dict[str, Group] = {}
    unread: list[Unread] = []
    config = peft_config(header.path, header.metadata)
    bundled = _embeddings(header.tensors)
    own = {key for suffixes in bundled.values() for key in suffixes.values()}
    modules = told_apart(split_names(header.tensors.keys() - own), header.tensors, header.metadata)
    for name, suffixes in sorted(modules.items()):
        group, rest = _sorted(name, suffixes, header, config, load)
        unread.extend(rest)
        if group is not None:
            groups[name] = group
    if not groups and not bundled and all(item.kind == "unknown" for item in unread):
        first = ", ".join(sorted(header.tensors)[:3])
        raise UnsupportedError(f"{header.path} is not a LoRA: none of its tensors is known ({first}, ...).")
    embeddings = {name: _Asked(keys, load) for name, keys in bundled.items()}
    differences = {key: key for item in unread if item.noun == "difference" for key in item.tensors}
    return Adapter(header, groups, embeddings, tuple(unread), _Asked(differences, load))


class _Asked(Mapping[str, Tensor]):
    """Tensors by suffix, each read when it is asked for."""

    def __init__(self, keys: Mapping[str, str], load: Callable[[str], Tensor]) -> None:
        self._keys, self._load = keys, load

    def __getitem__(self, suffix: str) -> Tensor:
        return self._load(self._keys[suffix])

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def describe(adapter: Adapter) -> Description:
    """What ``adapter`` consists of: algorithms, ranks, convolutions, number format, name families, what is not read."""
    groups = adapter.groups.values()
    low_rank = [_low_rank_shape(group, adapter.header) for group in groups if lora.DOWN in group.keys]
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


def _sorted(
    name: str, suffixes: Mapping[str, str], header: Contents, config: PeftConfig, load: Callable[[str], Tensor]
) -> tuple[Group | None, list[Unread]]:
    """The group that the tensors of a module make, if it can be read, and what of the module is not read."""
    infos = {suffix: header.tensors[key] for key, suffix in suffixes.items()}
    algorithm = algorithm_for(infos)
    said = Said()
    kind, reason, noun = "broken", "", "module"
    if header.metadata.get(name) == LEARNED:
        return None, [Unread(name, tuple(suffixes), "embedding", LEARNED_TOKEN, "embedding")]
    if (family := family_of(infos)) is not None:
        kind, reason = family.kind, family.reason
    elif algorithm is None or not (MAGNITUDES & infos.keys()) <= algorithm.suffixes:
        kind, reason, noun = _lonely(infos)
    elif (sentence := twice(item for item in suffixes.items() if item[1] in algorithm.suffixes | {BIAS})) is not None:
        reason = sentence
    else:
        own = {suffix: info for suffix, info in infos.items() if suffix in algorithm.suffixes}
        said = config.of(name, algorithm, own)
        reason = algorithm.problem(own) or said.problem or ""
    if reason or algorithm is None:
        return None, [Unread(name, tuple(suffixes), kind, reason, "module" if algorithm is not None else noun)]
    if isinstance(algorithm, PeftOft):
        algorithm = PeftOft(said.exact, name.startswith("lora_") or "ot_revision" in header.metadata)
    read = algorithm.suffixes | ({BIAS} if _reads_bias(algorithm, infos) else set())
    keys = {suffix: key for key, suffix in suffixes.items() if suffix in read}
    extras = [(key, suffix) for key, suffix in suffixes.items() if suffix not in read]
    return Group(name, keys, _Asked(keys, load), algorithm, said.scale), [
        Unread(name, (key,), "extra", EXTRAS.get(suffix, UNKNOWN), NOUNS.get(suffix, "tensor"))
        for key, suffix in extras
    ]


def _reads_bias(algorithm: Algorithm, infos: Mapping[str, TensorInfo]) -> bool:
    """Whether a difference of the bias among these tensors is read beside the algorithm."""
    bias = infos.get(BIAS)
    return (
        bias is not None and len(bias.shape) == 1 and bias.dtype in FLOATS and not isinstance(algorithm, NormDifference)
    )


def _lonely(suffixes: Collection[str]) -> tuple[str, str, str]:
    """Kind, reason and noun for a module that belongs to no algorithm."""
    if not MAGNITUDES.isdisjoint(suffixes):
        return "broken", LONELY_MAGNITUDE, "magnitude"
    if set(SCALES).issuperset(suffixes):
        return "broken", LONELY_SCALE, "scale"
    if {*SCALES, lora.BIAS_UP, lora.BIAS_DOWN, lora.RESHAPE}.issuperset(suffixes):
        return "broken", LONELY_BIAS, "bias"
    return "unknown", UNKNOWN, "tensor"


def _low_rank_shape(group: Group, header: Contents) -> tuple[int, int]:
    """Rank and number of kernel positions of a LoRA group."""
    core = header.tensors[group.keys.get(lora.MID, group.keys[lora.DOWN])].shape
    return header.tensors[group.keys[lora.DOWN]].shape[0], math.prod(core[2:])


def _prefix(name: str) -> str:
    spelled = (name, usual(name))
    return next((prefix for prefix in _PREFIXES if any(it.startswith(prefix) for it in spelled)), "other")


def _that_matter(adapter: Adapter) -> Iterator[str]:
    """The full names of the tensors whose numbers are read."""
    for group in adapter.groups.values():
        idle = group.algorithm.idle(group.keys)
        yield from (key for suffix, key in group.keys.items() if suffix not in idle)
    for name, suffixes in adapter.embeddings.items():
        yield from (f"{EMBEDDING}{name}.{suffix}" for suffix in suffixes)
