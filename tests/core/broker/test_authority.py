"""A server whose clients must prove who they are: the gateway, the application, uploads and renewals."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from worlds.brokers import TOKEN, HandMade, Serving
from worlds.world import Answer, Party, Upstream

from towline.core import Secret
from towline.core.broker import Authorize, encode_upload_head
from towline.core.tunnel import AuthorizationAsked

GATEWAY = 9400
RENEW = f"/hidden/brokers/connections/{TOKEN}/auth/refresh?connection_role=primary"
WHO = json.dumps({"data": {"type": "broker_connection", "attributes": {"broker_client_id": "hand-made"}}}).encode()


def jwt(app: str = "app", serial: int = 0) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"azp": app, "n": serial}).encode()).decode().rstrip("=")
    return f"Bearer e30.{claims}.c2ln"


class Guarded(Serving):
    """A server before a gateway that answers with a status."""

    def __init__(self, status: Callable[[str], int] = lambda shown: 201, **more: Any) -> None:
        settings = {"authorization": "gateway", "gateway_url": f"http://gateway:{GATEWAY}/base", **more}
        super().__init__(**settings)

        def answer(head: Any, body: bytes) -> Any:
            return status(head.get("authorization")), [("content-length", "0")], []

        self.gateway = Upstream(answer)
        self.world.add("gateway", self.gateway, GATEWAY)

    def shows(self, authorization: str = jwt()) -> tuple[Party, HandMade]:
        return self.client(authorization=Secret(authorization))

    def renew(self, authorization: str, path: str = RENEW, body: bytes = WHO) -> Answer:
        return self.ask(path, "POST", headers=(("authorization", authorization),), body=body)

    def upload_as(self, stream: str, *headers: tuple[str, str], prefix: str = "/hidden/brokers") -> Answer:
        body = encode_upload_head(200, {"x-a": "b"}) + b"body"
        return self.ask(f"{prefix}/response-data/{TOKEN}/{stream}", "POST", headers=headers, body=body)


def test_what_the_gateway_is_asked() -> None:
    serving = Guarded()
    _, client = serving.shows()
    assert serving.relay("/x").pending
    assert [payload["url"] for payload in client.asked] == ["/x"]
    (head, body), *more = serving.gateway.requests
    assert more == []  # a tunnel is asked about once, whatever it takes to open it
    assert head.method == "POST"
    assert head.target == (
        f"/base/hidden/brokers/connections/{TOKEN.lower()}/auth/validate?version=2024-02-08~experimental"
    )
    assert (head.get("authorization"), head.get("content-type")) == (jwt(), "application/vnd.api+json")
    assert json.loads(body) == json.loads(WHO)


@pytest.mark.parametrize(("status", "closed"), [(201, False), (200, True), (401, True), (500, True)])
def test_only_201_admits(status: int, closed: bool) -> None:
    serving = Guarded(lambda shown: status)
    _, client = serving.shows()
    got = serving.relay("/x")
    assert bool(client.closed) is closed
    assert got.status == (404 if closed else None)


def test_a_gateway_that_is_away_admits_nobody_and_says_try_again() -> None:
    serving = Guarded()
    serving.world.refusing.add(GATEWAY)
    got = serving.ask(
        f"/primus/{TOKEN}/?EIO=4&transport=polling",
        headers=(("authorization", jwt()), ("x-snyk-broker-client-id", "c")),
    )
    assert (got.status, got.get("retry-after")) == (503, "1")


def test_a_gateway_that_says_nothing_is_given_up_in_time() -> None:
    serving = Guarded()
    serving.gateway.answer = lambda head, body: (200, [], ["hang"])
    got = serving.ask(
        f"/primus/{TOKEN}/?EIO=4&transport=polling",
        headers=(("authorization", jwt()), ("x-snyk-broker-client-id", "c")),
        run=7.9,
    )
    assert got.pending
    serving.world.run(0.2)
    assert got.status == 503


def test_the_application_is_asked_where_it_decides() -> None:
    serving = Serving(authorization="application")
    party, client = serving.client(authorization=Secret("Bearer opaque"))
    (asked,) = serving.server.of(AuthorizationAsked)
    assert (asked.token, asked.client_id, asked.authorization) == (
        Secret(TOKEN.lower()),
        "hand-made",
        Secret("Bearer opaque"),
    )
    serving.world.tell(serving.server, Authorize(asked.exchange))
    serving.world.run(0.1)
    serving.relay("/x")
    assert len(client.asked) == 1
    serving.world.kill(party)
    serving.client(authorization=Secret("Bearer other"))
    asked = serving.server.of(AuthorizationAsked)[-1]
    serving.world.tell(serving.server, Authorize(asked.exchange, "Not here."))
    serving.world.run(0.1)
    assert serving.relay("/x").status == 503


def test_an_authorization_that_nobody_asked_for_is_nothing() -> None:
    serving = Serving()
    serving.world.tell(serving.server, Authorize(1))
    assert serving.ask("/healthcheck").status == 200


def test_a_credential_is_passed_on_as_it_came() -> None:
    serving = Guarded()
    got = serving.ask(
        f"/primus/{TOKEN}/?EIO=4&transport=polling",
        headers=(("authorization", "Bearer caf\u00e9"), ("x-snyk-broker-client-id", "c")),
    )
    ((head, _),) = serving.gateway.requests
    assert (got.status, head.get("authorization")) == (200, "Bearer caf\u00e9")


def test_what_else_a_gateway_says_is_not_read() -> None:
    serving = Guarded()
    serving.gateway.answer = lambda head, body: (201, [], [b"x" * 70_000, "hang"])
    party, client = serving.shows()
    assert not client.closed
    assert len(serving.gateway.lost) == 1
    serving.world.kill(party)
    serving.gateway.answer = lambda head, body: (201, [("content-length", "5")], [b"hello"])
    _, client = serving.shows()
    assert not client.closed


def test_who_leaves_while_the_gateway_thinks_is_forgotten() -> None:
    serving = Guarded()
    _, client = serving.shows()
    serving.gateway.answer = lambda head, body: (201, [], ["hang"])
    renewing = serving.renew(jwt(serial=1))
    assert renewing.pending
    serving.callers.leave(renewing)
    serving.world.run(10.0)
    assert not client.closed


# ── uploads ───────────────────────────────────────────────────────────────────
def test_an_upload_shows_the_same_application() -> None:
    serving = Guarded()
    _, client = serving.shows()
    waiting = serving.relay("/x")
    stream = client.asked[0]["streamingID"]
    for shown in ((), (("authorization", jwt("other")),), (("authorization", "Basic eA=="),)):
        refused = serving.upload_as(stream, *shown)
        assert (refused.status, json.loads(refused.body)) == (401, {"message": "Invalid Broker client credentials."})
    assert serving.upload_as(
        stream, ("authorization", jwt()), prefix=""
    ).pending  # the application's, which has no such
    assert waiting.pending
    done = serving.upload_as(stream, ("authorization", jwt(serial=3)), prefix="/Hidden/BROKERS")
    assert (done.status, waiting.status, waiting.body) == (200, 200, b"body")


def test_without_authorization_the_hidden_path_is_none_of_ours() -> None:
    serving = Serving()
    _, client = serving.client()
    waiting = serving.relay("/x")
    stream = client.asked[0]["streamingID"]
    serving.upload(stream, b"", token=TOKEN, query="")
    got = serving.ask(f"/hidden/brokers/response-data/{TOKEN}/{stream}", "POST", body=b"x")
    assert got.pending  # the application's
    assert waiting.status == 502  # an upload without a head


# ── renewals ──────────────────────────────────────────────────────────────────
def test_a_renewal_is_201_ok_and_counts() -> None:
    serving = Guarded()
    _, client = serving.shows()
    got = serving.renew(jwt(serial=1))
    assert (got.status, got.body) == (201, b"OK")
    assert (got.get("content-type") or "").startswith("text/plain")
    head, _ = serving.gateway.requests[-1]
    assert head.get("authorization") == jwt(serial=1)
    serving.relay("/x")
    assert serving.upload_as(client.asked[0]["streamingID"], ("authorization", jwt(serial=1))).status == 200


@pytest.mark.parametrize(
    ("path", "body", "authorization"),
    [
        (RENEW, b"{}", jwt()),
        (RENEW, b"no json", jwt()),
        (RENEW, b'{"data":{"attributes":{"broker_client_id":7}}}', jwt()),
        (RENEW, WHO, "Basic eA=="),
        (RENEW.replace("primary", "secondary"), WHO, jwt()),
        (RENEW.replace(TOKEN, TOKEN.replace("A", "B")), WHO, jwt()),
    ],
)
def test_a_renewal_of_no_session_changes_none(path: str, body: bytes, authorization: str) -> None:
    serving = Guarded()
    _, client = serving.shows()
    got = serving.renew(authorization, path, body)
    assert (got.status, got.body) == (401, b"Missing required authorization header.")
    assert len(serving.gateway.requests) == 1
    assert not client.closed


def test_a_refused_renewal_ends_the_session_for_good() -> None:
    serving = Guarded(lambda shown: 403 if shown == jwt(serial=1) else 201)
    _, client = serving.shows()
    got = serving.renew(jwt(serial=1))
    assert (got.status, got.body) == (401, b"Invalid credentials.")
    (closed,) = client.closed
    assert closed.final
    assert serving.relay("/x").status == 503


def test_a_renewal_that_cannot_be_checked_leaves_the_session() -> None:
    serving = Guarded(lambda shown: 500 if shown == jwt(serial=1) else 201)
    _, client = serving.shows()
    got = serving.renew(jwt(serial=1))
    assert (got.status, got.get("retry-after")) == (503, "1")
    assert not client.closed
    assert serving.machine.figures().tunnels == 1


def test_callers_come_again_while_a_client_identifies_itself() -> None:
    serving = Guarded()
    serving.ask(
        f"/primus/{TOKEN}/?EIO=4&transport=polling",
        headers=(("authorization", jwt()), ("x-snyk-broker-client-id", "c")),
    )
    got = serving.relay("/x")
    assert (got.status, got.get("x-broker-failure"), got.get("retry-after")) == (503, "connection-not-ready", "1")
    serving.world.run(11.0)  # it did not identify itself in time
    assert serving.relay("/x").status == 404
