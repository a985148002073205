"""Both ends against recorded sessions of the stock pair."""

from __future__ import annotations

from typing import Any

import pytest
from tunnelkit.recorded import play_client, play_host, recording
from tunnelkit.roots import make_client

from towline.core import WAKE, Open, Opened, Received, Transmit
from towline.core.tunnel import (
    Acked,
    Arrived,
    Identified,
    Ponged,
    SessionClosed,
    SessionOpened,
    TunnelClosed,
    TunnelIdentified,
    TunnelOpened,
)

BOTH_IDENTIFY = [SessionOpened, SessionOpened, Identified, Identified]


@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("01-connect-identify", [*BOTH_IDENTIFY, SessionClosed, SessionClosed]),
        ("02-request-small", [*BOTH_IDENTIFY, SessionClosed, SessionClosed]),
        ("06-request-ws-response", [*BOTH_IDENTIFY, Acked, Acked, Acked, SessionClosed, SessionClosed]),
        ("07-callback", [*BOTH_IDENTIFY, Arrived, Arrived, Arrived, SessionClosed, SessionClosed]),
        ("08-ping-pong", [*BOTH_IDENTIFY, Ponged, Ponged, Ponged, Ponged, SessionClosed, SessionClosed]),
        ("12-unknown-capability", [SessionOpened, Identified, Acked, SessionClosed]),
        ("13-no-capabilities", [SessionOpened, Identified, SessionClosed]),
        ("14-outdated-client", [SessionOpened, SessionClosed, SessionOpened, Identified, SessionClosed]),
        ("20-direct-websocket", [SessionOpened, Identified, Ponged, SessionClosed, SessionOpened, SessionClosed]),
        ("21-polling-only", [SessionOpened, Identified, Acked, Ponged, SessionClosed]),
    ],
)
def test_our_host_says_what_the_stock_server_said(name: str, events: list[type]) -> None:
    theirs, ours, told = play_host(name)
    assert ours == theirs
    assert [type(event) for event in told] == events


def test_what_identify_said() -> None:
    _, _, told = play_host("12-unknown-capability")
    identified = next(event for event in told if isinstance(event, Identified))
    assert (identified.version, identified.capabilities, identified.role) == ("5.22.14", ("telepathy",), "primary")
    _, _, told = play_host("13-no-capabilities")
    assert next(event for event in told if isinstance(event, Identified)).capabilities is None


@pytest.mark.parametrize("role", ["primary", "secondary"])
@pytest.mark.parametrize(
    ("name", "events"),
    [
        ("01-connect-identify", {}),
        ("02-request-small", {"secondary": [Arrived, Arrived]}),
        ("06-request-ws-response", {"secondary": [Arrived, Arrived, Arrived]}),
        ("07-callback", {"primary": [Acked, Acked, Acked]}),
        ("08-ping-pong", {}),
        ("16-server-close", {}),
    ],
)
def test_our_client_says_what_the_stock_client_said(name: str, events: dict[str, list[type]], role: Any) -> None:
    played = play_client(name, role)
    assert played.theirs
    assert played.ours == played.theirs
    between = events.get(role, [])
    assert [type(event) for event in played.events] == [TunnelOpened, TunnelIdentified, *between, TunnelClosed]


def test_a_deliberate_close_is_obeyed() -> None:
    closed = {role: play_client("16-server-close", role) for role in ("primary", "secondary")}
    assert closed["primary"].events[-1].final
    assert (closed["primary"].client.state, closed["primary"].client.deadline()) == ("closed", None)
    assert not closed["secondary"].events[-1].final
    assert closed["secondary"].client.state == "waiting"


def test_the_stock_servers_401_is_tried_again() -> None:
    refusal = next(m.raw for m in recording("10-unauthorized") if m.kind == "http-response")
    client = make_client(polling_first=True)
    client.handle(WAKE, 0.0)
    for now in (0.0, 0.5):
        opened = client.poll()
        assert isinstance(opened, Open)
        client.handle(Opened(opened.link), now)
        assert isinstance(client.poll(), Transmit)
        client.handle(Received(opened.link, refusal), now)
        wishes = iter(client.poll, None)
        closed = next(wish for wish in wishes if isinstance(wish, TunnelClosed))
        assert "401" in closed.reason
        assert closed.retry_at is not None
        assert list(wishes) == []
        if now == 0.0:
            assert closed.retry_at == 0.5
            client.handle(WAKE, 0.5)
        else:
            assert 1.25 <= closed.retry_at <= 2.0
