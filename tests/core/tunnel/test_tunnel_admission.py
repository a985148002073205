"""Where clients must prove who they are: what is asked of whom, what is answered, and how long a proof is good."""

from __future__ import annotations

import base64
import json

import pytest

from towline.core import LIMITS, WAKE, Entropy, Limits, Record, Secret
from towline.core.http import ServerRequest
from towline.core.tunnel import AuthorizationAsked, HostConfig, Reply, SessionClosed, SessionOpened, TunnelHost

TOKEN = "00000000-0000-4000-8000-00000000000a"
PATH = f"/primus/{TOKEN}/?EIO=4&transport=polling"


def jwt(app: str, serial: int = 0) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"azp": app, "n": serial}).encode()).decode().rstrip("=")
    return f"Bearer e30.{claims}.c2ln"


def shows(authorization: str, client_id: str = "c") -> dict[str, str]:
    return {"authorization": authorization, "x-snyk-broker-client-id": client_id}


class Door:
    """A host that asks before it opens, and what it said."""

    def __init__(self, limits: Limits = LIMITS, *, silence: float = 35.0, ping_interval: float = 25.0) -> None:
        config = HostConfig(authorization=True, silence=silence, ping_interval=ping_interval)
        self.host = TunnelHost(config, entropy=Entropy(b"door" * 8), limits=limits)
        self.said: list[Record] = []
        self._taken = 0

    def drain(self) -> list[Record]:
        fresh = []
        while (said := self.host.poll()) is not None:
            fresh.append(said)
        self.said += fresh
        return fresh

    def ask(
        self, headers: dict[str, str], path: str = PATH, method: str = "GET", body: bytes = b"", now: float = 0.0
    ) -> list[Record]:
        self._taken += 1
        named = tuple(headers.items())
        request = ServerRequest(named, method, path, path.partition("?")[0], (), (), body, "broker", "127.0.0.1")
        self.host.request(self._taken, 2 * self._taken, request, now)
        return self.drain()

    def open(self, authorization: str, *, now: float = 0.0) -> str:
        """Open a session for client c, and return its sid."""
        (asked,) = self.ask(shows(authorization), now=now)
        assert isinstance(asked, AuthorizationAsked)
        self.host.authorize(asked.exchange, None, now=now)
        (reply,) = (said for said in self.drain() if isinstance(said, Reply))
        return str(json.loads(reply.body[1:])["sid"])


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ({}, "Missing required authorization header."),
        ({"authorization": "Basic eA==", "x-snyk-broker-client-id": "c"}, "Missing required authorization header."),
        ({"authorization": jwt("app")}, "Missing required authorization header."),
        ({"authorization": "Bearer ", "x-snyk-broker-client-id": "c"}, "Invalid JWT."),
    ],
)
@pytest.mark.parametrize("upgrade", [False, True])
def test_who_shows_nothing_gets_401_and_nobody_is_asked(headers: dict[str, str], text: str, upgrade: bool) -> None:
    if upgrade:
        headers = headers | {"upgrade": "websocket", "connection": "upgrade"}
    (reply,) = Door().ask(headers)
    assert isinstance(reply, Reply)
    assert (reply.status, json.loads(reply.body)) == (401, {"error": text})
    told = dict(reply.headers)
    assert told["WWW-Authenticate"] == "Bearer"
    assert told["Cache-Control"] == "no-store, no-cache, must-revalidate, max-age=0"
    assert (told["Pragma"], told["Content-Type"]) == ("no-cache", "application/json")
    assert ("Connection" in told) == upgrade


def test_what_is_asked_and_what_a_refusal_looks_like() -> None:
    door = Door()
    (asked,) = door.ask(shows(jwt("app")) | {"x-forwarded-for": "192.0.2.1"})
    assert asked == AuthorizationAsked(1, Secret(TOKEN), "c", Secret(jwt("app")), "192.0.2.1")
    door.host.authorize(1, "Invalid credentials.", now=0.0)
    (reply,) = door.drain()
    assert isinstance(reply, Reply)
    assert (reply.status, reply.body) == (401, b'{"error":"Invalid credentials."}')
    door.host.authorize(1, None, now=0.0)  # the second answer to one question says nothing
    assert door.drain() == []


def test_so_many_are_looked_at_and_no_more() -> None:
    door = Door(limits=Limits(tunnel_sockets=2))
    said = [door.ask(shows(jwt("app"), f"c-{number}"))[0] for number in range(3)]
    assert [type(one) for one in said] == [AuthorizationAsked, AuthorizationAsked, Reply]
    assert isinstance(said[2], Reply)
    assert said[2].status == 503


