"""What the established client's variables change: pools, rewriting, clear text, retries, high availability."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds.brokers import CLIENT, SERVER, TOKEN, UPSTREAM, Brokers, make_server, plain
from worlds.world import Upstream, World

from towline.core import WAKE, Open, Secret
from towline.core.broker import AcceptRules, Stop, TunnelsEnded
from towline.core.broker.client._rewrite import UrlRewriter

API = 9100
ORIGIN = f"http://agent:{UPSTREAM}"


def code(got: Any) -> Any:
    return json.loads(got.body)["code"]


# ── pools ─────────────────────────────────────────────────────────────────────
def rules(**rule: Any) -> AcceptRules:
    return AcceptRules.load({"private": [{"path": "/a", **rule}, {"path": "/b", "origin": ORIGIN}]})


def test_a_pool_is_drawn_round_robin_for_authorizations() -> None:
    given_rules = rules(origin=ORIGIN, auth={"scheme": "bearer", "token": "${TOK}"})
    brokers = Brokers(client={"rules": given_rules, "variables": {"TOK": "never", "TOK_POOL": "one, two,three,"}})
    for path in ("/a", "/b", "/a", "/a", "/b", "/a"):
        assert brokers.relay(path).status == 200
    seen = [head.get("authorization") for head, _ in brokers.upstream.requests if head.target == "/a"]
    assert seen == ["Bearer one", "Bearer two", "Bearer three", "Bearer one"]


def test_a_pool_is_drawn_round_robin_for_origins_and_each_variable_by_itself() -> None:
    auth = {"scheme": "basic", "username": "${USER}", "password": "${PASS}"}
    variables = {"WHERE_POOL": "agent,127.0.0.1", "USER_POOL": "u1,u2,u3", "PASS": "p"}
    brokers = Brokers(
        client={"rules": rules(origin=f"http://${{WHERE}}:{UPSTREAM}", auth=auth), "variables": variables}
    )
    for _ in range(3):
        assert brokers.relay("/a").status == 200
    hosts = [head.get("host") for head, _ in brokers.upstream.requests]
    assert hosts == [f"agent:{UPSTREAM}", f"127.0.0.1:{UPSTREAM}", f"agent:{UPSTREAM}"]
    assert len({head.get("authorization") for head, _ in brokers.upstream.requests}) == 3


def test_a_pool_is_drawn_where_the_far_side_has_it_filled_in() -> None:
    brokers = Brokers(client={"variables": {"CR_CREDENTIALS_POOL": "c1,c2"}})
    fill = (("x-broker-var-sub", "x-c"), ("x-c", "${CR_CREDENTIALS}"))
    brokers.relay("/x", headers=fill)
    brokers.relay("/x")
    brokers.relay("/x", "POST", body=b'{"BROKER_VAR_SUB":["a"],"a":"${CR_CREDENTIALS}"}')
    brokers.relay("/x", headers=fill)
    said = [(head.get("x-c"), body) for head, body in brokers.upstream.requests]
    assert said == [("c1", b""), (None, b""), (None, b'{"a":"c2"}'), ("c1", b"")]


def test_an_entry_that_leads_nowhere_is_noted_and_refused() -> None:
    variables = {"WHERE_POOL": "agent:8081,not a host"}
    brokers = Brokers(client={"rules": rules(origin="http://${WHERE}"), "variables": variables})
    (noted,) = brokers.client.notes("filter.rule")
    assert "entry 2 of WHERE_POOL" in noted.fields["problem"]
    assert [brokers.relay("/a").status for _ in range(3)] == [200, 400, 200]


# ── RES_BODY_URL_SUB ──────────────────────────────────────────────────────────
HOME = "https://gitlab.example/api"


def rewriting(body: bytes, kind: str = "application/json", *more: tuple[str, str], **client: Any) -> Brokers:
    def answer(head: Any, _: bytes) -> Any:
        return 200, [("content-type", kind), ("content-length", str(len(body))), *more], [body[:7], body[7:]]

    return Brokers(answer, client={"rewritten_url": HOME, **client})


LINKS = b'{"a":"https://gitlab.example/api/x","b":"http://gitlab.example/api","c":"https://other.example/api"}'


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("ws", [True, False])
def test_the_upstreams_address_is_replaced_in_json_answers(events: bool, ws: bool) -> None:
    brokers = rewriting(LINKS, one_event_answers=events)
    got = brokers.relay("/x", headers=(("x-broker-ws-response", "1"),) if ws else ())
    new = f"http://internal-broker-server-next/broker/{TOKEN}"
    assert json.loads(got.body) == {"a": f"{new}/x", "b": new, "c": "https://other.example/api"}
    assert got.end == "whole"
    assert got.get("content-length") in (None, str(len(got.body)))
    assert brokers.upstream.requests[0][0].get("accept-encoding") == "identity"


@pytest.mark.parametrize(
    ("kind", "more"), [("text/html", ()), ("application/json", (("content-encoding", "gzip"),)), ("", ())]
)
def test_other_answers_stay_as_they_are(kind: str, more: tuple[tuple[str, str], ...]) -> None:
    got = rewriting(LINKS, kind, *more).relay("/x")
    assert (got.body, got.get("content-length")) == (LINKS, str(len(LINKS)))


PIECES = st.lists(
    st.sampled_from([b"http", b"https", b"://", b":", b"//", b"gitlab.example", b"/api", b"/ap", b" ", b"x" * 40, b"_"])
)


@given(PIECES, st.lists(st.integers(0, 300), max_size=8))
def test_rewriting_does_not_depend_on_how_bytes_are_cut(pieces: list[bytes], cuts: list[int]) -> None:
    body = b"".join(pieces)
    whole = UrlRewriter(HOME, "NEW")
    expected = whole.feed(body) + whole.end()
    cut = UrlRewriter(HOME, "NEW")
    out = b""
    places = [0, *sorted(min(at, len(body)) for at in cuts), len(body)]
    for start, end in pairwise(places):
        out += cut.feed(body[start:end])
        assert len(cut._held) <= 32 + len(HOME)
    assert out + cut.end() == expected
    assert expected.count(b"NEW") == _addresses(body)


def _addresses(body: bytes) -> int:
    """Count what is to be replaced, one byte after the other."""
    tail, at, found = b"://gitlab.example/api", 0, 0
    while (at := body.find(tail, at)) >= 0:
        before = body[at - 1 : at]
        found += bool(before) and (before.isalnum() or before == b"_")
        at += len(tail)
    return found


# ── addresses, substitution, retries ──────────────────────────────────────────
def opened(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> list[Open]:
    wishes: list[Open] = []
    poll = brokers.client_machine.poll

    def tapped() -> Any:
        wish = poll()
        if isinstance(wish, Open):
            wishes.append(wish)
        return wish

    monkeypatch.setattr(brokers.client_machine, "poll", tapped)
    return wishes


@pytest.mark.parametrize(
    ("origin", "port", "tls"),
    [
        ("https://agent", 80, False),
        (f"https://agent:{UPSTREAM}", UPSTREAM, False),
        (f"agent:{UPSTREAM}", UPSTREAM, False),
        ("https://api.snyk.io", 443, True),
        ("https://snyk.io", 443, True),
        ("https://notsnyk.io", 80, False),
    ],
)
def test_insecure_downstream_is_for_others_than_the_vendor(
    origin: str, port: int, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = Brokers(client={"rules": rules(origin=origin), "insecure_downstream": True, "retries": 0})
    wishes = opened(brokers, monkeypatch)
    brokers.relay("/a")
    assert [(wish.port, wish.tls) for wish in wishes if wish.port != SERVER] == [(port, tls)]


def test_insecure_downstream_keeps_the_credentials_with_the_agent() -> None:
    brokers = Brokers(
        client={
            "agent_url": f"https://agent:{UPSTREAM}",
            "insecure_downstream": True,
            "variables": {"CR_CREDENTIALS": Secret("canary")},
        }
    )
    brokers.relay("/x", headers=(("x-broker-var-sub", "x-c"), ("x-c", "${CR_CREDENTIALS}")))
    assert brokers.upstream.requests[0][0].get("x-c") == "canary"
    assert brokers.ask("/systemcheck", port=CLIENT).status == 200


@pytest.mark.parametrize("bodies", [True, False])
@pytest.mark.parametrize("headers", [True, False])
def test_substitution_can_be_turned_off(bodies: bool, headers: bool) -> None:
    brokers = Brokers(client={"substitute_bodies": bodies, "substitute_headers": headers})
    fill = (("x-broker-var-sub", "x-a"), ("x-a", "${CR_AGENT_URL}"))
    sent = b'{"BROKER_VAR_SUB":["a"],"a":"${CR_AGENT_URL}"}'
    brokers.relay("/x", "POST", headers=fill, body=sent)
    head, body = brokers.upstream.requests[0]
    assert head.get("x-a") == (ORIGIN if headers else "${CR_AGENT_URL}")
    assert body == (b'{"a":"%s"}' % ORIGIN.encode() if bodies else sent)


@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (1, 2), (3, 4)])
def test_an_upstream_is_tried_so_often(retries: int, tries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    brokers = Brokers(client={"retries": retries})
    brokers.world.refusing.add(UPSTREAM)
    wishes = opened(brokers, monkeypatch)
    assert brokers.relay("/x", run=3.0).status == 502
    assert len(wishes) == tries


# ── events of the client ──────────────────────────────────────────────────────
def heard(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Return what the server is told, by wrapping the host's own ears."""
    found: list[tuple[str, Any]] = []
    machine = brokers.client_machine
    for tunnel in machine._tunnels:
        emit = tunnel.client.emit

        def told(name: str, args: Any, *, ack: bool = False, now: float, emit: Any = emit) -> Any:
            found.append((name, args[0]))
            return emit(name, args, ack=ack, now=now)

        monkeypatch.setattr(tunnel.client, "emit", told)
    return found


