"""Transfer LoRA: carry a LoRA from the checkpoint it was trained on to another one.

The Python interface, stable::

    import lib_transfer

    request = lib_transfer.request("style.safetensors", source="base.safetensors", target="other.safetensors")
    report = lib_transfer.analyse(request)      # writes no output
    result = lib_transfer.transfer(request)     # writes the transferred LoRA beside the original
    print(result.path, result.report.verdict)

Importing this package imports no torch; the first use of one of its names does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lib_transfer.version import VERSION

if TYPE_CHECKING:
    from lib_transfer.api import list_methods, request
    from lib_transfer.conversion.report import TransferReport
    from lib_transfer.conversion.runtime import Runtime
    from lib_transfer.conversion.transfer import TransferResult, analyse, transfer
    from lib_transfer.errors import TransferError
    from lib_transfer.library.destination import Destination
    from lib_transfer.library.request import TransferRequest

__version__ = VERSION

_HOME = {
    "list_methods": "api",
    "request": "api",
    "Destination": "library.destination",
    "TransferReport": "conversion.report",
    "TransferRequest": "library.request",
    "Runtime": "conversion.runtime",
    "TransferResult": "conversion.transfer",
    "analyse": "conversion.transfer",
    "transfer": "conversion.transfer",
    "TransferError": "errors",
}

__all__ = [
    "Destination",
    "Runtime",
    "TransferError",
    "TransferReport",
    "TransferRequest",
    "TransferResult",
    "__version__",
    "analyse",
    "list_methods",
    "request",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
