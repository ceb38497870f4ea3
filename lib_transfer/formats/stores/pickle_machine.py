"""The instructions of a pickle, carried out on values that can do nothing.

The format is Python's (``Lib/pickletools.py`` documents every instruction). Of its instructions those are known that a
state dict is written with, in protocols 2 to 5. What they would import and call is asked of a :class:`Vocabulary`, which
answers with values of its own; nothing is imported, no attribute is looked up and no object of the file is called.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from lib_transfer.errors import BadFileError

MAX_BYTES = 16 << 20
MAX_INSTRUCTIONS = 500_000  # a tensor takes some 35
MAX_TEXT = 1 << 20


class Vocabulary(Protocol):
    """What the names in a pickle mean. Each method raises :class:`BadFileError` for what it does not know."""

    def find(self, module: str, name: str) -> object:
        """What stands for ``module.name``."""

    def call(self, function: object, arguments: object) -> object:
        """What stands for ``function(*arguments)``."""

    def make(self, kind: object) -> object:
        """What stands for a new object of the class ``kind``."""

    def external(self, identity: object) -> object:
        """What stands for a thing that is stored outside of the pickle."""


class Opaque:
    """An object that nothing is known of: whatever is put into it is forgotten."""

    __slots__ = ()


def run(data: bytes, vocabulary: Vocabulary) -> object:
    """The value that the pickle ``data`` describes: dicts with texts as keys (others are left out), lists, tuples,
    numbers, texts, bytes, None, :class:`Opaque`, and whatever ``vocabulary`` answers.

    Raises:
        BadFileError: ``pickle``: it is damaged or has an instruction that no state dict needs; ``too_many``; or what
            ``vocabulary`` raises.
    """
    if len(data) > MAX_BYTES:
        raise BadFileError(f"It has {len(data) >> 20} MB; the limit is {MAX_BYTES >> 20} MB.", reason="too_many")
    return _Machine(data, vocabulary).run()


def _refuse(what: str) -> NoReturn:
    raise BadFileError(what, reason="pickle")


class _Machine:
    def __init__(self, data: bytes, vocabulary: Vocabulary) -> None:
        self.data = data
        self.place = 0
        self.vocabulary = vocabulary
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> object:
        for _ in range(MAX_INSTRUCTIONS):
            code = self.take(1)[0]
            if code == _STOP:
                value = self.pop()
                if self.stack or self.marks or self.place != len(self.data):
                    _refuse("It goes on after its end.")
                return value
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                _refuse(f"It has the instruction {bytes([code])!r}, which no state dict needs.")
            instruction(self)
        raise BadFileError(f"It has more than {MAX_INSTRUCTIONS} instructions.", reason="too_many")

    # ---- arguments ----

    def take(self, count: int) -> bytes:
        end = self.place + count
        if end > len(self.data):
            _refuse("It is cut off.")
        piece = self.data[self.place : end]
        self.place = end
        return piece

    def number(self, form: struct.Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def sized(self, form: struct.Struct) -> bytes:
        size = self.number(form)
        if not 0 <= size <= MAX_TEXT:
            _refuse(f"It has a text of {size} bytes.")
        return self.take(size)

    def line(self) -> str:
        end = self.data.find(b"\n", self.place, self.place + 1000)
        if end < 0:
            _refuse("It has a name without an end.")
        line = self.take(end - self.place)
        self.place += 1
        return _text(line)

    # ---- the stack ----

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            _refuse("It takes what it did not put down.")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def to_mark(self) -> list[Any]:
        if not self.marks:
            _refuse("It takes what it did not put down.")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def several(self, count: int) -> tuple[Any, ...]:
        return tuple([self.pop() for _ in range(count)][::-1])

    # ---- containers ----

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(items)
        elif type(target) is not Opaque:
            _refuse("It appends to what is no list.")

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if len(items) % 2 or type(target) not in (dict, Opaque):
            _refuse("It sets an item of what is no dict.")
        if type(target) is dict:
            # Only texts are kept as keys: the hash of a value that the file nests deeply could overflow the stack.
            target.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if type(key) is str)

    def add_items(self) -> None:
        self.to_mark()
        if type(self.top()) is not Opaque:
            _refuse("It adds to what is no set.")

    def frozen_set(self) -> None:
        self.to_mark()
        self.stack.append(Opaque())

    # ---- names ----

    def global_name(self) -> None:
        module, name = self.line(), self.line()
        self.stack.append(self.vocabulary.find(module, name))

    def stack_global(self) -> None:
        module, name = self.several(2)
        if type(module) is not str or type(name) is not str:
            _refuse("It asks for a name that is no text.")
        self.stack.append(self.vocabulary.find(module, name))

    def reduce(self) -> None:
        function, arguments = self.several(2)
        self.stack.append(self.vocabulary.call(function, arguments))

    def new_object(self, count: int) -> None:
        kind, *_ = self.several(count)
        self.stack.append(self.vocabulary.make(kind))

    def build(self) -> None:
        # The state of an object; its tensors and items are what counts, and they are there already.
        self.pop()
        self.top()

    # ---- the memo ----

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            _refuse("It takes what it did not put down.")
        self.stack.append(self.memo[index])


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        _refuse("It has a text that is not Unicode.")


def _protocol(machine: _Machine) -> None:
    version = machine.take(1)[0]
    if not 2 <= version <= 5:
        _refuse(f"It is written in protocol {version}.")


def _push(make: Callable[[_Machine], object]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(make(machine))


_U1, _U2, _U4, _U8 = (struct.Struct(form) for form in ("<B", "<H", "<L", "<Q"))
_I4, _F8 = struct.Struct("<l"), struct.Struct(">d")
_STOP = ord(".")

_INSTRUCTIONS: dict[int, Callable[[_Machine], None]] = {
    0x80: _protocol,
    0x95: lambda m: m.number(_U8),  # a frame, which only helps reading ahead
    ord("N"): _push(lambda m: None),
    0x88: _push(lambda m: True),
    0x89: _push(lambda m: False),
    ord("K"): _push(lambda m: m.number(_U1)),
    ord("M"): _push(lambda m: m.number(_U2)),
    ord("J"): _push(lambda m: m.number(_I4)),
    0x8A: _push(lambda m: int.from_bytes(m.sized(_U1), "little", signed=True)),
    ord("G"): _push(lambda m: m.number(_F8)),
    ord("X"): _push(lambda m: _text(m.sized(_U4))),
    0x8C: _push(lambda m: _text(m.sized(_U1))),
    0x8D: _push(lambda m: _text(m.sized(_U8))),
    # Texts of Python 2, and bytes.
    ord("U"): _push(lambda m: m.sized(_U1).decode("latin-1")),
    ord("T"): _push(lambda m: m.sized(_I4).decode("latin-1")),
    ord("C"): _push(lambda m: m.sized(_U1)),
    ord("B"): _push(lambda m: m.sized(_U4)),
    0x8E: _push(lambda m: m.sized(_U8)),
    ord("("): lambda m: m.marks.append(len(m.stack)),
    ord(")"): _push(lambda m: ()),
    0x85: _push(lambda m: m.several(1)),
    0x86: _push(lambda m: m.several(2)),
    0x87: _push(lambda m: m.several(3)),
    ord("t"): _push(lambda m: tuple(m.to_mark())),
    ord("]"): _push(lambda m: []),
    ord("a"): lambda m: m.append([m.pop()]),
    ord("e"): lambda m: m.append(m.to_mark()),
    ord("}"): _push(lambda m: {}),
    ord("s"): lambda m: m.set_items(list(m.several(2))),
    ord("u"): lambda m: m.set_items(m.to_mark()),
    0x8F: _push(lambda m: Opaque()),  # a set
    0x90: lambda m: m.add_items(),
    0x91: lambda m: m.frozen_set(),
    ord("c"): lambda m: m.global_name(),
    0x93: lambda m: m.stack_global(),
    ord("R"): lambda m: m.reduce(),
    0x81: lambda m: m.new_object(2),
    0x92: lambda m: m.new_object(3),
    ord("b"): lambda m: m.build(),
    ord("Q"): _push(lambda m: m.vocabulary.external(m.pop())),
    ord("q"): lambda m: m.put(m.number(_U1)),
    ord("r"): lambda m: m.put(m.number(_U4)),
    0x94: lambda m: m.put(len(m.memo)),
    ord("h"): lambda m: m.get(m.number(_U1)),
    ord("j"): lambda m: m.get(m.number(_U4)),
}
