"""What one generation asks for instead of the settings: the axes of the X/Y/Z plot write it, the hooks read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lib_transfer import methods
from lib_transfer.methods import Method, Value
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.host.settings import parameters
from lib_transfer.webui.transfer.form import settings_of

Use = Literal["off", "original", "transferred"]
USES: tuple[Use, ...] = ("off", "original", "transferred")

_ATTRIBUTE = "transfer_lora_overrides"


@dataclass(frozen=True)
class Overrides:
    """What one generation asks for instead of the settings.

    Attributes:
        use: what the tags stand for: no LoRA, the original, or the transferred LoRA.
        method: the id of a method; "" for the one in the settings.
        settings: settings of the method that take the place of the stored ones.
    """

    use: Use = "transferred"
    method: str = ""
    settings: Mapping[str, Value] = field(default_factory=dict)

    def how(self, host: Host) -> tuple[Method, dict[str, Value]]:
        """The method and all its settings: those that the tab starts with, with the overrides applied.

        Raises:
            RequestError: a value is out of its range.
        """
        method = methods.get(self.method or str(host.setting("method")))
        if method.runs_models:
            # That takes far longer than a picture. What was made so before is used all the same.
            method = methods.get(methods.DEFAULT)
        values: dict[str, Any] = {p.name: host.setting(p.name) for p in parameters()} | dict(self.settings)
        if "energy" in self.settings:
            # A fixed rank in the settings would take precedence over the energy that is asked for.
            values["subspace_rank"] = None
        return method, settings_of(method, values)


def overrides_of(p: Any) -> Overrides | None:
    """The overrides of the generation ``p``; None where nothing was set."""
    return getattr(p, _ATTRIBUTE, None)


def override(p: Any, **changes: Any) -> None:
    """Set fields of :class:`Overrides` on ``p``. The plot's cells are shallow copies, so nothing is changed in place."""
    before = overrides_of(p) or Overrides()
    changes["settings"] = {**before.settings, **changes.get("settings", {})}
    setattr(p, _ATTRIBUTE, replace(before, **changes))