def test_who_cannot_be_asked_means_try_again() -> None:
    door = Door()
    door.ask(shows(jwt("app")))
    door.host.authorize(1, "Credentials cannot be checked.", now=0.0, status=503)
    (reply,) = door.drain()
    assert isinstance(reply, Reply)
    assert (reply.status, dict(reply.headers)["Retry-After"]) == (503, "1")


def test_a_session_asks_again_only_for_another_credential() -> None:
    door = Door()
    sid = door.open(jwt("app"))
    later = f"{PATH}&sid={sid}"
    ping = b'4"primus::ping::1"'
    (reply,) = (s for s in door.ask(shows(jwt("app")), later, "POST", ping) if isinstance(s, Reply))
    assert reply.body == b"ok"
    other = door.ask(shows(jwt("app", 1)), later, "POST", ping)
    assert isinstance(other[0], AuthorizationAsked)
    stranger = door.ask(shows(jwt("app"), "d"), later, "POST", ping)
    assert isinstance(stranger[0], AuthorizationAsked)
    door.host.renew(1, Secret(jwt("app", 1)), 0.0)
    for shown in (jwt("app"), jwt("app", 1)):
        assert isinstance(door.ask(shows(shown), later, "POST", ping)[0], Reply)


def test_an_asker_who_left_gets_nothing() -> None:
    door = Door()
    door.ask(shows(jwt("app")))
    door.host.gone(1, 0.0)
    door.host.authorize(1, None, now=0.0)
    assert door.drain() == []


def test_a_proof_is_good_for_65_minutes_and_renewing_it_counts() -> None:
    door = Door(silence=1e6, ping_interval=1e6)
    sid = door.open(jwt("app"))
    identify = b'4{"type":0,"data":["identify",{"token":"%s","metadata":{"version":"local"}}]}' % TOKEN.encode()
    door.ask(shows(jwt("app")), f"{PATH}&sid={sid}", "POST", identify)
    door.host.renew(1, Secret(jwt("app", 1)), 3000.0)
    door.host.handle(WAKE, 65 * 60.0)
    assert not [said for said in door.drain() if isinstance(said, SessionClosed)]
    door.host.handle(WAKE, 3000.0 + 65 * 60.0)
    (closed,) = (said for said in door.drain() if isinstance(said, SessionClosed))
    assert closed.reason == "stale credentials"
    (reply,) = door.ask(shows(jwt("app", 1)), f"{PATH}&sid={sid}", now=3000.0 + 65 * 60.0)
    assert isinstance(reply, Reply)
    assert b'4"primus::server::close"' in reply.body  # it is to stay away


@pytest.mark.parametrize(
    ("shown", "good"),
    [
        (jwt("app"), True),
        (jwt("app", 7), True),
        (jwt("other"), False),
        (jwt(""), False),
        ("", False),
        ("Bearer ", False),
        ("Bearer a.b.c", False),
        ("Basic " + jwt("app")[7:], False),
    ],
)
def test_an_upload_is_vouched_for_by_the_application_that_shows_it(shown: str, good: bool) -> None:
    door = Door()
    door.open(jwt("app"))
    assert door.host.vouches(1, shown) is good
    assert not door.host.vouches(2, shown)


def test_a_credential_that_is_no_jwt_vouches_as_a_whole() -> None:
    door = Door()
    door.open("Bearer opaque")
    assert door.host.vouches(1, "Bearer opaque")
    assert not door.host.vouches(1, "Bearer opaquf")


def test_a_stopping_host_opens_nothing_and_closes_all_with_1001() -> None:
    host = TunnelHost(HostConfig(), entropy=Entropy(b"door" * 8))
    headers = (("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-version", "13"),
               ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="))  # fmt: skip
    path = f"/primus/{TOKEN}/?EIO=4&transport=websocket"
    request = ServerRequest(headers, "GET", path, path.partition("?")[0], (), (), b"", "broker", "127.0.0.1")
    host.request(1, 2, request, 0.0)
    said = []
    while (one := host.poll()) is not None:
        said.append(one)
    assert [type(one) for one in said if isinstance(one, SessionOpened)] == [SessionOpened]
    host.stop()
    host.request(2, 4, request, 0.0)
    refused = host.poll()
    assert isinstance(refused, Reply)
    assert (refused.status, dict(refused.headers)["Connection"]) == (503, "close")
    host.close_all(0.0)
    said = []
    while (one := host.poll()) is not None:
        said.append(one)
    assert b"\x88\x02\x03\xe9" in b"".join(getattr(one, "data", b"") for one in said)
