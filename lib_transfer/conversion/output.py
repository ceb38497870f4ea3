"""The output: tensors that both hosts load, and metadata that describes the transfer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.blocks import core_depth, number
from lib_transfer.conversion.carry import ModuleResult, Settings
from lib_transfer.conversion.compact import LARGEST_RANK
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.conversion.unseen import partners
from lib_transfer.formats.adapter import Adapter
from lib_transfer.formats.description import describe
from lib_transfer.formats.identity import legacy_a1111_hash
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.metadata import BaseFacts, ParentFacts, derived_metadata, kept_entries
from lib_transfer.formats.unread import EMBEDDING
from lib_transfer.library.base import Base
from lib_transfer.library.request import TransferRequest
from lib_transfer.update import Rows, Update, joined
from lib_transfer.version import VERSION

DTYPES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_OF_INPUT: Mapping[str, str] = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp32"}


def output_dtype(setting: str | None, adapter: Adapter) -> torch.dtype:
    """The number format asked for, or the one that most of the adapter's tensors have (fp16 for float8)."""
    return DTYPES[setting or _OF_INPUT.get(describe(adapter).dtype, "fp16")]


def with_tensors(result: ModuleResult, dtype: torch.dtype, *, writes: bool = True) -> ModuleResult:
    """A result with its part of the output in place of the update; without tensors where nothing is to be written.

    A share of a fused weight stays as it is: how much of it comes through is known when it is joined with the others.
    """
    if result.share is not None:
        return result
    return _made(result, result.report, result.update if writes else None, dtype)


def join_shares(
    results: Sequence[ModuleResult], target: Base, settings: Settings, dtype: torch.dtype
) -> list[ModuleResult]:
    """The results, the shares of every fused weight joined: the first of them has the tensors of all.

    The shares lie one below the other, so their factors become one pair of the sum of their ranks, which is exact; it is then
    cut to the rank that is asked for, and what the cut took is added to each share's report. Rows without a share stay.
    """
    shares: dict[str, list[int]] = {}
    for place, result in enumerate(results):
        if result.share is not None and result.pair.target is not None:
            shares.setdefault(str(result.pair.target.output_name), []).append(place)
    done = list(results)
    for name, numbers in shares.items():
        out = sum(module.shape[0] for module in target.modules if module.output_name == name)
        whole, reports = _join([results[n] for n in numbers], out, settings)
        for n, report in zip(numbers, reports, strict=True):
            done[n] = _made(results[n], report, whole if n == numbers[0] else None, dtype)
    return done


def _join(parts: Sequence[ModuleResult], out: int, settings: Settings) -> tuple[Update, list[ModuleReport]]:
    """The update of the fused weight of ``out`` rows that ``parts`` are shares of, and the report of each part after it."""
    shares = [part.share for part in parts if part.share is not None]
    whole = joined(shares, out)
    if whole.factors is None:
        return whole, [part.report for part in parts]
    cut = whole.recompressed(_rank(parts, settings.rank))
    return cut, [
        _measured(part, *share, cut, settings.strength * part.pair.factor) if share[1].changes_weight else part.report
        for part, share in zip(parts, shares, strict=True)
    ]


def _rank(parts: Sequence[ModuleResult], rank: str | int) -> int | None:
    """The rank of the whole weight's update; None for everything."""
    if rank != "same":
        return None if rank == "full" else int(rank)
    ranks: dict[str, int] = {}
    for part in parts:
        if part.before is None:  # a difference of the bias alone has no rank
            continue
        assert part.before.factors is not None
        own, known = part.before.factors.rank, ranks.get(part.pair.group.name, 0)
        # The parts of a group that was made with a rank share it; those of another kind have a rank each.
        made_with_rank = part.before.rank is not None
        ranks[part.pair.group.name] = max(known, own) if made_with_rank else min(known + own, LARGEST_RANK)
    return sum(ranks.values())


def _measured(part: ModuleResult, rows: Rows, update: Update, cut: Update, strength: float) -> ModuleReport:
    """The part's report after the cut of the whole weight's update, in which ``update`` was at ``rows``."""
    got = cut.rows(rows)
    report, before = part.report, update.norm()
    kept = (got.norm() / before) ** 2 if before > 0 else 1.0
    change = report.change
    if change is not None and part.before is not None and report.norm_before and strength:
        unscaled = got.scaled(1 / strength).factors
        assert unscaled is not None
        change = part.before.distance(unscaled) / report.norm_before
    return dataclasses.replace(
        report,
        rank_after=cut.rank,
        norm_after=got.norm(),
        energy_kept=None if report.energy_kept is None else report.energy_kept * kept,
        change=change,
    )


def _made(result: ModuleResult, report: ModuleReport, update: Update | None, dtype: torch.dtype) -> ModuleResult:
    module = result.pair.target
    tensors = tensors_of(module, update, dtype) if module is not None and update is not None else {}
    return ModuleResult(result.pair, report, tensors=tensors)