def test_a_failure_of_the_upstream_is_told_to_the_server_once(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers = Brokers(client={"epoch": 1_000_000.0})
    said = heard(brokers, monkeypatch)
    brokers.world.refusing.add(UPSTREAM)
    got = brokers.relay("/x", run=2.0)
    ((name, event),) = [entry for entry in said if entry[0] == "client-event"]
    assert name == "client-event"
    assert event["ts"] > 1_000_000_000
    assert event["event"] == {
        "type": "client-error",
        "errorCode": "DOWNSTREAM_UNREACHABLE",
        "requestId": got.get("snyk-request-id"),
        "integrationType": "",
    }
    assert brokers.ask(f"/connection-status/{TOKEN}").status == 200


def test_a_stop_is_told_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers = Brokers()
    said = heard(brokers, monkeypatch)
    brokers.world.run(10.0)
    brokers.world.tell(brokers.client, Stop(5.0))
    assert said[0][1]["event"] == {"type": "client-shutdown", "reason": "clean", "uptimeSeconds": 12}
    assert [name for name, _ in said] == ["client-event", "terminate", "terminate"]


def test_too_many_failed_attempts_are_told_apart_from_a_server_that_sends_away() -> None:
    brokers = Brokers(client={"attempts": 2})
    brokers.world.kill(brokers.server)
    brokers.world.run(30.0)
    assert [ended.exhausted for ended in brokers.client.of(TunnelsEnded)] == [True]
    sent_away = Brokers()
    for session in (1, 2):
        sent_away.server_machine._host.close_session(session, deliberate=True, now=sent_away.world.now)
    sent_away.world.tell(sent_away.server, WAKE)
    sent_away.world.run(1.0)
    assert [ended.exhausted for ended in sent_away.client.of(TunnelsEnded)] == [False]


# ── preflight checks ──────────────────────────────────────────────────────────
def preflight(**client: Any) -> Brokers:
    return Brokers(client={"preflight": True, **client})


def results(brokers: Brokers) -> dict[str, str]:
    told = brokers.client_machine._tunnels[0].client._config.metadata["preflightChecks"]
    return {check["id"]: check["status"] for check in told}


def test_preflight_checks_hold_nothing_up_and_travel_in_identify() -> None:
    brokers = preflight()
    assert results(brokers) == {
        "broker-client-url-validation": "passing",
        "broker-token-validation": "passing",
        "client-version-validation": "warning",
        "broker-server-status": "passing",
    }
    assert "preflightChecks" not in Brokers().client_machine._tunnels[0].client._config.metadata


@pytest.mark.parametrize(
    ("client", "check", "status"),
    [
        ({"token": Secret("no uuid")}, "broker-token-validation", "error"),
        ({"client_url": "https://client"}, "broker-client-url-validation", "error"),
        ({"client_url": "https://client", "tls_here": True}, "broker-client-url-validation", "passing"),
        ({"client_url": "http://localhost:1"}, "broker-client-url-validation", "warning"),
        ({"client_url": "client:8000"}, "broker-client-url-validation", "error"),
        ({"version": "4.250.0"}, "client-version-validation", "passing"),
        ({"server_url": "http://server:1"}, "broker-server-status", "error"),
        ({"api_url": f"http://api:{API}"}, "rest-api-status", "error"),
    ],
)
def test_what_preflight_checks_find(client: dict[str, Any], check: str, status: str) -> None:
    brokers = preflight(**client)
    brokers.world.run(5.0)
    assert results(brokers)[check] == status


@pytest.mark.parametrize(
    ("ours", "theirs", "status"),
    [("4.180.0", "4.190.0", "passing"), ("4.180.0", "4.191.3", "error"), ("4.180.0", "strange", "passing")],
)
def test_a_client_that_is_far_behind_its_server(ours: str, theirs: str, status: str) -> None:
    brokers = Brokers(client={"preflight": True, "version": ours}, server={"version": theirs})
    assert results(brokers)["client-version-validation"] == status


def test_health_checks_are_made_anew() -> None:
    brokers = Brokers()
    got = brokers.ask("/health/checks", port=CLIENT)
    (one,) = json.loads(got.body)
    assert (got.status, one["id"], one["status"]) == (200, "broker-server-status", "passing")
    assert one["output"].startswith(f"HTTP GET http://server:{SERVER}/healthcheck: 200, response: ")
    assert json.loads(brokers.ask("/health/checks/broker-server-status", port=CLIENT).body)["status"] == "passing"
    unknown = brokers.ask("/health/checks/nothing", port=CLIENT)
    assert (unknown.status, json.loads(unknown.body)["checks"]) == (404, ["broker-server-status"])
    assert TOKEN not in got.body.decode()


@pytest.mark.parametrize(("status", "word"), [(204, "passing"), (429, "warning"), (500, "error"), (302, "error")])
def test_the_status_of_the_api(status: int, word: str) -> None:
    world = World()
    api = Upstream(lambda head, body: plain(status, b"x" * 9_000))
    world.add("api", api, API)
    brokers = Brokers(world=world, client={"api_url": f"http://api:{API}/base"})
    one = json.loads(brokers.ask("/health/checks/rest-api-status", port=CLIENT).body)
    assert (one["status"], api.requests[0][0].target) == (word, "/base/rest/openapi")
    assert len(one["output"]) < 500


def test_a_check_that_hangs_is_answered_in_its_time() -> None:
    world = World()
    world.add("api", Upstream(lambda head, body: (200, [], ["hang"])), API)
    brokers = Brokers(world=world, client={"api_url": f"http://api:{API}", "preflight": True})
    got = brokers.ask("/health/checks", port=CLIENT, run=5.1)
    assert [one["status"] for one in json.loads(got.body)] == ["passing", "error"]
    leaving = brokers.ask("/health/checks", port=CLIENT)
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(6.0)
    assert results(brokers)["rest-api-status"] == "error"


# ── the system check ──────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("client", "sent", "shown"),
    [
        ({"check_basics": (Secret("user:passw0rd"),)}, ["Basic dXNlcjpwYXNzdzByZA=="], ["use***0rd"]),
        (
            {"check_authorizations": (Secret("Bearer one"), Secret("two"))},
            ["Bearer one", "two"],
            ["Bea***one", "***"],
        ),
        ({"variables": {"CR_CREDENTIALS": "none", "CR_CREDENTIALS_POOL": "first1,other2"}}, None, ["***", "***"]),
        ({"variables": {}}, [None], [None]),
    ],
)
def test_every_credential_is_tried(client: dict[str, Any], sent: list[str | None] | None, shown: list[Any]) -> None:
    brokers = Brokers(client=client)
    told = json.loads(brokers.ask("/systemcheck", port=CLIENT).body)
    assert [one["maskedCredentials"] for one in told] == shown
    asked = [head.get("authorization") for head, _ in brokers.upstream.requests]
    assert asked == (["first1", "other2"] if sent is None else sent)


