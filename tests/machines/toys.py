"""Two machines that live only here: the promise tests test themselves on them."""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import strategies as st
from machines.case import MachineCase, wire_facts

from towline.core import (
    WAKE,
    Body,
    Broken,
    Close,
    Ended,
    Failed,
    Finished,
    Head,
    LocalProtocolError,
    Lost,
    Open,
    Opened,
    Plan,
    Proved,
    Received,
    Refused,
    RemoteProtocolError,
    Request,
    Script,
    Step,
    Tail,
    Transmit,
    Wake,
    begin,
    clock,
    end,
    feed,
    fetch,
    read,
    sleep,
    together,
)

LONGEST_LINE = 1024
PATIENCE = 30.0


class Echo:
    """Opens one link, sends each line back in capitals, and is done at the peer's end."""

    def __init__(self) -> None:
        self._wishes: deque[Any] = deque()
        self._line = b""
        self._lines = 0
        self._until: float | None = None
        self._over = False
        self._started = False

    def handle(self, fact: Any, now: float) -> None:
        if self._over:
            return
        if not self._started:
            if not isinstance(fact, Wake):
                raise LocalProtocolError(f"expected WAKE first, got {type(fact).__name__}")
            self._started = True
            self._until = now + PATIENCE
            self._wishes.append(Open(1, "echo.test", 7, tls=False))
            return
        if self._until is not None and now >= self._until:
            self._fail(RemoteProtocolError("timeout", f"expected a line within {PATIENCE:g} s"))
        elif getattr(fact, "link", 1) != 1:
            return
        elif isinstance(fact, Received):
            self._receive(bytes(fact.data), now)
        elif isinstance(fact, Ended):
            self._wishes.append(Close(1))
            self._finish(Finished(self._lines))
        elif isinstance(fact, Lost):
            self._fail(RemoteProtocolError(fact.kind, f"link lost: {fact.why}"))

    def poll(self) -> Any:
        return self._wishes.popleft() if self._wishes else None

    def deadline(self) -> float | None:
        return self._until

    def _receive(self, data: bytes, now: float) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if len(line) > LONGEST_LINE:
                break
            self._lines += 1
            self._until = now + PATIENCE
            self._wishes.append(Transmit(1, line.upper() + b"\n"))
        else:
            line = self._line
        if len(line) > LONGEST_LINE:
            self._fail(RemoteProtocolError("request-too-large", f"expected at most {LONGEST_LINE} bytes in a line"))

    def _fail(self, error: RemoteProtocolError) -> None:
        self._wishes.append(Close(1))
        self._finish(Failed(error))

    def _finish(self, last: Any) -> None:
        self._wishes.append(last)
        self._over = True
        self._until = None
        self._line = b""


class CountPlan(Plan, frozen=True):
    """Count bytes."""


def copy_document(url: str) -> Step[tuple[int, float]]:
    """Read a document twice, side by side, into a stream, with a pause before; a script of every question."""
    began = yield from clock()
    yield from sleep(began + 1.0)
    yield from begin(1, CountPlan(), 12)
    sizes = yield from together([pour(url), pour(url)], 2)
    proved = yield from end(1)
    if proved != sum(sizes):
        raise RemoteProtocolError("size-mismatch", f"expected {sum(sizes)} bytes, got {proved}")
    until = yield from clock()
    return proved, until - began


def pour(url: str) -> Step[int]:
    """Read one document and feed what comes."""
    head = yield from fetch(Request("GET", url))
    if isinstance(head, Broken) or head.status != 200:
        raise RemoteProtocolError("registry-unreachable", "expected 200")
    size = 0
    while not isinstance(piece := (yield from read()), Tail):
        if isinstance(piece, Broken):
            raise RemoteProtocolError(piece.kind, piece.why)
        yield from feed(1, piece.data)
        size += len(piece.data)
    return size


HEAD = Head(200, (("content-type", "text/plain"),))

ANSWERS = st.lists(
    st.tuples(
        st.floats(0.0, 5.0, allow_nan=False),
        st.one_of(
            st.just(WAKE),
            st.builds(Head, st.sampled_from([200, 404]), st.just(())),
            st.builds(Body, st.binary(max_size=20)),
            st.just(Tail()),
            st.just(Broken("reset")),
            st.builds(Proved, st.just(1), st.integers(0, 40)),
            st.just(Refused(1, RemoteProtocolError("digest-mismatch", "expected other bytes"))),
        ),
    ),
    max_size=16,
)

CASES = [
    MachineCase(
        "toy-echo",
        Echo,
        [
            (0.0, WAKE),
            (0.1, Opened(1)),
            (0.2, Received(1, b"one\ntwo\nthr")),
            (9.0, Received(1, b"ee\n")),
            (30.0, WAKE),
            (31.0, Ended(1)),
        ],
        wire_facts([1, 3], st.sampled_from([b"one\n", b"two", b"\n", b"x" * 2000])),
    ),
    MachineCase(
        "toy-script",
        lambda: Script(copy_document("https://documents.test/one")),
        [
            (0.0, WAKE),
            (1.0, WAKE),
            (1.0, HEAD),
            (1.1, Body(b"six hu")),
            (1.2, Body(b"ndred")),
            (1.2, Tail()),
            (1.3, HEAD),
            (1.3, Body(b"six hundred")),
            (1.4, Tail()),
            (1.5, Proved(1, 22)),
        ],
        ANSWERS,
        volatile=(type(None),),
    ),
]
