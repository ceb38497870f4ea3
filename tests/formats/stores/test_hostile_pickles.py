"""Pickles made to run something, to read what is not theirs or to exhaust the machine: none of it happens."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lib_transfer.formats.checkpoint import open_checkpoint
from tests.waiting import until

from .archives import (
    FOUR,
    TINY,
    archive,
    integer,
    mapping,
    name,
    numbers,
    program,
    refused,
    storage,
    store,
    tensor,
    text,
)

CANARY = "canary"
# What each would run; the folder is made the current one, so that a relative name does.
TOUCH = text(f"echo > {CANARY}")
OPEN = text(f"open({CANARY!r}, 'w')")
SYSTEM = name("os", "system") + b"(" + TOUCH + b"tR"


class Runs:
    """What a careless loader would run."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.how = function, arguments

    def __reduce__(self) -> Any:
        return self.how


def pickled(value: object, protocol: int = 2) -> bytes:
    return pickle.dumps(value, protocol)


# Each makes the canary when Python's own pickle reads it; `test_the_attacks_are_real` holds them to that.
ATTACKS: dict[str, tuple[bytes, str]] = {
    "os.system": (pickled({"w": Runs(os.system, f"echo > {CANARY}")}), "pickle_global"),
    "os.system in protocol 4": (pickled({"w": Runs(os.system, f"echo > {CANARY}")}, 4), "pickle_global"),
    "exec": (pickled({"w": Runs(exec, f"open({CANARY!r}, 'w')")}), "pickle_global"),
    "eval in a list in a state dict": (
        pickled({"state_dict": {"w": [1, [Runs(eval, f"open({CANARY!r}, 'w')")]]}}),
        "pickle_global",
    ),
    "as a key": (program(b"}" + SYSTEM + integer(1) + b"s"), "pickle_global"),
    "taken from the stack again": (program(SYSTEM + b"0}"), "pickle_global"),
    "forgotten at a mark": (program(b"(" + SYSTEM + b"1}"), "pickle_global"),
    "in the state of an object": (
        program(name("collections", "OrderedDict") + b")R}" + text("w") + SYSTEM + b"sb"),
        "pickle_global",
    ),
    "as the hooks of a tensor": (
        program(mapping(w=name("collections", "OrderedDict") + b"](](" + text("a") + SYSTEM + b"ee\x85R")),
        "pickle_global",
    ),
    "pkgutil.resolve_name": (
        program(name("pkgutil", "resolve_name") + text("os:system") + b"\x85R" + TOUCH + b"\x85R"),
        "pickle_global",
    ),
    "getattr": (
        program(name("builtins", "getattr") + name("builtins", "__import__") + text("os") + b"\x85R")[:-1]
        + text("system")
        + b"\x86R"
        + TOUCH
        + b"\x85R.",
        "pickle_global",
    ),
    "a dotted name": (
        program(text("os") + text("path.os.system") + b"\x93" + TOUCH + b"\x85R", 4),
        "pickle_global",
    ),
    "subprocess.Popen": (
        program(name("subprocess", "Popen") + b"](" + text("touch") + text(CANARY) + b"e\x85R"),
        "pickle_global",
    ),
    "a class of Python 2's names": (program(name("__builtin__", "eval") + OPEN + b"\x85R"), "pickle_global"),
    "the instruction INST": (program(b"(" + TOUCH + b"ios\nsystem\n"), "pickle"),
    "the instruction OBJ": (program(b"(" + name("os", "system") + TOUCH + b"o"), "pickle_global"),
    "protocol 0": (b"(dS'w'\ncos\nsystem\n(S'echo > " + CANARY.encode() + b"'\ntRs.", "pickle"),
    "after the end": (program(b"}") + program(SYSTEM), "pickle"),
    "runpy": (
        program(name("runpy", "_run_code") + OPEN + b"}\x86R"),
        "pickle_global",
    ),
}


