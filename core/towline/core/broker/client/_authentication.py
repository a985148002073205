"""Authenticated mode: OAuth client credentials become the bearer of tunnels and uploads.

No tunnel goes before there is a token. It is renewed before it expires, and each open tunnel's server is shown the
present one every ten minutes, since it hears none over the tunnel itself (broker-protocol.md §4.2, §4.4).
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError
from towline.core._script import Body, Broken, Head
from towline.core._secret import Secret
from towline.core._wire import Note
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker.client._client_config import BrokerClientConfig
from towline.core.broker.client._connection import Connection
from towline.core.broker.client._job import Tunnel
from towline.core.http import ClientEvent, Url

SHOWN_EVERY: Final = 600.0
# Before its end a token is renewed; one that is younger is not doubted because a tunnel was lost.
_AHEAD: Final = 60.0
_YOUNG: Final = 60.0
_SECONDS: Final = 10.0
_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 60.0
_LARGEST: Final = 128 * 1024
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float = 3600.0


class Grant(Timed):
    """The token: asked for, held, or to be asked for again at `until`."""

    __slots__ = ("answer", "errand", "failures", "got", "status")

    def __init__(self) -> None:
        super().__init__()
        self.errand: Errand | None = None
        self.status: int | None = None
        self.answer = b""
        self.failures = 0
        self.got: Instant | None = None


class Showing(Timed):
    """One tunnel, whose server is shown the token from time to time."""

    __slots__ = ("errand", "tunnel")

    def __init__(self, tunnel: Tunnel) -> None:
        super().__init__()
        self.tunnel = tunnel
        self.errand: Errand | None = None


class Authentication:
    """The client's one token, and who is shown it.

    Raises:  RemoteProtocolError "invalid-configuration" from the constructor, where nothing says whom to ask for it
    """

    def __init__(
        self,
        wishes: deque[Any],
        outgoing: Outgoing,
        config: BrokerClientConfig,
        connections: Sequence[Connection],
        client_id: str,
        entropy: Entropy,
    ) -> None:
        self._wishes = wishes
        self._outgoing = outgoing
        self._config = config
        self._connections = connections
        self._client_id = client_id
        self._entropy = entropy
        self._grant = Grant()
        self._showings = {tunnel: Showing(tunnel) for connection in connections for tunnel in connection.tunnels}
        self._alarms: Alarms[Grant | Showing] = Alarms()
        self._exhausted: str | None = None
        if self.wanted:
            self._api(connections[0])

    @property
    def wanted(self) -> bool:
        return self._config.oauth_id is not None and self._config.oauth_secret is not None

    @property
    def holds(self) -> bool:
        """Whether tunnels are to wait for a token."""
        return self.wanted and self._grant.got is None

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def take_exhausted(self) -> str | None:
        """Return once why there is no token, when all attempts at the first one have failed."""
        why, self._exhausted = self._exhausted, None
        return why

    def begin(self, now: Instant) -> None:
        """Ask for the first token."""
        if self.wanted:
            self._ask(now)

    def opened(self, tunnel: Tunnel, now: Instant) -> None:
        """A tunnel was opened with the present token."""
        if self.wanted:
            self._alarms.set(self._showings[tunnel], now + SHOWN_EVERY)

    def lost(self, tunnel: Tunnel, now: Instant) -> None:
        """A tunnel is gone, or was refused: perhaps for its token."""
        showing, got = self._showings[tunnel], self._grant.got
        self._alarms.set(showing, None)
        if showing.errand is not None:
            self._outgoing.give_up(showing.errand)
            showing.errand = None
        if got is not None and now - got > _YOUNG and self._grant.errand is None:
            self._ask(now)

    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        asked: Grant | Showing = errand.owner
        if errand is not asked.errand:
            return
        if isinstance(asked, Showing):
            self._shown(asked, event, now)
        elif isinstance(event, Head):
            asked.status = event.status
        elif isinstance(event, Body):
            asked.answer = (asked.answer + bytes(event.data))[:_LARGEST]
        elif isinstance(event, Broken):
            self._failed(event.why, now)
        else:
            self._answered(now)

    def wake(self, now: Instant) -> None:
        for due in self._alarms.due(now):
            if isinstance(due, Showing):
                self._show(due, now)
            elif due.errand is None:
                self._ask(now)
            else:
                self._outgoing.give_up(due.errand)
                self._failed(f"no answer in {_SECONDS:g} s", now)

    # ── the token ──────────────────────────────────────────────────────────────
    def _api(self, connection: Connection) -> Url:
        api = self._config.api(connection.servers[0])
        if api is None:
            raise RemoteProtocolError(
                "invalid-configuration", "an authenticated client needs the API's URL", hint="set API_BASE_URL"
            )
        return api

    def _ask(self, now: Instant) -> None:
        grant, api, secret = self._grant, self._api(self._connections[0]), self._config.oauth_secret
        assert secret is not None
        form = {
            "grant_type": "client_credentials",
            "client_id": self._config.oauth_id,
            "client_secret": secret.reveal(),
        }
        headers = (
            ("Host", api.authority),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Accept", "application/json"),
        )
        target = api.path.rstrip("/") + "/oauth2/token"
        grant.status, grant.answer = None, b""
        grant.errand = Errand(
            grant, "POST", api, target, headers, urlencode(form).encode(), repeatable=True, patience=_SECONDS
        )
        self._alarms.set(grant, now + _SECONDS)
        self._outgoing.begin(grant.errand, now)

    def _answered(self, now: Instant) -> None:
        grant = self._grant
        if grant.status != 200:
            self._failed(f"the API answers {grant.status}", now)
            return
        try:
            granted = msgspec.json.decode(grant.answer, type=_Granted)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self._failed("the API's answer cannot be read", now)
            return
        if not _TOKEN.fullmatch(granted.access_token):
            self._failed("the API's token is none that a header can carry", now)
            return
        grant.errand, grant.failures, grant.got = None, 0, now
        # Not so often that it would be a flood, whatever the API says.
        lasts = min(max(granted.expires_in - _AHEAD, _AHEAD), 7 * 86400.0)
        self._alarms.set(grant, now + lasts)
        for connection in self._connections:
            connection.authorize(Secret(f"Bearer {granted.access_token}"))

    def _failed(self, why: str, now: Instant) -> None:
        grant = self._grant
        grant.errand = None
        grant.failures += 1
        self._wishes.append(Note("warning", "token.failed", {"why": why[:1024], "attempt": grant.failures}))
        if grant.got is None and grant.failures > self._config.attempts:
            self._exhausted = f"no access token: {why}"[:1024]
            self._alarms.set(grant, None)
            return
        pause = min(_PAUSE * 2 ** min(grant.failures - 1, 16), _LONGEST_PAUSE)
        self._alarms.set(grant, now + pause * (1 + self._entropy.fraction()) / 2)

    # ── what servers are shown ─────────────────────────────────────────────────
    def _show(self, showing: Showing, now: Instant) -> None:
        tunnel = showing.tunnel
        connection = tunnel.connection
        self._alarms.set(showing, now + SHOWN_EVERY)
        authorization = connection.authorization
        if authorization is None:
            return
        api = self._api(connection)
        belongs = "" if tunnel.place.server_id is None else f"server_id={tunnel.place.server_id}&"
        path = f"{api.path.rstrip('/')}/hidden/brokers/connections/{connection.quoted_token}/auth/refresh"
        document = {"data": {"type": "broker_connection", "attributes": {"broker_client_id": self._client_id}}}
        showing.errand = Errand(
            showing,
            "POST",
            api,
            f"{path}?{belongs}connection_role={tunnel.role}",
            (
                ("Host", api.authority),
                ("Authorization", authorization),
                ("Content-type", "application/vnd.api+json"),
            ),
            json.dumps(document, separators=(",", ":")).encode(),
            repeatable=True,
            patience=_SECONDS,
        )
        self._outgoing.begin(showing.errand, now)

    def _shown(self, showing: Showing, event: ClientEvent, now: Instant) -> None:
        if isinstance(event, Body):
            return
        if isinstance(event, Head) and 200 <= event.status < 300:
            return
        if isinstance(event, Head | Broken):
            why = event.why if isinstance(event, Broken) else f"the API answers {event.status}"
            told = {"role": showing.tunnel.role, "why": why[:1024]}
            self._wishes.append(Note("warning", "token.refused", showing.tunnel.connection.told(told)))
            if isinstance(event, Head) and event.status == 401 and self._grant.errand is None:
                # The next showing, and the next connection, have a fresh one.
                self._ask(now)
                self._alarms.set(showing, now + _SECONDS)
        showing.errand = None
