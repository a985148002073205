"""The promises of a machine as an oracle: play facts into it and judge what comes out.

Tests and fuzz targets share this file, so it knows neither pytest nor hypothesis.
"""

from __future__ import annotations

import gc
import math
import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from towline.core import (
    Body,
    Failed,
    Finished,
    LocalProtocolError,
    Note,
    Read,
    Received,
    Secret,
    TowlineError,
)

WISHES_A_TURN = 100_000
"""A drain that is longer than this will not end."""


class BrokenPromise(AssertionError):
    """A machine did what the contract rules out; the text names the promise, the fact and the wish."""


@dataclass
class Turn:
    """One fact, and everything that came of it."""

    now: float
    fact: Any
    wishes: list[Any] = field(default_factory=list)
    deadline: float | None = None
    refusal: LocalProtocolError | None = None


def play(machine: Any, facts: Iterable[tuple[float, Any]]) -> list[Turn]:
    """Hand the facts over, drain after each, and hold the machine to total, bounded drains, and final."""
    turns: list[Turn] = []
    over: Any = None
    for now, fact in facts:
        turn = Turn(now, fact)
        turns.append(turn)
        try:
            machine.handle(fact, now)
        except LocalProtocolError as refusal:
            turn.refusal = refusal
        except Exception as error:
            raise BrokenPromise(f"total: {show(fact)} raised {type(error).__name__}: {error}") from error
        while (wish := machine.poll()) is not None:
            if over is not None:
                raise BrokenPromise(f"final: after {show(over)} came {show(wish)}, told {show(fact)}")
            if isinstance(wish, Finished | Failed):
                over = wish
            turn.wishes.append(wish)
            if len(turn.wishes) > WISHES_A_TURN:
                raise BrokenPromise(f"bounded: {show(fact)} leads to more than {WISHES_A_TURN} wishes")
        turn.deadline = machine.deadline()
        if turn.deadline is not None and not math.isfinite(turn.deadline):
            raise BrokenPromise(f"monotone: the deadline after {show(fact)} is {turn.deadline}")
        if over is not None and turn.deadline is not None:
            raise BrokenPromise(f"final: after {show(over)} there is a deadline at {turn.deadline}")
        if over is not None and turn.refusal is not None and turn.wishes == []:
            raise BrokenPromise(f"final: after {show(over)} the fact {show(fact)} was not ignored: {turn.refusal}")
    return turns


def wishes_of(turns: Sequence[Turn]) -> list[Any]:
    """Return every wish, in order."""
    return [wish for turn in turns for wish in turn.wishes]


def essence(wishes: Iterable[Any], volatile: tuple[type, ...] = (Read, Note)) -> tuple[dict[str, bytes], list[str]]:
    """Return what must not depend on cuts: the bytes of each channel, and the sequence of all other wishes.

    A wish with bytes in `data` belongs to the channel that its type and its other fields name.
    """
    channels: dict[str, bytes] = {}
    others: list[str] = []
    for wish in wishes:
        if isinstance(wish, volatile):
            continue
        data = getattr(wish, "data", None)
        if isinstance(data, bytes | bytearray | memoryview):
            rest = [f"{name}={show(getattr(wish, name))}" for name in wish.__struct_fields__ if name != "data"]
            key = f"{type(wish).__name__}({', '.join(rest)})"
            channels[key] = channels.get(key, b"") + bytes(data)
        else:
            others.append(show(wish))
    return {key: data for key, data in channels.items() if data}, others


def recut(facts: Iterable[tuple[float, Any]], cuts: Sequence[int]) -> Iterator[tuple[float, Any]]:
    """Cut the bytes of each Received and Body into pieces of the given lengths, over and over."""
    turn = 0
    for now, fact in facts:
        if not isinstance(fact, Received | Body) or len(fact.data) == 0:
            yield now, fact
            continue
        view = memoryview(bytes(fact.data))
        while view:
            size = max(1, cuts[turn % len(cuts)])
            turn += 1
            yield now, msgspec.structs.replace(fact, data=view[:size])
            view = view[size:]


def show(value: Any) -> str:
    """Return a record as text that tells everything: secrets too, and sets in the order they iterate in.

    Two runs whose texts are equal wished the same things, byte for byte. Test records only: it reveals.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return repr(bytes(value))
    if isinstance(value, Secret):
        return f"Secret({value.reveal()!r})"
    if isinstance(value, TowlineError):
        hints = {name: told for name, told in vars(value).items() if told is not None}
        return f"{type(value).__name__}({show(hints)})"
    if isinstance(value, msgspec.Struct):
        fields = ", ".join(f"{name}={show(getattr(value, name))}" for name in value.__struct_fields__)
        return f"{type(value).__name__}({fields})"
    if isinstance(value, tuple):
        return "(" + "".join(f"{show(item)}, " for item in value).removesuffix(" ") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(show(item) for item in value) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{show(key)}: {show(item)}" for key, item in value.items()) + "}"
    if isinstance(value, types.GeneratorType):
        return f"<script {value.__name__}>"
    return repr(value)


def weight(value: Any) -> int:
    """Return how many bytes of content a value carries."""
    if isinstance(value, memoryview):
        return value.nbytes
    if isinstance(value, bytes | bytearray | str):
        return len(value)
    if isinstance(value, Secret):
        return len(value.reveal())
    if isinstance(value, msgspec.Struct):
        return 16 + sum(weight(getattr(value, name)) for name in value.__struct_fields__)
    if isinstance(value, TowlineError):
        return weight(list(vars(value).values()))
    if isinstance(value, dict):
        return sum(weight(key) + weight(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return sum(weight(item) for item in value)
    return 8


_SHARED = (type, types.ModuleType, types.CodeType, types.BuiltinFunctionType, msgspec.structs.StructConfig)


def held(root: Any) -> int:
    """Return how many bytes of strings and buffers an object keeps alive, suspended generators included.

    A view counts as the whole buffer behind it, since that is what it keeps.
    """
    seen: set[int] = set()
    todo = [root]
    total = 0
    while todo:
        value = todo.pop()
        if id(value) in seen or isinstance(value, _SHARED):
            continue
        seen.add(id(value))
        if isinstance(value, memoryview):
            todo.append(value.obj)
        elif isinstance(value, bytes | bytearray | str):
            total += len(value)
        elif isinstance(value, types.FunctionType):
            # Its globals are the module's, not the machine's.
            todo.extend(value.__closure__ or ())
        else:
            todo.extend(gc.get_referents(value))
    return total
