"""What the numbers count in the files of cloneofsimo's ``lora`` (2022-23): ``unet:7:up``, ``text_encoder:3:down``.

The metadata name the classes whose layers were changed (``lora_diffusion/lora.py``, ``save_safeloras``), but not in which order
the model of the day had them: the shapes tell. Only the first half of a feed-forward has eight times as many outputs as inputs,
and the model's middle is its widest block.
"""

from __future__ import annotations

from collections.abc import Mapping

from lib_transfer.formats.tensor_info import TensorInfo
from lib_transfer.spelling import EXTENDED, FORWARD, NEW, OLD

Modules = Mapping[str, Mapping[str, str]]

_LAYERS = 9  # of a transformer block that are numbered
_RESIDUAL = "ResnetBlock2D"


def told_apart(modules: Modules, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> Modules:
    """The modules, those of a UNet that are numbered under the name of the order that the file has."""
    count = sum(name.startswith(f"{OLD}:") for name in modules)
    order = EXTENDED if _RESIDUAL in metadata.get("unet", "") else _order(modules, tensors, count)
    if order == OLD:
        return modules
    return {order + name.removeprefix(OLD) if name.startswith(f"{OLD}:") else name: it for name, it in modules.items()}


def _order(modules: Modules, tensors: Mapping[str, TensorInfo], count: int) -> str:
    def width(number: int, end: str) -> int:
        keys = modules.get(f"{OLD}:{number}", {})
        shapes = [tensors[key].shape for key in keys if key.endswith(f":{end}")]
        return shapes[0][0 if end == "up" else 1] if shapes and len(shapes[0]) > 1 else 0

    if count % _LAYERS or width(8, "up") != 8 * width(8, "down") or not width(8, "up"):
        return OLD
    # The last block is the middle, or the last on the way up, which is as wide as the first on the way down.
    return FORWARD if width(count - _LAYERS, "up") == width(0, "up") else NEW
