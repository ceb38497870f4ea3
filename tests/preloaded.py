"""What the process has loaded that those of :mod:`tests.forked` are forked from: the command line, and diffusers where it is."""

from __future__ import annotations

from contextlib import suppress

from lib_transfer.errors import UnsupportedError
from lib_transfer.evaluation.loading import packages
from tests import forked

__all__ = ["forked"]

with suppress(UnsupportedError):
    packages.networks()
