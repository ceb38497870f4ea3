"""Other names and another layout for the same numbers: what a file holds of a module, as programs load it.

Nothing is computed where a module keeps its extent: its tensors are copied. Factors that were made for a part of a weight, or
for several weights at once, are cut and laid side by side, with zeros where a part has no rows, which is exact as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lib_transfer.conversion.carry import ModuleResult, norm_alone
from lib_transfer.conversion.pair import Obstacle, Pair, whole_shape
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.formats.adapter import Group
from lib_transfer.formats.algorithms.algorithm import BIAS
from lib_transfer.formats.algorithms.dora import MAGNITUDES, SCALE
from lib_transfer.formats.algorithms.lora import DOWN, MID, UP
from lib_transfer.library.base import Base
from lib_transfer.update import place, take

ALPHA = "alpha"

KEPT = frozenset({"lora", "loha", "lokr", "dora-lora", "dora-loha", "dora-lokr"})
"""The algorithms that all programs read, by id."""

_STRANGE = frozenset({"scale", "scalar", "reshape_weight", "bias_indices", "bias_values", "bias_size"})
"""What not all programs read beside the tensors of these algorithms."""

_OF_BIAS = frozenset({"lora_up.bias", "lora_down.bias"})
_NUMBERS = (torch.float16, torch.bfloat16, torch.float32)


def renamings(pairs: Sequence[Pair], target: Base) -> dict[int, tuple[int, ...]]:
    """For each pair, by its place, the places of all that are written under the same name.

    Pairs are left out whose numbers are not those of the output: these are computed.
    """
    names: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        if pair.target is not None and pair.target.output_name is not None and pair.obstacle is None:
            names.setdefault(pair.target.output_name, []).append(number)
    sharing: dict[str, set[str]] = {}
    for module in target.modules:
        sharing.setdefault(str(module.output_name), set()).add(module.name)
    found: dict[int, tuple[int, ...]] = {}
    for name, places in names.items():
        own = [pairs[it] for it in places]
        if all(_is_sound(pair) for pair in own) and (_same_extent(own, sharing[name]) or _are_factors(own)):
            found |= dict.fromkeys(places, tuple(places))
    return found


def without_weight(pair: Pair) -> ModuleResult:
    """What becomes of a pair whose update is made from a weight that is not there."""
    reason = (
        f"it is {pair.group.algorithm.title} and cannot be written as the programs' layer is without the checkpoint's weight; "
        "name the checkpoint as the target"
    )
    obstacle = pair.obstacle or Obstacle("unsupported", reason)
    tensors = tuple(pair.group.keys.values())
    return ModuleResult(
        pair, ModuleReport(pair.name, pair.source.position, obstacle.decision, obstacle.reason, tensors=tensors)
    )


def renamed(pairs: Sequence[Pair], number: int, target: Base, dtype: torch.dtype) -> ModuleResult:
    """What becomes of ``pairs[number]``, all of which are written under one name; the first has the tensors of all.

    Args:
        pairs: the pairs of one output name, as :func:`renamings` has them.
        number: which of them.
        target: the base that the output is for.
        dtype: what numbers in a format that programs do not read are written in.
    """
    pair = pairs[number]
    whole = _same_extent(pairs, _sharing(pair, target))
    rank = sum(_rank(group) for group in _groups(pairs)) if pair.group.algorithm.id == "lora" else None
    norm = norm_alone(pair.group) if whole and number == 0 else _norm(pair) if not whole else 0.0
    own = None if rank is None else _rank(pair.group)
    report = ModuleReport(
        pair.name,
        pair.source.position,
        "copied",
        ", ".join(filter(None, ("as it is", pair.remark))),
        rank_before=own,
        rank_after=rank,
        norm_before=norm,
        norm_after=norm,
        energy_kept=1.0,
        change=0.0,
        target=pair.elsewhere,
        tensors=tuple(pair.group.keys.values()),
    )
    if number:
        return ModuleResult(pair, report)
    made = _copied(pair) if whole else _joined(pairs, target)
    return ModuleResult(pair, report, tensors={key: _written(tensor, dtype) for key, tensor in made.items()})


def _sharing(pair: Pair, target: Base) -> set[str]:
    assert pair.target is not None
    return {module.name for module in target.modules if module.output_name == pair.target.output_name}


def _groups(pairs: Sequence[Pair]) -> list[Group]:
    return list({pair.group.name: pair.group for pair in pairs}.values())


def _is_sound(pair: Pair) -> bool:
    """Whether a pair's tensors are those of an algorithm that all programs read, and fit."""
    group = pair.group
    if group.algorithm.id not in KEPT or not (_STRANGE | _OF_BIAS).isdisjoint(group.keys):
        return False
    bias = group.tensors.get(BIAS)
    if bias is not None and (bias.numel() != whole_shape(pair.bound)[0] or pair.target is None or not pair.target.bias):
        return False
    return group.misfit(whole_shape(pair.bound)) is None