def all_tensors(results: Sequence[ModuleResult], target: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of the whole output."""
    tensors = {key: tensor for result in results for key, tensor in result.tensors.items()}
    written = [result.pair.target for result in results if result.tensors and result.pair.target]
    copies = [(result.pair.target, copy, result.tensors) for result in results for copy in result.pair.copies]
    for module, copy, made in copies:
        if module is not None:
            tensors |= _under(copy, module, made)
    written += [copy for _, copy, made in copies if made]
    return tensors | missing_partners(written, target, dtype) | idle_blocks(written, target, dtype)


def _under(copy: Module, module: Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a module under the name of its copy in an inserted block."""
    return {f"{copy.output_name}{key.removeprefix(str(module.output_name))}": tensor for key, tensor in tensors.items()}


def idle_blocks(written: Sequence[Module], target: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """A rank-1 zero for every block that nothing is written for, where the target is a deeper relative; else nothing.

    Forge Neo and other programs take a LoRA's highest block for the depth that it is for, some of them the first block that it
    lacks, and move the blocks of one that seems to be for another depth. One that reaches to the last block, without a gap, is
    left alone by all of them.
    """
    depths, part = target.architecture.depths, target.architecture.core.part
    reached = {number(module) for module in written if module.position.part == part} - {-1}
    if depths is None or not reached or core_depth(target) <= depths.known[0]:
        return {}
    zeros: dict[str, Tensor] = {}
    for module in target.modules:
        if module.position.part == part and module.position.role == depths.copied[0] and number(module) not in reached:
            zeros |= _zero(module, dtype)
    return zeros


def embeddings(carried: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of bundled textual-inversion embeddings, under the names by which A1111 finds them."""
    return {
        f"{EMBEDDING}{name}.{suffix}": tensor.contiguous()
        for name, tensors in carried.items()
        for suffix, tensor in tensors.items()
    }


def metadata(
    request: TransferRequest,
    parent: Mapping[str, str],
    ranks: Iterable[tuple[Module, int]],
    target: Base,
    report_json: str,
    stem: str,
) -> dict[str, str]:
    """The metadata of an output.

    Args:
        request: the request that the output is the result of.
        parent: the metadata of the adapter that it is made from.
        ranks: the modules that low-rank factors are written for, each with their rank.
        target: the base that the output is for.
        report_json: the summary of the report.
        stem: the output's name without its ending.
    """
    by_kind: dict[bool, set[int]] = {False: set(), True: set()}
    for module, rank in ranks:
        by_kind[max(_kernel(module) or (1,)) > 1].add(rank)
    made = derived_metadata(
        parent,
        stem=stem,
        base=base_facts(request, target),
        made_from=ParentFacts(request.adapter_name, request.adapter_sha256),
        ranks=sorted(by_kind[False]),
        conv_ranks=sorted(by_kind[True]),
        request_json=request.to_json(),
        report_json=report_json,
        version=VERSION,
    )
    return {**made, **kept_entries(parent, bool(by_kind[False] or by_kind[True]))} if request.architecture else made


def ranks(results: Iterable[ModuleResult]) -> list[tuple[Module, int]]:
    """The modules that low-rank factors were written for, each with their rank."""
    return [(r.pair.target, r.report.rank_after) for r in results if r.pair.target and r.report.rank_after is not None]


def base_facts(request: TransferRequest, target: Base) -> BaseFacts:
    """What an output's metadata say of the base that it is for."""
    architecture = target.architecture
    return BaseFacts(
        name=None if request.architecture else target.path.name,
        sha256=request.target_sha256 or None,
        legacy_hash=None if request.architecture or target.path.is_dir() else legacy_a1111_hash(target.path),
        base_model_version=architecture.base_model_version,
        v2=architecture.v2,
        architecture=architecture.modelspec_architecture,
        implementation=architecture.modelspec_implementation,
        blocks=None if architecture.depths is None else core_depth(target),
        blocks_entry="" if architecture.depths is None else architecture.depths.entry,
    )


def tensors_of(module: Module, update: Update, dtype: torch.dtype) -> dict[str, Tensor]:
    """What is written of one module, under the name that both hosts load; empty where they load nothing on it.

    Forge and ComfyUI add a bias difference to the bias whatever stands beside it. A1111 passes over one beside factors,
    fails where nothing is beside it, and reads ``w_norm`` only beside ``b_norm``: a missing partner is written as zeros.
    A norm without a bias gets none: Forge looks for what it belongs to, and leaves out everything where that is missing
    too often.
    """
    name, weight, bias = module.output_name, update.weight, update.bias
    if name is None:
        return {}
    if update.factors is not None:
        beside = {} if bias is None else {f"{name}.diff_b": bias.to(dtype).contiguous()}
        return lora_tensors(name, *update.factors, _kernel(module), dtype) | beside
    named: dict[str, Tensor | None]
    if module.kind == "norm" and update.is_of_norm:
        zeros = torch.zeros(module.shape)
        named = {f"{name}.w_norm": zeros if weight is None else weight}
        if module.bias is not None:
            named[f"{name}.b_norm"] = zeros if bias is None else bias
    else:
        rows = update.shape[0] if bias is None else bias.shape[0]
        difference = torch.zeros(rows, *module.shape[1:]) if weight is None else weight.reshape(rows, *module.shape[1:])
        named = {f"{name}.diff": difference, f"{name}.diff_b": bias}
    return {key: tensor.to(dtype).contiguous() for key, tensor in named.items() if tensor is not None}


def missing_partners(written: Iterable[Module], target: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """Rank-1 zeros for those of q, k, v and out of an OpenCLIP attention that nothing is written for.

    A1111 applies a LoRA to such an attention only when all four are in the file, and skips the layer silently otherwise.
    """
    written = list(written)
    names = {module.name for module in written}
    groups = {module.fused for module in written if module.fused is not None}
    missing = [m for m in target.modules if m.fused in groups and m.name not in names and m.output_name is not None]
    unseen = {m.name: m for module in written if not module.weight and module.fused for m in partners(module, target)}
    missing += [m for m in unseen.values() if m.name not in names]
    zeros: dict[str, Tensor] = {}
    for module in missing:
        zeros |= _zero(module, dtype)
    return zeros


def _zero(module: Module, dtype: torch.dtype) -> dict[str, Tensor]:
    out, into = module.matrix_shape
    return lora_tensors(str(module.output_name), torch.zeros(out, 1), torch.zeros(1, into), None, dtype)


def _kernel(module: Module) -> tuple[int, ...] | None:
    return module.shape[2:] if module.kind == "convolution" else None
