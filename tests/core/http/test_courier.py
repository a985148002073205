"""Scripts over links: which wishes a conversation becomes, what happens when links die, and when time runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from http_tools import Network, drain, raised, tell
from hypothesis import given, settings
from hypothesis import strategies as st

from towline.core import (
    WAKE,
    Abandon,
    Begin,
    Body,
    Broken,
    Close,
    Drop,
    End,
    Ended,
    Failed,
    Feed,
    Finished,
    Head,
    Limits,
    LinkNumbers,
    Lost,
    Note,
    Open,
    Opened,
    Plan,
    Proved,
    Received,
    Refused,
    RemoteProtocolError,
    Request,
    Secret,
    Step,
    Tail,
    Transmit,
    abandon,
    begin,
    clock,
    end,
    feed,
    fetch,
    read,
    say,
    sleep,
    together,
)
from towline.core.http import LINK_TABLE, Courier, RequestHead

URL = "http://a.test/"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BAD_BYTES = RemoteProtocolError("digest-mismatch", "expected other bytes")


def get(url: str = URL, method: str = "GET", **more: Any) -> Step[tuple[int, bytes]]:
    """Fetch a document whole; fail with what stood in the way."""
    head = yield from fetch(Request(method, url, **more))
    data = b""
    piece: Any = head
    while not isinstance(piece, Broken | Tail):
        piece = yield from read()
        if isinstance(piece, Body):
            data += piece.data
    if isinstance(piece, Broken):
        raise RemoteProtocolError(piece.kind, f"{piece.why} (sent={piece.sent})")
    assert isinstance(head, Head)
    return head.status, data


def echo(request: RequestHead, body: bytes) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
    return 200, (), request.target.encode() + body


def in_turn(*steps: Step[Any]) -> Step[list[Any]]:
    values = []
    for step in steps:
        values.append((yield from step))
    return values


# ── the conversation on the wire ───────────────────────────────────────────────
def test_a_conversation() -> None:
    courier = Courier(get(headers=(("Authorization", Secret("Bearer t0k")),)))
    assert tell(courier, WAKE) == [Open(1, "a.test", 80, False)]
    assert courier.deadline() == 10.0
    (transmit,) = tell(courier, Opened(1), 1.0)
    assert transmit.data == (
        b"GET / HTTP/1.1\r\nHost: a.test\r\nUser-Agent: towline/0.1.0\r\nAccept-Encoding: identity\r\n"
        b"Authorization: Bearer t0k\r\n\r\n"
    )
    assert courier.deadline() == 31.0
    assert tell(courier, Received(1, OK[:-1]), 2.0) == []
    assert tell(courier, Received(1, OK[-1:]), 3.0) == [Close(1), Finished((200, b"ok"))]
    assert courier.deadline() is None
    assert tell(courier, Received(1, OK), 4.0) == []
    assert tell(courier, WAKE, 5.0) == []
    assert "t0k" not in repr(courier)


def test_what_a_request_says() -> None:
    given_headers = (("host", "other.test"), ("user-agent", "me"), ("Accept-Encoding", "gzip"))
    for request, expected in (
        (Request("GET", URL, given_headers), b"Host: other.test\r\nuser-agent: me\r\nAccept-Encoding: gzip\r\n\r\n"),
        (Request("POST", URL, given_headers), b"gzip\r\nContent-Length: 0\r\n\r\n"),
        (Request("POST", URL, given_headers, b"abc"), b"gzip\r\nContent-Length: 3\r\n\r\nabc"),
    ):
        courier = Courier(fetch(request), user_agent="nobody")
        tell(courier, WAKE)
        sent = b"".join(wish.data for wish in tell(courier, Opened(1)))
        assert sent.lower().endswith(expected.lower())


def test_where_links_lead() -> None:
    courier = Courier(fetch(Request("GET", "https://[::1]:5000/", purpose="untrusted")), links=LinkNumbers(), route="p")
    assert tell(courier, WAKE) == [Open(1, "::1", 5000, True, "untrusted", "p")]
    assert courier.owns(1)
    assert not courier.owns(3)


# ── one pool ───────────────────────────────────────────────────────────────────
def test_a_link_is_kept_and_used_again() -> None:
    network = Network(echo)
    value = network.run(Courier(in_turn(get(), get(URL + "2"), get(URL + "3"), get(URL + "4"))))
    assert value == [(200, b"/"), (200, b"/2"), (200, b"/3"), (200, b"/4")]
    assert len(network.opened) == 2, "a link rests for an instant after its response, so two take turns"
    assert set(network.ended.values()) == {"Close"}


def test_a_link_whose_peer_says_close_is_not_kept() -> None:
    courier = Courier(in_turn(get(), get(URL + "2")))
    tell(courier, WAKE)
    tell(courier, Opened(1))
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert tell(courier, Received(1, closing), 5.0) == [Close(1), Open(3, "a.test", 80, False)]


def test_links_of_different_origins_and_purposes_are_not_mixed() -> None:
    def asked(url: str, purpose: Any) -> Step[Any]:
        yield from sleep(network.now + 1)
        return (yield from get(url, purpose=purpose))

    network = Network(echo)
    network.run(
        Courier(
            in_turn(
                *(
                    asked(*where)
                    for where in (
                        ("http://a.test/", "configured"),
                        ("http://a.test:81/", "configured"),
                        ("http://a.test/", "untrusted"),
                        ("http://b.test/", "configured"),
                        ("http://a.test/2", "configured"),
                    )
                )
            )
        )
    )
    assert network.opened == [
        ("a.test", 80, "configured"),
        ("a.test", 81, "configured"),
        ("a.test", 80, "untrusted"),
        ("b.test", 80, "configured"),
    ]


def test_links_are_capped_and_the_others_wait_their_turn() -> None:
    network = Network(echo)
    steps = [get(f"{URL}{number}") for number in range(20)]
    value = network.run(Courier(together(steps, 20), limits=Limits(links_per_origin=3)))
    assert value == [(200, f"/{number}".encode()) for number in range(20)]
    assert [request.target for request in network.requests] == [f"/{number}" for number in range(20)]
    assert len(network.opened) == 3


def test_a_link_that_died_makes_room() -> None:
    courier = Courier(together([get(), get(URL + "2")], 2), limits=Limits(links_per_origin=1))
    assert tell(courier, WAKE) == [Open(1, "a.test", 80, False)]
    wishes = tell(courier, Lost(1, "refused"))
    assert isinstance(wishes[-1], Failed), "the first failure ends the group"

    def told(url: str) -> Step[str]:
        head = yield from fetch(Request("GET", url))
        return type(head).__name__

    other = Courier(together([told(URL), told(URL)], 2), limits=Limits(links_per_origin=1))
    tell(other, WAKE)
    assert tell(other, Lost(1, "refused")) == [Open(3, "a.test", 80, False)]
    tell(other, Opened(3))
    assert drain_value(other, Received(3, OK)) == ["Broken", "Head"]


def drain_value(courier: Courier[Any], fact: Any, now: float = 0.0) -> Any:
    """The value that a fact finishes the courier with."""
    finished = tell(courier, fact, now)[-1]
    assert isinstance(finished, Finished), finished
    return finished.value


def test_idle_links_are_closed_in_time() -> None:
    def later() -> Step[None]:
        yield from get()
        yield from sleep(100.0)

    courier = Courier(later())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    assert tell(courier, Received(1, OK), 5.0) == []
    assert courier.deadline() == 65.0
    assert tell(courier, WAKE, 64.9) == []
    assert tell(courier, WAKE, 65.0) == [Close(1)]
    assert courier.deadline() == 100.0
    assert tell(courier, WAKE, 100.0) == [Finished(None)]


@pytest.mark.parametrize(
    ("fact", "wish"), [(Received(1, b"HTTP"), [Drop(1)]), (Ended(1), [Close(1)]), (Lost(1, "reset"), [])]
)
def test_an_idle_link_that_says_anything_is_given_up(fact: Any, wish: list[Any]) -> None:
    courier = Courier(in_turn(get(), sleep(50.0), get()))
    tell(courier, WAKE)
    tell(courier, Opened(1))
    tell(courier, Received(1, OK), 1.0)
    assert tell(courier, fact, 2.0) == wish
    assert tell(courier, WAKE, 50.0) == [Open(3, "a.test", 80, False)]


@pytest.mark.parametrize("cut", [0, 1, 20])
def test_bytes_behind_a_response_never_answer_the_next_request(cut: int) -> None:
    poisoned = OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"
    courier = Courier(in_turn(get(), get(URL + "2")))
    tell(courier, WAKE)
    tell(courier, Opened(1))
    wishes = []
    for piece in (poisoned[: len(OK) + cut], poisoned[len(OK) + cut :]):
        wishes += tell(courier, Received(1, piece), 1.0)
    assert wishes == [Open(3, "a.test", 80, False), Drop(1)]


# ── links that die ─────────────────────────────────────────────────────────────
def stale(method: str = "GET") -> Courier[Any]:
    """A courier that has just sent a second request over a kept link."""
    courier = Courier(in_turn(get(), sleep(5.0), get(URL + "2", method)))
    tell(courier, WAKE)
    tell(courier, Opened(1))
    tell(courier, Received(1, OK), 1.0)
    (transmit,) = tell(courier, WAKE, 5.0)
    assert transmit.link == 1
    return courier


@pytest.mark.parametrize(("fact", "wish"), [(Ended(1), [Close(1)]), (Lost(1, "reset"), [])])
def test_a_kept_link_that_died_is_asked_again_once_on_a_fresh_one(fact: Any, wish: list[Any]) -> None:
    courier = stale()
    assert tell(courier, fact, 6.0) == [*wish, Open(3, "a.test", 80, False)]
    (transmit,) = tell(courier, Opened(3), 6.0)
    assert b"GET /2 " in transmit.data
    *_, failed = tell(courier, Lost(3, "reset"), 7.0)
    assert isinstance(failed, Failed)


def test_but_not_when_it_answered_or_might_have_acted() -> None:
    courier = stale()
    tell(courier, Received(1, b"H"), 6.0)
    assert isinstance(tell(courier, Lost(1, "reset"), 6.0)[-1], Failed)
    courier = stale("POST")
    assert isinstance(tell(courier, Ended(1), 6.0)[-1], Failed)
    courier = Courier(get())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    assert isinstance(tell(courier, Ended(1), 6.0)[-1], Failed), "a fresh link is not stale"


def test_errors_name_the_request_and_hide_what_is_secret_in_it() -> None:
    courier = Courier(get("http://a.test/x?sig=hunter2"))
    tell(courier, WAKE)
    *_, failed = tell(courier, Lost(1, "certificate expired", "tls-error"))
    assert failed.error.kind == "tls-error"
    assert failed.error.message == "GET http://a.test/x?sig=***: certificate expired (sent=False)"


@pytest.mark.parametrize(
    ("wire", "kind", "why"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "protocol-error", "conflicting"),
        (b"\x16\x03\x01", "protocol-error", "status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc", "registry-unreachable", "expected 5 bytes of body, got 3"),
        (b"", "registry-unreachable", "got nothing"),
    ],
)
def test_broken_responses(wire: bytes, kind: str, why: str) -> None:
    courier = Courier(get())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    courier.handle(Received(1, wire), 0.0)
    courier.handle(Ended(1), 0.0)
    *_, failed = drain(courier)
    assert failed.error.kind == kind
    assert why in failed.error.message


@pytest.mark.parametrize(
    "request_", [Request("GET", "ftp://a.test/"), Request("GET", URL, (("X", "a\r\nb"),)), Request("G T", URL)]
)
def test_a_request_that_cannot_be_written_fails_the_script(request_: Request) -> None:
    courier = Courier(fetch(request_))
    (failed,) = tell(courier, WAKE)
    assert failed.error.kind == "bad-request"


# ── bodies that nobody reads ───────────────────────────────────────────────────
def fetched_twice() -> Step[int]:
    yield from fetch(Request("GET", URL))
    head = yield from fetch(Request("GET", URL + "2"))
    assert isinstance(head, Head)
    return head.status


def test_a_short_rest_is_drained_and_the_link_kept() -> None:
    courier = Courier(in_turn(fetched_twice(), sleep(5.0), get()))
    tell(courier, WAKE)
    tell(courier, Opened(1))
    assert tell(courier, Received(1, b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n")) == [
        Open(3, "a.test", 80, False)
    ]
    tell(courier, Received(1, b"x" * 65536), 1.0)
    tell(courier, Opened(3), 1.0)
    tell(courier, Received(3, OK), 1.0)
    assert [type(wish) for wish in tell(courier, WAKE, 5.0)] == [Transmit]


@pytest.mark.parametrize("framing", [b"Content-Length: 65537", b"Transfer-Encoding: chunked", b"X: to the end"])
def test_a_long_or_unknown_rest_is_dropped(framing: bytes) -> None:
    courier = Courier(fetched_twice())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    head = b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n"
    assert tell(courier, Received(1, head)) == [Drop(1), Open(3, "a.test", 80, False)]


def test_a_rest_that_does_not_come_is_dropped_in_time() -> None:
    courier = Courier(fetched_twice())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    tell(courier, Received(1, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), 1.0)
    tell(courier, Opened(3), 10.0)
    assert tell(courier, WAKE, 31.0) == [Drop(1)]


def test_what_comes_unread_is_bounded() -> None:
    def careless() -> Step[Any]:
        yield from fetch(Request("GET", URL))
        yield from sleep(5.0)
        return (yield from read())

    for size, last in ((100, Body), (101, Broken)):
        courier = Courier(careless(), limits=Limits(tunnel_buffer=100))
        tell(courier, WAKE)
        tell(courier, Opened(1))
        tell(courier, Received(1, b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"))
        wishes = tell(courier, Received(1, b"x" * size))
        assert wishes == ([] if last is Body else [Drop(1)])


# ── time ───────────────────────────────────────────────────────────────────────
def timed_out(courier: Courier[Any], now: float) -> str:
    assert tell(courier, WAKE, now - 0.01) == []
    *drops, failed = tell(courier, WAKE, now)
    assert drops == [Drop(1)]
    assert failed.error.kind == "timeout"
    message: str = failed.error.message
    return message


def test_time_to_connect_to_a_head_and_between_bytes() -> None:
    courier = Courier(get())
    tell(courier, WAKE, 100.0)
    assert "a connection within 10 s" in timed_out(courier, 110.0)
    courier = Courier(get())
    tell(courier, WAKE)
    tell(courier, Opened(1), 5.0)
    tell(courier, Received(1, b"HTTP/1.1 103 x\r\n\r\nHTTP"), 30.0)
    assert "response head within 30 s" in timed_out(courier, 35.0)
    courier = Courier(get())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    tell(courier, Received(1, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"), 1.0)
    tell(courier, Received(1, b"x" * 40_000), 20.0)
    assert courier.deadline() == 31.0
    assert tell(courier, WAKE, 31.0) == [], "40,000 bytes in 30 seconds are enough"
    tell(courier, Received(1, b"x"), 31.0)
    assert "the next bytes within 30 s" in timed_out(courier, 61.0)


def test_a_drip_is_too_slow() -> None:
    courier = Courier(get())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    tell(courier, Received(1, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"), 0.0)
    for second in range(1, 30):
        assert tell(courier, Received(1, b"x"), float(second)) == []
    *_, failed = tell(courier, WAKE, 30.0)
    assert failed.error.kind == "timeout"
    assert "1024 bytes a second" in failed.error.message


def test_the_scripts_own_time_is_not_the_peers() -> None:
    def thoughtful() -> Step[bytes]:
        yield from fetch(Request("GET", URL))
        yield from sleep(100.0)
        piece = yield from read()
        assert isinstance(piece, Body)
        return bytes(piece.data)

    courier = Courier(thoughtful())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    tell(courier, Received(1, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), 0.0)
    assert tell(courier, WAKE, 100.0) == []
    assert drain_value(courier, Received(1, b"abc"), 129.0) == b"abc"


def test_time_for_the_whole_operation() -> None:
    courier = Courier(in_turn(get(), sleep(1000.0)), total=20.0)
    tell(courier, WAKE, 1.0)
    tell(courier, Opened(1), 1.0)
    tell(courier, Received(1, OK), 1.0)
    assert courier.deadline() == 21.0
    *wishes, failed = tell(courier, WAKE, 21.0)
    assert wishes == [Close(1)]
    assert (failed.error.kind, courier.deadline()) == ("timeout", None)


def test_clock_and_sleep() -> None:
    def watch() -> Step[tuple[float, float, float]]:
        first = yield from clock()
        second = yield from sleep(first + 2.0)
        return first, second, (yield from sleep(first))

    courier = Courier(watch())
    assert tell(courier, WAKE, 5.0) == []
    assert courier.deadline() == 7.0
    assert drain_value(courier, WAKE, 7.5) == (5.0, 7.5, 7.5)


# ── scripts side by side ───────────────────────────────────────────────────────
def test_together_runs_at_most_so_many() -> None:
    running = [0]
    most = [0]

    def counted(number: int) -> Step[int]:
        running[0] += 1
        most[0] = max(most[0], running[0])
        yield from get(f"{URL}{number}")
        running[0] -= 1
        return number

    value = Network(echo).run(Courier(together([counted(number) for number in range(10)], 4)))
    assert value == list(range(10))
    assert most[0] == 4


def test_together_nested_and_empty_and_at_once() -> None:
    def immediate(value: int) -> Step[int]:
        return value
        yield

    def nested() -> Step[Any]:
        inner = [together([immediate(1), immediate(2)], 1), together([get(), get()], 2)]
        return (yield from together([*inner, together([], 3)], 2))

    assert Network(echo).run(Courier(nested())) == [[1, 2], [(200, b"/"), (200, b"/")], []]
    many = together([immediate(number) for number in range(5_000)], 2)
    assert drain_value(Courier(many), WAKE) == list(range(5_000))


def test_the_first_failure_ends_the_others() -> None:
    closed = []

    def patient(number: int) -> Step[None]:
        try:
            yield from begin(number, Plan())
            yield from together([get(f"{URL}{number}")], 1)
        except GeneratorExit:
            closed.append(number)
            raise

    def failing() -> Step[None]:
        yield from sleep(1.0)
        raise BAD_BYTES

    def asking() -> Step[str]:
        try:
            yield from together([patient(1), failing(), patient(2), patient(3)], 3)
        except RemoteProtocolError as error:
            return error.kind
        return "nothing"

    courier = Courier(asking())
    assert tell(courier, WAKE) == [
        Begin(1, Plan()), Begin(2, Plan()), Open(1, "a.test", 80, False), Open(3, "a.test", 80, False)
    ]  # fmt: skip
    tell(courier, Opened(1))
    wishes = tell(courier, WAKE, 1.0)
    assert wishes == [Drop(1), Abandon(1), Abandon(2), Drop(3), Finished("digest-mismatch")]
    assert closed == [1, 2]


def test_an_ended_group_leaves_no_request_waiting() -> None:
    def failing() -> Step[None]:
        yield from sleep(1.0)
        raise BAD_BYTES

    def asking() -> Step[Any]:
        try:
            yield from together([get(), get(URL + "2"), failing(), failing()], 4)
        except RemoteProtocolError:
            return (yield from get(URL + "3"))

    courier = Courier(asking(), limits=Limits(links_per_origin=1))
    tell(courier, WAKE)
    assert tell(courier, WAKE, 1.0) == [], "the link that is opening will do for the next request"
    (transmit,) = tell(courier, Opened(1), 1.0)
    assert transmit.data.startswith(b"GET /3 ")


@pytest.mark.parametrize(("fact", "now", "wishes"), [(Lost(1, "refused"), 9.0, []), (WAKE, 10.0, [Drop(1)])])
def test_a_link_that_nobody_waits_for_may_fail(fact: Any, now: float, wishes: list[Any]) -> None:
    def hasty() -> Step[None]:
        try:
            yield from together([get(), in_turn(begin(1, Plan()), end(1))], 2)
        except RemoteProtocolError:
            yield from sleep(50.0)

    courier = Courier(hasty())
    tell(courier, WAKE)
    tell(courier, Refused(1, BAD_BYTES), 1.0)
    assert tell(courier, fact, now) == wishes


def test_a_rest_that_breaks_is_nobodys_trouble() -> None:
    courier = Courier(fetched_twice())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    tell(courier, Received(1, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), 1.0)
    assert tell(courier, Ended(1), 2.0) == [Close(1)]


# ── streams ────────────────────────────────────────────────────────────────────
def download(stream: int = 7) -> Step[Any]:
    yield from begin(stream, Plan(), 10)
    yield from fetch(Request("GET", URL))
    while isinstance(piece := (yield from read()), Body):
        yield from feed(stream, piece.data)
    return (yield from end(stream))


def downloading() -> Courier[Any]:
    courier = Courier(download())
    assert tell(courier, WAKE) == [Begin(7, Plan(), 10), Open(1, "a.test", 80, False)]
    tell(courier, Opened(1))
    return courier


def test_a_stream_is_fed_and_proved() -> None:
    courier = downloading()
    assert tell(courier, Received(1, OK)) == [Feed(7, b"ok"), End(7)]
    assert tell(courier, Proved(8, "another's")) == []
    assert tell(courier, Proved(7, "good"), 1.0) == [Close(1), Finished("good")]


def test_a_stream_that_is_refused_at_its_end() -> None:
    courier = downloading()
    tell(courier, Received(1, OK))
    assert tell(courier, Refused(7, BAD_BYTES)) == [Close(1), Failed(BAD_BYTES)]


def test_a_stream_that_is_refused_early_fails_the_script_at_its_question() -> None:
    courier = downloading()
    assert tell(courier, Received(1, OK[:-1])) == [Feed(7, b"o")]
    assert tell(courier, Refused(7, BAD_BYTES)) == [Drop(1), Failed(BAD_BYTES)]


def test_a_script_may_go_on_after_an_early_refusal() -> None:
    def second_try() -> Step[Any]:
        try:
            yield from download(7)
        except RemoteProtocolError:
            yield from feed(7, b"late")
            yield from abandon(7)
            return (yield from download(9))

    courier = Courier(second_try())
    tell(courier, WAKE)
    assert tell(courier, Refused(7, BAD_BYTES)) == [Begin(9, Plan(), 10)], "nothing more for a stream with its verdict"
    tell(courier, Opened(1))
    tell(courier, Received(1, OK))
    assert tell(courier, Proved(9, "good"))[-1] == Finished("good")


def test_a_script_that_ends_leaves_no_stream_and_no_link() -> None:
    def careless() -> Step[None]:
        yield from begin(5, Plan())
        yield from fetch(Request("GET", URL))

    courier = Courier(careless())
    tell(courier, WAKE)
    tell(courier, Opened(1))
    wishes = tell(courier, Received(1, b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"))
    assert wishes == [Drop(1), Abandon(5), Finished(None)]


def test_events_go_out() -> None:
    courier = Courier(in_turn(say(Note("info", "here")), sleep(1.0)))
    assert tell(courier, WAKE) == [Note("info", "here")]


def test_a_read_without_a_fetch_fails() -> None:
    (failed,) = tell(Courier(read()), WAKE)
    assert failed.error.kind == "broke-the-law"


def test_reading_past_the_end_says_the_end_again() -> None:
    def twice() -> Step[Any]:
        yield from get()
        return (yield from read())

    assert Network(echo).run(Courier(twice())) == Tail()


# ── promises ───────────────────────────────────────────────────────────────────
@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6))
def test_cut_anywhere(cuts: list[int]) -> None:
    def site(request: RequestHead, body: bytes) -> tuple[int, tuple[tuple[str, str], ...], bytes]:
        return 200, (("X", "y" * 50),), request.target.encode() * 20

    def script() -> Step[Any]:
        return (yield from together([get(f"{URL}{number}") for number in range(3)], 2))

    assert Network(site, cuts=cuts).run(Courier(script())) == Network(site).run(Courier(script()))


def test_a_network_that_breaks_is_told() -> None:
    def site(request: RequestHead, body: bytes) -> Any:
        network.lose(1)
        return echo(request, body)

    network = Network(site)
    assert raised(lambda: network.run(Courier(get()))).kind == "registry-unreachable"


def test_the_table_is_whole() -> None:
    for state in LINK_TABLE.states:
        ways_out = [fed for at, fed in LINK_TABLE.steps if at == state]
        assert (ways_out == []) == (state in LINK_TABLE.ends)
    legal: Callable[[str, str], bool] = lambda state, fed: (state, fed) in LINK_TABLE.steps
    assert not legal("idle", "answered")
