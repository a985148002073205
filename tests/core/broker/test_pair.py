"""Our client and our server in one world: what callers, the upstream, the agent and the platform see."""

from __future__ import annotations

import gzip
import hashlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worlds.brokers import CLIENT, CLIENT_RULES, PLATFORM, SERVER, TOKEN, UPSTREAM, Brokers, plain
from worlds.world import World

from towline.core import Limits, Secret
from towline.core.broker import CallbackArrived, Stop, TunnelsEnded
from towline.core.http import Answer, Asked

ANSWERS = pytest.mark.parametrize("events", [True, False], ids=["events", "uploads"])


def pair(answer: Any = None, **more: Any) -> Brokers:
    return Brokers(answer, **more) if answer is not None else Brokers(**more)


@ANSWERS
def test_a_small_answer(events: bool) -> None:
    brokers = pair(client={"one_event_answers": events})
    got = brokers.relay("/healthcheck?x=1", headers=(("x-a", "b"),))
    assert (got.status, got.body, got.end) == (200, b'{"ok":true}', "whole")
    assert got.get("content-type") == "application/json"
    ((head, body),) = brokers.upstream.requests
    assert (head.method, head.target, body) == ("GET", "/healthcheck?x=1", b"")
    assert head.get("x-a") == "b"
    assert head.get("host") == f"agent:{UPSTREAM}"
    assert head.get("snyk-request-id") == head.get("x-request-id") == got.get("snyk-request-id")
    uploads = [end for end in brokers.server.ends.values() if end.other and end.other.party is brokers.client]
    assert len(uploads) == (2 if events else 3)  # the two tunnels, and the link of uploads