# ── webhooks ──────────────────────────────────────────────────────────────────
HOOKS = AcceptRules.load({"public": [{"method": "POST", "path": "/webhook/*"}]})


def hooked(answer: Any, **client: Any) -> tuple[Brokers, Upstream]:
    world = World()
    api = Upstream(answer)
    world.add("api", api, API)
    brokers = Brokers(world=world, client={"rules": HOOKS, "api_url": f"http://api:{API}/v", **client})
    brokers.world.kill(brokers.server)
    return brokers, api


def test_a_webhook_goes_to_the_api_while_no_tunnel_is_open() -> None:
    brokers, api = hooked(lambda head, body: plain(201, b"got " + body, ("x-a", "b"), ("connection", "x-a")))
    sent = (("x-gitlab-token", "t"), ("connection", "close"))
    got = brokers.ask("/webhook/github/1?a=b", "POST", port=CLIENT, headers=sent, body=b"hello")
    assert (got.status, got.body, got.get("x-a")) == (201, b"got hello", None)
    ((head, body),) = api.requests
    assert (head.target, body, head.get("host")) == ("/v/webhook/github/1?a=b", b"hello", f"api:{API}")
    assert (head.get("x-snyk-broker"), head.get("x-gitlab-token")) == (f"{TOKEN[:4]}-...-{TOKEN[-4:]}", "t")
    assert head.get("x-broker-token") is None
    denied = brokers.ask("/other/x", "POST", port=CLIENT, body=b"")
    assert denied.status == 401


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (lambda head, body: (200, [], [b"half", "cut"]), 502, "DOWNSTREAM_ERROR"),
        (lambda head, body: plain(200, b"x" * 20_971_521), 502, "BODY_TOO_LARGE"),
        (lambda head, body: (200, [], ["hang"]), 504, "DOWNSTREAM_TIMEOUT"),
    ],
)
def test_an_api_that_does_not_answer_a_webhook(answer: Any, status: int, said: str) -> None:
    brokers, _ = hooked(answer, answer_seconds=20.0)
    got = brokers.ask("/webhook/x", "POST", port=CLIENT, body=b"", run=21.0)
    assert (got.status, code(got)) == (status, said)
    assert len(brokers.client_machine._webhooks) == 0


