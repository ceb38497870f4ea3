"""What the process has loaded that those of :mod:`tests.forked` are forked from: the command line, and diffusers where it is.

And the names of all architectures, which take each of them about a second to list.
"""

from __future__ import annotations

from contextlib import suppress

from lib_transfer.architecture.identity import identify_adapter
from lib_transfer.architecture.registry import recognise
from lib_transfer.errors import UnsupportedError
from lib_transfer.evaluation.loading import packages
from tests import forked

__all__ = ["forked"]

with suppress(UnsupportedError):
    packages.networks()
with suppress(UnsupportedError):
    recognise({})
identify_adapter(["none"])
