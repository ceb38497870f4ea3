"""The named tensors in what a training program saved."""

from __future__ import annotations

from collections.abc import Iterator

from lib_transfer.errors import BadFileError, UnsupportedError
from lib_transfer.formats.stores.torch_pickle import StoredTensor
from lib_transfer.formats.tensor_info import MAX_NAME, MAX_TENSORS, possible_name

MAX_LEVELS = 8
MAX_ENTRIES = 2 * MAX_TENSORS


def named_tensors(saved: object) -> dict[str, StoredTensor]:
    """The tensors of a state dict, by name.

    Args:
        saved: from :func:`~.torch_pickle.read_pickle`. Where it has an entry ``state_dict``, only that counts, as in the
            WebUI: what is beside it is the optimizer's. Dicts in dicts give names with dots; all but tensors is left out.

    Raises:
        UnsupportedError: it is no dict.
        BadFileError: ``name``, ``duplicate`` or ``too_many``.
    """
    for _ in range(MAX_LEVELS):
        if not isinstance(saved, dict) or not isinstance(saved.get("state_dict"), dict):
            break
        saved = saved["state_dict"]
    if isinstance(saved, list):
        raise UnsupportedError("it is a list of tensors without names, which nobody can tell apart.")
    if not isinstance(saved, dict):
        raise UnsupportedError("it holds no named tensors.")
    found: dict[str, StoredTensor] = {}
    for name, tensor in _walk(saved):
        if not possible_name(name):
            raise BadFileError(f"It has a tensor with an impossible name, {name[:40]!r}.", reason="name")
        if name in found:
            raise BadFileError(f"It names {name!r} twice.", reason="duplicate")
        found[name] = tensor
    return found


def _walk(saved: dict[str, object]) -> Iterator[tuple[str, StoredTensor]]:
    """Every tensor and its name; dicts that contain each other end at a depth, and many of them at a number."""
    waiting: list[tuple[str, dict[str, object], int]] = [("", saved, 1)]
    entries = 0
    while waiting:
        prefix, level, depth = waiting.pop()
        entries += len(level)
        if entries > MAX_ENTRIES:
            raise BadFileError(f"It has more than {MAX_ENTRIES} entries.", reason="too_many")
        for key, value in level.items():
            name = prefix + key[: MAX_NAME + 1]
            if isinstance(value, StoredTensor):
                yield name, value
            elif isinstance(value, dict) and depth < MAX_LEVELS:
                waiting.append((name[:MAX_NAME] + ".", value, depth + 1))