def test_a_webhook_without_an_api_waits_as_other_callbacks_do(monkeypatch: pytest.MonkeyPatch) -> None:
    brokers = Brokers(client={"rules": HOOKS})
    brokers.world.kill(brokers.server)
    got = brokers.ask("/webhook/x", "POST", port=CLIENT, body=b"", run=4.0)
    assert (got.status, code(got)) == (503, "CONNECTION_NOT_READY")
    vendors = Brokers(client={"server_url": "http://broker.example", "rules": HOOKS})
    wishes = opened(vendors, monkeypatch)
    vendors.ask("/webhook/x", "POST", port=CLIENT, body=b"")
    assert "api.example" in {wish.host for wish in wishes}


def test_who_leaves_takes_the_webhook_along() -> None:
    brokers, api = hooked(lambda head, body: (200, [], ["hang"]))
    leaving = brokers.ask("/webhook/x", "POST", port=CLIENT, body=b"")
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(0.1)
    assert len(api.lost) == 1


# ── high availability ─────────────────────────────────────────────────────────
def named(server_id: Any) -> Any:
    said = json.dumps({"data": {"attributes": {"server_id": server_id}}}).encode()
    return lambda head, body: plain(200, said)


def available(answer: Any, **client: Any) -> tuple[Brokers, Upstream]:
    world = World()
    dispatcher = Upstream(answer)
    world.add("dispatcher", dispatcher, API)
    settings = {"high_availability": True, "api_url": f"http://api:{API}", "client_id": "c-1", **client}
    return Brokers(world=world, client=settings), dispatcher


