"""The output: tensors that both hosts load, and metadata that describes the transfer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_transfer.architecture.module import Module
from lib_transfer.conversion.carry import Carried, Settings
from lib_transfer.conversion.joining import join
from lib_transfer.conversion.report import ModuleReport
from lib_transfer.formats.adapter import Adapter, describe
from lib_transfer.formats.identity import legacy_a1111_hash
from lib_transfer.formats.lora_tensors import lora_tensors
from lib_transfer.formats.metadata import BaseFacts, ParentFacts, derived_metadata
from lib_transfer.formats.unread import EMBEDDING
from lib_transfer.formats.update import Dense, Norm
from lib_transfer.library.base import Base
from lib_transfer.library.request import TransferRequest
from lib_transfer.linalg.factors import Factors
from lib_transfer.version import VERSION

DTYPES: Mapping[str, torch.dtype] = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_OF_INPUT: Mapping[str, str] = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp32"}


def output_dtype(setting: str | None, adapter: Adapter) -> torch.dtype:
    """The number format asked for, or the one that most of the adapter's tensors have (fp16 for float8)."""
    return DTYPES[setting or _OF_INPUT.get(describe(adapter).dtype, "fp16")]


@dataclass(frozen=True)
class Piece:
    """One module's part of the output.

    Attributes:
        report: what became of the module.
        module: of the target.
        tensors: ready to be written; none where it is left out, or joined with others.
        share: what is to be joined with the other parts of a fused weight, see :func:`joined`.
    """

    report: ModuleReport
    module: Module | None
    tensors: dict[str, Tensor]
    share: Carried | None = None


def piece(carried: Carried, dtype: torch.dtype, *, writes: bool = True) -> Piece:
    """The part of the output that one carried pair makes; without tensors where nothing is to be written.

    A share of a fused weight is kept in any case: how much of it comes through is known when it is joined with the others.
    """
    module = carried.pair.target
    if carried.is_share:
        return Piece(carried.report, module, {}, carried)
    return Piece(carried.report, module, tensors_of(module, carried.update, dtype) if writes else {})


def joined(pieces: Sequence[Piece], target: Base, settings: Settings, dtype: torch.dtype) -> list[Piece]:
    """The pieces, the shares of every fused weight joined: the first of them holds the tensors of all."""
    shares: dict[str, list[int]] = {}
    for number, it in enumerate(pieces):
        if it.share is not None and it.module is not None:
            shares.setdefault(str(it.module.output_name), []).append(number)
    result = list(pieces)
    for numbers in shares.values():
        parts = [part for n in numbers if (part := pieces[n].share) is not None]
        whole = join(parts, target, settings)
        for n, report in zip(numbers, whole.reports, strict=True):
            result[n] = Piece(report, pieces[n].module, {})
        first = result[numbers[0]]
        result[numbers[0]] = dataclasses.replace(first, tensors=tensors_of(first.module, whole.update, dtype))
    return result


def all_tensors(pieces: Sequence[Piece], target: Base, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of the whole output."""
    tensors = {key: tensor for p in pieces for key, tensor in p.tensors.items()}
    return tensors | missing_partners([p.module for p in pieces if p.tensors and p.module], target, dtype)


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
    pieces: Sequence[Piece],
    target: Base,
    report_json: str,
    stem: str,
) -> dict[str, str]:
    """The metadata of the output named ``stem``, whose parent says ``parent`` of itself."""
    return derived_metadata(
        parent,
        stem=stem,
        base=base_facts(request, target),
        made_from=ParentFacts(request.adapter_name, request.adapter_sha256),
        ranks=sorted(ranks(pieces, convolution=False)),
        conv_ranks=sorted(ranks(pieces, convolution=True)),
        request_json=request.to_json(),
        report_json=report_json,
        version=VERSION,
    )


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


def tensors_of(module: Module | None, update: Factors | Dense | Norm | None, dtype: torch.dtype) -> dict[str, Tensor]:
    """What is written of one module, under the name that both hosts load; empty where nothing is.

    A1111 reads a bias difference only beside ``diff``, and ``w_norm`` only beside ``b_norm``: a missing partner is
    written as zeros. A norm without a bias gets none: Forge looks for what it belongs to, and leaves out everything where
    that is missing too often.
    """
    if module is None or module.output_name is None or update is None:
        return {}
    name = module.output_name
    if isinstance(update, Dense):
        weight = torch.zeros(module.shape) if update.weight is None else update.weight.reshape(-1, *module.shape[1:])
        named = {f"{name}.diff": weight, f"{name}.diff_b": update.bias}
    elif isinstance(update, Norm):
        given = update.weight if update.weight is not None else update.bias
        assert given is not None
        named = {f"{name}.w_norm": torch.zeros_like(given) if update.weight is None else update.weight}
        if module.bias is not None:
            named[f"{name}.b_norm"] = torch.zeros_like(given) if update.bias is None else update.bias
    else:
        return lora_tensors(name, update.up, update.down, _kernel(module), dtype)
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


def ranks(pieces: Sequence[Piece], *, convolution: bool) -> set[int]:
    """The ranks written for linear layers and 1x1 convolutions, or for larger convolutions."""
    return {
        p.report.rank_after
        for p in pieces
        if p.report.rank_after is not None and p.module and (max(_kernel(p.module) or (1,)) > 1) == convolution
    }


def _kernel(module: Module) -> tuple[int, int] | None:
    return (module.shape[2], module.shape[3]) if module.kind == "convolution" else None
