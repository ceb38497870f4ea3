"""The texts in an adapter's header: what a transferred file says of itself, and what a file says of its base.

Pure functions from texts to texts. The ``ss_*`` names are kohya-ss/sd-scripts', ``modelspec.*`` is
https://github.com/Stability-AI/ModelSpec 1.0.0. No date and no path is written: the same request gives the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PREFIX = "transfer_lora."

DATA_HASH = f"{PREFIX}data_sha256"
"""Of an output of ours: the SHA-256 of its tensors' bytes. Tools that change the tensors renew ``sshs_*``, but not this."""

MATCH = f"{PREFIX}match"
"""Of an output of ours: what running the models said of it."""

BLOCKS = f"{PREFIX}blocks"
"""Of an output of ours for a model that has relatives of other depths: how many blocks the model has that it is for."""

# Texts about the parent's own bytes, its base or its worth that would be untrue of the output.
_STALE = frozenset(
    {
        "sshs_model_hash",
        "sshs_legacy_hash",
        "modelspec.hash_sha256",
        "ss_base_model",
        BLOCKS,
        "modelspec.anima_source_blocks",
        MATCH,
    }
)
_ABSENT = frozenset({"", "none", "null"})


@dataclass(frozen=True)
class BaseFacts:
    """What the output says of the checkpoint it is for; None leaves an entry out.

    Attributes:
        name: the checkpoint's file name.
        sha256: the SHA-256 of the whole checkpoint file, in hex.
        legacy_hash: the old eight-digit WebUI hash.
        base_model_version: the text for ``ss_base_model_version``, such as ``sdxl_base_v1-0``.
        v2: the value for ``ss_v2``.
        architecture: the text for ``modelspec.architecture``, such as ``stable-diffusion-xl-v1-base/lora``.
        implementation: the text for ``modelspec.implementation``.
        blocks: how many blocks it has, where it has relatives of other depths.
        blocks_entry: the entry that other programs write and read that number in.
    """

    name: str | None
    sha256: str | None
    legacy_hash: str | None
    base_model_version: str | None
    v2: bool
    architecture: str | None
    implementation: str | None
    blocks: int | None = None
    blocks_entry: str = ""


@dataclass(frozen=True)
class ParentFacts:
    """What the output says of the adapter it was made from: its file name and the SHA-256 of the file."""

    name: str
    sha256: str


@dataclass(frozen=True)
class SourceHints:
    """What an adapter says of the checkpoint it was trained on; None where it says nothing.

    Attributes:
        name: the checkpoint's file name or repository, without folders.
        legacy_hash: the old eight-digit WebUI hash.
        sha256: the SHA-256 of the checkpoint file, in lower-case hex; some tools write only its first digits.
        base_version: ``ss_base_model_version``.
        architecture: ``modelspec.architecture``.
        trigger_words: the phrases that the author names.
    """

    name: str | None
    legacy_hash: str | None
    sha256: str | None
    base_version: str | None
    architecture: str | None
    trigger_words: tuple[str, ...]


def derived_metadata(
    parent: Mapping[str, str],
    *,
    stem: str,
    base: BaseFacts,
    made_from: ParentFacts,
    ranks: Sequence[int],
    conv_ranks: Sequence[int],
    request_json: str,
    report_json: str,
    version: str,
) -> dict[str, str]:
    """The metadata of a transferred LoRA, without the ``sshs_*`` hashes, which the writer adds.

    Everything of the parent is kept but what would be untrue of the output; see :func:`clean_metadata` for texts that
    cannot be kept.

    Args:
        parent: the parent's metadata.
        stem: the output's file name without its extension.
        base: the target checkpoint.
        made_from: the parent file.
        ranks: the ranks of the output's linear modules (1x1 convolutions included); alpha is the rank.
        conv_ranks: the ranks of its modules with a larger kernel.
        request_json: the request, as JSON.
        report_json: the summary of the report, as JSON.
        version: the version of this project.
    """
    kept, _ = clean_metadata(parent)
    replaced: dict[str, str | None] = {
        **dict.fromkeys(_STALE),
        "ss_output_name": stem,
        **_base_entries(base),
        **_network_entries(ranks, conv_ranks),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": stem,
        f"{PREFIX}version": version,
        f"{PREFIX}request": request_json,
        f"{PREFIX}report": report_json,
        f"{PREFIX}parent_name": made_from.name,
        f"{PREFIX}parent_sha256": made_from.sha256,
        f"{PREFIX}parent_sshs_model_hash": kept.get("sshs_model_hash"),
    }
    return {key: _unicode(text) for key, text in {**kept, **replaced}.items() if text is not None}