def queries(brokers: Brokers) -> list[tuple[tuple[str, str], ...]]:
    return [tunnel.client._config.extra_query for tunnel in brokers.client_machine._tunnels]


def test_the_dispatcher_is_asked_before_the_tunnels_go() -> None:
    brokers, dispatcher = available(named("7"), one_event_answers=False)
    ((head, body),) = dispatcher.requests
    path, _, query = head.target.partition("?")
    assert path == f"/hidden/broker/{hashlib.sha256(TOKEN.encode()).hexdigest()}/connections/c-1"
    assert query == "version=2022-12-01%7Eexperimental"
    assert json.loads(body) == {
        "data": {"attributes": {"deployment_location": "snyk-broker-client", "broker_token_first_char": "0"}}
    }
    assert head.get("content-type") == "application/vnd.api+json"
    assert queries(brokers) == [(("server_id", "7"),)] * 2
    assert brokers.relay("/x").status == 200
    assert brokers.client_machine._tunnels[0].client._config.metadata["clientConfig"]["haMode"] is True


def test_the_server_id_is_in_the_query_of_tunnel_and_upload() -> None:
    seen: list[str] = []
    world = World()
    world.add("dispatcher", Upstream(named(7)), API)

    def watch(machine: Any) -> Any:
        poll = machine.poll

        def tapped() -> Any:
            wish = poll()
            data = bytes(getattr(wish, "data", b""))
            if data[:4] in (b"GET ", b"POST"):
                seen.append(data.split(b" ", 2)[1].decode())
            return wish

        machine.poll = tapped
        return machine

    settings = {"high_availability": True, "api_url": f"http://api:{API}", "one_event_answers": False}
    brokers = Brokers(world=world, client=settings, watch=watch)
    brokers.relay("/x")
    assert sum("/primus/" in target and "?server_id=7&connection_role=" in target for target in seen) == 2
    assert sum("/response-data/" in target and "?server_id=7&connection_role=" in target for target in seen) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda head, body: plain(500),
        lambda head, body: plain(200, b"no json"),
        lambda head, body: plain(200, b'{"data":{}}'),
        lambda head, body: (200, [], ["cut"]),
        lambda head, body: (200, [], ["hang"]),
    ],
)
def test_tunnels_go_on_without_an_id(answer: Any) -> None:
    brokers, dispatcher = available(answer)
    brokers.world.run(10.0)
    assert queries(brokers) == [(), ()]
    assert brokers.relay("/x").status == 200
    assert brokers.client.notes("dispatcher.failed")
    # It is asked again after a while, and what it says holds for the next connection.
    dispatcher.answer = named("3")
    brokers.world.run(35.0)
    assert queries(brokers) == [(("server_id", "3"),)] * 2


