"""The machines that `testing.py` drives: small, and each for one promise. They are examples of machines as well."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Any

from towline.core import (
    Accepted,
    Begin,
    Data,
    Drop,
    End,
    Ended,
    Feed,
    Filled,
    Finished,
    Lost,
    Note,
    Open,
    Opened,
    Plan,
    Proved,
    Received,
    Record,
    Refused,
    RemoteProtocolError,
    Share,
    Shut,
    Store,
    Transmit,
    Wake,
    Window,
)
from towline.drivers._kit_peers import PATIENCE


class Small:
    """A machine's common part: a queue of wishes, and every fact kept to be looked at."""

    def __init__(self) -> None:
        self.wishes: list[Any] = []
        self.facts: list[Any] = []
        self.at: float | None = None

    def wish(self, *wishes: Any) -> None:
        self.wishes += wishes

    def handle(self, fact: Any, now: float) -> None:
        # A window's bytes are the driver's; what is kept of them is a copy.
        self.facts.append(Filled(fact.link, memoryview(bytes(fact.view))) if isinstance(fact, Filled) else fact)
        self.take(fact, now)

    def take(self, fact: Any, now: float) -> None:
        pass

    def poll(self) -> Any:
        return self.wishes.pop(0) if self.wishes else None

    def deadline(self) -> float | None:
        return self.at


class Relay(Small):
    """Joins each accepted link to a new one; ends when both sides of the first pair have ended.

    `share` puts the accepted links under Share; `secure` opens the others over TLS.
    """

    def __init__(self, port: int, *, share: bool = False, host: str = "127.0.0.1", secure: bool = False) -> None:
        super().__init__()
        self.port = port
        self.share = share
        self.host = host
        self.secure = secure
        self.other: dict[int, int] = {}
        self.ended: set[int] = set()

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Accepted):
            out = fact.link - 1
            self.other |= {fact.link: out, out: fact.link}
            if self.share:
                self.wish(Share(fact.link))
            self.wish(Open(out, self.host, self.port, self.secure))
        elif isinstance(fact, Received):
            self.wish(Transmit(self.other[fact.link], fact.data))
        elif isinstance(fact, Ended):
            self.ended.add(fact.link)
            self.wish(Shut(self.other[fact.link]))
            if self.other[fact.link] in self.ended:
                self.wish(Finished("relayed"))
        elif isinstance(fact, Lost):
            self.wish(Drop(self.other[fact.link]))


class Windows:
    """What a machine of the kit owes of windows: `size` bytes on each link, wished for as long as some are owed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.owed: dict[int, int] = {}

    def begin(self, link: int) -> list[Window]:
        """A link may bring its body."""
        self.owed[link] = self.size
        return [Window(link, self.size)]

    def took(self, fact: Filled | Received) -> tuple[Data, list[Window]]:
        """Return a fact's bytes, and the next wish if more are owed."""
        owed = self.owed.get(fact.link, 0)
        data = fact.data if isinstance(fact, Received) else fact.view
        assert isinstance(fact, Received) or 0 < len(data) <= owed, f"{len(data)} bytes in a window of {owed}"
        self.owed[fact.link] = max(owed - len(data), 0)
        return data, [Window(fact.link, owed - len(data))] if owed > len(data) else []


class WindowRelay(Relay):
    """A relay that reads the first `size` bytes of each side through windows, also before the other side is open."""

    def __init__(self, port: int, size: int, *, host: str = "127.0.0.1", secure: bool = False) -> None:
        super().__init__(port, host=host, secure=secure)
        self.windows = Windows(size)

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Filled | Received):
            data, more = self.windows.took(fact)
            self.wish(Transmit(self.other[fact.link], data), *more)
            return
        super().take(fact, now)
        if isinstance(fact, Accepted | Opened):
            self.wish(*self.windows.begin(fact.link))


class Parting(Small):
    """Says all it has to say to the first peer, and is finished in the same turn."""

    def __init__(self, words: bytes) -> None:
        super().__init__()
        self.words = words

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self.wish(Transmit(fact.link, self.words), Finished("said"))


