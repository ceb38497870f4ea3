"""How adapters name the places of a text encoder."""

from __future__ import annotations

from lib_transfer.architecture.names import Family, dotted


def text_families(part: str, *, underscored: tuple[str, ...], folder: str, comfy: str) -> tuple[Family, ...]:
    """The families of names of a text encoder in Hugging Face's spelling, with and without the ``text_model`` level.

    Args:
        part: ``te1``, ...
        underscored: prefixes of names with underscores; the first is written.
        folder: the prefix that diffusers gives it (``text_encoder_2.``); PEFT puts ``base_model.model.`` behind it.
        comfy: what ComfyUI calls it (``clip_l``).
    """
    prefixes = (folder, f"{folder}base_model.model.", f"text_encoders.{comfy}.transformer.")
    return (
        *(Family(part, style, prefix) for style in ("hf", "hf bare") for prefix in underscored),
        *(family for style in ("hf", "hf bare") for family in dotted(part, style, *prefixes)),
    )
