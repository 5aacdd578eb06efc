"""Pickles read as data: a machine for every opcode that imports nothing and calls nothing.

A pickle is a program. Where Python would import a name it becomes a ``Global``, where it would call it an
``Inert`` that remembers what was asked for. Only the callables of a given table are "called", and these are
functions of the reader's own. The loop is flat, so that nesting costs no recursion, and names are never looked up.
Opcodes and their arguments are decoded by the standard library's ``pickletools``, which executes nothing either.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

# Far above what a training checkpoint with optimizer state needs (some 0.5 million), and seconds of work at most.
MAX_OPCODES = 5_000_000

_PLAIN_KEYS = (str, int, float, bool, bytes, type(None))


class PickleFault(Exception):
    """The bytes are no whole, sensible pickle; the text says why."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle would have imported."""

    module: str
    name: str


@dataclass(eq=False)
class Inert:
    """An object that was not made.

    Attributes:
        of: what would have been called, mostly a Global.
        args: with what.
        state: what the object's ``__setstate__`` would have been given.
        items: what would have been appended.
        pairs: what would have been set by key.
    """

    of: Any = None
    args: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)


Makers = Mapping[Global, Callable[..., Any]]
_MARK = object()


def load_pickle(file: BinaryIO, makers: Makers | None = None, persistent: Callable[[Any], Any] | None = None) -> Any:
    """The value of the pickle at the file's place; the place is then just behind it.

    Args:
        makers: what to call for a name, all of them harmless functions of data.
        persistent: gives the object of a persistent id.

    Raises:
        PickleFault: damaged, truncated, or far too long. Whatever a maker or ``persistent`` raises goes through.
    """
    return _Machine(makers or {}, persistent).run(file)


class _Machine:
    """Stack, memo and one method for each kind of opcode."""

    def __init__(self, makers: Makers, persistent: Callable[[Any], Any] | None) -> None:
        self.makers, self.persistent = makers, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, file: BinaryIO) -> Any:
        count = 0
        try:
            for opcode, argument, _ in pickletools.genops(file):
                count += 1
                if count > MAX_OPCODES:
                    raise PickleFault(f"it has more than {MAX_OPCODES} instructions")
                if opcode.name == "STOP":
                    return self.pop()
                _OPCODES[opcode.name](self, argument)
        except (ValueError, KeyError, IndexError) as error:
            raise PickleFault(f"its table of contents is damaged or cut off (instruction {count})") from error
        raise PickleFault("its table of contents is cut off")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleFault("a mark stands where a value should")
        return value

    def top(self) -> Any:
        self.push(self.pop())
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise PickleFault("a mark is missing")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def recall(self, index: int) -> None:
        self.push(self.memo[index])

    def remember(self, index: int) -> None:
        self.memo[index] = self.top()

    def call(self, function: Any, args: Any) -> None:
        maker = self.makers.get(function) if isinstance(function, Global) and isinstance(args, tuple) else None
        if maker is None:
            self.push(Inert(function, args))
            return
        try:
            self.push(maker(*args))
        except TypeError as error:
            raise PickleFault(f"{function.module}.{function.name} is given what it does not take") from error

    def reduce(self) -> None:
        args, function = self.pop(), self.pop()
        self.call(function, args)

    def new_object_with_names(self) -> None:
        self.push((self.pop(), self.pop())[::-1])
        self.reduce()

    def instance(self, name: str) -> None:
        self.call(_global(name), tuple(self.pop_to_mark()))

    def object_of_stack(self) -> None:
        function, *args = self.pop_to_mark()
        self.call(function, tuple(args))

    def stack_global(self) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise PickleFault("a name is no text")
        self.push(Global(module, name))

    def build(self) -> None:
        state = self.pop()
        if isinstance(self.top(), Inert):
            self.stack[-1].state = state

    def append(self, values: list[Any]) -> None:
        target = self.top()
        target = target.items if isinstance(target, Inert) else target
        if not isinstance(target, list):
            raise PickleFault("something is appended to what is no list")
        target.extend(values)

    def set_items(self, flat: list[Any]) -> None:
        target = self.top()
        target = target.pairs if isinstance(target, Inert) else target
        if not isinstance(target, dict) or len(flat) % 2:
            raise PickleFault("something is set by key in what is no table")
        target.update(_pairs(flat))

    def persistent_id(self, value: Any) -> None:
        if self.persistent is None:
            raise PickleFault("it refers to something outside itself")
        self.push(self.persistent(value))

    def refuse(self, argument: Any) -> None:
        raise PickleFault("it needs data from outside itself")


def _pairs(flat: list[Any]) -> dict[Any, Any]:
    if len(flat) % 2:
        raise PickleFault("a key has no value")
    return {_key(key): value for key, value in zip(flat[::2], flat[1::2])}


def _key(value: Any) -> Any:
    """A key that can be hashed without looking inside: hashing a deeply nested tuple would exhaust the stack."""
    return value if isinstance(value, (*_PLAIN_KEYS, Global, Inert)) else Inert(args=value)


def _global(text: str) -> Global:
    module, _, name = text.partition(" ")
    return Global(module, name)


def _pushed(count: int) -> Callable[[_Machine, Any], None]:
    """The last ``count`` values as a tuple."""

    def make(machine: _Machine, _: Any) -> None:
        machine.push(tuple([machine.pop() for _ in range(count)][::-1]))

    return make


_LITERALS = (
    "INT LONG LONG1 LONG4 BININT BININT1 BININT2 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE "
    "BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_OPCODES: dict[str, Callable[[_Machine, Any], None]] = {
    **{name: _Machine.push for name in _LITERALS.split()},
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.push(_MARK),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.push(m.top()),
    "EMPTY_TUPLE": _pushed(0),
    "TUPLE1": _pushed(1),
    "TUPLE2": _pushed(2),
    "TUPLE3": _pushed(3),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.push(_pairs(m.pop_to_mark())),
    # Sets are kept as lists: nothing here needs them, and their members would have to be hashed.
    "EMPTY_SET": lambda m, _: m.push([]),
    "FROZENSET": lambda m, _: m.push(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.append(m.pop_to_mark()),
    "APPEND": lambda m, _: m.append([m.pop()]),
    "APPENDS": lambda m, _: m.append(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    "GLOBAL": lambda m, name: m.push(_global(name)),
    "STACK_GLOBAL": lambda m, _: m.stack_global(),
    "EXT1": lambda m, code: m.push(Global("copyreg extension", str(code))),
    "EXT2": lambda m, code: m.push(Global("copyreg extension", str(code))),
    "EXT4": lambda m, code: m.push(Global("copyreg extension", str(code))),
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.reduce(),
    "NEWOBJ_EX": lambda m, _: m.new_object_with_names(),
    "INST": _Machine.instance,
    "OBJ": lambda m, _: m.object_of_stack(),
    "BUILD": lambda m, _: m.build(),
    "PERSID": _Machine.persistent_id,
    "BINPERSID": lambda m, _: m.persistent_id(m.pop()),
    "PROTO": lambda m, _: None,
    "FRAME": lambda m, _: None,
    "NEXT_BUFFER": _Machine.refuse,
    "READONLY_BUFFER": _Machine.refuse,
}
