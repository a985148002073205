"""Authenticated mode: a token before the tunnels, renewed in time, shown to servers and with uploads."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

import pytest
from worlds.brokers import CLIENT, TOKEN, Brokers, make_client, plain
from worlds.world import Upstream, World

from towline.core import RemoteProtocolError, Secret
from towline.core.broker import TunnelsEnded

API, GATEWAY = 9100, 9200


class Api:
    """The vendor's API: gives out tokens t1, t2, … and takes what servers are shown through it."""

    def __init__(self) -> None:
        self.given = 0
        self.expires_in: Any = 3600
        self.broken: Any = None
        self.refresh_status = 201
        self.forms: list[dict[str, list[str]]] = []
        self.shown: list[tuple[str, str]] = []

    def __call__(self, head: Any, body: bytes) -> Any:
        path, _, query = head.target.partition("?")
        if path == "/v1/oauth2/token":
            self.forms.append(parse_qs(body.decode()))
            if self.broken is not None:
                return self.broken
            self.given += 1
            told = {"access_token": f"t{self.given}", "token_type": "bearer", "expires_in": self.expires_in}
            return plain(200, json.dumps(told).encode())
        if path == "/v1/hidden/brokers/connections/" + TOKEN + "/auth/refresh":
            assert json.loads(body)["data"]["attributes"]["broker_client_id"] == "c-1"
            self.shown.append((query, head.get("authorization")))
            return plain(self.refresh_status, b"OK")
        return plain(404)


def world_of(api: Api, **client: Any) -> tuple[Brokers, Upstream]:
    world = World()

    def judge(head: Any, body: bytes) -> Any:
        return plain(201 if (head.get("authorization") or "").startswith("Bearer t") else 401)

    gateway = Upstream(judge)
    world.add("api", Upstream(api), API)
    world.add("gateway", gateway, GATEWAY)
    settings = {
        "oauth_id": "me",
        "oauth_secret": Secret("canary-oauth"),
        "api_url": f"http://api:{API}/v1",
        "client_id": "c-1",
        "one_event_answers": False,
        **client,
    }
    server = {"authorization": "gateway", "gateway_url": f"http://gateway:{GATEWAY}"}
    return Brokers(world=world, client=settings, server=server), gateway


def test_a_token_is_got_before_the_tunnels_and_let_in_by_the_servers_gateway() -> None:
    api = Api()
    brokers, gateway = world_of(api)
    assert api.forms == [{"grant_type": ["client_credentials"], "client_id": ["me"], "client_secret": ["canary-oauth"]}]
    assert {head.get("authorization") for head, _ in gateway.requests} == {"Bearer t1"}
    got = brokers.relay("/x")
    assert (got.status, got.end) == (200, "whole")
    assert brokers.ask("/healthcheck", port=CLIENT).status == 200


def test_without_a_token_a_server_that_wants_one_lets_nobody_in() -> None:
    api = Api()
    brokers, _ = world_of(api, oauth_id=None)
    assert api.forms == []
    assert brokers.ask("/healthcheck", port=CLIENT).status == 500


def test_a_token_is_renewed_before_it_ends_and_used_from_the_next_connection_on() -> None:
    api = Api()
    api.expires_in = 300
    brokers, gateway = world_of(api)
    brokers.world.run(230.0)
    assert api.given == 1
    brokers.world.run(15.0)
    assert api.given == 2
    for end in list(brokers.client.ends.values()):
        if end.other is not None and end.other.party is brokers.server:
            brokers.world.cut_link(end)
    brokers.world.run(5.0)
    assert gateway.requests[-1][0].get("authorization") == "Bearer t2"
    assert brokers.relay("/x").status == 200


