"""The packages that running a checkpoint needs: the extra ``models`` of this project. Nothing else needs them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lib_transfer.errors import UnsupportedError

# What is imported -> what is installed for it.
PACKAGES = {"diffusers": "diffusers", "transformers": "transformers", "tokenizers": "transformers", "ftfy": "ftfy"}

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
"""The file with CLIP's vocabulary, which is in the packages ``open_clip`` and ``clip``; the WebUIs install one of them."""

INSTALL = (
    'Install them with: pip install "transfer-lora[models]", or: pip install diffusers transformers open_clip_torch.'
)


@dataclass(frozen=True)
class Networks:
    """The classes of the networks.

    Attributes:
        unet: diffusers' ``UNet2DConditionModel``.
        autoencoder: diffusers' ``AutoencoderKL``.
        text: transformers' ``CLIPTextModelWithProjection``.
        text_config: transformers' ``CLIPTextConfig``.
    """

    unet: Any
    autoencoder: Any
    text: Any
    text_config: Any


def need_packages() -> None:
    """Raise unless everything that running a checkpoint needs is installed; imports none of it.

    Raises:
        UnsupportedError: something is missing; the message says what, and how to install it.
    """
    missing = dict.fromkeys(package for module, package in PACKAGES.items() if find_spec(module) is None)
    names = [*missing, *(["open_clip_torch (for CLIP's vocabulary)"] if vocabulary() is None else [])]
    if names:
        raise UnsupportedError(f"To run a checkpoint, this Python lacks {', '.join(names)}.", hint=INSTALL)


def vocabulary() -> Path | None:
    """The file with CLIP's vocabulary; None where no installed package has it. The packages are not imported."""
    specs = (find_spec(package) for package in ("open_clip", "clip"))
    places = (Path(place) for spec in specs if spec is not None for place in spec.submodule_search_locations or ())
    return next((place / VOCABULARY for place in places if (place / VOCABULARY).is_file()), None)


@cache
def networks() -> Networks:
    """The classes of the networks.

    Raises:
        UnsupportedError: a package is missing, or cannot be imported.
    """
    need_packages()
    try:
        diffusers, transformers = importlib.import_module("diffusers"), importlib.import_module("transformers")
        return Networks(
            diffusers.UNet2DConditionModel,
            diffusers.AutoencoderKL,
            transformers.CLIPTextModelWithProjection,
            transformers.CLIPTextConfig,
        )
    except Exception as error:
        # Whatever a package raises whose own requirements are not met: these two import what they need when it is asked for.
        raise UnsupportedError(
            f"diffusers and transformers are installed, but cannot be imported: {error}",
            hint="Install versions of them that fit each other, for instance the newest of both.",
        ) from error
