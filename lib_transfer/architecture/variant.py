"""What sets checkpoints of one architecture apart although their modules are the same: what they predict and what they see.

Markers of the prediction: top-level tensors that ComfyUI, Forge and reForge look for. Input channels: the models' own
repositories. Of Stable Diffusion 2 only the weights tell (ComfyUI's rule). Latent consistency models, which were distilled for
few steps, take the guidance scale as an input (arXiv 2310.04378; diffusers' ``time_cond_proj_dim``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib_transfer.architecture.architecture import Architecture, Tensors, key_layout_in
from lib_transfer.architecture.layout import Slot


@dataclass(frozen=True)
class Variant:
    """A variant of an architecture. Adapters fit all of them, but were trained for one.

    Attributes:
        prediction: what the model predicts, for people; None where only the weights tell (see :func:`telltale`).
        input: what it sees beside the noisy image, for people; empty where it sees nothing else.
    """

    prediction: str | None
    input: str


EPSILON, V, FLOW = "noise (epsilon)", "velocity (v)", "flow"
V_ZERO_SNR = "velocity (v) with zero terminal SNR"

# Sets of marker tensors -> what they say; the first that are all there counts.
MARKERS = (
    (("edm_vpred.sigma_max",), "velocity (v) in EDM's scaling"),
    (("edm_mean", "edm_std"), "EDM"),
    (("v_pred", "ztsnr"), V_ZERO_SNR),
    (("v_pred",), V),
)

# Path of the first layer -> its input channels, where it sees more than the noisy image -> what else it sees.
INPUTS = {
    "input_blocks.0.0": {
        5: "the depth of a picture",
        7: "a smaller picture (upscaler)",
        8: "the picture to edit (pix2pix)",
        9: "the picture to fill and its mask (inpainting)",
    },
    "x_embedder.proj.1": {72: "the frames that go before (Video2World)"},
    "img_in": {
        128: "a control picture (Canny or Depth)",
        384: "the picture to fill and its mask (Fill)",
    },
    "patch_embedding": {
        36: "the picture to begin with (I2V)",
        48: "a picture and a control video (Fun Control)",
    },
    "x_embedder.proj": {},
    "x_embedder": {},
    "first": {},
    "init_x_linear": {},
}

EXTRAS = frozenset(("time_embed.cond_proj.weight", "time_embedding.cond_proj.weight"))
"""Keys within a UNet that a variant has beside the modules: where the guidance scale comes in. No adapter changes it."""

GUIDANCE = "the guidance scale (a latent consistency model, LCM)"

SPREAD_OF_V = 0.09
"""A spread above this of :func:`telltale`'s weight says that Stable Diffusion 2 predicts the velocity."""

_TELLTALE = "output_blocks.11.1.transformer_blocks.0.norm1"


def variant(architecture: Architecture, tensors: Tensors) -> Variant:
    """The variant that a checkpoint's keys and shapes say it is.

    Args:
        architecture: what :func:`lib_transfer.architecture.recognise` says the checkpoint is.
        tensors: its keys and shapes.
    """
    seen = (_input(architecture, tensors), GUIDANCE if _takes_guidance(architecture, tensors) else "")
    return Variant(_prediction(architecture, tensors), " and ".join(filter(None, seen)))


def telltale(architecture: Architecture, tensors: Tensors) -> str | None:
    """The tensor whose spread (standard deviation) tells what the model predicts; None where the keys tell it."""
    if variant(architecture, tensors).prediction is not None:
        return None
    return _key(architecture, tensors, _TELLTALE, bias=True)


def settled(found: Variant, spread: float) -> Variant:
    """The variant, where :func:`telltale`'s tensor spreads so much."""
    return replace(found, prediction=V if spread > SPREAD_OF_V else EPSILON)


def _prediction(architecture: Architecture, tensors: Tensors) -> str | None:
    if architecture.core.part == "transformer":
        return FLOW
    for keys, says in MARKERS:
        if all(key in tensors for key in keys):
            return says
    # Those that see more than the noisy image were made from the base model, which predicts the noise.
    plain = architecture.id == "sd2" and not _input(architecture, tensors)
    return None if plain else EPSILON


def _input(architecture: Architecture, tensors: Tensors) -> str:
    for path, known in INPUTS.items():
        key, slot = _key(architecture, tensors, path), _slot(architecture, path)
        if key is not None and slot is not None:
            channels, own = tensors[key][1], slot.shape[1]
            return "" if channels == own else known.get(channels, f"{channels} channels instead of {own}")
    return ""


def _takes_guidance(architecture: Architecture, tensors: Tensors) -> bool:
    key_layout = key_layout_in(architecture.core, tensors) if architecture.core.part == "unet" else None
    return key_layout is not None and any(key_layout.prefix + key in tensors for key in EXTRAS)


def _slot(architecture: Architecture, path: str) -> Slot | None:
    return next((slot for slot in architecture.core.slots() if slot.path == path), None)


def _key(architecture: Architecture, tensors: Tensors, path: str, *, bias: bool = False) -> str | None:
    """The weight (or bias) at this path of the diffusion model, if the file holds it."""
    key_layout, slot = key_layout_in(architecture.core, tensors), _slot(architecture, path)
    if key_layout is None or slot is None:
        return None
    keys = (stored.bias if bias else stored.weight for stored in slot.stored_as(key_layout.style))
    return next(
        (key_layout.prefix + key for key in keys if key is not None and key_layout.prefix + key in tensors), None
    )
