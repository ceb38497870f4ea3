"""The autoencoder of a checkpoint, read when a picture is encoded or decoded for the first time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lib_transfer.errors import UnsupportedError
from lib_transfer.evaluation.loading.configurations import autoencoder_config
from lib_transfer.evaluation.loading.packages import networks
from lib_transfer.evaluation.loading.weights import need_all, put
from lib_transfer.formats.checkpoint import Store, open_checkpoint
from lib_transfer.library.base import Base

FOLDER = "vae"
PREFIXES = ("first_stage_model.", "vae.", "")
FIRST = "encoder.conv_in.weight"
"""A weight that is called so in all files."""

_ATTENTION = (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out"))
# Part of a path in diffusers -> in a single file (CompVis/stable-diffusion, ldm/modules/diffusionmodules/model.py).
SINGLE_FILE = (
    (".mid_block.resnets.0.", ".mid.block_1."),
    (".mid_block.resnets.1.", ".mid.block_2."),
    *((f".mid_block.attentions.0.{theirs}", f".mid.attn_1.{ours}") for theirs, ours in _ATTENTION),
    (".down_blocks.", ".down."),
    (".resnets.", ".block."),
    (".downsamplers.0.", ".downsample."),
    (".upsamplers.0.", ".upsample."),
    (".conv_shortcut", ".nin_shortcut"),
    (".conv_norm_out", ".norm_out"),
)
# Up to 0.14, diffusers called an autoencoder's attention so.
OLD_DIFFUSERS = ((".to_q", ".query"), (".to_k", ".key"), (".to_v", ".value"), (".to_out.0", ".proj_attn"))
_UP = re.compile(r"\.up_blocks\.(\d)\.")
LEVELS = 4


class Autoencoder:
    """The autoencoder of a base, in float32 whatever the device: that of XL gives infinities in half precision.

    Args:
        base: the checkpoint, open for as long as this is used.
        device: the device that it runs on.
        scale: what latents are multiplied by.
    """

    def __init__(self, base: Base, device: torch.device, scale: float) -> None:
        self._base, self._device, self._scale = base, device, scale
        self._network: Any = None

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """The latents ``(n, 4, height / 8, width / 8)`` that pictures ``(n, 3, height, width)`` most likely have.

        Raises:
            UnsupportedError: the checkpoint has no autoencoder.
        """
        network = self._loaded()
        made = [
            network.encode(picture.to(self._device)).latent_dist.mode().cpu() for picture in pictures.float()[:, None]
        ]
        return torch.cat(made) * self._scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """The pictures, as :meth:`encode` takes them, of latents."""
        network = self._loaded()
        made = [
            network.decode(latent.to(self._device)).sample.cpu() for latent in (latents.float() / self._scale)[:, None]
        ]
        return torch.cat(made)

    def _loaded(self) -> Any:
        if self._network is None:
            self._network = _loaded(self._base, self._device)
        return self._network


class _Where(NamedTuple):
    store: Store
    prefix: str


def need_autoencoder(base: Base) -> None:
    """Raise unless there is an autoencoder with the checkpoint; nothing is read.

    Raises:
        UnsupportedError: there is none.
        BadFileError, StorageError: its file cannot be read.
    """
    with _found(base):
        pass


@contextmanager
def _found(base: Base) -> Iterator[_Where]:
    """Where the weights are: in the checkpoint, or in the folder ``vae`` beside its other parts."""
    with ExitStack() as stack:
        stores = [base.checkpoint]
        if (base.path / FOLDER).is_dir():
            stores.append(stack.enter_context(open_checkpoint(base.path / FOLDER)))
        found = (_Where(store, prefix) for store in stores for prefix in PREFIXES if prefix + FIRST in store.shapes)
        where = next(found, None)
        if where is None:
            raise UnsupportedError(
                f"{base.path.name} has no autoencoder (VAE), so no pictures can be made of its latents.",
                hint="Take a checkpoint with its VAE in it, or a diffusers folder with a folder vae.",
            )
        yield where


def _loaded(base: Base, device: torch.device) -> Any:
    with _found(base) as (store, prefix):
        width = store.shapes[prefix + FIRST][0]
        with torch.device("meta"):
            network = networks().autoencoder(**autoencoder_config(width)).eval()
        for path, module in network.named_modules():
            own = next((name for name in names(path) if f"{prefix}{name}.weight" in store.shapes), None)
            if own is None or not isinstance(getattr(module, "weight", None), Tensor):
                continue
            weight = store.read(f"{prefix}{own}.weight", None, torch.float32)
            bias = f"{prefix}{own}.bias"
            # Attention's layers are convolutions of one pixel in single files.
            shaped = weight.reshape(weight.shape[: module.weight.dim()]) if weight.shape[2:] == (1, 1) else weight
            put(
                module,
                shaped,
                store.read(bias, None, torch.float32) if bias in store.shapes else None,
                device,
                torch.float32,
                f"{base.path.name}: {prefix}{own}.weight",
            )
    need_all(network, base.path.name)
    return network


def names(path: str) -> tuple[str, ...]:
    """What files call the module at ``path`` of diffusers' autoencoder: as diffusers, single files, and old diffusers do."""
    single = _UP.sub(lambda found: f".up.{LEVELS - 1 - int(found[1])}.", path)
    old = path
    for theirs, ours in SINGLE_FILE:
        single = single.replace(theirs, ours)
    for theirs, ours in OLD_DIFFUSERS:
        old = old.replace(theirs, ours)
    return path, single, old
