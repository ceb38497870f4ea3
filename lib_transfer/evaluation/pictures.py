"""Pictures that models make themselves, so that no data are needed, and what they look like to a model with other latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lib_transfer.evaluation.kept import Kept
from lib_transfer.evaluation.losses import finite, predictions, probes, seeded
from lib_transfer.models.apply import applied
from lib_transfer.models.model import Model
from lib_transfer.models.sampling import sample
from lib_transfer.progress import Progress
from lib_transfer.update import Updates


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures that a model made.

    Attributes:
        clean: their latents ``(n, channels, height, width)``, float32 on the CPU.
        seen: the pictures ``(n, 3, height, width)``, from -1 to 1; None where every model that needs them has the same latents.
    """

    clean: Tensor
    seen: Tensor | None = None

    def latents_of(self, model: Model) -> Tensor:
        """The same pictures in the latents of another model than the one that made them, at the size that it runs at."""
        if self.seen is None:
            return self.clean
        height, width = (
            latents * pixels // theirs
            for latents, pixels, theirs in zip(model.shape[1:], self.seen.shape[2:], self.clean.shape[2:], strict=True)
        )
        return encoded(model, self.seen, (height, width))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """What is kept of them, under names that begin with ``name``."""
        return {f"{name}.clean": self.clean, **({} if self.seen is None else {f"{name}.seen": self.seen})}

    @classmethod
    def of(cls, kept: dict[str, Tensor], name: str) -> Pictures:
        """What :meth:`tensors` gave."""
        return cls(kept[f"{name}.clean"], kept.get(f"{name}.seen"))


@dataclass(frozen=True, eq=False)
class Own:
    """A checkpoint's own pictures, made without the LoRA, and what it says of them.

    Attributes:
        pictures: the pictures.
        predicted: what the model predicts for their probes (:func:`~lib_transfer.evaluation.losses.probes`).
    """

    pictures: Pictures
    predicted: Tensor


def own_kept(kept: Kept, draws: int) -> Own | None:
    """A checkpoint's own pictures, where they are kept with all that belongs to them."""
    found = kept.get("own and said", draws)
    return None if found is None else Own(Pictures.of(found, "own"), found["predicted"])


def own_pictures(
    model: Model, prompts: Sequence[str], seed: int, steps: int, draws: int, kept: Kept, progress: Progress, *,
    decode: bool,
) -> Own:  # fmt: skip
    """What a checkpoint makes by itself, and what it says of it.

    Args:
        model: the model.
        prompts: the prompt of each picture; no trigger words are in them.
        seed: the seed of all noise.
        steps: the sampling steps of each.
        draws: how many times and noises each picture gets.
        kept: what belongs to this checkpoint.
        progress: asked before every run whether to stop; it gets a step for every run.
        decode: whether the pictures are needed by a model with other latents.
    """
    made = shown(model, pictures(model, {}, prompts, "own", seed, kept, progress, steps), decode=decode)
    predicted = predictions(
        model, probes(made.clean, prompts, draws, seed), progress, "what checkpoints say of pictures"
    )
    kept.put("own and said", draws, tensors={**made.tensors("own"), "predicted": predicted})
    return Own(made, predicted)


def shown(model: Model, clean: Tensor, *, decode: bool) -> Pictures:
    """Latents of a model as pictures; decoded where a model with other latents needs them, one after the other."""
    if not decode:
        return Pictures(clean)
    return Pictures(clean, torch.cat([model.decode(latent[None]).float().cpu() for latent in clean]))


def pictures(
    model: Model, adapter: Updates, prompts: Sequence[str], what: str, seed: int, kept: Kept, progress: Progress,
    steps: int,
) -> Tensor:  # fmt: skip
    """Latents that a model makes ``(n, channels, height, width)``, each kept as soon as it is made.

    Args:
        model: the model; it runs ``2 * steps`` times for each prompt.
        adapter: the adapter that is on it.
        prompts: a prompt for each.
        what: the name that they are kept under.
        seed: the seed of the noise that the sampling begins with.
        kept: where they are kept, and found again.
        progress: asked before every run whether to stop; it gets a step for every run.
        steps: the sampling steps of each.

    Raises:
        NumericError: the model makes NaN or infinity.
    """

    def one(place: int, prompt: str) -> Tensor:
        own = int(torch.randint(2**31, (), generator=seeded(seed, what, place)))
        with applied(model.places, adapter):
            return finite(sample(model, [prompt], own, progress, steps=steps), "The model's samples").float().cpu()

    made = [
        kept.made(what, place, make=lambda place=place, prompt=prompt: one(place, prompt))  # type: ignore[misc]
        for place, prompt in enumerate(prompts)
    ]
    return torch.cat(made)


def encoded(model: Model, seen: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures ``(n, 3, height, width)`` in a model's own latents, each encoded by itself at the size that it runs at.

    Args:
        model: the model.
        seen: the pictures, from -1 to 1.
        size: height and width in pixels that they are given to it at.
    """

    def resized(picture: Tensor) -> Tensor:
        if picture.shape[2:] == size:
            return picture
        return functional.interpolate(picture, size, mode="bilinear", align_corners=False, antialias=True)

    made = torch.cat([model.encode(resized(picture[None])).float().cpu() for picture in seen])
    return finite(made, "The model's latents")
