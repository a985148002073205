"""Windows: when one is wished for, that its bytes pass uncopied, and that none of them is kept after the turn."""

from __future__ import annotations

from typing import Any

import pytest
from http_tools import events, tell
from machines.oracle import held

from towline.core import (
    WAKE,
    Body,
    Data,
    Feed,
    Filled,
    Finished,
    Limits,
    Opened,
    Plan,
    Received,
    Request,
    Step,
    Store,
    Tail,
    Window,
    begin,
    end,
    feed,
    fetch,
    read,
    sleep,
    store,
)
from towline.core.http import ClientConnection, Courier, ServerConnection

PIECE = Limits().http_piece
HOST = (("Host", "a.test"),)


def window(data: bytes) -> tuple[bytearray, memoryview]:
    """A driver's buffer with these bytes, and the view it hands out."""
    buffer = bytearray(data)
    return buffer, memoryview(buffer)


def client(head: bytes, method: str = "GET") -> ClientConnection:
    """A connection whose response has begun."""
    connection = ClientConnection(1)
    connection.request(method, "/", HOST)
    connection.output()
    connection.received(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
    connection.next()
    return connection


def server(head: bytes, **settings: Any) -> ServerConnection:
    """A connection whose request has begun."""
    connection = ServerConnection(2, 0.0, **settings)
    connection.received(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n", 0.0)
    connection.next()
    return connection


# ── one link ───────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("role", ["client", "server"])
def test_a_window_is_wished_for_while_more_than_a_piece_is_owed(role: str) -> None:
    size = PIECE * 3
    head = b"Content-Length: %d" % size
    connection: Any = client(head) if role == "client" else server(head)

    def received(data: Data) -> list[Any]:
        connection.received(data) if role == "client" else connection.received(data, 0.0)
        return events(connection)

    assert events(connection) == []
    assert connection.window() == size
    assert connection.window() is None, "asked twice, and nothing came between"
    assert received(b"x" * PIECE) == [Body(b"x" * PIECE)]
    assert connection.window() == 2 * PIECE
    received(b"x" * (PIECE - 1))
    assert connection.window() == PIECE + 1
    received(b"x")
    assert connection.window() is None
    assert received(b"x" * PIECE)[-1] == Tail()
    assert connection.window() is None


@pytest.mark.parametrize("head", [b"Transfer-Encoding: chunked", b"X: to the end", b"Content-Length: 65536"])
def test_no_window_for_what_is_short_or_of_unknown_length(head: bytes) -> None:
    connection = client(head)
    assert events(connection) == []
    assert connection.window() is None
    if not head.startswith(b"X"):
        posted = server(head)
        assert events(posted) == []
        assert posted.window() is None


def test_no_window_for_what_is_not_wanted() -> None:
    assert client(b"Content-Length: 1000000", "HEAD").window() is None
    answered = server(b"Content-Length: 1000000", limits=Limits(http_drain=2_000_000))
    answered.respond(401, (), now=0.0)
    assert answered.state == "emptying"
    assert answered.window() is None


def test_a_body_behind_its_head_and_in_a_view_is_not_copied() -> None:
    buffer, view = window(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello")
    connection = ClientConnection(1)
    connection.request("GET", "/", HOST)
    connection.received(view)
    head, body = events_uncopied(connection)
    assert memoryview(body.data).obj is buffer
    buffer[:] = b"\xa5" * len(buffer)
    assert dict(head.headers) == {"content-length": "1000000"}


def events_uncopied(connection: ClientConnection) -> list[Any]:
    told = []
    while (event := connection.next()) is not None:
        told.append(event)
    return told


@pytest.mark.parametrize("cut", range(1, 60))
def test_nothing_is_kept_of_a_view(cut: int) -> None:
    """Part of a head, a request behind another, the bytes behind a 101: told as if they had been given away."""
    get, switch = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 101 x\r\nUpgrade: y\r\n\r\nabc"
    serving = ServerConnection(2, 0.0)
    told: list[Any] = []
    for piece in ((get + get)[:cut], (get + get)[cut:]):
        buffer, view = window(piece)
        serving.received(view, 0.0)
        told += events(serving)
        buffer[:] = b"\xa5" * len(buffer)
    serving.respond(200, (), now=0.0)
    told += events(serving)
    assert [event.target for event in told if not isinstance(event, Tail)] == ["/a", "/a"]
    asking = ClientConnection(1)
    asking.request("GET", "/", (*HOST, ("Upgrade", "y")))
    for piece in (switch[:cut], switch[cut:]):
        buffer, view = window(piece)
        asking.received(view)
        events(asking)
        buffer[:] = b"\xa5" * len(buffer)
    assert asking.upgrade() == b"abc"


# ── a script over links ────────────────────────────────────────────────────────
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * PIECE)


def blob() -> Step[Any]:
    """Feed and keep a body."""
    yield from begin(7, Plan())
    yield from fetch(Request("GET", "http://a.test/"))
    while isinstance(piece := (yield from read()), Body):
        yield from feed(7, piece.data)
        yield from store(7, piece.data)
        del piece
    return (yield from end(7))


def document(pause: float = 0.0) -> Step[list[Data]]:
    """Read a body, and keep its pieces as they came."""
    yield from fetch(Request("GET", "http://a.test/"))
    kept: list[Data] = []
    while isinstance(piece := (yield from read()), Body):
        kept.append(piece.data)
    return kept


def slow() -> Step[bytes]:
    """Begin a stream, wait for the first piece of a body, and read the others late."""
    yield from begin(7, Plan())
    yield from fetch(Request("GET", "http://a.test/"))
    first = yield from read()
    assert isinstance(first, Body)
    kept = bytes(first.data)
    yield from sleep(50.0)
    while isinstance(piece := (yield from read()), Body):
        kept += bytes(piece.data)
    return kept


def begun(steps: Step[Any]) -> Courier[Any]:
    courier = Courier(steps)
    tell(courier, WAKE)
    tell(courier, Opened(1))
    return courier


def test_a_courier_wishes_for_windows_and_passes_them_on() -> None:
    courier = begun(blob())
    assert tell(courier, Received(1, LONG)) == [Window(1, 4 * PIECE)]
    buffer, view = window(b"x" * PIECE)
    fed, stored, again = tell(courier, Filled(1, view))
    assert (type(fed), type(stored)) == (Feed, Store)
    assert fed.data.obj is buffer
    assert stored.data.obj is buffer
    assert again == Window(1, 3 * PIECE)
    assert tell(courier, WAKE, 1.0) == [], "nothing came since"
    *_, again = tell(courier, Received(1, b"x" * PIECE), 1.0)
    assert again == Window(1, 2 * PIECE), "what is received instead does as well"
    assert [type(wish) for wish in tell(courier, Filled(1, view), 1.0)] == [Feed, Store]
    assert tell(courier, Filled(3, view), 1.0) == [], "a late one, of a link that is gone"


def test_a_script_that_feeds_no_stream_may_keep_what_it_read() -> None:
    courier = begun(document())
    assert tell(courier, Received(1, LONG)) == []
    wishes = tell(courier, Received(1, b"x" * 4 * PIECE))
    assert wishes[-1] == Finished([memoryview(b"x" * 4 * PIECE)])


def test_what_a_script_leaves_unread_is_copied() -> None:
    courier = begun(slow())
    assert tell(courier, Received(1, LONG)) == [Window(1, 4 * PIECE)]
    came = b""
    for number in range(4):
        piece = bytes([number]) * PIECE
        came += piece
        buffer, view = window(piece)
        assert tell(courier, Filled(1, view)) == [], "no window for a script that does not read"
        buffer[:] = b"\xa5" * PIECE
    *_, finished = tell(courier, WAKE, 50.0)
    assert finished.value == came


def test_a_courier_keeps_nothing_of_what_it_fed() -> None:
    courier = begun(blob())
    tell(courier, Received(1, LONG))
    before = held(courier)
    for size in (3 * PIECE, PIECE):
        _, view = window(b"x" * size)
        tell(courier, Filled(1, view))
        assert held(courier) <= before