def test_the_dispatcher_is_not_asked_for_ever() -> None:
    brokers, dispatcher = available(lambda head, body: plain(500))
    brokers.world.run(30.0 * 2**13)
    assert len(dispatcher.requests) == 12


@pytest.mark.parametrize("odd", ["-1", None, "a b", "7&x=1", "9" * 30, ""])
def test_an_id_that_is_none(odd: Any) -> None:
    brokers, _ = available(named(odd))
    assert queries(brokers) == [(), ()]
    assert brokers.relay("/x").status == 200


def test_the_dispatcher_is_where_it_is_said_to_be() -> None:
    world = World()
    dispatcher = Upstream(named("1"))
    world.add("dispatcher", dispatcher, API)
    client = {
        "high_availability": True,
        "dispatcher_url": f"http://d:{API}/x/",
        "dispatcher_prefix": "/p/",
        "location": "here",
    }
    Brokers(world=world, client=client)
    assert dispatcher.requests[0][0].target.startswith("/x/p/")
    assert b'"deployment_location":"here"' in dispatcher.requests[0][1]


def test_the_dispatcher_is_asked_anew_when_its_server_cannot_be_reached() -> None:
    brokers, dispatcher = available(named("7"))
    dispatcher.answer = named("8")
    brokers.world.refusing.add(SERVER)
    for end in list(brokers.client.ends.values()):
        if end.other is not None and end.other.party is brokers.server:
            brokers.world.cut_link(end)
    brokers.world.run(10.0)
    assert queries(brokers) == [(("server_id", "8"),)] * 2
    brokers.world.refusing.clear()
    brokers.world.run(30.0)
    assert brokers.relay("/x").status == 200


