"""What one generation asks for beyond the settings: the X/Y/Z plot's axes put it on the generation, the hooks read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lib_transfer import methods as registry
from lib_transfer.methods import Method, Value
from lib_transfer.webui.host.host import Host
from lib_transfer.webui.host.settings import parameters
from lib_transfer.webui.transfer.form import settings_of

Use = Literal["off", "original", "transferred"]
USES: tuple[Use, ...] = ("off", "original", "transferred")

_ATTRIBUTE = "transfer_lora_wish"


@dataclass(frozen=True)
class Wish:
    """What one generation asks for.

    Attributes:
        use: what the tags stand for; the copy, unless an axis says otherwise.
        method: id of a method; "" for the one in the settings.
        settings: of the method, in place of those in the settings.
    """

    use: Use = "transferred"
    method: str = ""
    settings: Mapping[str, Value] = field(default_factory=dict)

    def how(self, host: Host) -> tuple[Method, dict[str, Value]]:
        """The method and all its settings: as the tab would start with them, but for what is wished.

        Raises:
            RequestError: a value is out of its range.
        """
        method = registry.get(self.method or str(host.setting("method")))
        values: dict[str, Any] = {p.name: host.setting(p.name) for p in parameters()} | dict(self.settings)
        if "energy" in self.settings:
            # A fixed rank in the settings would take the place of the energy that is asked for.
            values["subspace_rank"] = None
        return method, settings_of(method, [values[p.name] for p in parameters()])


def wish_of(p: Any) -> Wish | None:
    """What the generation ``p`` asks for; None where nobody put anything on it."""
    return getattr(p, _ATTRIBUTE, None)


def wish(p: Any, **changes: Any) -> None:
    """Put something on ``p``: fields of :class:`Wish`. The plot's cells are shallow copies, so nothing is changed in place."""
    before = wish_of(p) or Wish()
    changes["settings"] = {**before.settings, **changes.get("settings", {})}
    setattr(p, _ATTRIBUTE, replace(before, **changes))