def kept_entries(parent: Mapping[str, str], ranked: bool) -> dict[str, str]:
    """The metadata that stay as they were, because the base and the numbers did.

    Args:
        parent: the metadata of the file that was converted.
        ranked: whether the output has factors whose rank its own metadata tell.
    """
    base = ("ss_sd_model_name", "ss_sd_model_hash", "ss_new_sd_model_hash", "ss_base_model_version", "ss_v2")
    spec = ("modelspec.architecture", "modelspec.implementation")
    network = ("ss_network_module", "ss_network_args", "ss_network_alpha", *(() if ranked else ("ss_network_dim",)))
    return {key: _unicode(parent[key]) for key in (*base, *spec, *network) if key in parent}


def clean_metadata(metadata: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The texts that can be carried to another file, and a note for each that cannot.

    A text must be Unicode; ``ss_tag_frequency`` must be a JSON object, because A1111's card editor fails on any other.
    """
    kept: dict[str, str] = {}
    notes: list[str] = []
    for key, text in metadata.items():
        if not (isinstance(key, str) and isinstance(text, str) and _is_unicode(key) and _is_unicode(text)):
            notes.append(f"The metadata entry {key!r} is not text and was dropped.")
        elif key == "ss_tag_frequency" and not _is_json_object(text):
            notes.append("The metadata entry ss_tag_frequency is not a JSON object and was dropped.")
        else:
            kept[key] = text
    return kept, notes


def source_hints(metadata: Mapping[str, str]) -> SourceHints:
    """What ``metadata`` says of the checkpoint the adapter was trained on (or, transferred, is for)."""
    name = _value(metadata, "ss_sd_model_name")
    phrases = _value(metadata, "modelspec.trigger_phrase") or ""
    return SourceHints(
        name=re.split(r"[/\\]", name)[-1] or None if name else None,
        legacy_hash=_hex(_value(metadata, "ss_sd_model_hash"), 8, 8),
        sha256=_hex(_value(metadata, "ss_new_sd_model_hash"), 10, 64),
        base_version=_value(metadata, "ss_base_model_version") or _value(metadata, "ss_base_model"),
        architecture=_value(metadata, "modelspec.architecture"),
        trigger_words=tuple(phrase.strip() for phrase in phrases.split(",") if phrase.strip()),
    )


def _base_entries(base: BaseFacts) -> dict[str, str | None]:
    return {
        "ss_sd_model_name": base.name,
        "ss_sd_model_hash": base.legacy_hash,
        "ss_new_sd_model_hash": base.sha256,
        "ss_base_model_version": base.base_model_version,
        "ss_v2": str(base.v2),
        "modelspec.architecture": base.architecture,
        "modelspec.implementation": base.implementation,
        **({BLOCKS: str(base.blocks), base.blocks_entry: str(base.blocks)} if base.blocks is not None else {}),
    }


def _network_entries(ranks: Sequence[int], conv_ranks: Sequence[int]) -> dict[str, str | None]:
    dimension = _one_or_dynamic(ranks or conv_ranks)
    convolution = _one_or_dynamic(conv_ranks)
    arguments = None if convolution is None else json.dumps({"conv_dim": convolution, "conv_alpha": convolution})
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": dimension,
        "ss_network_alpha": dimension,
        "ss_network_args": arguments,
    }


def _one_or_dynamic(ranks: Sequence[int]) -> str | None:
    different = set(ranks)
    return None if not different else str(different.pop()) if len(different) == 1 else "Dynamic"


def _value(metadata: Mapping[str, str], key: str) -> str | None:
    text = metadata.get(key)
    return text.strip() if isinstance(text, str) and text.strip().lower() not in _ABSENT else None


def _hex(text: str | None, shortest: int, longest: int) -> str | None:
    digits = (text or "").lower().removeprefix("0x")
    return digits if re.fullmatch(rf"[0-9a-f]{{{shortest},{longest}}}", digits) else None


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unicode(text: str) -> str:
    """``text`` with what no file can hold (halves of surrogate pairs, from undecodable file names) replaced."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _is_json_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
