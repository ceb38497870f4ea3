"""The name that an output would get, before it is made."""

from __future__ import annotations

from html import escape

from lib_transfer.errors import TransferError
from lib_transfer.formats.naming import fill_template
from lib_transfer.webui.host.host import Checkpoint, Host
from lib_transfer.webui.transfer.form import method_of, target_of

HASH8 = "········"
"""Stands for the hash, which is known only when the files have been read."""

EXAMPLE = {"lora": "my-lora", "source": "old-base", "target": "new-base", "method": "rotation", "rank": "same"}


def of_template(template: object) -> str:
    """A line with the name that ``template`` gives to an example; what is wrong with it, where something is."""
    try:
        return _line("Example", fill_template(str(template), **EXAMPLE, hash8="1a2b3c4d"))
    except TransferError as error:
        return f'<p class="transfer-lora-note">{escape(str(error))}</p>'


def of_output(host: Host, name: str, source: Checkpoint | None, target: object, method: object) -> str:
    """A line with the name of the output for the LoRA ``name``.

    Raises:
        TransferError: the template is no good, or there is no target or no method.
    """
    stem = fill_template(
        str(host.setting("template")),
        lora=name.rpartition("/")[2],
        source=source.path.stem if source else "",
        target=target_of(target, host).path.stem,
        method=method_of(method).id,
        rank=str(host.setting("rank")),
        hash8=HASH8,
    )
    return _line("Writes", stem)


def _line(what: str, stem: str) -> str:
    return f'<p class="transfer-lora-name">{what}: <code>{escape(stem)}.safetensors</code></p>'
