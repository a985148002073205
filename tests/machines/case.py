"""What a room registers for each machine it builds, to be held to the seven promises.

A room's file beside this one (`tests/machines/<room>.py`) defines `CASES = [MachineCase(...), ...]`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from machines.oracle import held

from towline.core import WAKE, Body, Drained, Ended, Lost, Note, Opened, Read, Received

KIB = 1024


@dataclass(frozen=True)
class MachineCase:
    """One machine, one good conversation with it, and what a bad peer may do.

    `make` returns a fresh machine with constant entropy.
    `transcript` is one good conversation as (now, fact), `now` never running back; or a function returning it.
    `facts` is a strategy of lists of (dt, fact), dt >= 0: what a peer may cause, in any order.
    `volatile` are wishes whose number may depend on where bytes are cut (a Progress, a Window).
    `growth` bounds what is wished: at most that many bytes for each byte told, and `slack` beside.
    `holds` bounds what the machine keeps when a peer sends without end; pass smaller limits to `make` if need be.
    `floods` are the kinds of endless bytes; add one that goes on and on in the machine's own language.
    `splits` is False for a machine whose bytes are whole messages by contract (a decoded frame, a whole body).
    """

    name: str
    make: Callable[[], Any]
    transcript: Sequence[tuple[float, Any]] | Callable[[], Sequence[tuple[float, Any]]]
    facts: st.SearchStrategy[list[tuple[float, Any]]]
    volatile: tuple[type, ...] = (Read, Note)
    growth: int = 16
    slack: int = 256 * KIB
    holds: int = 2 * KIB * KIB
    floods: tuple[bytes, ...] = (b"\0", b"a", b"a: b\r\n")
    splits: bool = True

    def conversation(self) -> list[tuple[float, Any]]:
        """Return the good conversation as a list."""
        told = self.transcript() if callable(self.transcript) else self.transcript
        return list(told)

    def keeps(self, machine: Any) -> int:
        """Return how many bytes the machine keeps, over those of a fresh one."""
        return held(machine) - held(self.make())


def load_cases(folder: Path | None = None) -> list[MachineCase]:
    """Return every case of every file beside this one, in the order of their names."""
    cases: list[MachineCase] = []
    for module in sorted(pkgutil.iter_modules([str(folder or Path(__file__).parent)]), key=lambda found: found.name):
        cases += getattr(importlib.import_module(f"machines.{module.name}"), "CASES", [])
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"expected one machine for each name, got several for {', '.join(twice)}")
    return cases


def timed(facts: Sequence[tuple[float, Any]], start: float = 0.0) -> list[tuple[float, Any]]:
    """Turn pauses into instants: (dt, fact) into (now, fact)."""
    now = start
    told = []
    for pause, fact in facts:
        now += pause
        told.append((now, fact))
    return told


def wire_facts(
    links: Sequence[int] = (1,),
    data: st.SearchStrategy[bytes] | None = None,
    *more: st.SearchStrategy[Any],
    longest_pause: float = 120.0,
    at_most: int = 12,
) -> st.SearchStrategy[list[tuple[float, Any]]]:
    """Return a strategy of what can happen on these links: `data` is what the peer likes to say."""
    link = st.sampled_from(list(links))
    fact = st.one_of(
        st.just(WAKE),
        st.builds(Opened, link),
        st.builds(Received, link, data if data is not None else st.binary(max_size=200)),
        st.builds(Received, link, st.binary(max_size=64)),
        st.builds(Ended, link),
        st.builds(Lost, link, st.just("reset")),
        st.builds(Drained, link),
        *more,
    )
    pause = st.one_of(st.just(0.0), st.floats(0.0, longest_pause, allow_nan=False))
    return st.lists(st.tuples(pause, fact), max_size=at_most)


@st.composite
def mangled(draw: st.DrawFn, conversation: Sequence[tuple[float, Any]]) -> list[tuple[float, Any]]:
    """Return the good conversation with a few things gone wrong: lost, doubled, swapped, garbled, cut short."""
    told = [(now - before, fact) for (now, fact), before in zip(conversation, [0.0, *(now for now, _ in conversation)])]
    for _ in range(draw(st.integers(1, 3))):
        if not told:
            break
        at = draw(st.integers(0, len(told) - 1))
        pause, fact = told[at]
        match draw(st.sampled_from(["garble", "garble", "drop", "double", "swap", "cut", "end", "lose", "late"])):
            case "garble" if isinstance(fact, Received | Body) and len(fact.data):
                told[at] = pause, msgspec.structs.replace(fact, data=draw(garbled(bytes(fact.data))))
            case "drop":
                del told[at]
            case "double":
                told.insert(at, told[at])
            case "swap":
                other = draw(st.integers(0, len(told) - 1))
                told[at], told[other] = told[other], told[at]
            case "cut":
                del told[at:]
            case "end" if hasattr(fact, "link"):
                told.insert(at + 1, (0.0, Ended(fact.link)))
            case "lose" if hasattr(fact, "link"):
                told.insert(at, (0.0, Lost(fact.link, "reset")))
            case "late":
                told.insert(at, (draw(st.floats(0.0, 1000.0, allow_nan=False)), WAKE))
            case _:
                pass
    return timed(told)


@st.composite
def garbled(draw: st.DrawFn, data: bytes) -> bytes:
    """Return the bytes with one place changed, taken out, filled in, or said twice."""
    at = draw(st.integers(0, len(data) - 1))
    size = draw(st.integers(1, 16))
    return draw(
        st.sampled_from(
            [
                data[:at] + bytes([data[at] ^ (1 << (size % 8))]) + data[at + 1 :],
                data[:at] + data[at + size :],
                data[:at] + draw(st.binary(min_size=1, max_size=16)) + data[at:],
                data[:at] + draw(st.binary(min_size=size, max_size=size)) + data[at + size :],
                data[: at + size] + data[at:],
                data[:at],
            ]
        )
    )