# ── several servers ───────────────────────────────────────────────────────────
OTHER = 7342


class TwoServers(Brokers):
    """A second server beside the first; both are known to the client."""

    def __init__(self, **client: Any) -> None:
        world = World()
        self.other_machine = make_server()
        self.other = world.add("other", self.other_machine, OTHER)
        urls = (f"http://server:{SERVER}", f"http://other:{OTHER}")
        super().__init__(world=world, client={"server_urls": urls, "one_event_answers": False, **client})

    def ports(self) -> list[int]:
        return [tunnel.place.server.port for tunnel in self.client_machine._tunnels if tunnel.open]


def test_two_tunnels_go_to_two_servers_and_answers_go_back_to_the_asker() -> None:
    brokers = TwoServers()
    assert brokers.ports() == [SERVER, OTHER]
    for port in (SERVER, OTHER):
        got = brokers.ask(f"/broker/{TOKEN}/x", port=port)
        assert (got.status, got.end) == (200, "whole")


def test_a_tunnel_whose_server_is_gone_waits_for_it_and_then_joins_the_other() -> None:
    brokers = TwoServers()
    brokers.world.kill(brokers.server)
    brokers.world.run(2.0)
    assert brokers.ports() == [OTHER]
    # Back within some tries, so that the two are apart again.
    brokers.world.add("server", make_server(), SERVER)
    brokers.world.run(20.0)
    assert brokers.ports() == [SERVER, OTHER]
    brokers.world.refusing.add(OTHER)
    brokers.world.kill(brokers.other)
    brokers.world.run(120.0)
    assert brokers.ports() == [SERVER, SERVER]


def test_tunnels_of_which_none_is_open_go_through_all_servers() -> None:
    brokers = TwoServers()
    brokers.world.kill(brokers.server)
    brokers.world.kill(brokers.other)
    brokers.world.run(1.0)
    brokers.world.add("other", make_server(), OTHER)
    brokers.world.run(60.0)
    assert brokers.ports() == [OTHER, OTHER]


def test_an_upload_goes_to_the_server_that_asked_though_the_tunnel_has_moved() -> None:
    brokers = TwoServers()
    tunnel = brokers.client_machine._tunnels[0]
    brokers.upstream.answer = lambda head, body: (200, [], ["hang"])
    brokers.ask(f"/broker/{TOKEN}/x")
    (job,) = brokers.client_machine._jobs._jobs
    tunnel.connection.lost(tunnel)
    assert (job.place.server.port, tunnel.place.server.port) == (SERVER, SERVER)
    brokers.world.kill(brokers.other)
    brokers.world.run(0.1)
    tunnel.connection.lost(tunnel)
    assert (job.place.server.port, tunnel.place.server.port) == (SERVER, OTHER)