def test_open_tunnels_servers_are_shown_the_token_every_ten_minutes() -> None:
    api = Api()
    brokers, _ = world_of(api)
    assert api.shown == []
    brokers.world.run(1_205.0)
    queries = ["connection_role=primary", "connection_role=secondary"]
    assert sorted(api.shown) == sorted((query, "Bearer t1") for query in queries * 2)
    api.refresh_status = 401
    brokers.world.run(600.0)
    # A token that is refused is got anew, and shown soon.
    api.refresh_status = 201
    brokers.world.run(30.0)
    assert api.shown[-1][1] == "Bearer t2"
    assert brokers.client.notes("token.refused")


@pytest.mark.parametrize(
    "broken",
    [
        plain(401),
        plain(200, b"no json"),
        plain(200, b'{"access_token":5}'),
        plain(200, b'{"access_token":"a\\r\\nb"}'),
        plain(200, b'{"access_token":""}'),
        (200, [], [b"{", "cut"]),
        (200, [], ["hang"]),
    ],
)
def test_a_token_that_does_not_come_is_asked_for_again(broken: Any) -> None:
    api = Api()
    api.broken = broken
    brokers, _ = world_of(api)
    brokers.world.run(15.0)
    assert brokers.ask("/healthcheck", port=CLIENT).status == 500
    assert "canary" not in repr(brokers.client.events)
    api.broken = None
    brokers.world.run(60.0)
    assert brokers.ask("/healthcheck", port=CLIENT).status == 200


def test_attempts_at_a_token_end() -> None:
    api = Api()
    api.broken = plain(401)
    brokers, _ = world_of(api, attempts=3)
    brokers.world.run(60.0)
    (ended,) = brokers.client.of(TunnelsEnded)
    assert (ended.exhausted, ended.reason) == (True, "no access token: the API answers 401")
    assert len(api.forms) == 4


def test_an_odd_life_of_a_token_makes_no_flood() -> None:
    for life in (0, -5, 1e300):
        api = Api()
        api.expires_in = life
        brokers, _ = world_of(api)
        brokers.world.run(120.0)
        assert api.given <= 3


def test_a_refused_tunnel_gets_a_fresh_token_after_a_while() -> None:
    api = Api()
    brokers, gateway = world_of(api)
    brokers.world.run(100.0)
    gateway.answer = lambda head, body: plain(401 if head.get("authorization") == "Bearer t1" else 201)
    for end in list(brokers.client.ends.values()):
        if end.other is not None and end.other.party is brokers.server:
            brokers.world.cut_link(end)
    brokers.world.run(10.0)
    assert api.given == 2
    assert brokers.relay("/x").status == 200


def test_whom_to_ask_must_be_known() -> None:
    with pytest.raises(RemoteProtocolError, match="needs the API's URL"):
        make_client(oauth_id="a", oauth_secret=Secret("b"))
    make_client(oauth_id="a", oauth_secret=Secret("b"), server_url="https://broker.example")


def test_no_token_is_printed() -> None:
    api = Api()
    brokers, _ = world_of(api)
    said = repr(brokers.client_machine._config) + repr(brokers.client_machine) + repr(brokers.client.events)
    assert "canary" not in said
    assert "Bearer t1" not in said


def test_the_dispatcher_of_authenticated_clients_is_elsewhere() -> None:
    api = Api()
    dispatched: list[Any] = []

    def answer(head: Any, body: bytes) -> Any:
        if "/hidden/brokers/" in head.target and head.target.endswith("experimental"):
            dispatched.append((head.target, head.get("authorization")))
            return plain(200, b'{"data":{"attributes":{"server_id":4}}}')
        return api(head, body)

    world = World()
    world.add("api", Upstream(answer), API)
    client = {
        "oauth_id": "me",
        "oauth_secret": Secret("x"),
        "api_url": f"http://api:{API}/v1",
        "high_availability": True,
        "client_id": "c-1",
    }
    brokers = Brokers(world=world, client=client)
    ((target, authorization),) = dispatched
    assert target.startswith("/v1/hidden/brokers/")
    assert authorization == "Bearer t1"
    assert brokers.client_machine._tunnels[0].client._config.extra_query == (("server_id", "4"),)
