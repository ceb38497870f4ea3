"""Rewrites the prompts of a generation before the program parses them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_transfer.errors import CancelledError
from lib_transfer.library.checkpoints import Checkpoint
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.prompt import infotext
from lib_transfer.webui.prompt.overrides import Overrides, overrides_of
from lib_transfer.webui.prompt.resolution import Resolved, Resolver
from lib_transfer.webui.prompt.tags import EVERY, OURS, Tag, holds, replaced

logger = logging.getLogger("transfer_lora")

_ATTRIBUTE = "transfer_lora_pass"
_FIRST = ("all_prompts", "all_negative_prompts")
_HIRES = ("all_hr_prompts", "all_hr_negative_prompts")
_MAIN = ("main_prompt", "main_negative_prompt")
_SAME = "Use same checkpoint"


@dataclass
class Pass:
    """What is known of one generation.

    Attributes:
        kinds: the kinds of tags that ask for transferred LoRAs.
        box: whether the box is ticked.
        overrides: what the plot's axes ask for.
        known: what each name stands for, by name and checkpoint.
        own: names that we wrote ourselves, with the checkpoint; they stand for themselves.
        tags: the tags that were rewritten, each with its new name.
    """

    kinds: tuple[str, ...]
    box: bool
    overrides: Overrides
    known: dict[tuple[str, Path], Resolved] = field(default_factory=dict)
    own: set[tuple[str, Path]] = field(default_factory=set)
    tags: list[tuple[Tag, str]] = field(default_factory=list)


class Prompts:
    """Rewrites the prompts of generations, in whatever thread the program makes pictures."""

    def __init__(self, host: Host, resolver: Resolver) -> None:
        assert host.prompting is not None
        self._host, self._prompting = host, host.prompting
        self._resolver = resolver

    def begin(self, p: Any, box: bool) -> None:
        """Rewrite all prompts of ``p``, once the program has loaded the model and applied the styles (``Script.process``)."""
        infotext.forget(p.extra_generation_params)
        setattr(p, _ATTRIBUTE, None)
        asked = _asked(p, box, ())
        if asked is None:
            return
        setattr(p, _ATTRIBUTE, asked)
        try:
            self._write(p, asked, [])
        except CancelledError:
            logger.info("Transfer LoRA: interrupted, so there is no picture")

    def batch(self, p: Any, prompts: list[str], box: bool) -> None:
        """Rewrite a batch, into which another script may have put tags since (``Script.before_process_batch``)."""
        asked = getattr(p, _ATTRIBUTE, None) or _asked(p, box, prompts)
        if asked is None:
            return
        setattr(p, _ATTRIBUTE, asked)
        try:
            self._write(p, asked, prompts)
        except CancelledError:
            # The program checks for an interrupt before a batch and not after this hook; without prompts it makes no picture.
            prompts.clear()

    def _write(self, p: Any, asked: Pass, prompts: list[str]) -> None:
        """Rewrite every prompt of ``p``, and ``prompts``; on an interrupt none of them."""
        first = self._checkpoint(p)
        if first is None:
            return
        known = len(asked.known)
        new = {name: self._written(getattr(p, name, None), first, asked) for name in (*_FIRST, *_MAIN)}
        batch = self._written(prompts, first, asked)
        if getattr(p, "enable_hr", False):
            second = self._hires_checkpoint(p) or first
            new |= {name: self._written(getattr(p, name, None), second, asked) for name in _HIRES}
        for name, value in new.items():
            if value is not None:
                setattr(p, name, value)
        prompts[:] = batch
        infotext.tell(p.extra_generation_params, (r for r in asked.known.values() if r.use), asked.tags, asked.box)
        _warn(p, self._host, (r.problem for r in list(asked.known.values())[known:] if r.problem))

    def _written(self, texts: Any, checkpoint: Checkpoint, asked: Pass) -> Any:
        """``texts`` (one, several or none) with their tags naming what they stand for with ``checkpoint``."""
        if texts is None:
            return None

        def new(tag: Tag) -> str:
            return self._new(tag, checkpoint, asked)

        if isinstance(texts, str):
            return replaced(texts, asked.kinds, new)
        return [replaced(text, asked.kinds, new) for text in texts]

    def _new(self, tag: Tag, checkpoint: Checkpoint, asked: Pass) -> str:
        if tag.kind != OURS and (tag.name, checkpoint.path) in asked.own:
            return tag.written(tag.kind, tag.name)
        place = (tag.name, checkpoint.path)
        if place not in asked.known:
            asked.known[place] = self._resolver.resolve(tag.name, checkpoint, asked.overrides)
        found = asked.known[place]
        if not found.use:
            return ""
        asked.own.add((found.use, checkpoint.path))
        asked.tags.append((tag, found.use))
        return tag.written(tag.program_kind, found.use)

    def _checkpoint(self, p: Any) -> Checkpoint | None:
        """The checkpoint that ``p`` was given by the program; the selected one where it does not say."""
        info = getattr(getattr(p, "sd_model", None), "sd_checkpoint_info", None)
        return self._prompting.checkpoint_of(info) if info is not None else self._host.active().checkpoint

    def _hires_checkpoint(self, p: Any) -> Checkpoint | None:
        """The checkpoint that the second pass will load; None where it is the first one."""
        name = getattr(p, "hr_checkpoint_name", None)
        return self._prompting.checkpoint_named(name) if name and name != _SAME else None


def _asked(p: Any, box: bool, prompts: Iterable[str]) -> Pass | None:
    """What ``p`` asks for; None where that is nothing, which must be found out quickly."""
    if getattr(p, "disable_extra_networks", False):
        return None
    overrides = overrides_of(p)
    wanted = overrides or Overrides()
    if box:
        return Pass(EVERY, True, wanted)
    texts = [text for name in (*_FIRST, *_HIRES) for text in getattr(p, name, None) or ()]
    if any(holds(text, (OURS,)) for text in (*texts, *prompts)):
        return Pass((OURS,), False, wanted)
    # Without a tag of ours, our axes apply to every LoRA in the prompt.
    return Pass(EVERY, False, wanted) if overrides is not None else None


def _warn(p: Any, host: Host, problems: Iterable[str]) -> None:
    """Report what could not be done as asked, below the picture and in the console."""
    comment: Callable[[str], None] = getattr(p, "comment", lambda text: None)
    for problem in dict.fromkeys(problems):
        logger.warning("Transfer LoRA: %s", problem)
        comment(f"Transfer LoRA: {host.shown(problem)}")
