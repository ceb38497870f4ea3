"""Tensors that are recognised by their names but not read, and the sentence that says why."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Unread:
    """Tensors of one module that were not read.

    Attributes:
        name: the module as the file names it.
        tensors: the full names of its tensors that were not read.
        kind: a short stable code: the family, ``broken`` for a group that should be readable, ``unknown``, or ``extra``
            for what stands beside a group that was read.
        reason: one sentence.
        noun: what they are in plain words, one of :data:`PLURALS`.
        size: Frobenius norm of the change that they stand for; None where it is not known.
    """

    name: str
    tensors: tuple[str, ...]
    kind: str
    reason: str
    noun: str = "module"
    size: float | None = None

    @property
    def unmeasured(self) -> bool:
        """Whether they are a part of the update whose size is not known.

        A scale without factors does nothing, and an embedding changes no weight.
        """
        return self.size is None and self.noun not in ("scale", "embedding")


@dataclass(frozen=True)
class Family:
    """An algorithm known by its tensors' names: any suffix that matches makes the whole module its."""

    kind: str
    suffix: re.Pattern[str]
    reason: str


def _family(kind: str, suffix: str, reason: str) -> Family:
    return Family(kind, re.compile(suffix), reason)


# In order: the first that matches says what the module is.
FAMILIES: tuple[Family, ...] = (
    _family(
        "dynamic",
        r"dyn_(?:up|down)",
        "Factors named dyn_up and dyn_down are not supported: no known tool writes them, and those that read them disagree "
        "about which of the two comes first.",
    ),
    _family(
        "token embedding",
        r"lora_embedding_[AB](?:\.[^.]+)?",
        "A LoRA on an embedding of tokens is not supported: no WebUI loads one.",
    ),
    _family(
        "adalora",
        r"(?:lora_E|(?:lora_)?ranknum)(?:\.[^.]+)?",
        "AdaLoRA (PEFT's lora_E) is not supported.",
    ),
    _family(
        "t-lora",
        r"lambda_layer|[pq]_layer\.weight|base_(?:p|q|lambda)",
        "T-LoRA (LyCORIS) is not supported: what it does depends on the timestep.",
    ),
    _family(
        "peft",
        r"(?:ia3_l|boft_[RS]|boft_P|vera_lambda_[bd]|vera_[AB]|hra_u|fourierft_spectrum)(?:\.[^.]+)?",
        "This algorithm of PEFT is not supported: no tool for images writes it.",
    ),
)

EMBEDDING = "bundle_emb."

PLURALS = {
    "module": "modules",
    "bias": "biases",
    "difference": "differences",
    "magnitude": "magnitudes",
    "scale": "scales",
    "embedding": "embeddings",
    "tensor": "tensors",
}
"""What a tensor that was not carried is in plain words, and the same of several."""

# Tensors that stand beside a group that is read; no sentence is about one base alone.
EXTRAS: dict[str, str] = {
    "bias": "A tensor named bias is not carried: some programs add it to the change of the weight, others put it in the "
    "place of the layer's own bias, and nothing in the file tells which is meant.",
    "lora_up.bias": "A bias of the up factor beside a magnitude is not carried: no trainer makes one.",
    "lora_down.bias": "A bias of the down factor beside a magnitude is not carried: no trainer makes one.",
    "diff_b": "A difference of the bias that is no vector of floating-point numbers, or stands beside that of a "
    "normalisation, is not carried.",
    "diff": "A full difference beside another algorithm is not carried: Forge and ComfyUI take it in the place of the other, "
    "so what the two mean together is not known.",
}
NOUNS = {
    **dict.fromkeys(("bias", "lora_up.bias", "lora_down.bias", "diff_b", "b_norm"), "bias"),
    **dict.fromkeys(("diff", "w_norm"), "difference"),
    **dict.fromkeys(("alpha", "scale", "scalar"), "scale"),
    **dict.fromkeys(("dora_scale", "lora_magnitude_vector", "magnitude"), "magnitude"),
}
"""What a tensor is by its suffix, where it stands alone or beside a group."""

LEARNED = "<embed>"
"""What the metadata of cloneofsimo's ``lora`` say of a tensor that is a learned token, by the token."""
LEARNED_TOKEN = (
    "A learned token (textual inversion) of cloneofsimo's format is not carried: no WebUI loads one from a LoRA. Save it as an "
    "embedding of its own."
)
LONELY_SCALE = "A scale (alpha) without factors."
LONELY_MAGNITUDE = "A magnitude (DoRA) without the factors that it belongs to."
LONELY_BIAS = "A bias of a factor, or a new shape, without the factors."
UNKNOWN = "The tensor's name belongs to no known algorithm."


def family_of(suffixes: Iterable[str]) -> Family | None:
    """The unsupported algorithm that a module with these suffixes is written in, or None."""
    suffixes = list(suffixes)
    return next((family for family in FAMILIES if any(family.suffix.fullmatch(suffix) for suffix in suffixes)), None)


def twice(suffixes: Iterable[tuple[str, str]]) -> str | None:
    """A sentence about two tensors, of these full names and suffixes, that are the same thing to their module; or None."""
    seen: dict[str, str] = {}
    for key, suffix in suffixes:
        if suffix in seen:
            return f"{seen[suffix]} and {key} are the same tensor under two names."
        seen[suffix] = key
    return None
