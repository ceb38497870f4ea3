"""How the model of an architecture is run: what it predicts, how far its noise levels are shifted, and what guides it.

Shifts: ComfyUI's ``sampling_settings``, which Forge and Forge Neo share. Where they are given as ``mu``, as for Flux and what
follows it, the shift is ``exp(mu)``. Guidance: the models' own repositories.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

EPSILON, V, FLOW = "noise (epsilon)", "velocity (v)", "flow"
V_ZERO_SNR = f"{V} with zero terminal SNR"
IN_EDM = f"{FLOW}, in EDM's scaling"


@dataclass(frozen=True)
class Sampling:
    """How a model is run. Fine-tunes may be run otherwise (see :mod:`~.siblings`).

    Attributes:
        prediction: what it predicts, for people; "" where each checkpoint's file tells (see :mod:`~.variant`).
        shift: ``s`` of ``sigma = s t / (1 + (s - 1) t)`` (Esser et al. 2024, equation 23); None for what is no flow.
        distilled: whether the guidance scale is an input of the model (distilled guidance), not a mixture of two predictions.
    """

    prediction: str
    shift: float | None = None
    distilled: bool = False


SAMPLINGS: dict[str, Sampling] = {
    **dict.fromkeys(("sd1", "sd2"), Sampling("")),
    **dict.fromkeys(("sdxl", "ssd-1b", "vega", "koala-700m", "koala-1b", "sdxl-refiner"), Sampling("")),
    **dict.fromkeys(("sd3-medium", "sd3.5-medium", "sd3.5-large"), Sampling(FLOW, 3.0)),
    "flux-dev": Sampling(FLOW, exp(1.15), distilled=True),
    "flux-schnell": Sampling(FLOW, 1.0),
    "chroma": Sampling(FLOW, 1.0),
    "cosmos-predict2-2b": Sampling(IN_EDM),
    "anima": Sampling(FLOW, 3.0),
    "z-image": Sampling(FLOW, 3.0),
    "lumina-2": Sampling(FLOW, 6.0),
    **dict.fromkeys(("flux2-klein-4b", "flux2-klein-9b"), Sampling(FLOW, exp(2.02))),
    "flux2-dev": Sampling(FLOW, exp(2.02), distilled=True),
    "qwen-image": Sampling(FLOW, exp(1.15)),
    **dict.fromkeys(("wan-1.3b", "wan-5b", "wan-14b", "wan-i2v-14b"), Sampling(FLOW, 8.0)),
    "ernie-image": Sampling(FLOW, 3.0),
    "krea-2": Sampling(FLOW, exp(1.15)),
    "auraflow": Sampling(FLOW, 1.73),
}
"""By the id of the architecture."""