@pytest.mark.parametrize(("attack", "reason"), ATTACKS.values(), ids=ATTACKS.keys())
def test_nothing_in_a_pickle_is_run(
    attack: bytes, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(archive(attack), tmp_path)
    assert error.reason == reason
    assert [path.name for path in tmp_path.iterdir()] == ["hostile.ckpt"]


@pytest.mark.parametrize("attack", [a for k, (a, _) in ATTACKS.items() if k != "after the end"])
def test_the_attacks_are_real(attack: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with contextlib.suppress(AttributeError, TypeError, pickle.UnpicklingError):
        pickle.loads(attack)  # some fail after they have done what they came for
    until((tmp_path / CANARY).exists)  # a started process takes a moment


GLOBALS = ["posix.system", "nt.system", "subprocess.check_output", "builtins.exec", "builtins.open", "pip.main"]
GLOBALS += ["pip._internal.main", "webbrowser.open", "torch.load", "torch.hub.load", "torch.storage._load_from_bytes"]
GLOBALS += [
    "importlib.import_module",
    "sys.modules",
    "operator.attrgetter",
    "functools.partial",
    "copyreg._reconstructor",
]
GLOBALS += ["numpy.testing._private.utils.runstring", "torch.serialization.load", "torch.FloatStorage.from_file"]
GLOBALS += ["torch._utils._rebuild_qtensor", "torch.nn.modules.linear.Linear", "collections.OrderedDict.update"]
GLOBALS += ["builtins.map", "builtins.type", "os.path.os", "pytorch_lightningx.y", "numpy.fromfile", "numpy.load"]


@pytest.mark.parametrize("full", GLOBALS)
def test_a_name_that_no_model_needs_is_refused_and_told(full: str, tmp_path: Path) -> None:
    module, _, attribute = full.rpartition(".")
    for asked in (name(module, attribute), text(module) + text(attribute) + b"\x93"):
        error = refused(archive(program(mapping(w=asked), 4)), tmp_path)
        assert error.reason == "pickle_global"
        assert full in error.message


BROKEN: dict[str, bytes] = {
    "no end": TINY[:-1],
    "nothing": b"",
    "an empty stack": b"\x80\x02.",
    "two values": program(b"}}"),
    "an open mark": program(b"(}"),
    "taking below a mark": program(b"}(\x85"),
    "a memo that was never put": program(b"h\x07"),
    "put before anything": program(b"q\x00}"),
    "a text of 4 GB": program(b"X\xff\xff\xff\xff"),
    "a text of 2 MB": program(text("x" * (2 << 20))),
    "a negative text": program(b"T\xff\xff\xff\xff"),
    "a text of 16 EB": program(b"\x8d" + b"\xff" * 8),
    "a text of 8 EB": program(b"\x8d" + b"\xff" * 7 + b"\x7f"),
    "bytes of 8 EB": program(b"\x8e" + b"\xff" * 7 + b"\x7f"),
    "a byte array of 8 EB": program(b"\x96" + b"\xff" * 7 + b"\x7f", 5),
    "a number of 2 GB": program(b"\x8b\xff\xff\xff\x7f"),
    "a negative number of bytes": program(b"\x8b\xff\xff\xff\xff"),
    "a number of a million digits": program(b"I" + b"9" * 1_000_000 + b"\n"),
    "a number of digits": program(b"L12L\n"),
    "a quoted text": program(b"S'w'\n"),
    "a name with an escape": program(b"cto\\x72ch\nSize\n)R"),
    "a name that is not ASCII": program(b"ctorch\nSiz\xc3\xa9\n"),
    "an unknown instruction": program(b"\xf0"),
    "a text that is not Unicode": program(b"X\2\0\0\0\xff\xfe"),
    "a name without an end": program(b"cos" + b"x" * 5000),
    "a name that is no text": program(integer(1) + integer(2) + b"\x93"),
    "an item of a list": program(b"](" + text("a") + integer(1) + b"u"),
    "half an item": program(b"}(" + text("a") + b"u"),
    "appending to a dict": program(b"}" + integer(1) + b"a"),
    "adding to a list": program(b"](" + integer(1) + b"\x90"),
    "calling a number": program(integer(1) + b")R"),
    "calling a text": program(text("os.system") + b")R"),
    "calling an object that was forgotten": program(name("argparse", "Namespace") + b")R)R"),
    "an object of a function": program(name("torch._utils", "_rebuild_tensor_v2") + b")\x81"),
    "an object of a storage's class": program(name("torch", "FloatStorage") + b")\x81"),
    "calling a storage's class": program(name("torch", "FloatStorage") + b")R"),
    "arguments that are no tuple": program(name("collections", "OrderedDict") + b"]R"),
    "a buffer outside": program(b"\x97"),
    "an extension": program(b"\x82\x01"),
    "a text as identity": program(b"Pos\n"),
    "protocol 9": b"\x80\x09}.",
    "a tensor without arguments": program(name("torch._utils", "_rebuild_tensor_v2") + b")R"),
    "a typed tensor without arguments": program(name("torch._utils", "_rebuild_tensor_v3") + b")R"),
    "a parameter of nothing": program(name("torch._utils", "_rebuild_parameter") + b")R"),
    "a tensor of a type by a foreign function": program(
        name("torch._tensor", "_rebuild_from_type_v2") + b"(" + name("torch", "Size") + b"N)Nt" + b"R"
    ),
    "a tensor on no storage": program(tensor(stored=b"N")),
    "a tensor on a dict": program(tensor(stored=b"}")),
    "bytes without a format": program(tensor(storage(kind=name("torch.storage", "UntypedStorage")))),
    "a storage that is no class": program(storage(kind=text("torch.FloatStorage"))),
    "a storage of a dtype": program(storage(kind=name("torch", "float32"))),
    "a storage that is a number": program(integer(5) + b"Q"),
    "a short storage": program(b"(" + text("storage") + b"tQ"),
    "another kind of thing outside": program(b"(" + text("module") + b"NNNNtQ"),
    "a size of a text": program(name("torch", "Size") + text("x") + b"\x85R"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pickle_is_refused(broken: bytes, tmp_path: Path) -> None:
    assert refused(archive(broken), tmp_path).reason == "pickle"


NEVER = {
    "storage missing": (tensor(storage("1")), "layout"),
    "storage larger than its file": (tensor(storage(count=5)), "layout"),
    "storage of 2^47 numbers": (tensor(storage(count=1 << 47)), "layout"),
    "storage of 2^70 numbers": (tensor(storage(count=1 << 70)), "pickle"),
    "storage of -4 numbers": (tensor(storage(count=-4)), "pickle"),
    "storage of True numbers": (tensor(storage(count=b"\x88")), "pickle"),
    "storage of 4.0 numbers": (tensor(storage(count=b"G" + struct.pack(">d", 4))), "pickle"),
    "storage in another folder": (tensor(storage("../0")), "pickle"),
    "storage with a name": (tensor(storage("data.pkl")), "pickle"),
    "storage in other digits": (tensor(storage("٠")), "pickle"),
    "offset beyond": (tensor(offset=1), "layout"),
    "offset of 2^46": (tensor(offset=1 << 46), "layout"),
    "negative offset": (tensor(offset=-1), "pickle"),
    "offset None": (tensor(offset=b"N"), "pickle"),
    "shape beyond": (tensor(shape=(5,)), "layout"),
    "huge shape": (tensor(shape=(1 << 40, 1 << 40), strides=(1 << 40, 1)), "layout"),
    "huge shape that repeats one number": (tensor(shape=(1 << 40,), strides=(0,)), "layout"),
    "5 million rows that repeat": (tensor(shape=(5 << 20, 4), strides=(0, 1)), "layout"),
    "huge stride": (tensor(shape=(2, 2), strides=(1 << 47, 1)), "layout"),
    "negative stride": (tensor(strides=(-1,)), "pickle"),
    "negative shape": (tensor(shape=(-4,)), "pickle"),
    "True as shape": (tensor(shape=(b"\x88",)), "pickle"),
    "text as shape": (tensor(shape=(text("4"),)), "pickle"),
    "six dimensions": (tensor(shape=(1,) * 6, strides=(1,) * 6), "pickle"),
    "fewer strides": (tensor(shape=(2, 2), strides=(1,)), "pickle"),
    "an impossible name": (b"", "name"),
}


@pytest.mark.parametrize(("value", "reason"), NEVER.values(), ids=NEVER.keys())
def test_a_tensor_beyond_its_bytes_is_refused(value: bytes, reason: str, tmp_path: Path) -> None:
    entry = mapping(w=value) if value else b"}" + text("a\0b") + tensor() + b"s"
    assert refused(archive(program(entry)), tmp_path).reason == reason


def test_bytes_of_one_number_format_are_not_read_as_more_of_another(tmp_path: Path) -> None:
    untyped = storage(count=16, kind=name("torch.storage", "UntypedStorage"))
    hooks = name("collections", "OrderedDict") + b")R"

    def typed(count: int, dtype: str) -> bytes:
        call = b"(" + untyped + integer(0) + numbers((count,)) + numbers((1,)) + b"\x89" + hooks + name("torch", dtype)
        return archive(program(mapping(w=name("torch._utils", "_rebuild_tensor_v3") + call + b"tR")))

    with open_checkpoint(store(typed(2, "float64"), tmp_path)) as file:
        assert file.read("w").tolist() == list(struct.unpack("<2d", FOUR))
    assert refused(typed(4, "float64"), tmp_path).reason == "layout"


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    both = b"}(" + text("a.b") + tensor() + text("a") + mapping(b=tensor()) + b"u"
    assert refused(archive(program(both)), tmp_path).reason == "duplicate"


CIRCLES = {
    "a dict in itself": b"}q\0" + text("a") + b"h\0s" + text("w") + tensor() + b"s",
    "a state dict that is itself": b"}q\0" + text("state_dict") + b"h\0s" + text("w") + tensor() + b"s",
    "a list in itself": b"}" + text("a") + b"]q\0h\0as" + text("w") + tensor() + b"s",
    "a tuple in a tuple, 100000 deep": b"}" + text("a") + b")" + b"\x85" * 100_000 + b"s" + text("w") + tensor() + b"s",
    "that tuple as a key": b"}" + b")" + b"\x85" * 100_000 + integer(1) + b"s" + text("w") + tensor() + b"s",
    "a list in a list, 100000 deep": b"}"
    + text("a")
    + b"]" * 100_000
    + b"a" * 99_999
    + b"s"
    + text("w")
    + tensor()
    + b"s",
}


@pytest.mark.parametrize("circle", CIRCLES.values(), ids=CIRCLES.keys())
def test_circles_and_depths_end(circle: bytes, tmp_path: Path) -> None:
    with open_checkpoint(store(archive(program(circle)), tmp_path)) as file:
        assert "w" in file.shapes
        assert file.read("w").tolist() == [1, 2, 3, 4]


def laughs() -> bytes:
    """Dicts of 1000 entries that are all the same dict, ten levels deep."""
    level = mapping(w=tensor())
    for _ in range(10):
        entries = b"".join(text(str(n)) + b"h\x01" for n in range(1000))
        level = level + b"q\x01}(" + entries + b"u"
    return program(level)


LARGE = {
    "20 MB": program(b"}" + b"\x95" + bytes(8) + text("x" * (1 << 20)) * 20),
    "2 million dicts": program(b"}" * 2_000_000),
    "250000 dicts in the memo": program(b"}\x94" * 250_000, 4),
    "500000 marks": program(b"(" * 600_000),
    "a dict of dicts of dicts": laughs(),
}


@pytest.mark.parametrize("large", LARGE.values(), ids=LARGE.keys())
def test_what_would_exhaust_the_machine_is_refused_soon(large: bytes, tmp_path: Path) -> None:
    content = archive(large)
    tracemalloc.start()
    try:
        assert refused(content, tmp_path).reason in ("too_many", "pickle", "name")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
