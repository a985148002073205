"""High availability: ask the dispatcher which server a connection belongs to (broker-protocol.md §4.3).

The tunnels wait for the first answer only. Without one they go on, to whichever server the balancer gives them, and
the dispatcher is asked again from time to time; what it says then holds for the next connection.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any, Final

import msgspec

from towline.core._contract import Instant
from towline.core._errors import RemoteProtocolError
from towline.core._script import Body, Broken, Head, HeaderList
from towline.core._wire import Note
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._ids import hashed_token
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker.client._client_config import BrokerClientConfig, read_url
from towline.core.broker.client._connection import Connection
from towline.core.http import ClientEvent, Url

_ACCEPTED: Final = "application/vnd.api+json"
_VERSION: Final = "version=2022-12-01%7Eexperimental"
_RETRIES: Final = 11
_PAUSE: Final = 30.0
_SECONDS: Final = 10.0
_LARGEST: Final = 64 * 1024


class _Attributes(msgspec.Struct):
    server_id: str | int | None = None


class _Data(msgspec.Struct):
    attributes: _Attributes


class _Answer(msgspec.Struct):
    data: _Data


class Asking(Timed):
    """The question for one connection. `waits` while the tunnels must not go before it is answered."""

    __slots__ = ("attempt", "body", "connection", "errand", "status", "waits")

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        self.attempt = 0
        self.errand: Errand | None = None
        self.status: int | None = None
        self.body = b""
        self.waits = True


class Dispatch:
    """All questions to the dispatcher."""

    def __init__(self, wishes: deque[Any], outgoing: Outgoing, config: BrokerClientConfig, client_id: str) -> None:
        self._wishes = wishes
        self._outgoing = outgoing
        self._config = config
        self._client_id = client_id
        self._askings: dict[Connection, Asking] = {}
        self._alarms: Alarms[Asking] = Alarms()

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def holds(self, connection: Connection) -> bool:
        """Whether this connection's tunnels are to wait."""
        asking = self._askings.get(connection)
        return asking is not None and asking.waits

    def begin(self, connection: Connection, now: Instant) -> None:
        """Ask for one connection."""
        asking = self._askings[connection] = Asking(connection)
        self._ask(asking, now)

    def again(self, connection: Connection, now: Instant) -> None:
        """Ask anew for a connection whose server cannot be reached. Its tunnels do not wait for the answer."""
        asking = self._askings.get(connection)
        if asking is not None and asking.errand is None:
            asking.attempt = 0
            self._ask(asking, now)

    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        asking: Asking = errand.owner
        if errand is not asking.errand:
            return
        if isinstance(event, Head):
            asking.status = event.status
        elif isinstance(event, Body):
            asking.body = (asking.body + bytes(event.data))[:_LARGEST]
        elif isinstance(event, Broken):
            self._failed(asking, event.why, now)
        else:
            self._answered(asking, now)

    def wake(self, now: Instant) -> None:
        for asking in self._alarms.due(now):
            if asking.errand is None:
                self._ask(asking, now)
            else:
                self._outgoing.give_up(asking.errand)
                self._failed(asking, f"no answer in {_SECONDS:g} s", now)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _ask(self, asking: Asking, now: Instant) -> None:
        url, token = dispatcher(self._config, asking.connection.servers[0]), asking.connection.own.token.reveal()
        target = f"{url.path.rstrip('/')}/{hashed_token(token)}/connections/{self._client_id}?{_VERSION}"
        told = {"deployment_location": self._config.location, "broker_token_first_char": token[:1]}
        body = json.dumps({"data": {"attributes": told}}, separators=(",", ":")).encode()
        headers: HeaderList = (("Host", url.authority), ("Content-type", _ACCEPTED))
        if asking.connection.authorization is not None:
            headers += (("authorization", asking.connection.authorization),)
        asking.status, asking.body = None, b""
        # Asking twice changes nothing but the answer.
        asking.errand = Errand(asking, "POST", url, target, headers, body, repeatable=True, patience=_SECONDS)
        self._alarms.set(asking, now + _SECONDS)
        try:
            self._outgoing.begin(asking.errand, now)
        except RemoteProtocolError as error:
            self._failed(asking, error.message, now)

    def _answered(self, asking: Asking, now: Instant) -> None:
        if asking.status is None or not 200 <= asking.status < 300:
            self._failed(asking, f"the dispatcher answers {asking.status}", now)
            return
        try:
            said = msgspec.json.decode(asking.body, type=_Answer).data.attributes.server_id
        except (msgspec.DecodeError, ValueError, RecursionError):
            self._failed(asking, "the dispatcher's answer cannot be read", now)
            return
        text = str(said)
        self._alarms.set(asking, None)
        asking.errand, asking.waits = None, False
        # "if set and > -1 numerically"; it goes into a query, so that it has no business to be anything else.
        if len(text) <= 20 and text.isascii() and text.isdigit():
            asking.connection.found(text)

    def _failed(self, asking: Asking, why: str, now: Instant) -> None:
        asking.errand, asking.waits = None, False
        again = _PAUSE * 2**asking.attempt if asking.attempt < _RETRIES else None
        told = asking.connection.told({"why": why[:1024], "again_in": again})
        self._wishes.append(Note("warning", "dispatcher.failed", told))
        self._alarms.set(asking, None if again is None else now + again)
        asking.attempt += 1


def dispatcher(config: BrokerClientConfig, server: Url) -> Url:
    """Return whom to ask: where nothing says it, the server itself, as the established client does."""
    base = read_url(config.dispatcher_url, "the dispatcher's URL") if config.dispatcher_url else config.api(server)
    base = base or server
    usual = "/hidden/broker" if config.oauth_id is None else "/hidden/brokers"
    prefix = (usual if config.dispatcher_prefix is None else config.dispatcher_prefix).strip("/")
    return Url(base.scheme, base.host, base.port, f"{base.path.rstrip('/')}/{prefix}")
