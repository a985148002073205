"""Bytes into facts, and the promises of a machine as the oracle. Every target stands on this file.

A target is `fuzz/target_<name>.py` with `run(data: bytes) -> None`. It returns when the data was taken or was refused
with a TowlineError; anything else it lets through is a finding.

    def run(data: bytes) -> None:                     # a parser
        refused_or_taken(lambda: parse_challenges([data.decode("latin-1")]))

    def run(data: bytes) -> None:                     # a machine
        hold_to_promises(make, peer_facts(data, links=(1,)))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from machines.oracle import BrokenPromise as BrokenPromise
from machines.oracle import essence, held, play, recut, show, weight, wishes_of

from towline.core import KINDS, WAKE, Drained, Ended, Lost, Note, Opened, Read, Received, TowlineError

T = TypeVar("T")

KIB = 1024


class Bytes:
    """A cursor over fuzz input: small choices first, the rest is what a peer says."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __len__(self) -> int:
        return len(self._data) - self._at

    def byte(self) -> int:
        """Return the next byte, 0 past the end."""
        return (self.take(1) or b"\0")[0]

    def take(self, count: int) -> bytes:
        """Return up to `count` bytes."""
        piece = self._data[self._at : self._at + count]
        self._at += len(piece)
        return piece

    def rest(self) -> bytes:
        return self.take(len(self))

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.byte() % len(choices)]


def refused_or_taken(call: Callable[[], T]) -> T | None:
    """Return what the parser made of it, or None if it refused with a TowlineError."""
    try:
        return call()
    except TowlineError as error:
        if error.kind not in KINDS:
            raise BrokenPromise(f"the kind {error.kind!r} has no row in KINDS") from error
        return None


def peer_facts(data: bytes, links: Sequence[int] = (1,), *, opened: bool = True) -> list[tuple[float, Any]]:
    """Return what a peer did: WAKE, the links opened (or left to the data), then what the bytes spell.

    A record is one byte of choice, and for bytes received two of length. Most choices are bytes received,
    since that is where the parsers are.
    """
    script = Bytes(data)
    now = 0.0
    facts: list[tuple[float, Any]] = [(now, WAKE)]
    if opened:
        facts += [(now, Opened(link)) for link in links]
    while script:
        choice = script.byte()
        link = links[(choice >> 4) % len(links)]
        match choice & 0x0F:
            case 0x0A:
                now += script.byte() / 4
                facts.append((now, WAKE))
            case 0x0B:
                now += script.byte() * 16.0
                facts.append((now, WAKE))
            case 0x0C:
                facts.append((now, Ended(link)))
            case 0x0D:
                facts.append((now, Lost(link, "reset")))
            case 0x0E:
                facts.append((now, Drained(link)))
            case 0x0F:
                facts.append((now, Opened(link)))
            case _:
                size = script.byte() << 8 | script.byte()
                facts.append((now, Received(link, script.take(size))))
    return facts


def received(link: int, data: bytes) -> bytes:
    """Spell bytes received on the link at this index, the way `peer_facts` reads them. For seeds."""
    return b"".join(
        bytes([link << 4]) + len(piece).to_bytes(2, "big") + piece
        for piece in (data[at : at + 0xFFFF] for at in range(0, len(data), 0xFFFF))
    )


def hold_to_promises(
    make: Callable[[], Any],
    facts: Sequence[tuple[float, Any]],
    *,
    volatile: tuple[type, ...] = (Read, Note),
    growth: int = 16,
    slack: int = 256 * KIB,
    holds: int = 4 * 1024 * KIB,
    splits: bool = True,
) -> None:
    """Play the facts whole, again, and a byte at a time; raise BrokenPromise where the wishes tell on the machine.

    The arguments are those of `machines.case.MachineCase`.
    """
    machine = make()
    turns = play(machine, facts)
    wished = wishes_of(turns)
    told = weight([fact for _, fact in facts])
    if weight(wished) > slack + growth * told:
        raise BrokenPromise(f"bounded: {weight(wished)} bytes wished for {told} told")
    if held(machine) - held(make()) > holds:
        raise BrokenPromise(f"bounded: {held(machine)} bytes are kept of {told} told")
    again = wishes_of(play(make(), facts))
    if [show(wish) for wish in again] != [show(wish) for wish in wished]:
        raise BrokenPromise("pure: the same facts twice gave different wishes")
    if splits:
        for cuts in ([1], [7, 1, 300]):
            pieces = wishes_of(play(make(), recut(facts, cuts)))
            if essence(pieces, volatile) != essence(wished, volatile):
                raise BrokenPromise(f"split-blind: cut by {cuts}, {first_difference(wished, pieces, volatile)}")


def first_difference(whole: Sequence[Any], pieces: Sequence[Any], volatile: tuple[type, ...]) -> str:
    """Say where two sequences of wishes part."""
    (bytes_of, others), (bytes_cut, others_cut) = essence(whole, volatile), essence(pieces, volatile)
    for key in [*bytes_of, *bytes_cut]:
        if bytes_of.get(key) != bytes_cut.get(key):
            return f"{key}: expected {bytes_of.get(key, b'')[:200]!r}, got {bytes_cut.get(key, b'')[:200]!r}"
    for one, other in zip([*others, "nothing"], [*others_cut, "nothing"]):
        if one != other:
            return f"expected {one}, got {other}"
    return "the order of the wishes differs"
