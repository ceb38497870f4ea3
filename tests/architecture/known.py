"""Architectures by name, for the tests."""

from __future__ import annotations

import pytest

from lib_transfer.architecture import Architecture, architectures


def known(name: str) -> Architecture:
    """The architecture with this id."""
    return next(architecture for architecture in architectures() if architecture.id == name)


ALL = pytest.mark.parametrize("architecture", architectures(), ids=lambda architecture: architecture.id)
BOTH = pytest.mark.parametrize("architecture", [known("sd1"), known("sdxl")], ids=["sd1", "sdxl"])
