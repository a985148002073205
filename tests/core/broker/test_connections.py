"""One client, several connections: each has its token, its agent, its credentials, and gets its own callbacks."""

from __future__ import annotations

import json
from typing import Any

import pytest
from worlds.brokers import CLIENT, SERVER, Brokers, plain
from worlds.connections import AGENTS, TOKENS, Several, connection

from towline.core import Entropy, RemoteProtocolError, Secret
from towline.core.broker import (
    DEFAULT_AGENT_RULES,
    AcceptRules,
    BrokerClient,
    BrokerClientConfig,
    ConnectionConfig,
    RulesRead,
    RulesWanted,
)

NAMES = ("first", "second")
FILL = (("x-broker-var-sub", "x-creds,x-back"), ("x-creds", "${CR_CREDENTIALS}"), ("x-back", "${BROKER_CLIENT_URL}"))
CONTEXT = "1a111111-2222-4333-8444-555555555555"
CONTEXT_HEADER = "x-snyk-broker-context-id"


def code(got: Any) -> Any:
    return json.loads(got.body)["code"]


# ── requests ──────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", NAMES)
def test_a_request_goes_to_the_agent_of_its_token_with_that_connections_credentials(name: str) -> None:
    several = Several()
    assert several.relay(name, "/scan", headers=FILL).status == 200
    ((head, _),) = several.agents[name].requests
    assert head.get("x-creds") == f"canary-of-{name}"
    assert head.get("x-back") == f"http://client:{CLIENT}/connections/{name}"
    assert head.get("x-cra-connection") == name
    others = [agent for other, agent in several.agents.items() if other != name]
    assert [agent.requests for agent in others] == [[]]


def test_the_far_side_cannot_speak_for_another_connection() -> None:
    several = Several()
    several.relay("first", "/scan", headers=(("x-cra-connection", "second"),))
    assert several.agents["first"].requests[0][0].get("x-cra-connection") == "first"


def test_a_single_connection_is_no_different_on_the_wire() -> None:
    several = Several(second=None)
    several.relay("first", "/scan", headers=FILL)
    head, _ = several.agents["first"].requests[0]
    assert head.get("x-back") == f"http://client:{CLIENT}"
    assert head.get("x-cra-connection") is None
    assert several.call_back("/api/v2/import/done").status == 200
    assert several.call_back("/connections/first/api/v2/import/done").status == 200
    assert several.called() == ["first", "first"]


def test_identify_tells_the_type_and_the_rules_by_type() -> None:
    several = Several(deployment_id="d-1", first={"rules": DEFAULT_AGENT_RULES})
    for name, kind in (("first", "docker-hub"), ("second", "harbor-cr")):
        said = json.loads(several.ask(f"/connection-status/{TOKENS[name]}").body)
        assert [list(client["filters"]) for client in said["clients"]] == [[kind], [kind]]
    told = several.machine._tunnels[0].client._config.metadata
    assert (told["supportedIntegrationType"], told["deploymentId"]) == ("docker-hub", "d-1")
    assert told["clientConfig"]["universalBroker"] is True
    assert told["clientConfig"]["customAccept"] is False


def test_one_connection_that_cannot_get_through_does_not_end_the_others() -> None:
    several = Several(second={"server_url": "http://server:1"}, attempts=2)
    several.world.run(60.0)
    assert several.relay("first", "/x").status == 200
    assert several.ask("/healthcheck", port=CLIENT).status == 200
    assert several.machine._tunnels[2].client.state in ("waiting", "connecting")
    # Weeks of it stay within the backoff's cap.
    several.machine._tunnels[2].client._failures = 5_000
    assert several.machine._tunnels[2].client._delay() == 20 * 60.0


@pytest.mark.parametrize(
    ("names", "said"),
    [(("a", "a"), "a comes twice"), (("a b", "a-b"), "a-b comes twice"), (("a", "…"), "connection 2")],
)
def test_connections_that_cannot_be_told_apart(names: tuple[str, str], said: str) -> None:
    made = tuple(
        ConnectionConfig(name=name, server_url=f"http://server:{SERVER}", token=Secret(name)) for name in names
    )
    with pytest.raises(RemoteProtocolError, match=said):
        BrokerClient(BrokerClientConfig(connections=made), entropy=Entropy(b"client" * 4))


# ── contexts ──────────────────────────────────────────────────────────────────
def with_context(**overlay: Any) -> Several:
    return Several(first={"contexts": {CONTEXT: overlay}})


def test_a_context_overlays_the_variables_of_one_request() -> None:
    several = with_context(CR_CREDENTIALS=Secret("canary-of-context"))
    several.relay("first", "/scan", headers=(*FILL, (CONTEXT_HEADER, CONTEXT)))
    several.relay("first", f"/ctx/{CONTEXT}/scan", headers=FILL)
    several.relay("first", "/scan", headers=FILL)
    heads = [head for head, _ in several.agents["first"].requests]
    assert [head.get("x-creds") for head in heads] == ["canary-of-context", "canary-of-context", "canary-of-first"]
    assert [head.target for head in heads] == ["/scan"] * 3
    assert {head.get(CONTEXT_HEADER) for head in heads} == {None}


