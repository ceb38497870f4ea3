"""Weights that are stored as codes: float8 with a scale comes out as the numbers it stands for, all else is refused.

Scaled float8 is ComfyUI's: ``<layer>.weight`` times ``<layer>.scale_weight``, a ``scaled_fp8`` beside them
(``comfy/utils.py``, ``convert_old_quants``), and since late 2025 ``<layer>.weight_scale`` with the format's name in
``<layer>.comfy_quant`` or in the metadata (``comfy/ops.py``, ``comfy/quant_ops.py``). Forge reads the former likewise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from lib_transfer.errors import UnsupportedError
from lib_transfer.formats.stores.store import Store, row_range
from lib_transfer.formats.tensor_info import FLOATS, TensorInfo

# What tells a code by the end of a tensor's name, and which it is. The first that matches counts.
_CODES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.quant_state\.bitsandbytes__nf4\Z"), "NF4 codes of bitsandbytes"),
    (re.compile(r"\.quant_state\.bitsandbytes__fp4\Z"), "FP4 codes of bitsandbytes"),
    (re.compile(r"\.(?:nested_)?(?:absmax|quant_map)\Z"), "NF4 or FP4 codes of bitsandbytes"),
    (re.compile(r"\.(?:SCB|weight_format)\Z"), "8-bit codes of bitsandbytes"),
    (re.compile(r"\.(?:wscales|wtscale|smooth_factor|smooth_factor_orig)\Z"), "4-bit codes of SVDQuant"),
    (re.compile(r"\.(?:qweight|qzeros)\Z"), "4-bit codes of GPTQ or AWQ"),
    (re.compile(r"\.weight\._(?:data|scale)\Z"), "codes of optimum-quanto"),
    (re.compile(r"\.weight_(?:scale_2|s_rel|s_channel|codebook|packed)\Z"), "4-bit codes"),
    (re.compile(r"\.weight_scale_inv\Z"), "float8 with a scale for each block"),
)
_SCALES = (".scale_weight", ".weight_scale")
_INPUT_SCALES = (".scale_input", ".input_scale")
_MARK = "scaled_fp8"
_NAMED = ".comfy_quant"
_LISTED = "_quantization_metadata"
_PLAIN_FORMATS = frozenset({"float8_e4m3fn", "float8_e5m2"})


def dequantised(store: Store) -> Store:
    """``store`` itself, or one that gives the numbers for its codes, without the tensors that only explain these.

    Raises:
        UnsupportedError: its codes are others than scaled float8; the message says which.
        BadFileError, StorageError: a tensor that explains the codes cannot be read.
    """
    tensors = store.contents.tensors
    if (found := _code(store)) is not None:
        raise UnsupportedError(
            f"{store.path} has quantised weights, {found[0]} (it holds {found[1]}); only their own library decodes them.",
            hint="Use the fp16, fp8 or GGUF version of the same model.",
        )
    scales = {weight: scale for weight, scale, _ in _scales(store)}
    explaining = set(scales.values()) | {name for name in tensors if _explains(name, tensors)}
    return ScaledStore(store, scales, explaining) if explaining else store


class ScaledStore(Store):
    """A store whose weights are read times their scales, in float32.

    Args:
        inner: the store.
        scales: the name of a weight's scale, by the weight's name.
        hidden: tensors that are not to be seen.
    """

    def __init__(self, inner: Store, scales: Mapping[str, str], hidden: set[str]) -> None:
        self._inner = inner
        self._scales = scales
        whole = inner.contents
        shown = {name: info for name, info in whole.tensors.items() if name not in hidden}
        self.contents = replace(whole, tensors=shown)

    def close(self) -> None:
        """Let go of the files."""
        self._inner.close()

    def _load(self, key: str, rows: tuple[int, int] | None) -> Tensor:
        weight = self._inner._load(key, rows)
        if key not in self._scales:
            return weight
        scale = self._inner.read(self._scales[key]).float().reshape(-1)
        if len(scale) > 1:  # one for each row
            first, last = row_range(self.info(key).shape, rows)
            scale = scale[first:last].reshape(-1, *[1] * (weight.dim() - 1))
        return weight.float() * scale


def _code(store: Store) -> tuple[str, str] | None:
    """What codes there are other than scaled float8, and what tells it; the most telling sign first."""
    tensors = store.contents.tensors
    for pattern, kind in _CODES:
        if (name := next(filter(pattern.search, tensors), None)) is not None:
            return kind, name
    for name, config in _configurations(store):
        title = config.get("format") if isinstance(config, dict) else None
        if not isinstance(config, dict) or title not in _PLAIN_FORMATS or config.get("convrot"):
            return f"codes of the format {str(title)[:40]}", name
    for name, info in tensors.items():
        if name.endswith(".weight") and len(info.shape) > 1 and info.dtype in ("I8", "U8", "I16", "I32"):
            return f"whole numbers ({info.dtype})", name
    blocks = next((scale for _, scale, plain in _scales(store) if not plain), None)
    return None if blocks is None else ("float8 with a scale for each block", blocks)


def _scales(store: Store) -> Iterator[tuple[str, str, bool]]:
    """The name of each weight that has a scale, that of the scale, and whether it is one for all or for each row."""
    tensors = store.contents.tensors
    for name, info in tensors.items():
        suffix = next((suffix for suffix in _SCALES if name.endswith(suffix)), None)
        weight = tensors.get(f"{name.removesuffix(suffix)}.weight") if suffix else None
        if suffix and weight is not None and weight.dtype in FLOATS:
            for_rows = info.shape[:1] == weight.shape[:1] and set(info.shape[1:]) <= {1}
            plain = info.dtype in FLOATS and (set(info.shape) <= {1} or for_rows)
            yield f"{name.removesuffix(suffix)}.weight", name, plain


def _explains(name: str, tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether a tensor says how weights are stored, or how they are to be multiplied, and nothing else."""
    if name == _MARK or name.endswith((f".{_MARK}", _NAMED)):
        return True
    suffix = next((suffix for suffix in _INPUT_SCALES if name.endswith(suffix)), None)
    return suffix is not None and f"{name.removesuffix(suffix)}.weight" in tensors


def _configurations(store: Store) -> Iterator[tuple[str, object]]:
    """What is said of the format of each layer, and where."""
    for name, info in store.contents.tensors.items():
        if name.endswith(_NAMED):
            small = info.dtype == "U8" and info.nbytes <= 10_000
            yield name, _json(bytes(store.read(name).numpy()) if small else b"")
    if _LISTED in store.metadata:
        listed = _json(store.metadata[_LISTED].encode("utf-8", "replace"))
        layers = listed.get("layers") if isinstance(listed, dict) else None
        yield from ((_LISTED, config) for config in (layers.values() if isinstance(layers, dict) else [None]))


def _json(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
