"""Answers that break, are too much, cannot be written, or meet a peer that is gone: each told, and nothing left."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from worlds.brokers import CLIENT, SERVER, TOKEN, UPSTREAM, Brokers, HandMade, Serving, plain
from worlds.world import Answer as Got
from worlds.world import End, World

from towline.core import LIMITS, WAKE, Accepted, Limits, LocalProtocolError, Lost, Received
from towline.core.broker import AcceptRules, Reload, Stop, TunnelsEnded, encode_upload_head
from towline.core.http import Answer, AnswerBody, AnswerCut, AnswerEnd, AnswerHead, Asked

HANG = ["hang"]


def code(got: Got) -> Any:
    return json.loads(got.body)["code"]


def hanging(head: Any, body: bytes) -> Any:
    return 200, [], HANG


def without_uploads(answer: Any, **more: Any) -> Brokers:
    brokers = Brokers(answer, **more)
    for tunnel in brokers.client_machine._tunnels:
        tunnel.capabilities = ()
    return brokers


def upstream_end(brokers: Brokers, at: int = 0) -> End:
    """The client's end of a link to its upstream."""
    ends = [end for end in brokers.client.ends.values() if end.other and end.other.party is brokers.upstream_party]
    return ends[at]


def cut_tunnels(brokers: Brokers) -> None:
    for end in list(brokers.client.ends.values()):
        if end.other is not None and end.other.party is brokers.server:
            brokers.world.cut_link(end)


# ── answers of an upstream, through the client ────────────────────────────────
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, None),
        (404, None),
        (401, "DOWNSTREAM_UNAUTHORIZED"),
        (403, "DOWNSTREAM_FORBIDDEN"),
        (429, "DOWNSTREAM_RATE_LIMITED"),
        (418, "DOWNSTREAM_UNEXPECTED"),
        (503, "DOWNSTREAM_SERVER_ERROR"),
    ],
)
def test_an_upload_says_what_kind_of_error_its_upstream_s_is(status: int, kind: str | None) -> None:
    uploads: list[bytes] = []

    def watch(machine: Any) -> Any:
        handle = machine.handle

        def tapped(fact: Any, now: float) -> None:
            if isinstance(fact, Received):
                uploads.append(bytes(fact.data))
            handle(fact, now)

        machine.handle = tapped
        return machine

    brokers = Brokers(lambda head, body: plain(status), watch=watch, client={"one_event_answers": False})
    assert brokers.relay("/x").status == status
    sent = b"".join(uploads)
    assert b"POST /response-data/" in sent
    assert (b"errorType" in sent) is (kind is not None)
    assert kind is None or b'"errorType":"' + kind.encode() + b'"' in sent


def upload_between_two_tries(size: int, limits: Limits) -> Brokers:
    """An upstream's answer goes on while the server refuses links, and nothing can be uploaded."""
    brokers = Brokers(
        lambda head, body: plain(200, b"x" * size), world=World(lambda size: min(size, 1_000)), limits=limits
    )
    brokers.world._pick = lambda count: count - 1
    return brokers


@pytest.mark.parametrize(("size", "status"), [(20_000, 200), (200_000, 502)])
def test_what_comes_between_two_tries_is_kept_as_far_as_may_be(size: int, status: int) -> None:
    brokers = upload_between_two_tries(size, Limits(stream_buffer=50_000))
    waiting = brokers.callers.ask(f"http://host:{SERVER}/broker/{TOKEN}/x")
    brokers.world.refusing.add(SERVER)
    ports = dict(brokers.world._ports)
    brokers.world.refusing.clear()
    brokers.turn()
    real = brokers.world.opens

    def refusing(party: Any, wish: Any) -> None:
        refused = party is brokers.client and wish.port == SERVER
        if refused:
            brokers.world.refusing.add(SERVER)
        real(party, wish)
        brokers.world.refusing.clear()

    brokers.world.opens = refusing
    brokers.world.run(0.3)
    brokers.world.opens = real
    brokers.world.run(1.0)
    assert ports == brokers.world._ports
    assert waiting.status == status
    assert len(brokers.client_machine._jobs) == 0


