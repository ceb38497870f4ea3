"""The output: tensors that both hosts load, and metadata that describes the transfer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.carry import ModuleResult, Settings
from lib_transfer.conversion.joining import join
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.formats.adapter import Adapter, describe
from lib_transfer.formats.identity import legacy_a1111_hash
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.metadata import BaseFacts, ParentFacts, derived_metadata
from lib_transfer.formats.unread import EMBEDDING
from lib_transfer.library.base import Base
from lib_transfer.library.request import TransferRequest
from lib_transfer.update import Update
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
    if result.is_share:
        return result
    return _made(result, result.report, result.update if writes else None, dtype)


def joined(results: Sequence[ModuleResult], target: Base, settings: Settings, dtype: torch.dtype) -> list[ModuleResult]:
    """The results, the shares of every fused weight joined: the first of them has the tensors of all."""
    shares: dict[str, list[int]] = {}
    for number, result in enumerate(results):
        if result.is_share and result.pair.target is not None:
            shares.setdefault(str(result.pair.target.output_name), []).append(number)
    done = list(results)
    for numbers in shares.values():
        whole, reports = join([results[n] for n in numbers], target, settings)
        for place, (n, report) in enumerate(zip(numbers, reports, strict=True)):
            done[n] = _made(results[n], report, whole if place == 0 else None, dtype)
    return done


def _made(result: ModuleResult, report: ModuleReport, update: Update | None, dtype: torch.dtype) -> ModuleResult:
    module = result.pair.target
    tensors = tensors_of(module, update, dtype) if module is not None and update is not None else {}
    return ModuleResult(result.pair, report, tensors=tensors)


def all_tensors(results: Sequence[ModuleResult], target: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of the whole output."""
    tensors = {key: tensor for result in results for key, tensor in result.tensors.items()}
    written = [result.pair.target for result in results if result.tensors and result.pair.target]
    return tensors | missing_partners(written, target, dtype)


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
        request: what the output is the result of.
        parent: the metadata of the adapter that it is made from.
        ranks: the modules that low-rank factors are written for, each with their rank.
        target: the base that the output is for.
        report_json: what is to be said of it.
        stem: the output's name without its ending.
    """
    by_kind: dict[bool, set[int]] = {False: set(), True: set()}
    for module, rank in ranks:
        by_kind[max(_kernel(module) or (1,)) > 1].add(rank)
    return derived_metadata(
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


def ranks(results: Iterable[ModuleResult]) -> list[tuple[Module, int]]:
    """The modules that low-rank factors were written for, each with their rank."""
    return [(r.pair.target, r.report.rank_after) for r in results if r.pair.target and r.report.rank_after is not None]


def base_facts(request: TransferRequest, target: Base) -> BaseFacts:
    """What an output's metadata say of the base that it is for."""
    architecture = target.architecture
    return BaseFacts(
        name=target.path.name,
        sha256=request.target_sha256,
        legacy_hash=None if target.path.is_dir() else legacy_a1111_hash(target.path),
        base_model_version=architecture.base_model_version,
        v2=architecture.v2,
        architecture=architecture.modelspec_architecture,
        implementation=architecture.modelspec_implementation,
    )


def tensors_of(module: Module, update: Update, dtype: torch.dtype) -> dict[str, Tensor]:
    """What is written of one module, under the name that both hosts load; empty where they load nothing on it.

    A1111 reads a bias difference only beside ``diff``, and ``w_norm`` only beside ``b_norm``: a missing partner is
    written as zeros. A norm without a bias gets none: Forge looks for what it belongs to, and leaves out everything where
    that is missing too often.
    """
    name, weight, bias = module.output_name, update.weight, update.bias
    if name is None:
        return {}
    if update.factors is not None:
        return lora_tensors(name, *update.factors, _kernel(module), dtype)
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
    names = {module.name for module in written}
    groups = {module.fused for module in written if module.fused is not None}
    partners = [m for m in target.modules if m.fused in groups and m.name not in names and m.output_name is not None]
    zeros: dict[str, Tensor] = {}
    for module in partners:
        out, into = module.matrix_shape
        zeros |= lora_tensors(str(module.output_name), torch.zeros(out, 1), torch.zeros(1, into), None, dtype)
    return zeros


def _kernel(module: Module) -> tuple[int, int] | None:
    return (module.shape[2], module.shape[3]) if module.kind == "convolution" else None
