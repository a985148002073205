"""The broker client: what it sends upstream and to the server, and what it does when one of them will not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from worlds.brokers import CLIENT, SERVER, TOKEN, UPSTREAM, Brokers, make_client, plain

from towline.core import WAKE, Limits, RemoteProtocolError, Secret, Transmit
from towline.core.broker import AcceptRules, BrokerClient, Reload

VECTORS = Path(__file__).parents[2] / "vectors" / "broker"


def recorded(name: str, hop: str, start: str) -> list[tuple[str, str]]:
    """Return the headers of the first such request in a recorded session of the stock pair."""
    for line in (VECTORS / f"{name}.jsonl").read_text().splitlines():
        message = json.loads(line)
        if message.get("hop") == hop and message.get("start", "").startswith(start):
            return [(key, value) for key, value in message["headers"]]
    raise LookupError(start)


class Tapped(Brokers):
    """Remembers what the client transmits."""

    def __init__(self, answer: Any = None, **more: Any) -> None:
        self.sent = b""

        def watch(machine: Any) -> Any:
            poll = machine.poll

            def tapped() -> Any:
                wish = poll()
                if isinstance(wish, Transmit) and isinstance(machine, BrokerClient):
                    self.sent += bytes(wish.data)
                return wish

            machine.poll = tapped
            return machine

        super().__init__(answer or (lambda head, body: plain()), watch=watch, **more)


def names(headers: list[tuple[str, str]]) -> set[str]:
    return {name.lower() for name, _ in headers}


def test_upstream_headers_are_those_of_the_stock_client() -> None:
    theirs = recorded("02-request-small", "client-upstream", "GET /healthcheck")
    brokers = Brokers()
    request_id = "11111111-1111-4111-8111-111111111101"
    brokers.relay("/healthcheck", headers=(("Accept-Encoding", "identity"), ("Snyk-Request-Id", request_id)))
    ours = brokers.upstream.requests[0][0]
    assert names(theirs) == {name for name, _ in ours.headers}
    for name, value in theirs:
        if name.lower() != "host":
            assert ours.get(name.lower()) == value


def test_upload_headers_are_those_of_the_stock_client() -> None:
    theirs = recorded("02-request-small", "client-server", "POST /response-data/")
    brokers = Tapped(client={"one_event_answers": False})
    brokers.relay("/healthcheck", headers=(("snyk-request-id", "11111111-1111-4111-8111-111111111101"),))
    head = next(part for part in brokers.sent.split(b"POST ")[1:] if part.startswith(b"/response-data/"))
    lines = head.split(b"\r\n\r\n")[0].decode().split("\r\n")
    ours = dict(line.split(": ", 1) for line in lines[1:])
    different = {"host", "transfer-encoding", "content-length"}
    assert {name.lower() for name in ours} - different == names(theirs) - different
    for name, value in theirs:
        if name.lower() not in different:
            assert {key.lower(): said for key, said in ours.items()}[name.lower()] == value
    assert f"response-data/{TOKEN}/" in lines[0]
    assert lines[0].endswith("?connection_role=primary HTTP/1.1") or "connection_role=secondary" in lines[0]


def test_broker_only_headers_and_hop_headers_stay_here() -> None:
    brokers = Brokers(client={"rules": AcceptRules.load({"private": [_with_auth()]})})
    sent = (
        ("authorization", "theirs"),
        ("snyk-flow-name", "x"),
        ("snyk-acting-org-public-id", "y"),
        ("te", "trailers"),
        ("x-http-method-override", "DELETE"),
        ("user-agent", "curl/8"),
    )
    brokers.relay("/a", headers=sent)
    head, _ = brokers.upstream.requests[0]
    assert head.get("authorization") == "Bearer p4ss"
    assert head.get("x-broker-origin-ua") == "curl/8"
    assert head.get("user-agent") == "Snyk Broker Client local"
    for name in ("snyk-flow-name", "snyk-acting-org-public-id", "te", "x-http-method-override"):
        assert head.get(name) is None


def _with_auth() -> dict[str, Any]:
    return {"path": "/a", "origin": f"http://agent:{UPSTREAM}/base/", "auth": {"scheme": "bearer", "token": "p4ss"}}


def test_a_rules_origin_may_have_a_path() -> None:
    brokers = Brokers(client={"rules": AcceptRules.load({"private": [_with_auth()]})})
    brokers.relay("/a?x=1")
    assert brokers.upstream.requests[0][0].target == "/base/a?x=1"


def test_a_form_is_made_of_a_json_object() -> None:
    brokers = Brokers()
    form = "application/x-www-form-urlencoded"
    brokers.relay("/f", "POST", headers=(("x-broker-content-type", form),), body=b'{"a":"b c","n":1.50}')
    head, body = brokers.upstream.requests[0]
    assert (head.get("content-type"), body) == (form, b"a=b+c&n=1.50")
    for unfit in (b"[1]", b"no json"):
        brokers.relay("/f", "POST", headers=(("x-broker-content-type", form),), body=unfit)
        assert brokers.upstream.requests[-1][1] == unfit


# ── a server that lacks uploads ───────────────────────────────────────────────
def without_uploads(answer: Any = None, **more: Any) -> Brokers:
    brokers = Brokers(answer, **more) if answer else Brokers(**more)
    for tunnel in brokers.client_machine._tunnels:
        tunnel.capabilities = ()
    return brokers


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_answers_go_as_events_where_the_server_takes_no_uploads(events: bool, size: int) -> None:
    brokers = without_uploads(lambda head, body: plain(200, b"\xff" * size), client={"one_event_answers": events})
    got = brokers.relay("/x")
    assert (got.status, got.body, got.end) == (200, b"\xff" * size, "whole")
    assert brokers.relay("/list/a%2e%2e").status == 200
    assert Brokers(client={"rules": AcceptRules.load({"private": [{"path": "/a"}]})}).relay("/b").status == 401


def test_an_event_stream_that_breaks_off_has_no_end() -> None:
    brokers = without_uploads(lambda head, body: (200, [], [b"half", "hang"]))
    got = brokers.relay("/x")
    assert (got.status, got.body, got.end) == (200, b"half", None)
    brokers.world.cut_link(next(iter(brokers.upstream_party.ends.values())))
    brokers.world.run(1.0)
    assert got.end is None  # the server's patience ends it
    brokers.world.run(601.0)
    assert got.end == "broken"


# ── a server that will not take an upload ─────────────────────────────────────
def test_an_upload_that_cannot_be_opened_is_told_the_other_way() -> None:
    brokers = Brokers(lambda head, body: plain(200, b"x" * 50_000))
    waiting = brokers.callers.ask(f"http://host:{SERVER}/broker/{TOKEN}/x")
    brokers.turn()
    brokers.world.refusing.add(SERVER)
    brokers.world.run(3.0)
    assert (waiting.status, json.loads(waiting.body)["code"]) == (502, "UPLOAD_FAILED")
    assert len(brokers.client_machine._jobs) == 0


def test_a_kept_upload_link_that_died_is_replaced() -> None:
    brokers = Brokers(client={"one_event_answers": False})
    assert brokers.relay("/x").status == 200
    (line,) = (
        line
        for line in brokers.client_machine._outgoing._lines.values()
        if line.connection.exchanges and line.key.port == SERVER
    )
    end = brokers.client.ends[line.link]
    # The server's side is gone, and the client does not know yet.
    assert end.other is not None
    end.other.deaf = True
    end.other.party.ends.pop(end.other.number)
    end.held = True
    waiting = brokers.relay("/y")
    assert waiting.pending
    end.held = False
    brokers.world.cut_link(end)
    brokers.world.run(1.0)
    assert (waiting.status, waiting.end) == (200, "whole")


# ── limits and ends ───────────────────────────────────────────────────────────
def test_a_flood_of_requests_is_turned_away_without_uploads() -> None:
    limits = Limits(tunnel_in_flight=1, tunnel_waiting=1)
    brokers = Brokers(lambda head, body: (200, [], ["hang"]), client={"one_event_answers": False})
    brokers.client_machine._jobs._limits = limits
    waiting = [brokers.relay(f"/{at}", run=0.0) for at in range(5)]
    brokers.world.run(0.1)
    assert [got.status for got in waiting] == [None, None, 503, 503, 503]
    assert len(brokers.upstream.requests) == 1


def test_what_waits_for_an_ack_is_given_up_with_its_tunnel() -> None:
    brokers = Brokers(lambda head, body: (200, [], ["hang"]))
    brokers.relay("/a", headers=(("x-broker-ws-response", "1"),))
    brokers.relay("/b")
    assert len(brokers.client_machine._jobs) == 2
    for end in list(brokers.client.ends.values()):
        if end.other is not None and end.other.party is brokers.server:
            brokers.world.cut_link(end)
    brokers.world.run(0.1)
    # The other may still be uploaded: its stream's id is good without the tunnel.
    assert len(brokers.client_machine._jobs) == 1
    assert len(brokers.upstream.lost) == 1


def test_callbacks_wait_for_a_tunnel_and_go_up_after_identify() -> None:
    brokers = Brokers()
    brokers.world.refusing.add(SERVER)
    for end in list(brokers.client.ends.values()):
        brokers.world.cut_link(end)
    waiting = brokers.ask("/api/x", "POST", port=CLIENT, body=b"late", run=0.1)
    assert waiting.pending
    brokers.world.refusing.clear()
    brokers.world.run(2.0)
    assert (waiting.status, waiting.body) == (200, b"got late")


def test_a_callback_whose_tunnel_is_lost_is_answered() -> None:
    brokers = Brokers()
    waiting = brokers.ask("/other/kept", "POST", port=CLIENT, body=b"x")
    for end in list(brokers.client.ends.values()):
        if end.other is not None and end.other.party is brokers.server:
            brokers.world.cut_link(end)
    brokers.world.run(0.1)
    assert (waiting.status, json.loads(waiting.body)["code"]) == (502, "TUNNEL_LOST")


def test_a_callback_that_is_never_answered_ends_in_time() -> None:
    brokers = Brokers(client={"answer_seconds": 20.0})
    waiting = brokers.ask("/other/kept", "POST", port=CLIENT, body=b"x", run=21.0)
    assert (waiting.status, json.loads(waiting.body)["code"]) == (504, "TIMEOUT")
    leaving = brokers.ask("/other/kept", "POST", port=CLIENT, body=b"x")
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(0.1)
    assert len(brokers.client_machine._callbacks) == 0


def test_rules_are_taken_anew() -> None:
    brokers = Brokers()
    brokers.world.tell(brokers.client, Reload(AcceptRules.load({"private": [{"path": "/only", "origin": "http://x"}]})))
    assert brokers.relay("/x").status == 401
    assert brokers.ask("/api/x", "POST", port=CLIENT, body=b"").status == 401


def test_notifications_are_notes() -> None:
    brokers = Brokers()
    host = brokers.server_machine._host
    for said in ({"level": "warning", "message": "old"}, {"level": "shout", "message": "x" * 5_000}, None):
        host.emit(1, "notification", [said], now=brokers.world.now)
    brokers.world.tell(brokers.server, WAKE)
    brokers.world.run(0.1)
    levels = [(note.level, len(note.fields["message"])) for note in brokers.client.notes("server.notification")]
    assert levels == [("warning", 3), ("info", 1024), ("info", 0)]


@pytest.mark.parametrize(
    "wrong", [{"server_url": "ftp://x"}, {"server_url": ""}, {"agent_url": "http://u:canary@x"}, {"check_url": "nope"}]
)
def test_addresses_that_cannot_be_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        make_client(**wrong)
    assert caught.value.kind == "invalid-configuration"
    assert "canary" not in caught.value.message


def test_no_secret_is_printed() -> None:
    brokers = Brokers(client={"variables": {"CR_CREDENTIALS": Secret("canary")}})
    brokers.relay("/x", headers=(("x-broker-var-sub", "a"), ("a", "${CR_CREDENTIALS}")))
    said = repr(brokers.client.events) + repr(brokers.client_machine) + repr(brokers.client_machine._config)
    assert "canary" not in said
    assert TOKEN not in said