def test_an_answer_whose_caller_left_before_it_began_is_refused_and_given_up() -> None:
    brokers = Brokers(lambda head, body: (200, [], [b"x" * 10, *HANG]))
    leaving = brokers.callers.ask(f"http://host:{SERVER}/broker/{TOKEN}/x")
    brokers.turn()
    # The request is at the client, and its upstream has not answered.
    for _ in range(100):
        if brokers.client_machine._jobs and brokers.client.ends:
            ends = [end for end in brokers.client.ends.values() if end.other and end.other.party.name == "agent"]
            for end in ends:
                end.held = True
        if not brokers.callers.answers:
            break
        brokers.world.run(0.0)
        break
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(1.0)
    for end in brokers.client.ends.values():
        end.held = False
    brokers.world.run(1.0)
    assert len(brokers.client_machine._jobs) == 0
    assert brokers.upstream.lost


@pytest.mark.parametrize(("body", "end"), [(b"\xff" * 6_000, "broken"), (b"x" * 60_000, None)])
def test_an_answer_too_large_for_the_tunnel_is_never_whole(body: bytes, end: str | None) -> None:
    brokers = without_uploads(lambda head, _: (200, [], [body]), limits=Limits(tunnel_payload=5_000))
    got = brokers.relay("/x")
    assert got.end is None
    assert len(brokers.client_machine._jobs) == 0
    known = without_uploads(lambda head, _: plain(200, body), limits=Limits(tunnel_payload=5_000))
    got = known.relay("/x")
    assert (got.end, got.body) == (end, b"")
    assert len(known.client_machine._jobs) == 0


def test_what_waits_at_the_client_goes_on_or_is_given_up_with_its_tunnel() -> None:
    def waiting(**more: Any) -> tuple[Brokers, list[Got]]:
        brokers = Brokers(hanging, client={"one_event_answers": False})
        brokers.client_machine._jobs._limits = Limits(tunnel_in_flight=1, tunnel_waiting=5)
        return brokers, [brokers.relay(f"/{at}", run=0.1, **more) for at in range(3)]

    brokers, _ = waiting()
    assert len(brokers.upstream.requests) == 1
    brokers.world.cut_link(upstream_end(brokers))
    brokers.world.run(0.1)
    assert [head.target for head, _ in brokers.upstream.requests] == ["/0", "/1"]
    brokers, _ = waiting(headers=(("x-broker-ws-response", "1"),))
    cut_tunnels(brokers)
    brokers.world.run(0.1)
    assert len(brokers.client_machine._jobs) == 0
    assert [tunnel.running for tunnel in brokers.client_machine._tunnels] == [0, 0]


