"""Published models that share one architecture, whose checkpoints have the same keys and shapes, and what their names say.

Nothing in such a file tells which one it is. What is known of it beside its weights is its name and what trainers wrote into
metadata; both are words, and whatever is made of them is said to be so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lib_transfer.architecture.sampling import FLOW, V


@dataclass(frozen=True)
class Sibling:
    """One of several published models of the same architecture, or what was made of such a model.

    Attributes:
        title: what it is called, for people.
        words: found in the names of its checkpoints, in lower case.
        families: those that it is a member of; empty for any.
        few_steps: whether it was distilled to draw in few steps with little guidance or none.
        prediction: what it predicts, where that is not what others of its architecture do; "" where it is.
    """

    title: str
    words: re.Pattern[str]
    families: tuple[str, ...] = ()
    few_steps: bool = False
    prediction: str = ""

    def named(self, family: str, text: str) -> bool:
        """Whether a text about a model of this family has its name in it."""
        return (not self.families or family in self.families) and self.words.search(text.casefold()) is not None


def _word(text: str) -> re.Pattern[str]:
    """Matches a whole word, which underscores, dashes, dots and digits end too; ``-`` stands for any of these or nothing."""
    return re.compile(rf"(?<![a-z]){text.replace('-', '[-_. ]?')}(?![a-z])")


_SDXL, _FLUX, _KLEIN, _WAN = ("sdxl",), ("flux-dev",), ("flux2-klein-4b", "flux2-klein-9b"), ("wan-14b",)
_STABLE = ("sd1", "sd2", "sdxl")

SIBLINGS: tuple[Sibling, ...] = (
    Sibling("Illustrious", re.compile(r"illustrious"), _SDXL),
    Sibling("NoobAI", re.compile(r"noob-?ai"), _SDXL),
    Sibling("Pony", re.compile(r"pony"), _SDXL),
    Sibling("Animagine", re.compile(r"animagine"), _SDXL),
    Sibling("v-prediction", _word("v-pred(?:iction)?"), _STABLE, prediction=V),
    Sibling("rectified flow", re.compile(r"rectified|(?<![a-z])rf(?![a-z])"), _SDXL, prediction=FLOW),
    Sibling("preview", _word("preview-\\d*"), ("anima",)),
    Sibling("base", _word("base"), ("z-image", *_KLEIN)),
    Sibling("distilled", _word("distill(?:ed)?"), _KLEIN),
    Sibling("raw", _word("raw"), ("krea-2",)),
    Sibling("Kontext", _word("kontext"), _FLUX),
    Sibling("Krea", _word("krea"), _FLUX),
    Sibling("Fill", _word("fill"), _FLUX),
    Sibling("Edit", _word("edit(?:-plus|-\\d{4})?"), ("qwen-image",)),
    Sibling("Layered", _word("layered"), ("qwen-image",)),
    Sibling("Wan 2.1", re.compile(r"wan[-_. ]?2[-_. ]?1(?!\d)"), _WAN),
    Sibling("Wan 2.2", re.compile(r"wan[-_. ]?2[-_. ]?2(?!\d)"), _WAN),
    Sibling("high noise", _word("high-noise"), _WAN),
    Sibling("low noise", _word("low-noise"), _WAN),
    Sibling("Turbo", _word("turbo"), few_steps=True),
    Sibling("Lightning", _word("lightning"), few_steps=True),
    Sibling("LCM", _word("lcm"), few_steps=True),
    Sibling("Hyper", re.compile(r"(?<![a-z])hyper(?:[-_ ]?(?:sd|flux|xl)|(?![a-z]))"), few_steps=True),
    Sibling("DMD", _word("dmd2?"), few_steps=True),
    Sibling("schnell", _word("schnell"), few_steps=True),
)
"""In the order in which they are told."""


def named(family: str, texts: Iterable[str]) -> tuple[Sibling, ...]:
    """Those whose names are in one of these texts about a model of this family."""
    texts = list(texts)
    return tuple(sibling for sibling in SIBLINGS if any(sibling.named(family, text) for text in texts))


def in_words(siblings: Sequence[Sibling]) -> str:
    """Their names, for a sentence."""
    return " and ".join(sibling.title for sibling in siblings) or "of no special kind"