class Dropper(Small):
    """Drops each link at its first byte."""

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self.wish(Drop(fact.link), Note("info", "dropped", {"link": fact.link}))


class Alarms(Small):
    """Wakes a few times, and can be told to wake earlier; its value is how late each was."""

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Wake):
            if self.at is not None:
                self.wish(Note("debug", "woken", {"late": now - self.at}))
            self.at = now + (0.03 if len(self.facts) < 4 else 600.0)
        elif isinstance(fact, Earlier):
            self.at = now + 0.03
            self.wish(Note("debug", "moved"))


class Dials(Small):
    """Opens one link and ends with the first thing it hears of it."""

    def __init__(self, wish: Open) -> None:
        super().__init__()
        self.wish(wish)

    def take(self, fact: Any, now: float) -> None:
        if not isinstance(fact, Wake):
            self.wish(Finished(fact))


class Earlier(Record, frozen=True):
    """The application's fact to Alarms."""


class Said(Record, frozen=True):
    """An event no driver knows."""

    number: int


class Talks(Small):
    """Says what it is told."""

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Said):
            self.wish(fact)
            if fact.number == 3:
                self.wish(Finished("told"))


class SumPlan(Plan, frozen=True):
    """A stream that proves SHA-256 and can be slow: `gate` is waited for before each buffer, then `pause` seconds."""

    digest: str
    gate: threading.Event | None = None
    pause: float = 0.0


class Sum:
    """The stream of a SumPlan."""

    def __init__(self, plan: SumPlan) -> None:
        self._plan = plan
        self._hash = hashlib.sha256()
        self._thread = threading.get_ident()

    def feed(self, data: Data) -> None:
        assert self._thread == threading.get_ident(), "a stream was touched by two threads"
        if self._plan.gate is not None:
            self._plan.gate.wait(PATIENCE)
        if self._plan.pause:
            time.sleep(self._plan.pause)
        self._hash.update(data)

    def end(self) -> str:
        assert self._thread == threading.get_ident(), "a stream was touched by two threads"
        if self._hash.hexdigest() != self._plan.digest:
            raise RemoteProtocolError("digest-mismatch", "expected another digest")
        return self._plan.digest


def build_sum(plan: Plan) -> Sum:
    assert isinstance(plan, SumPlan)
    return Sum(plan)


class Keeper:
    """A BlobStore in memory that remembers how each of its blobs ended."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}
        self.kept: dict[str, bytes] = {}

    def open(self, plan: Plan) -> _Kept:
        assert isinstance(plan, SumPlan)
        return _Kept(self, plan.digest)


class _Kept:
    def __init__(self, keeper: Keeper, name: str) -> None:
        self._keeper = keeper
        self._name = name
        self._data = bytearray()

    def write(self, data: Data) -> None:
        self._data += data

    def commit(self) -> None:
        self._keeper.ends[self._name] = "committed"
        self._keeper.kept[self._name] = bytes(self._data)

    def abort(self) -> None:
        self._keeper.ends[self._name] = "aborted"


class Hashes(Small):
    """Feeds and stores what the first link sends, and ends with the stream's verdict."""

    def __init__(self, plan: SumPlan, expected: int | None) -> None:
        super().__init__()
        self.wish(Begin(1, plan, expected))

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self.wish(Feed(1, fact.data), Store(1, fact.data))
        elif isinstance(fact, Ended):
            self.wish(End(1))
        elif isinstance(fact, Proved | Refused):
            self.wish(Finished(fact))


class WindowHashes(Hashes):
    """Hashes that reads the first `size` bytes through windows."""

    def __init__(self, plan: SumPlan, expected: int | None, size: int) -> None:
        super().__init__(plan, expected)
        self.windows = Windows(size)

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Accepted):
            self.wish(*self.windows.begin(fact.link))
        elif isinstance(fact, Filled | Received):
            data, more = self.windows.took(fact)
            self.wish(Feed(1, data), Store(1, data), *more)
        else:
            super().take(fact, now)