def test_bytes_that_nobody_asked_for_end_a_kept_link() -> None:
    brokers = Brokers()
    brokers.relay("/a")
    upstream_end(brokers).inbox.append(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    brokers.world.run(0.1)
    assert [end for end in brokers.client.ends.values() if end.other and end.other.party.name == "agent"] == []
    assert brokers.relay("/b").status == 200


# ── answers of a client, through the server ───────────────────────────────────
def serving(limits: Limits = LIMITS, **more: Any) -> tuple[Serving, Any, HandMade]:
    made = Serving(limits=limits, **more)
    party, client = made.client()
    return made, party, client


def test_an_acknowledgement_may_have_any_body_or_none() -> None:
    brokers, party, client = serving()
    for body, got_body, kind in [
        (None, b"", None),
        (b"\xff\x00", b"\xff\x00", None),
        ("text", b"text", "text/html; charset=utf-8"),
        ("", b"", None),
        ([1], b"[1]", "application/json; charset=utf-8"),
    ]:
        got = brokers.relay("/x", headers=(("x-broker-ws-response", "1"),))
        ack_id = client.arrived[-1].ack_id
        assert ack_id is not None
        client.acknowledge(ack_id, {"status": 200, "headers": {}, "body": body})
        brokers.say(party)
        assert (got.status, got.body, got.get("content-type")) == (200, got_body, kind)


# A token that no header of ours is as long as.
UNFIT = {"x" * 257: "a"}


def chunks(client: HandMade, *pieces: tuple[Any, ...]) -> None:
    for piece in pieces:
        client.emit("chunk", client.asked[-1]["streamingID"], *piece)


@pytest.mark.parametrize("finished", [False, True])
def test_an_answer_by_events_that_cannot_be_written(finished: bool) -> None:
    brokers, party, client = serving()
    got = brokers.relay("/x")
    chunks(client, ("", finished, {"status": 200, "headers": UNFIT}))
    brokers.say(party)
    assert (got.status, code(got)) == (502, "TUNNEL_PROTOCOL")


def test_an_answer_by_events_that_is_longer_than_announced_is_cut() -> None:
    brokers, party, client = serving()
    got = brokers.relay("/x")
    chunks(client, ("", False, {"status": 200, "headers": {"content-length": "3"}}))
    brokers.say(party)
    chunks(client, ("abcdef", False))
    brokers.say(party)
    assert (got.status, got.body, got.end) == (200, b"", "broken")
    assert len(brokers.machine._calls) == 0


def test_an_upload_whose_headers_cannot_be_written() -> None:
    brokers, _, client = serving()
    got = brokers.relay("/x")
    head = encode_upload_head(200, UNFIT)
    upload = brokers.upload(client.asked[0]["streamingID"], head + b"x")
    assert (upload.status, got.status, code(got)) == (400, 502, "TUNNEL_PROTOCOL")


def test_an_asker_or_upload_that_breaks_off_before_it_is_whole() -> None:
    brokers, _, _ = serving()
    leaving = brokers.ask(f"/broker/{TOKEN}/x", "POST", chunked=True)
    brokers.callers.leave(leaving)
    brokers.say(brokers.caller)
    # The head of an upload and its fault in one piece: it is gone before it could be refused.
    brokers.world.tell(brokers.server, Accepted(901, "http", "peer"))
    raw = b"POST /response-data/%s/none HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    brokers.world.tell(brokers.server, Received(901, raw % TOKEN.encode()))
    brokers.world.run(1.0)
    assert len(brokers.machine._calls) == 0
    assert brokers.ask("/healthcheck").status == 200


def test_a_refused_upload_that_falls_silent_is_let_go() -> None:
    brokers, _, _ = serving(upload_silence=5.0)
    upload = brokers.ask(f"/response-data/{TOKEN}/none", "POST", chunked=True, run=0.1)
    assert upload.status == 500
    brokers.world.run(30.0)
    assert upload.end == "whole"
    assert [end for end in brokers.server.ends.values() if end.other and end.other.party is brokers.caller] == []


def test_a_call_that_waits_for_its_turn_can_be_left() -> None:
    brokers, _, client = serving(Limits(tunnel_in_flight=1, tunnel_waiting=5))
    brokers.relay("/a")
    leaving, staying = brokers.relay("/b"), brokers.relay("/c")
    brokers.callers.leave(leaving)
    brokers.say(brokers.caller)
    head = encode_upload_head(200, {})
    assert brokers.upload(client.asked[0]["streamingID"], head).status == 200
    assert [asked["url"] for asked in client.asked] == ["/a", "/c"]
    assert brokers.upload(client.asked[1]["streamingID"], head).status == 200
    assert (staying.status, leaving.status) == (200, None)


def test_a_client_that_does_not_read_is_asked_no_more() -> None:
    brokers, party, _ = serving(Limits(tunnel_buffer=10_000))
    for end in party.ends.values():
        end.held = True
    got = [brokers.relay("/x", "POST", body=b"x" * 9_000) for _ in range(2)]
    assert [one.status for one in got] == [None, 503]
    assert code(got[1]) == "TOO_BUSY"


# ── the application's own answers ─────────────────────────────────────────────
def asked_by(path: str = "/results") -> tuple[Serving, Got, int, Callable[[Any], None]]:
    brokers = Serving()
    got = brokers.ask(path)
    (asked,) = brokers.server.of(Asked)

    def tell(fact: Any) -> None:
        brokers.world.tell(brokers.server, fact)

    return brokers, got, asked.exchange, tell


def test_an_answer_longer_than_announced_is_cut_once() -> None:
    for last in (AnswerCut, AnswerEnd):
        brokers, got, exchange, tell = asked_by()
        tell(AnswerHead(exchange, 200, (("content-length", "3"),)))
        brokers.world.run(0.1)
        tell(AnswerBody(exchange, b"abcdef"))
        tell(AnswerBody(exchange, b"g"))
        tell(last(exchange))
        brokers.world.run(0.1)
        assert (got.status, got.end) == (200, "broken")


def test_a_second_answer_is_refused_and_the_first_goes_on() -> None:
    brokers, got, exchange, tell = asked_by()
    tell(AnswerHead(exchange, 200))
    with pytest.raises(LocalProtocolError):
        tell(Answer(exchange, 200))
    tell(AnswerEnd(exchange))
    brokers.world.run(0.1)
    assert (got.status, got.end) == (200, "whole")


# ── callbacks ─────────────────────────────────────────────────────────────────
def test_callbacks_that_wait_for_a_tunnel_are_bounded() -> None:
    brokers = Brokers(limits=Limits(tunnel_waiting=2))
    brokers.world.refusing.add(SERVER)
    cut_tunnels(brokers)
    got = [brokers.ask("/api/x", "POST", port=CLIENT, body=b"", run=0.1) for _ in range(3)]
    assert [one.status for one in got] == [None, None, 503]
    assert code(got[2]) == "TOO_BUSY"
    brokers.world.run(30.0)
    assert [code(one) for one in got[:2]] == ["CONNECTION_NOT_READY"] * 2


@pytest.mark.parametrize("said", [None, {"status": 99}, {"headers": {}}, {"status": 200, "headers": {"a b": "c"}}])
def test_a_callback_s_answer_that_cannot_be_read(said: Any) -> None:
    brokers = Brokers()
    got = brokers.ask("/other/kept", "POST", port=CLIENT, body=b"")
    assert got.pending
    for session in (1, 2):
        brokers.server_machine._host.acknowledge(session, 1, [said] if said else [], now=brokers.world.now)
    brokers.world.tell(brokers.server, WAKE)
    brokers.world.run(0.1)
    assert (got.status, code(got)) == (502, "TUNNEL_PROTOCOL")


def test_a_request_with_a_header_that_cannot_be_written_goes_nowhere() -> None:
    brokers = Brokers()
    sent = {"url": "/x", "method": "GET", "headers": UNFIT}
    for session in (1, 2):
        brokers.server_machine._host.emit(session, "request", [sent], ack=True, now=brokers.world.now)
    brokers.world.tell(brokers.server, WAKE)
    brokers.world.run(0.1)
    assert brokers.upstream.requests == []
    assert len(brokers.client_machine._jobs) == 0
    server, party, client = serving()
    client.emit("request", {"url": "/api/x", "method": "POST", "headers": UNFIT}, ack=True)
    server.say(party)
    assert client.acked[-1].args[0]["status"] == 400


# ── checks, and the end ───────────────────────────────────────────────────────
def test_a_check_that_gets_no_answer_in_time_or_cannot_be_asked() -> None:
    brokers = Brokers(hanging, client={"check_url": f"http://agent:{UPSTREAM}/check"})
    got = brokers.ask("/systemcheck", port=CLIENT, run=6.0)
    assert (got.status, json.loads(got.body)[0]["error"]) == (500, "no answer in 5 s")


def test_rules_that_can_never_hold_are_told() -> None:
    brokers = Brokers()
    rules = AcceptRules.load({"private": [{"path": "/a", "valid": [{"path": "x", "regex": "("}]}]})
    brokers.world.tell(brokers.client, Reload(rules))
    assert "is no regular expression" in brokers.client.notes("filter.rule")[0].fields["problem"]
    brokers.world.tell(brokers.server, Reload(rules))
    assert brokers.server.notes("filter.rule")


def test_a_client_stops_when_its_tunnels_take_no_more() -> None:
    brokers = Brokers(hanging, limits=Limits(tunnel_buffer=1))
    brokers.relay("/x")
    for end in brokers.client.ends.values():
        if end.other is not None and end.other.party is brokers.server:
            end.other.held = True
    for _ in range(3):
        brokers.ask("/other/kept", "POST", port=CLIENT, body=b"x" * 100, run=0.0)
    brokers.world.tell(brokers.client, Stop(1.0))
    brokers.world.run(2.0)
    assert brokers.client_machine.deadline() is None
    brokers.world.tell(brokers.client, Lost(1, "late"))
    assert brokers.client.of(TunnelsEnded) == []