@ANSWERS
@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 300_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_answers_of_every_size_arrive_whole(events: bool, size: int, chunked: bool, binary: bool) -> None:
    body = hashlib.shake_128(b"body").digest(size) if binary else b"z" * size

    def answer(head: Any, _: bytes) -> Any:
        headers = [("x-from", "upstream"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]
        if not chunked:
            headers.append(("content-length", str(size)))
        return 201, headers, [body[: size // 2], body[size // 2 :]]

    got = pair(answer, client={"one_event_answers": events}).relay("/bytes")
    assert (got.status, got.end) == (201, "whole")
    assert got.body == body
    assert got.get("x-from") == "upstream"
    assert [value for name, value in got.headers if name == "set-cookie"] == ["a=1", "b=2"]


@ANSWERS
@pytest.mark.parametrize("piece", [1 << 19, 70_000, 9_000])
def test_a_long_body_goes_through_windows_uncopied_and_right(events: bool, piece: int) -> None:
    """Every buffer is overwritten as soon as the turn that it was read in is over: whoever kept a view is seen."""
    body = hashlib.shake_128(b"long").digest(2_000_003)

    def answer(head: Any, _: bytes) -> Any:
        pieces = [body[at : at + piece] for at in range(0, len(body), piece)]
        return 200, [("content-length", str(len(body)))], pieces

    brokers = pair(answer, world=World(cut=lambda size: piece), client={"one_event_answers": events})
    got = brokers.relay("/bytes")
    assert (got.status, got.end) == (200, "whole")
    assert got.body == body
    # The client reads the upstream's answer so, the server the client's upload.
    assert brokers.world.windows > 2 * (len(body) - 200_000) // (1 << 20)
    # And a request, whose body is kept whole on the way.
    brokers.upstream.answer = lambda head, _: plain()
    assert brokers.relay("/scan", "POST", body=body).status == 200
    assert brokers.upstream.requests[-1][1] == body


def test_a_passage_is_noted_only_where_somebody_looks() -> None:
    quiet = {"note_passages": False}
    for told, more in ((1, {}), (0, {"client": quiet, "server": quiet})):
        brokers = pair(**more)
        assert brokers.relay("/healthcheck").status == 200
        assert [len(party.notes("filter.passed")) for party in (brokers.server, brokers.client)] == [told, told]
    brokers = pair(client={**quiet, "rules": _only_healthcheck()})
    assert brokers.relay("/other").status == 401
    assert len(brokers.client.notes("filter.denied")) == 1


@ANSWERS
def test_request_bodies_and_methods(events: bool) -> None:
    brokers = pair(client={"one_event_answers": events})
    body = bytes(range(256)) * 5
    assert brokers.relay("/scan", "POST", body=body).status == 200
    assert brokers.relay("/zip", "PUT", body=gzip.compress(body), headers=(("content-encoding", "gzip"),)).status == 200
    assert brokers.relay("/none", "DELETE").status == 200
    first, second, third = brokers.upstream.requests
    assert (first[0].method, first[1]) == ("POST", body)
    assert (second[0].method, second[1]) == ("PUT", body)
    assert second[0].get("content-encoding") is None
    assert (third[0].method, third[1], third[0].get("content-length")) == ("DELETE", b"", "0")


@ANSWERS
@pytest.mark.parametrize(("status", "method"), [(204, "GET"), (304, "GET"), (200, "HEAD"), (404, "GET"), (500, "GET")])
def test_statuses_and_answers_without_body(events: bool, status: int, method: str) -> None:
    def answer(head: Any, _: bytes) -> Any:
        bodiless = status in (204, 304) or method == "HEAD"
        return (
            status,
            [("etag", '"x"'), *([] if status == 204 else [("content-length", "4")])],
            [] if bodiless else [b"body"],
        )

    got = pair(answer, client={"one_event_answers": events}).relay("/x", method)
    assert (got.status, got.end, got.get("etag")) == (status, "whole", '"x"')
    if method == "HEAD":
        assert got.get("content-length") == "4"


def test_an_answer_over_the_websocket() -> None:
    brokers = pair()
    got = brokers.relay("/healthcheck", headers=(("x-broker-ws-response", "true"),))
    assert (got.status, got.body, got.get("x-broker-ws-response")) == (200, b'{"ok":true}', "true")
    assert brokers.upstream.requests[0][0].get("accept-encoding") == "identity"


def test_an_answer_too_large_for_the_websocket() -> None:
    limits = Limits(tunnel_answer=1_000)
    brokers = pair(lambda head, body: plain(200, b"x" * 1_001), limits=limits)
    got = brokers.relay("/x", headers=(("x-broker-ws-response", "true"),))
    assert (got.status, json.loads(got.body)["code"]) == (502, "BODY_TOO_LARGE")
    assert brokers.relay("/x").status == 200


@ANSWERS
def test_denials(events: bool) -> None:
    brokers = pair(client={"one_event_answers": events})
    before = brokers.relay("/list/..%2fx")  # the server's own rules
    assert (before.status, before.get("content-type")) == (401, "application/json; charset=utf-8")
    assert json.loads(before.body) == {
        "code": "FILTER_BLOCKED",
        "message": "blocked",
        "reason": "Request does not match any accept rule, blocking HTTP request",
        "url": "/list/..%2fx",
    }
    strict = Brokers(client={"one_event_answers": events, "rules": _only_healthcheck()})
    for headers in ((), (("x-broker-ws-response", "1"),)):
        got = strict.relay("/v2/_catalog", headers=headers)
        assert got.status == 401
        assert json.loads(got.body)["reason"].startswith("[Websocket Flow]")
    assert strict.upstream.requests == []
    assert len(strict.client.notes("filter.denied")) == 2


def _only_healthcheck() -> Any:
    from towline.core.broker import AcceptRules

    return AcceptRules.load({"private": [{"path": "/healthcheck", "origin": "${CR_AGENT_URL}"}]})


@ANSWERS
@pytest.mark.parametrize("size", [100, 1_000_000])
def test_an_upstream_that_breaks_off_is_seen_as_cut(events: bool, size: int) -> None:
    def answer(head: Any, _: bytes) -> Any:
        return 200, [("content-length", str(size))], [b"x" * (size // 2), "hang"]

    brokers = pair(answer, client={"one_event_answers": events})
    got = brokers.relay("/cut")
    brokers.world.cut_link(next(iter(brokers.upstream_party.ends.values())))
    brokers.world.run(1.0)
    if events and size == 100:
        # Nothing of it had gone on, so that an error can still be told.
        assert (got.status, json.loads(got.body)["code"]) == (502, "DOWNSTREAM_ERROR")
    else:
        assert got.end == "broken"
        assert got.body == b"x" * len(got.body)


@ANSWERS
def test_an_upstream_that_refuses(events: bool) -> None:
    brokers = pair(client={"one_event_answers": events})
    brokers.world.refusing.add(UPSTREAM)
    started = brokers.world.now
    got = brokers.relay("/x", run=1.4)
    assert got.pending
    brokers.world.run(0.2)
    assert (got.status, json.loads(got.body)["code"]) == (502, "DOWNSTREAM_UNREACHABLE")
    assert brokers.world.now - started < 2  # three more tries, half a second apart
    brokers.world.refusing.clear()
    assert brokers.relay("/x").status == 200


def test_lookups() -> None:
    brokers = pair()
    unknown = brokers.ask("/broker/99999999-0000-4000-8000-000000000009/x")
    assert (unknown.status, unknown.get("x-broker-failure"), unknown.body) == (404, "no-connection", b'{"ok":false}')
    assert brokers.ask(f"/BROKER/{TOKEN.upper()}/healthcheck").status == 200
    status = brokers.ask(f"/connection-status/{TOKEN}")
    clients = [{"version": "local", "filters": CLIENT_RULES.shown()}] * 2
    assert json.loads(status.body) == {"ok": True, "clients": clients}
    listed = json.loads(brokers.ask("/connections-status").body)
    assert listed[0]["identifier"] == "0000-...-000a"
    assert TOKEN.lower() not in json.dumps(listed)
    assert json.loads(brokers.ask("/healthcheck/").body) == {"ok": True, "version": "local"}
    brokers.world.kill(brokers.client)
    gone = brokers.relay("/x")
    assert (gone.status, gone.get("x-broker-failure"), gone.get("retry-after")) == (503, "connection-not-ready", "1")
    brokers.world.run(60.0)
    assert brokers.relay("/x").status == 404
    assert brokers.ask(f"/connection-status/{TOKEN}").status == 404


def test_a_client_that_vanishes_ends_its_callers() -> None:
    brokers = pair(lambda head, body: (200, [], ["hang"]))
    waiting = brokers.relay("/hang")
    assert waiting.end is None
    brokers.world.kill(brokers.client)
    brokers.world.run(1.0)
    assert (waiting.status, json.loads(waiting.body)["code"]) == (502, "TUNNEL_LOST")


@ANSWERS
def test_a_caller_that_leaves_ends_the_upload_and_the_upstreams_answer(events: bool) -> None:
    def answer(head: Any, _: bytes) -> Any:
        return 200, [("content-length", "1000000")], [b"x" * 500_000, "hang"]

    brokers = pair(answer, client={"one_event_answers": events})
    leaving = brokers.relay("/slow")
    assert (leaving.status, len(leaving.body)) == (200, 500_000)
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(1.0)
    assert brokers.upstream.lost, "the upstream's link was dropped"
    assert len(brokers.server_machine._calls) == 0
    assert len(brokers.client_machine._jobs) == 0
    assert brokers.relay("/x").status == 200


def test_a_silent_upstream_is_given_up() -> None:
    brokers = pair(
        lambda head, body: (200, [], ["hang"]), client={"answer_seconds": 20.0}, server={"answer_seconds": 30.0}
    )
    got = brokers.relay("/hang", run=21.0)
    assert (got.status, json.loads(got.body)["code"]) == (504, "DOWNSTREAM_TIMEOUT")
    brokers = pair(
        lambda head, body: (200, [], ["hang"]), client={"answer_seconds": 50.0}, server={"answer_seconds": 30.0}
    )
    got = brokers.relay("/hang", run=31.0)
    assert (got.status, json.loads(got.body)["code"]) == (504, "TIMEOUT")


# ── callbacks ─────────────────────────────────────────────────────────────────
def test_a_callback_reaches_the_platform() -> None:
    brokers = pair()
    got = brokers.ask("/api/v2/import/done", "POST", port=CLIENT, body=b'{"job":1}', headers=(("x-b", "1"),))
    assert (got.status, got.body, got.get("x-broker-ws-response")) == (200, b'got {"job":1}', "true")
    ((head, body),) = brokers.platform.requests
    assert body == b'{"job":1}'
    assert head.get("x-broker-token") == TOKEN.lower()
    assert head.get("x-snyk-broker") == "0000-...-000a"
    assert (head.get("host"), head.get("x-b")) == (f"platform:{PLATFORM}", "1")


def test_a_callback_without_an_origin_is_the_applications() -> None:
    brokers = pair()
    got = brokers.ask("/other/kept?a=1", "POST", port=CLIENT, body=b"hello")
    (arrived,) = brokers.server.of(CallbackArrived)
    assert got.pending
    assert (arrived.token, arrived.request.method, arrived.request.path) == (
        Secret(TOKEN.lower()),
        "POST",
        "/other/kept",
    )
    assert (arrived.request.body, arrived.request.parameter("a")) == (b"hello", "1")
    brokers.world.tell(brokers.server, Answer(arrived.exchange, 202, (("x-kept", "yes"),), b"kept"))
    brokers.world.run(1.0)
    assert (got.status, got.body, got.get("x-kept")) == (202, b"kept", "yes")


def test_callbacks_denied_on_either_side() -> None:
    brokers = pair()
    here = brokers.ask("/nope", "POST", port=CLIENT, body=b"")
    assert (here.status, json.loads(here.body)["code"]) == (401, "FILTER_BLOCKED")
    there = brokers.ask("/other/x", "POST", port=CLIENT, body=b"")
    assert (there.status, json.loads(there.body)["code"]) == (401, "FILTER_BLOCKED")
    assert there.get("content-type") == "application/json; charset=utf-8"
    assert brokers.platform.requests == []


def test_a_callback_while_no_tunnel_is_open() -> None:
    brokers = pair()
    brokers.world.kill(brokers.server)
    waiting = brokers.ask("/api/x", "POST", port=CLIENT, body=b"{}", run=2.9)
    assert waiting.pending
    brokers.world.run(0.2)
    assert (waiting.status, waiting.get("retry-after")) == (503, "1")
    health = brokers.ask("/healthcheck", port=CLIENT)
    assert (health.status, [entry["ok"] for entry in json.loads(health.body)]) == (500, [False, False])


def test_a_callback_whose_body_is_too_large() -> None:
    brokers = pair(limits=Limits(http_request_body=1_000))
    for more in (
        {"body": b"x" * 1_001},
        {"body": gzip.compress(b"x" * 1_001), "headers": (("content-encoding", "gzip"),)},
    ):
        got = brokers.ask("/api/x", "POST", port=CLIENT, **more)
        assert got.status == 413
        assert b"Traceback" not in got.body
    assert brokers.ask("/api/x", "POST", port=CLIENT, body=b"x", headers=(("content-encoding", "br"),)).status == 415
    assert brokers.ask("/api/x", "POST", port=CLIENT, body=b"x" * 1_000).status == 200


# ── the faces ─────────────────────────────────────────────────────────────────
def test_the_clients_own_face() -> None:
    brokers = pair(client={"variables": {"CR_CREDENTIALS": Secret("canary-credentials")}})
    health = brokers.ask("/healthcheck", port=CLIENT)
    assert (health.status, [entry["ok"] for entry in json.loads(health.body)]) == (200, [True, True])
    assert json.loads(health.body)[0]["brokerServerUrl"] == f"http://server:{SERVER}/?connection_role=primary"
    check = brokers.ask("/systemcheck", port=CLIENT)
    assert (check.status, json.loads(check.body)[0]["maskedCredentials"]) == (200, "can***als")
    assert brokers.upstream.requests[0][0].get("authorization") == "canary-credentials"
    assert json.loads(brokers.ask("/filters", port=CLIENT).body)["private"][0]["path"] == "/*"


def test_a_system_check_is_answered_in_its_time() -> None:
    brokers = pair(lambda head, body: (200, [], ["hang"]))
    got = brokers.ask("/systemcheck", port=CLIENT, run=5.1)
    assert (got.status, json.loads(got.body)[0]["ok"]) == (500, False)
    brokers = pair(lambda head, body: plain(401), client={"check_authorizations": (Secret("a-canary-b"), Secret("x"))})
    got = brokers.ask("/systemcheck", port=CLIENT)
    first, second = json.loads(got.body)
    assert (got.status, first["error"]) == (500, "Failed due to invalid credentials")
    assert (first["maskedCredentials"], second["maskedCredentials"]) == ("a-c***y-b", "***")


def test_other_paths_of_the_server_are_the_applications() -> None:
    brokers = pair()
    got = brokers.ask("/results?cursor=a%20b")
    (asked,) = brokers.server.of(Asked)
    assert (asked.request.path, asked.request.parameter("cursor")) == ("/results", "a b")
    brokers.world.tell(brokers.server, Answer(asked.exchange, 200, (), b"[]"))
    brokers.world.run()
    assert (got.status, got.body) == (200, b"[]")
    assert asked.request.get("snyk-request-id") == got.get("snyk-request-id") != ""


def test_service_commands() -> None:
    brokers = pair()
    got = brokers.ask(f"/service/{TOKEN}/filters/reload")
    assert (got.status, json.loads(got.body)) == (200, {"ok": True, "msg": "Filters reloaded."})
    assert brokers.ask(f"/service/{TOKEN}/config/reload").status == 501
    assert brokers.ask(f"/service/{TOKEN}/explode").status == 400


def test_substitution_reaches_only_the_agent() -> None:
    brokers = pair(client={"variables": {"CR_CREDENTIALS": Secret("canary"), "CR_PASSWORD": Secret("other-canary")}})
    headers = (("x-broker-var-sub", "x-creds"), ("x-creds", "${CR_CREDENTIALS} ${CR_PASSWORD}"))
    body = b'{"BROKER_VAR_SUB":["callback"],"callback":"${BROKER_CLIENT_URL}"}'
    brokers.relay("/scan", "POST", headers=headers, body=body)
    ((head, got),) = brokers.upstream.requests
    assert head.get("x-creds") == "canary ${CR_PASSWORD}"
    assert got == b'{"callback":"http://client:8000"}'
    said = repr(brokers.client.events) + repr(brokers.server.events) + repr(brokers.client_machine)
    assert "canary" not in said


# ── limits, and the end ───────────────────────────────────────────────────────
def test_requests_in_flight_are_bounded() -> None:
    limits = Limits(tunnel_in_flight=2, tunnel_waiting=3)
    brokers = pair(lambda head, body: (200, [], ["hang"]) if head.target == "/hang" else plain(), limits=limits)
    waiting = [brokers.relay("/hang", run=0.0) for _ in range(5)]
    assert len(brokers.upstream.requests) == 2
    refused = brokers.relay("/x")
    assert (refused.status, refused.get("retry-after")) == (503, "1")
    for answer in waiting[:2]:
        brokers.callers.leave(answer)
    brokers.turn()
    brokers.world.run(1.0)
    assert [answer.end for answer in waiting[2:]] == [None] * 3


def test_stopping() -> None:
    brokers = pair(lambda head, body: (200, [], ["hang"]) if head.target == "/hang" else plain())
    waiting = brokers.relay("/hang")
    brokers.world.tell(brokers.client, Stop(5.0))
    brokers.world.run(4.9)
    assert not brokers.client.of(type(None))
    assert waiting.end is None
    brokers.world.run(0.2)
    assert brokers.client_machine.deadline() is None
    brokers.world.run(1.0)
    assert waiting.status == 502
    brokers.world.tell(brokers.server, Stop(5.0))
    assert brokers.server_machine.deadline() is None


def test_tunnels_that_are_refused_for_good() -> None:
    brokers = pair(server={"tokens": (Secret("another"),)}, client={"attempts": 2})
    brokers.world.run(60.0)
    assert brokers.client.of(TunnelsEnded)
    assert brokers.ask("/healthcheck", port=CLIENT).status == 500


# ── schedules ─────────────────────────────────────────────────────────────────
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_whatever_the_schedule_every_caller_gets_what_the_upstream_said(data: st.DataObject) -> None:
    cuts = data.draw(st.lists(st.integers(1, 70_000), min_size=1, max_size=20))
    picks = data.draw(st.lists(st.integers(0, 10), min_size=1, max_size=20))
    state = {"cut": 0, "pick": 0}

    def cut(size: int) -> int:
        state["cut"] += 1
        # Large deliveries are cut into some dozens of pieces at most, so that the test ends.
        return max(cuts[state["cut"] % len(cuts)], size // 24)

    def pick(count: int) -> int:
        state["pick"] += 1
        return picks[state["pick"] % len(picks)]

    def answer(head: Any, body: bytes) -> Any:
        size = int(head.target.rpartition("/")[2])
        content = hashlib.shake_128(head.target.encode()).digest(size)
        headers = [("content-length", str(size))] if size % 2 else []
        return 200, headers, [content]

    brokers = Brokers(answer, world=World(cut, pick), client={"one_event_answers": data.draw(st.booleans())})
    sizes = data.draw(st.lists(st.integers(0, 60_000), min_size=1, max_size=4))
    asked = [(size, brokers.relay(f"/bytes/{size}", run=0.0)) for size in sizes]
    called = [brokers.ask("/api/x", "POST", port=CLIENT, body=bytes([at]) * at, run=0.0) for at in range(3)]
    brokers.world.run(5.0)
    for size, got in asked:
        assert (got.status, got.end) == (200, "whole")
        assert got.body == hashlib.shake_128(f"/bytes/{size}".encode()).digest(size)
    assert [got.body for got in called] == [b"got " + bytes([at]) * at for at in range(3)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_whatever_is_cut_nothing_wrong_arrives_and_nobody_waits_for_ever(data: st.DataObject) -> None:
    def answer(head: Any, body: bytes) -> Any:
        size = int(head.target.rpartition("/")[2])
        return 200, [("content-length", str(size))], [hashlib.shake_128(head.target.encode()).digest(size)]

    brokers = Brokers(answer, world=World(lambda size: 10_000), client={"one_event_answers": data.draw(st.booleans())})
    asked = []
    for _ in range(data.draw(st.integers(1, 4))):
        size = data.draw(st.integers(0, 60_000))
        asked.append((size, brokers.callers.ask(f"http://host:{SERVER}/broker/{TOKEN}/bytes/{size}")))
        brokers.turn()
        ends = [end for party in brokers.world.parties for end in party.ends.values() if end.other is not None]
        for _ in range(data.draw(st.integers(0, 2))):
            brokers.world.cut_link(data.draw(st.sampled_from(ends)))
    brokers.world.run(700.0)
    for size, got in asked:
        content = hashlib.shake_128(f"/bytes/{size}".encode()).digest(size)
        assert got.end is not None
        if got.status == 200:
            assert content.startswith(got.body)
            assert (got.end == "whole") == (got.body == content)
    assert brokers.relay("/bytes/5", run=5.0).status == 200
