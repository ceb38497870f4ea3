"""The result of a verification as HTML."""

from __future__ import annotations

from html import escape

from lib_transfer.webui.results import note, use
from lib_transfer.webui.verify.job import Verified

ABOUT = (
    "The movement match says how much of what the LoRA does on its own checkpoint it does on the target too: 1 is all of "
    "it, 0 is no better than no LoRA. It was taken on pictures that the source made itself, half of them with the LoRA."
)


def _new(written: str | None) -> str:
    return "" if written is None else f"<h4>Use in the prompt</h4>{use(f'<lora:{written}:1>')}"


def verdicts(verified: Verified | None) -> str:
    """The adapters side by side, each with its verdict."""
    if verified is None:
        return ""
    titles = "".join(f"<th>{escape(name)}</th>" for name in verified.matches)
    numbers = "".join(f"<td><b>{match.explained:.2f}</b></td>" for match in verified.matches.values())
    words = "".join(f"<td>{escape(match.text)}</td>" for match in verified.matches.values())
    return (
        f"<h4>{escape(verified.lora)} on the target</h4>"
        '<div class="transfer-lora-scroll"><table id="transfer_lora_verdicts">'
        f"<thead><tr><th></th>{titles}</tr></thead><tbody><tr><th>Movement match</th>{numbers}</tr>"
        f"<tr><th>Verdict</th>{words}</tr></tbody></table></div>"
        f'<p class="transfer-lora-verdict">{escape(verified.advice)}</p>{_new(verified.written)}{note(ABOUT)}'
    )