def test_a_context_may_lead_to_another_agent() -> None:
    """The credentials go to the context's agent, and not to the base's."""
    several = with_context(CR_AGENT_URL=f"http://agent-second:{AGENTS['second']}", CR_CREDENTIALS=Secret("canary-ctx"))
    several.relay("first", "/scan", headers=(*FILL, (CONTEXT_HEADER, CONTEXT)))
    ((head, _),) = several.agents["second"].requests
    assert head.get("x-creds") == "canary-ctx"
    assert several.agents["first"].requests == []


@pytest.mark.parametrize("junk", ["", "nobody", "__proto__", CONTEXT.upper(), "a" * 4_000, "${CR_CREDENTIALS}", "ü"])
def test_a_context_that_there_is_not_is_refused(junk: str) -> None:
    """Never the base's credentials in place of those that were meant (security.md T5)."""
    several = with_context(CR_CREDENTIALS=Secret("canary-of-context"))
    for more in ((), (("x-broker-ws-response", "1"),)):
        got = several.relay("first", "/scan", headers=(*FILL, (CONTEXT_HEADER, junk), *more))
        assert (got.status, code(got)) == (400, "UNKNOWN_CONTEXT")
        assert b"canary" not in got.body
    assert several.agents["first"].requests == []
    assert several.relay("first", "/scan").status == 200


def test_a_context_of_another_connection_is_refused() -> None:
    several = with_context(CR_CREDENTIALS=Secret("canary-of-context"))
    got = several.relay("second", "/scan", headers=(*FILL, (CONTEXT_HEADER, CONTEXT)))
    assert (got.status, code(got)) == (400, "UNKNOWN_CONTEXT")


def test_a_classic_client_has_no_contexts() -> None:
    brokers = Brokers()
    got = brokers.relay("/x", headers=((CONTEXT_HEADER, CONTEXT),))
    assert (got.status, code(got)) == (400, "UNKNOWN_CONTEXT")


# ── callbacks ─────────────────────────────────────────────────────────────────
def test_callbacks_are_routed_by_the_prefix_and_lose_it() -> None:
    several = Several()
    for name in ("second", "first", "second"):
        assert several.call_back(f"/connections/{name}/api/v2/import/result?part=1").status == 200
    assert several.called() == ["second", "first", "second"]
    assert {head.target for head, _ in several.platform.requests} == {"/api/v2/import/result?part=1"}


def test_callbacks_are_routed_by_the_header_that_the_agent_gives_back() -> None:
    several = Several()
    assert several.call_back("/api/x", headers=(("x-cra-connection", "second"),)).status == 200
    assert several.call_back("/connections/second/api/x", headers=(("x-cra-connection", "second"),)).status == 200
    got = several.call_back("/connections/first/api/x", headers=(("x-cra-connection", "second"),))
    assert (got.status, code(got)) == (400, "UNKNOWN_CONNECTION")
    assert several.called() == ["second", "second"]


def test_a_callback_that_may_be_several_connections_is_refused_with_the_prefixes() -> None:
    several = Several()
    for path, status in (("/api/x", 400), ("/connections/third/api/x", 404), ("/connections/first", 401)):
        got = several.call_back(path)
        assert got.status == status
        if status != 401:
            assert json.loads(got.body)["prefixes"] == ["/connections/first", "/connections/second"]
        assert not any(token in got.body.decode() for token in TOKENS.values())
    assert several.platform.requests == []


def test_a_webhook_is_routed_by_its_type_where_that_is_one_connections() -> None:
    rules = AcceptRules.load({"public": [{"method": "POST", "path": "/webhook/*"}]})
    private = {"private": [{"method": "POST", "path": "/webhook/*", "origin": "${PLATFORM}"}]}
    server = {"rules": AcceptRules.load(private | {"public": [{"method": "any", "path": "/*"}]})}
    several = Several(first={"rules": rules}, second={"rules": rules}, server=server)
    assert several.call_back("/webhook/harbor-cr/x").status == 200
    assert several.call_back("/webhook/quay-cr/x").status == 400
    both = Several(first={"rules": rules, "type": "ecr"}, second={"rules": rules, "type": "ecr"}, server=server)
    assert both.call_back("/webhook/ecr/x").status == 400
    assert several.called() == ["second"]


def test_a_callback_that_one_connections_rules_alone_let_pass_is_that_connections() -> None:
    rules = AcceptRules.load({"public": [{"method": "POST", "path": "/api/v9/*"}]})
    several = Several(second={"rules": rules})
    assert several.call_back("/api/v2/import/done").status == 200
    assert several.call_back("/other/unknown-to-all").status == 401
    assert several.call_back("/elsewhere").status == 401
    assert several.called() == ["first"]


