"""Whether a LoRA's file loads as it is: by the names of its modules and of its tensors, and by where its scale stands."""

from __future__ import annotations

from lib_transfer.architecture import Architecture
from lib_transfer.architecture.architecture import full_index
from lib_transfer.architecture.spellings import not_loaded
from lib_transfer.formats.adapter import Adapter, Group
from lib_transfer.formats.algorithms import lora
from lib_transfer.formats.algorithms.dora import PER_OUTPUT
from lib_transfer.formats.peft_folder import CONFIG, config_beside

PEFT = {lora.UP: "lora_B.weight", lora.DOWN: "lora_A.weight"}
"""What PEFT calls the factors, which Forge and ComfyUI read too."""

PARTS = 4
"""The projections of an attention of OpenCLIP: q, k, v and out."""


def obstacles(adapter: Adapter, architecture: Architecture) -> tuple[str, ...]:
    """What keeps the programs from loading a LoRA's file as it is, in sentences; none where nothing is known to.

    Args:
        adapter: the LoRA, from its header alone at the least.
        architecture: what it is for.
    """
    groups = adapter.groups.values()
    a1111 = "A1111" in architecture.hosts
    odd = [key for group in groups for key in _odd_keys(group, a1111=a1111)]
    tensors = f"{len(odd)} of its tensors are called as not every program reads them: {odd[0]}." if odd else ""
    scaled = any(group.scale is not None for group in groups)
    scale = f"Its scale stands in {CONFIG}, which the programs do not read." if scaled else ""
    folder = (
        "" if config_beside(adapter.header.path) is None else "It is a folder of PEFT's, and WebUIs list files alone."
    )
    torn = _torn(adapter, architecture) if a1111 else ""
    return tuple(filter(None, (*not_loaded(architecture, adapter.groups.keys()), tensors, torn, folder, scale)))


def _torn(adapter: Adapter, architecture: Architecture) -> str:
    """A sentence about attentions of OpenCLIP that only a part is there of; "" where there are none."""
    index = full_index(architecture)
    found: dict[str, set[str]] = {}
    for name in adapter.groups:
        for module, _ in index.get(name, ()):
            if module.fused is not None:
                found.setdefault(module.fused, set()).add(module.name)
    torn = sum(len(parts) < PARTS for parts in found.values())
    return (
        f"Of {torn} attentions of a text encoder not all of q, k, v and out are there, without which A1111 passes over them."
        if torn
        else ""
    )


def _odd_keys(group: Group, *, a1111: bool) -> list[str]:
    """The tensors of a module that are not called as kohya and LyCORIS do, or as PEFT does where that is read."""
    return [
        key
        for suffix, key in group.keys.items()
        if suffix in PER_OUTPUT
        or (key != f"{group.name}.{suffix}" and (a1111 or key != f"{group.name}.{PEFT.get(suffix)}"))
    ]
