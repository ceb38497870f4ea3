"""The request: everything that the result of a transfer depends on, and nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from lib_transfer.methods import Value

ALGORITHM = 3
"""Rises whenever the same request would give another result than before."""

_RENAMED = {"copy": "reuse"}
"""Ids of methods that older outputs have in their requests, and what they are called today."""


_LATER = {"inserted": "empty"}
"""Settings that older outputs lack in their requests, with the value that stands for what was done then; it is not written."""


@dataclass(frozen=True)
class TransferRequest:
    """What is to be transferred, from where, to where and how.

    Two equal requests give the same output, so an output that carries an equal request is already done. It says nothing
    of where files lie: that is in a :class:`~lib_transfer.library.job.Job`.

    Attributes:
        adapter_name, source_name, target_name: file names without extension, names of folders.
        adapter_sha256, source_sha256, target_sha256: SHA-256 of the files' contents, in hex. The source's is None where
            the method needs no source checkpoint.
        method: the id of the method.
        settings: every setting of the method, sorted by name.
        config_sha256: SHA-256 of the configuration that PEFT wrote beside the adapter; None where there is none.
        algorithm: the value of :data:`ALGORITHM` when it was made.
        source_encoders, target_encoders: SHA-256 of text encoders in files of their own.
        architecture: the id of the architecture that the adapter is for, where it stays on its base and only names and layout
            change; there is no target then, and the name and the hash of one are "".
    """

    adapter_name: str
    adapter_sha256: str
    source_name: str | None
    source_sha256: str | None
    target_name: str
    target_sha256: str
    method: str
    settings: tuple[tuple[str, Value], ...]
    config_sha256: str | None = None
    algorithm: int = ALGORITHM
    source_encoders: tuple[str, ...] = ()
    target_encoders: tuple[str, ...] = ()
    architecture: str = ""

    def setting(self, name: str) -> Any:
        """The value of one setting; None where the method does not have it."""
        return dict(self.settings).get(name)

    def to_json(self) -> str:
        """The request as it is written into the output: one line of JSON, the same for equal requests."""
        adapter = {"name": self.adapter_name, "sha256": self.adapter_sha256}
        identity = {
            "adapter": adapter if self.config_sha256 is None else {**adapter, "config_sha256": self.config_sha256},
            "source": _base(self.source_name, self.source_sha256, self.source_encoders) if self.source_sha256 else None,
            "target": {"name": self.architecture, "architecture": self.architecture}
            if self.architecture
            else _base(self.target_name, self.target_sha256, self.target_encoders),
            "method": self.method,
            "settings": {name: value for name, value in self.settings if (name, value) not in _LATER.items()},
            "algorithm": self.algorithm,
        }
        return json.dumps(identity, sort_keys=True, ensure_ascii=True)

    @property
    def digest(self) -> str:
        """The SHA-256 of :meth:`to_json`, in hex: equal for equal requests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def hash8(self) -> str:
        """Eight hex digits that stand for the request in file names."""
        return self.digest[:8]


def _base(name: str | None, sha256: str | None, encoders: tuple[str, ...]) -> dict[str, Any]:
    known: dict[str, Any] = {"name": name, "sha256": sha256}
    return {**known, "encoders": list(encoders)} if encoders else known


def canonical(text: str) -> str:
    """A request as JSON (:meth:`TransferRequest.to_json`), with the name that its method has today.

    Two requests are equal where their canonical texts are. A text that is no request of ours comes back as it is.
    """
    if not any(f'"method": "{old}"' in text for old in _RENAMED):
        return text
    try:
        identity = json.loads(text)
        identity["method"] = _RENAMED.get(identity["method"], identity["method"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text
    return json.dumps(identity, sort_keys=True, ensure_ascii=True)


def adapter_in(text: str) -> str | None:
    """The name of the adapter in a request as JSON; None where the text is no request of ours."""
    try:
        name = json.loads(text)["adapter"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) else None