def test_a_callback_waits_for_its_own_connections_tunnel() -> None:
    several = Several(second={"server_url": "http://server:1"})
    waiting = several.call_back("/connections/second/api/x", run=1.0)
    assert waiting.pending
    assert several.call_back("/connections/first/api/x").status == 200
    several.world.run(2.0)
    assert (waiting.status, code(waiting)) == (503, "CONNECTION_NOT_READY")


# ── the face ──────────────────────────────────────────────────────────────────
def test_health_has_an_entry_for_each_tunnel_and_no_token() -> None:
    several = Several(second={"server_url": "http://server:1"})
    got = several.ask("/healthcheck", port=CLIENT)
    entries = json.loads(got.body)
    assert got.status == 200
    assert [(entry["friendlyName"], entry["ok"]) for entry in entries] == [
        ("first", True),
        ("first", True),
        ("second", False),
        ("second", False),
    ]
    assert entries[0]["identifier"] == "aaaa-...-000a"


def test_the_system_check_asks_every_connections_agent() -> None:
    several = Several()
    got = several.ask("/systemcheck", port=CLIENT)
    told = json.loads(got.body)
    assert [(one["connectionName"], one["validated"]) for one in told] == [("first", True), ("second", True)]
    assert told[1]["results"][0]["maskedCredentials"] == "can***ond"
    assert several.agents["second"].requests[0][0].get("authorization") == "canary-of-second"
    several.agents["second"].answer = lambda head, body: plain(401)
    got = several.ask("/systemcheck", port=CLIENT)
    told = json.loads(got.body)
    assert (got.status, told[0]["validated"], told[1]["validated"]) == (500, True, False)
    assert told[1]["message"].endswith("second.")


@pytest.mark.parametrize("how", ["hangs", "refuses", "unset"])
def test_the_system_check_is_answered_in_its_time_whatever_one_agent_does(how: str) -> None:
    several = Several(second={"agent_url": None} if how == "unset" else {})
    if how == "hangs":
        several.agents["second"].answer = lambda head, body: (200, [], ["hang"])
    elif how == "refuses":
        several.world.refusing.add(AGENTS["second"])
    got = several.ask("/systemcheck", port=CLIENT, run=5.1)
    told = json.loads(got.body)
    assert (got.status, [one["validated"] for one in told]) == (500, [True, False])
    assert told[1]["results"][0]["ok"] is False


def test_filters_are_shown_and_read_again_by_connection() -> None:
    several = Several()
    shown = json.loads(several.ask("/filters", port=CLIENT).body)
    assert set(shown) == {"first", "second"}
    waiting = several.ask("/filters", "POST", port=CLIENT)
    again = several.ask("/filters", "POST", port=CLIENT)
    assert waiting.pending
    assert several.client.of(RulesWanted) == [RulesWanted()]
    narrow = AcceptRules.load({"private": [{"path": "/only", "origin": "${CR_AGENT_URL}"}]})
    several.world.tell(several.client, RulesRead({"second": narrow}))
    several.world.run()
    assert [got.status for got in (waiting, again)] == [200, 200]
    assert json.loads(waiting.body)["second"] == narrow.shown()
    assert several.relay("first", "/x").status == 200
    assert several.relay("second", "/x").status == 401
    assert several.relay("second", "/only").status == 200
    assert json.loads(several.ask("/connection-status/" + TOKENS["second"]).body)["ok"] is True


def test_rules_that_cannot_be_read_leave_those_that_are_there() -> None:
    several = Several()
    waiting = several.ask("/filters", "POST", port=CLIENT)
    several.world.tell(several.client, RulesRead(fault="accept.json: expected a JSON document"))
    several.world.run()
    assert (waiting.status, code(waiting)) == (500, "INVALID_CONFIGURATION")
    assert "accept.json" in json.loads(waiting.body)["message"]
    assert several.relay("first", "/x").status == 200
    slow = several.ask("/filters", "POST", port=CLIENT, run=10.1)
    assert (slow.status, code(slow)) == (504, "TIMEOUT")
    leaving = several.ask("/filters", "POST", port=CLIENT)
    several.callers.leave(leaving)
    several.ask("/healthcheck", port=CLIENT)
    several.world.tell(several.client, RulesRead())


def test_the_server_may_have_the_configuration_read_again() -> None:
    several = Several()
    got = several.ask(f"/service/{TOKENS['first']}/config/reload")
    assert (got.status, json.loads(got.body)["ok"]) == (200, True)
    several.ask(f"/service/{TOKENS['second']}/config/reload")
    assert len(several.client.of(RulesWanted)) == 1


def test_no_token_is_printed_or_told() -> None:
    several = Several()
    several.relay("first", "/..%2f")
    several.call_back("/connections/first/nope")
    several.ask("/healthcheck", port=CLIENT)
    said = repr(several.client.events) + repr(several.machine) + repr(several.machine._config)
    said += repr([got.body for got in several.callers.answers.values()])
    assert not any(token in said for token in TOKENS.values())
    assert "canary" not in said
    assert repr(connection("first")).count("***") >= 2
