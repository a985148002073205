"""Where the broker's roots meet what is slow, broken, too large or too late."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from worlds.brokers import CLIENT, PLATFORM, SERVER, TOKEN, UPSTREAM, Brokers, Serving, plain
from worlds.world import Answer as Got

from towline.core import WAKE, Accepted, Limits, LocalProtocolError, Opened, Received, Record
from towline.core.broker import AcceptRules, CallbackArrived, Stop
from towline.core.http import Answer, AnswerBody, AnswerCut, AnswerEnd, AnswerHead, Asked, Gone


def code(got: Got) -> Any:
    return json.loads(got.body)["code"]


# ── callers ───────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("gzip", gzip.compress(b"plain"), 200),
        ("x-gzip", gzip.compress(b"plain"), 200),
        ("deflate", zlib.compress(b"plain"), 200),
        ("deflate", zlib.compressobj(wbits=-15).compress(b"") + zlib.compress(b"plain")[2:-4], 200),
        ("identity", b"plain", 200),
        ("gzip", b"no gzip", 400),
        ("gzip", gzip.compress(b"plain")[:-3], 400),
        ("gzip", gzip.compress(b"plain") + b"x", 400),
        ("gzip", gzip.compress(b"x" * 2_001), 413),
        ("br", b"plain", 415),
    ],
)
def test_content_encodings_of_requests(encoding: str, body: bytes, status: int) -> None:
    brokers = Brokers(limits=Limits(http_request_body=2_000))
    got = brokers.relay("/x", "POST", headers=(("content-encoding", encoding),), body=body)
    assert got.status == status
    if status == 200:
        assert brokers.upstream.requests[0][1] == b"plain"


def test_a_body_larger_than_may_be() -> None:
    brokers = Brokers(limits=Limits(http_request_body=1_000))
    assert brokers.relay("/x", "POST", body=b"x" * 1_001).status == 413
    asked = brokers.callers.ask(f"http://host:{SERVER}/broker/{TOKEN}/x", "POST", chunked=True)
    brokers.callers.more(asked, b"x" * 600)
    brokers.callers.more(asked, b"x" * 600)
    brokers.turn()
    brokers.world.run(1.0)
    assert asked.status == 413
    assert brokers.upstream.requests == []


def test_a_body_that_does_not_come() -> None:
    brokers = Brokers()
    asked = brokers.callers.ask(f"http://host:{SERVER}/broker/{TOKEN}/x", "POST", chunked=True)
    brokers.callers.more(asked, b"x")
    brokers.turn()
    brokers.world.run(31.0)
    assert asked.status == 408
    serving = Serving(upload_silence=50.0)
    _, client = serving.client()
    waiting = serving.relay("/x")
    upload = serving.ask(f"/response-data/{TOKEN}/{client.asked[0]['streamingID']}", "POST", chunked=True, run=51.0)
    assert (waiting.status, upload.end) == (502, "broken")


def test_a_path_that_cannot_be_decoded() -> None:
    serving = Serving()
    assert serving.ask("/primus%zz").status == 400
    assert serving.ask("/results/%zz").status == 400
    assert serving.ask("/primus/x/?EIO=4&transport=none").status == 400


def test_a_client_that_takes_no_more() -> None:
    serving = Serving(limits=Limits(tunnel_payload=10_000))
    serving.client()
    assert serving.relay("/x", "POST", body=b"x" * 9_000).status == 413


# ── the application ───────────────────────────────────────────────────────────
def test_an_answer_in_pieces() -> None:
    serving = Serving()
    got = serving.ask("/results")
    (asked,) = serving.server.of(Asked)

    def tell(fact: Record) -> None:
        serving.world.tell(serving.server, fact)

    with pytest.raises(LocalProtocolError):
        tell(Answer(asked.exchange, 99))
    with pytest.raises(LocalProtocolError):
        tell(AnswerHead(asked.exchange, 200, (("x", "a\r\nb"),)))
    tell(AnswerHead(asked.exchange, 200, (("X-A", "b"),)))
    with pytest.raises(LocalProtocolError):
        tell(AnswerHead(asked.exchange, 200))
    tell(AnswerBody(asked.exchange, b"one"))
    tell(AnswerBody(asked.exchange, b"two"))
    tell(AnswerEnd(asked.exchange))
    tell(AnswerEnd(asked.exchange))
    serving.world.run()
    assert (got.body, got.get("x-a"), got.end) == (b"onetwo", "b", "whole")
    cut = serving.ask("/results")
    tell(AnswerHead(serving.server.of(Asked)[1].exchange, 200))
    tell(AnswerCut(serving.server.of(Asked)[1].exchange))
    serving.world.run()
    assert cut.end == "broken"
    broken = serving.ask("/results")
    tell(Answer(serving.server.of(Asked)[2].exchange, 200, (("x", "a\r\nb"),)))
    serving.world.run()
    assert broken.status == 502


def test_an_asker_that_leaves() -> None:
    serving = Serving()
    got = serving.ask("/results")
    serving.callers.leave(got)
    serving.say(serving.caller)
    assert serving.server.of(Gone) == [Gone(serving.server.of(Asked)[0].exchange)]
    serving.world.tell(serving.server, Answer(serving.server.of(Asked)[0].exchange, 200))


# ── callbacks ─────────────────────────────────────────────────────────────────
def test_a_platform_that_fails() -> None:
    brokers = Brokers(client={"answer_seconds": 700.0})
    brokers.world.refusing.add(PLATFORM)
    got = brokers.ask("/api/x", "POST", port=CLIENT, body=b"", run=2.0)
    assert (got.status, code(got)) == (502, "DOWNSTREAM_UNREACHABLE")
    brokers.world.refusing.clear()
    brokers.platform.answer = lambda head, body: plain(200, b"x" * 2_000)
    brokers.server_machine._platform._limits = Limits(tunnel_answer=1_999)
    got = brokers.ask("/api/x", "POST", port=CLIENT, body=b"")
    assert (got.status, code(got)) == (502, "BODY_TOO_LARGE")
    brokers.platform.answer = lambda head, body: (200, [], ["hang"])
    got = brokers.ask("/api/x", "POST", port=CLIENT, body=b"", run=601.0)
    assert (got.status, code(got)) == (504, "DOWNSTREAM_TIMEOUT")


def test_an_application_that_does_not_answer_a_callback() -> None:
    brokers = Brokers(server={"answer_seconds": 20.0})
    got = brokers.ask("/other/kept", "POST", port=CLIENT, body=b"", run=21.0)
    assert (got.status, code(got)) == (504, "TIMEOUT")
    (arrived,) = brokers.server.of(CallbackArrived)
    brokers.world.tell(brokers.server, Answer(arrived.exchange, 200))


def test_callbacks_in_flight_are_bounded() -> None:
    brokers = Brokers(limits=Limits(tunnel_in_flight=2, tunnel_waiting=3))
    waiting = [brokers.ask("/other/kept", "POST", port=CLIENT, body=b"", run=0.1) for _ in range(4)]
    assert [got.status for got in waiting] == [None, None, 503, 503]
    assert waiting[2].get("retry-after") == "1"
    third = brokers.ask("/other/kept", "POST", port=CLIENT, body=b"", run=0.0)
    assert third.status == 503


def test_a_client_that_vanishes_ends_its_callbacks() -> None:
    brokers = Brokers()
    brokers.ask("/other/kept", "POST", port=CLIENT, body=b"")
    brokers.platform.answer = lambda head, body: (200, [], ["hang"])
    brokers.ask("/api/x", "POST", port=CLIENT, body=b"")
    assert len(brokers.server_machine._platform) == 2
    brokers.world.kill(brokers.client)
    brokers.world.run(1.0)
    assert len(brokers.server_machine._platform) == 0
    assert brokers.platform.lost


def test_a_callback_with_a_target_that_cannot_be_decoded() -> None:
    serving = Serving()
    party, client = serving.client()
    client.emit("request", {"url": "/other/kept?a=%ff", "method": "POST"}, ack=True)
    serving.say(party)
    assert client.acked[-1].args[0]["status"] == 400


# ── upstreams ─────────────────────────────────────────────────────────────────
def test_an_upstream_that_never_lets_us_in() -> None:
    brokers = Brokers()
    machine = brokers.client_machine
    brokers.upstream_party.accepted = 0
    waiting = brokers.callers.ask(f"http://host:{SERVER}/broker/{TOKEN}/x")
    real = brokers.world.opens

    def silent(party: Any, wish: Any) -> None:
        if wish.port != UPSTREAM:
            real(party, wish)

    brokers.world.opens = silent
    brokers.turn()
    brokers.world.run(46.0)
    assert (waiting.status, code(waiting)) == (504, "DOWNSTREAM_TIMEOUT")
    assert machine._outgoing._lines == {}


def test_an_upstream_that_switches_protocols_or_speaks_nonsense() -> None:
    for said in (b"HTTP/1.1 101 x\r\nUpgrade: y\r\nConnection: upgrade\r\n\r\n", b"SSH-2.0-x\r\n"):
        brokers = Brokers(lambda head, body: (200, [], ["hang"]))
        waiting = brokers.relay("/x")
        (end,) = (
            end for end in brokers.client.ends.values() if end.other and end.other.party is brokers.upstream_party
        )
        end.inbox.append(said)
        brokers.world.run(1.0)
        assert (waiting.status, code(waiting)) == (502, "DOWNSTREAM_ERROR")


def test_kept_links_are_used_last_first_and_let_go_in_time() -> None:
    brokers = Brokers()
    for at in range(3):
        brokers.relay(f"/{at}")
    assert brokers.upstream_party.accepted == 2
    brokers.world.run(61.0)
    assert [
        end for end in brokers.client.ends.values() if end.other and end.other.party is brokers.upstream_party
    ] == []


def test_a_kept_link_that_died_asks_again_only_what_may_be_asked_twice() -> None:
    for method, status in (("GET", 200), ("POST", 502)):
        brokers = Brokers()
        brokers.relay("/a")
        (end,) = (
            end for end in brokers.client.ends.values() if end.other and end.other.party is brokers.upstream_party
        )
        assert end.other is not None
        end.other.deaf = True
        end.other.party.ends.pop(end.other.number)
        waiting = brokers.relay("/b", method, body=b"" if method == "POST" else None)
        brokers.world.cut_link(end)
        brokers.world.run(1.0)
        assert waiting.status == status


def test_a_rule_without_an_origin_and_a_header_that_cannot_go_on() -> None:
    brokers = Brokers(client={"rules": AcceptRules.load({"private": [{"path": "/a"}]})})
    got = brokers.relay("/a")
    assert (got.status, code(got)) == (502, "DOWNSTREAM_ERROR")


@pytest.mark.parametrize("size", [20_000, 200_000])
def test_an_upload_is_tried_again_only_while_all_of_it_is_kept(size: int) -> None:
    brokers = Brokers(lambda head, body: plain(200, b"x" * size), limits=Limits(stream_buffer=50_000))
    waiting = brokers.callers.ask(f"http://host:{SERVER}/broker/{TOKEN}/x")
    brokers.turn()
    brokers.world.refusing.add(SERVER)
    brokers.world.run(0.3)
    brokers.world.refusing.clear()
    brokers.world.run(1.0)
    if size < 50_000:
        assert (waiting.status, waiting.body) == (200, b"x" * size)
    else:
        assert (waiting.status, code(waiting)) == (502, "UPLOAD_FAILED")
    assert len(brokers.client_machine._jobs) == 0


def test_what_waits_at_the_client_goes_on() -> None:
    brokers = Brokers(client={"one_event_answers": False})
    brokers.client_machine._jobs._limits = Limits(tunnel_in_flight=1, tunnel_waiting=5)
    waiting = [brokers.relay(f"/{at}", run=0.0) for at in range(4)]
    brokers.world.run(1.0)
    assert [got.status for got in waiting] == [200] * 4


def test_what_waits_at_the_server_goes_on() -> None:
    brokers = Brokers(limits=Limits(tunnel_in_flight=1, tunnel_waiting=5))
    waiting = [brokers.relay(f"/{at}", run=0.0) for at in range(4)]
    leaving = brokers.relay("/leaving", run=0.0)
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(1.0)
    assert [got.status for got in waiting] == [200] * 4


def test_a_callback_larger_than_the_tunnel_carries() -> None:
    brokers = Brokers(limits=Limits(tunnel_payload=10_000))
    assert brokers.ask("/api/x", "POST", port=CLIENT, body=b"x" * 9_000).status == 413


def test_checks_that_are_not_configured_or_not_waited_for() -> None:
    rules = AcceptRules.load({"private": [{"path": "/a"}]})
    got = Brokers(client={"agent_url": None, "rules": rules}).ask("/systemcheck", port=CLIENT)
    assert (got.status, json.loads(got.body)[0]["error"]) == (500, "no check is configured")
    brokers = Brokers(lambda head, body: (200, [], ["hang"]))
    leaving = brokers.ask("/systemcheck", port=CLIENT)
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(1.0)
    assert brokers.upstream.lost
    refused = Brokers(client={"check_url": f"http://agent:{UPSTREAM}/check"})
    refused.world.refusing.add(UPSTREAM)
    got = refused.ask("/systemcheck", port=CLIENT, run=3.0)
    assert (got.status, "no answer" in json.loads(got.body)[0]["error"]) == (500, True)


# ── the end ───────────────────────────────────────────────────────────────────
def test_stopping_closes_what_is_idle_and_takes_nothing_new() -> None:
    serving = Serving()
    serving.client()
    waiting = serving.relay("/x")
    serving.world.tell(serving.server, Stop(10.0))
    serving.world.tell(serving.server, Accepted(900, "http", "late"))
    serving.world.run(9.0)
    assert waiting.end is None
    serving.world.run(2.0)
    assert serving.machine.deadline() is None
    for late in (WAKE, Opened(1), Received(2, b"x")):
        serving.world.tell(serving.server, late)
    assert serving.machine.poll() is None