def _same_extent(pairs: Sequence[Pair], modules: set[str]) -> bool:
    """Whether one group is for exactly the rows that its name in the output is for, in the same order."""
    _, *others = _groups(pairs)
    return (
        not others
        and {module.name for module, _ in pairs[0].bound} == modules
        and len(pairs) == len(modules)
        and all(
            pair.target is not None
            and pair.target.output is not None
            and pair.bound[pair.share].rows == pair.target.output.rows
            for pair in pairs
        )
    )


def _are_factors(pairs: Sequence[Pair]) -> bool:
    """Whether all are two factors and nothing more."""
    return all(pair.group.keys.keys() <= {UP, DOWN, ALPHA} for pair in pairs)


def _rank(group: Group) -> int:
    return group.tensors[DOWN].shape[0]


def _scale(group: Group) -> float:
    """What the product of the factors is multiplied by."""
    if group.scale is not None:
        return group.scale
    return float(group.tensors[ALPHA].reshape(()).double()) / _rank(group) if ALPHA in group.tensors else 1.0


def _norm(pair: Pair) -> float:
    return pair.group.update().rows(pair.bound[pair.share].rows).norm()


def _copied(pair: Pair) -> dict[str, Tensor]:
    """The tensors of a group under the name of the output, spelled and shaped as kohya and LyCORIS do."""
    assert pair.target is not None
    name, group, shape = pair.target.output_name, pair.group, pair.target.shape
    kernel = shape[2:] if pair.target.kind == "convolution" else ()
    idle = group.algorithm.idle(group.keys)
    tensors = {suffix: group.tensors[suffix] for suffix in group.keys if suffix not in idle}
    if ALPHA in tensors:
        tensors[ALPHA] = tensors[ALPHA].reshape(())
    if group.scale is not None or (UP in tensors and ALPHA not in tensors):
        rank = group.algorithm.rank(group.tensors) or 1
        tensors[ALPHA] = torch.tensor((1.0 if group.scale is None else group.scale) * rank)
    if UP in tensors and MID not in tensors:
        up, down = tensors[UP], tensors[DOWN]
        tensors[UP] = up.reshape(*up.shape[:2], *(1 for _ in kernel))
        tensors[DOWN] = down.reshape(down.shape[0], -1, *kernel)
    for suffix in MAGNITUDES & tensors.keys():
        magnitude = tensors.pop(suffix)
        across = suffix == SCALE and magnitude.dim() > 1 and magnitude.shape[0] == 1 < magnitude.numel()
        ones = (1,) * (len(shape) - 2)
        tensors[SCALE] = magnitude.reshape(1, -1, *ones) if across else magnitude.reshape(-1, 1, *ones)
    return {f"{name}.{suffix}": tensor for suffix, tensor in tensors.items()}


def _joined(pairs: Sequence[Pair], target: Base) -> dict[str, Tensor]:
    """Factors of the whole weight of one name: those of every group, with zeros in the rows that it is not for."""
    assert pairs[0].target is not None
    name = str(pairs[0].target.output_name)
    out = sum(module.shape[0] for module in target.modules if module.output_name == name)
    groups = _groups(pairs)
    format_ = _common([tensor for group in groups for tensor in (group.tensors[UP], group.tensors[DOWN])])
    scales = [_scale(group) for group in groups]
    largest = max(scales, key=abs)
    ups = []
    for group, scale in zip(groups, scales, strict=True):
        up = group.tensors[UP].flatten(1)
        whole = torch.zeros(out, up.shape[1], dtype=format_)
        for pair in pairs:
            if pair.group is group and pair.target is not None and pair.target.output is not None:
                place(whole, pair.target.output.rows, take(up, pair.bound[pair.share].rows).to(format_))
        # Narrower formats would round the products.
        ups.append(whole if scale == largest else whole.float() * (scale / largest))
    up = torch.cat([it.to(_common(ups)) for it in ups], dim=1)
    down = torch.cat([group.tensors[DOWN].flatten(1).to(format_) for group in groups])
    alpha = torch.tensor(largest * down.shape[0], dtype=torch.float32)
    return {f"{name}.{UP}": up, f"{name}.{DOWN}": down, f"{name}.{ALPHA}": alpha}


def _common(tensors: Sequence[Tensor]) -> torch.dtype:
    """A format that holds the numbers of all of them."""
    found = {tensor.dtype if tensor.dtype in _NUMBERS else torch.float32 for tensor in tensors}
    return found.pop() if len(found) == 1 else torch.float32


def _written(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of an output: contiguous, and in a format that all programs read."""
    if tensor.is_floating_point() and tensor.dtype not in _NUMBERS:
        tensor = tensor.to(torch.float32 if tensor.dtype == torch.float64 else dtype)
    return tensor.to("cpu").contiguous()
