"""The result of a verification as HTML."""

from __future__ import annotations

from html import escape

from lib_transfer.webui.transfer.html import note, use
from lib_transfer.webui.verify.job import Verified

ABOUT = (
    "The match says how much of what the LoRA does on its own checkpoint it does on the target too: 1 is all of "
    "it, 0 is no better than no LoRA. It was taken on pictures that the source made itself, half of them with the "
    "LoRA, and is in the metadata of the transferred LoRA now."
)


def _new(written: str | None) -> str:
    return "" if written is None else f"<h4>Use in the prompt</h4>{use(f'<lora:{written}:1>')}"


def verdicts(verified: Verified | None) -> str:
    """The adapters one below the other, each with its verdict."""
    if verified is None:
        return ""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td><b>{match.explained:.2f}</b></td><td>{escape(match.text)}</td></tr>"
        for name, match in verified.matches.items()
    )
    return (
        f"<h4>{escape(verified.lora)} on the target</h4>"
        '<div class="transfer-lora-scroll"><table id="transfer_lora_verdicts">'
        "<thead><tr><th>LoRA</th><th>Match</th><th>Verdict</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
        f'<p class="transfer-lora-verdict">{escape(verified.advice)}</p>{_new(verified.written)}{note(ABOUT)}'
    )
