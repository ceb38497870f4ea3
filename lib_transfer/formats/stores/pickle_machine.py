"""The instructions of a pickle, carried out on values that can do nothing.

Python's ``pickletools`` decodes the instructions, and documents each; it executes none. Of them those are carried out that
a state dict is written with, in protocols 2 to 5. What they would import and call is asked of a :class:`Vocabulary`, which
answers with values of its own; nothing is imported, no attribute is looked up and no object of the file is called.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol

from lib_transfer.errors import BadFileError

MAX_BYTES = 16 << 20
MAX_INSTRUCTIONS = 500_000  # a tensor takes some 35
MAX_TEXT = 1 << 20
MAX_LINE = 1000


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
    """The value that the pickle ``data`` describes: dicts with texts or whole numbers as keys (others are left out), lists,
    tuples, numbers, texts, bytes, None, :class:`Opaque`, and whatever ``vocabulary`` answers.

    Raises:
        BadFileError: ``pickle``: it is damaged or has an instruction that no state dict needs; ``too_many``; or what
            ``vocabulary`` raises.
    """
    if len(data) > MAX_BYTES:
        raise BadFileError(f"It has {len(data) >> 20} MB; the limit is {MAX_BYTES >> 20} MB.", reason="too_many")
    return _Machine(vocabulary).run(data)


def _refuse(what: str) -> NoReturn:
    raise BadFileError(what, reason="pickle")


class _Bounded(io.BytesIO):
    """A stream of which no instruction gets a long text or a long number."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_TEXT:
            _refuse(f"It has a text of {size} bytes.")
        return super().read(size)

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(MAX_LINE)
        # pickletools would read a backslash as the beginning of an escape, which pickle does not do.
        if not line.endswith(b"\n") or b"\\" in line:
            _refuse("It has a name without an end.")
        return line


def _instructions(data: bytes) -> Iterator[tuple[str, Any]]:
    """Name and argument of each instruction up to the last."""
    stream = _Bounded(data)
    try:
        for number, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if number >= MAX_INSTRUCTIONS:
                raise BadFileError(f"It has more than {MAX_INSTRUCTIONS} instructions.", reason="too_many")
            yield instruction.name, argument
    except BadFileError:
        raise
    except ValueError as error:
        _refuse(f"It is cut off or damaged ({error}).")
    if stream.tell() != len(data):
        _refuse("It goes on after its end.")


class _Machine:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> object:
        for name, argument in _instructions(data):
            instruction = _INSTRUCTIONS.get(name)
            if instruction is None:
                _refuse(f"It has the instruction {name}, which no state dict needs.")
            instruction(self, argument)
        value = self.pop()
        if self.stack or self.marks:
            _refuse("It goes on after its end.")
        return value

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
            # Only texts and numbers are kept as keys: the hash of a value that is nested deeply could overflow the stack.
            pairs = zip(items[::2], items[1::2], strict=True)
            target.update((key, value) for key, value in pairs if type(key) in (str, int))

    def add_items(self) -> None:
        self.to_mark()
        if type(self.top()) is not Opaque:
            _refuse("It adds to what is no set.")

    def frozen_set(self) -> None:
        self.to_mark()
        self.stack.append(Opaque())

    # ---- names ----

    def global_name(self, both: str) -> None:
        module, _, name = both.partition(" ")
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


def _protocol(machine: _Machine, version: int) -> None:
    if not 2 <= version <= 5:
        _refuse(f"It is written in protocol {version}.")


_Instruction = Callable[[_Machine, Any], None]


def _push(make: Callable[[_Machine], object]) -> _Instruction:
    return lambda machine, _: machine.stack.append(make(machine))


def _push_argument(machine: _Machine, argument: object) -> None:
    machine.stack.append(argument)


def _nothing(machine: _Machine, argument: object) -> None:
    """The end, where the last value is taken; and a frame, which only helps a reader of streams."""


_NUMBERS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT")
# The first two are texts of Python 2.
_TEXTS = ("SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8")

_INSTRUCTIONS: dict[str, _Instruction] = {
    "PROTO": _protocol,
    "FRAME": _nothing,
    "STOP": _nothing,
    **dict.fromkeys((*_NUMBERS, *_TEXTS, *_BYTES), _push_argument),
    "NONE": _push(lambda m: None),
    "NEWTRUE": _push(lambda m: True),
    "NEWFALSE": _push(lambda m: False),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "EMPTY_TUPLE": _push(lambda m: ()),
    "TUPLE1": _push(lambda m: m.several(1)),
    "TUPLE2": _push(lambda m: m.several(2)),
    "TUPLE3": _push(lambda m: m.several(3)),
    "TUPLE": _push(lambda m: tuple(m.to_mark())),
    "EMPTY_LIST": _push(lambda m: []),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.to_mark()),
    "EMPTY_DICT": _push(lambda m: {}),
    "SETITEM": lambda m, _: m.set_items(list(m.several(2))),
    "SETITEMS": lambda m, _: m.set_items(m.to_mark()),
    "EMPTY_SET": _push(lambda m: Opaque()),
    "ADDITEMS": lambda m, _: m.add_items(),
    "FROZENSET": lambda m, _: m.frozen_set(),
    "GLOBAL": lambda m, both: m.global_name(both),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.new_object(2),
    "NEWOBJ_EX": lambda m, _: m.new_object(3),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": _push(lambda m: m.vocabulary.external(m.pop())),
    "BINPUT": lambda m, index: m.put(index),
    "LONG_BINPUT": lambda m, index: m.put(index),
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "BINGET": lambda m, index: m.get(index),
    "LONG_BINGET": lambda m, index: m.get(index),
}
