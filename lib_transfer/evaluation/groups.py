"""Modules that share a strength: those of one stretch of a network that do the same kind of work."""

from __future__ import annotations

from collections.abc import Iterable

from lib_transfer.architecture.module import Module, Position

WORK = {"attn1": "self-attention", "attn2": "cross-attention", "ff": "feed-forward"}


def groups(modules: Iterable[Module]) -> dict[str, str]:
    """The group of every module, by canonical name: stretch and work, such as ``output cross-attention``."""
    return {module.name: group_of(module.position) for module in modules}


def group_of(position: Position) -> str:
    """The group of a module at ``position``; a text encoder is one."""
    if position.part.startswith("te"):
        return f"text encoder {position.part.removeprefix('te')}".strip()
    stretch = position.stage.split(" ")[0] or position.part
    work = WORK.get(position.role.split(".")[0], "rest")
    return f"{stretch} {work}"
