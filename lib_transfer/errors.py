"""Errors that a person can act on.

Every error the project raises on purpose is a :class:`TransferError`: its message says what is wrong and where (file,
module, both shapes), its ``hint`` says what to do about it. ``exit_code`` is what the command line ends with.
"""

from __future__ import annotations


class TransferError(Exception):
    """Something is wrong that the message explains; ``str()`` gives the message and the hint.

    Args:
        message: what is wrong and where, as a sentence.
        hint: what the person can do, as a sentence; may be empty.
    """

    exit_code = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class BadFileError(TransferError, ValueError):
    """A file cannot be read: damaged, hostile, or not what its name says.

    ``reason`` is a short stable code (``truncated``, ``header_json``, ``layout``, ...) for tables and tests.
    """

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class UnsupportedError(TransferError, ValueError):
    """The input is sound, but this project cannot transfer it; the message says why."""


class MismatchError(TransferError, ValueError):
    """Two inputs do not belong together (adapter and base, source and target); the message names both."""


class RequestError(TransferError, ValueError):
    """A setting is unknown, out of range, or contradicts another."""


class OutputExistsError(TransferError, FileExistsError):
    """The output exists and is something else than what would be written."""


class NumericError(TransferError, ArithmeticError):
    """A tensor holds NaN or infinity, or a computation produced one; the message names the tensor."""


class StorageError(TransferError, OSError):
    """Reading or writing failed: no space, no permission, a broken disk."""

    exit_code = 1


class NotEnoughMemoryError(TransferError, MemoryError):
    """The computation needs more memory than there is."""

    exit_code = 1


class CancelledError(TransferError):
    """The person stopped the job; nothing half-done was left behind."""

    exit_code = 130

    def __init__(self, message: str = "Stopped.", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)


def internal(error: BaseException) -> TransferError:
    """What is said of an exception that is nobody's fault but ours, with the name of its class."""
    made = TransferError(
        f"This is an error in Transfer LoRA itself: {type(error).__name__}: {error}",
        hint="Please report it with the lines of the log or the console.",
    )
    made.exit_code = 1
    return made
