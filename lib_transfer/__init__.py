"""Transfer LoRA: carry a LoRA from the checkpoint it was trained on to another one.

The Python interface, stable::

    import lib_transfer

    job = lib_transfer.request("style.safetensors", source="base.safetensors", target="other.safetensors")
    report = lib_transfer.analyse(job)      # writes no output
    result = lib_transfer.transfer(job)     # writes the transferred LoRA beside the original
    print(result.path, result.report.verdict)

    lib_transfer.convert("style.safetensors")    # the same numbers under names that load
    lib_transfer.batch(["loras"], target="other.safetensors", checkpoints="Stable-diffusion")
    lib_transfer.verify("style.safetensors", source="base.safetensors", target="other.safetensors")
    lib_transfer.inspect("style.safetensors")

Importing this package imports no torch; the first use of one of its names does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lib_transfer.version import VERSION

if TYPE_CHECKING:
    from lib_transfer.api import batch, convert, list_methods, request, transfer
    from lib_transfer.batches.report import BatchReport
    from lib_transfer.conversion.jobs import analyse
    from lib_transfer.conversion.publish import TransferResult
    from lib_transfer.conversion.report import TransferReport
    from lib_transfer.conversion.runtime import Runtime
    from lib_transfer.errors import TransferError
    from lib_transfer.evaluation import Evaluation, verify
    from lib_transfer.library.destination import Destination
    from lib_transfer.library.inspection import inspect
    from lib_transfer.library.job import Job
    from lib_transfer.library.request import TransferRequest

__version__ = VERSION

_HOME = {
    "batch": "api",
    "convert": "api",
    "list_methods": "api",
    "request": "api",
    "BatchReport": "batches.report",
    "Destination": "library.destination",
    "Evaluation": "evaluation",
    "Job": "library.job",
    "TransferReport": "conversion.report",
    "TransferRequest": "library.request",
    "Runtime": "conversion.runtime",
    "TransferResult": "conversion.publish",
    "analyse": "conversion.jobs",
    "inspect": "library.inspection",
    "transfer": "api",
    "verify": "evaluation",
    "TransferError": "errors",
}

__all__ = [
    "BatchReport",
    "Destination",
    "Evaluation",
    "Job",
    "Runtime",
    "TransferError",
    "TransferReport",
    "TransferRequest",
    "TransferResult",
    "__version__",
    "analyse",
    "batch",
    "convert",
    "inspect",
    "list_methods",
    "request",
    "transfer",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
