"""When a client's tunnels act: not before there is a token and the dispatcher was asked, then whenever one is due."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from towline.core._contract import Instant, Record
from towline.core._entropy import Entropy
from towline.core._wire import WAKE
from towline.core.broker._alarms import Alarms, earliest
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker.client._authentication import Authentication
from towline.core.broker.client._client_config import BrokerClientConfig
from towline.core.broker.client._connection import Connection
from towline.core.broker.client._dispatch import Asking, Dispatch
from towline.core.broker.client._job import Tunnel
from towline.core.http import ClientEvent

# Failed attempts after which the dispatcher is asked anew.
_MISSES: Final = 3


class TunnelsEnded(Record, frozen=True):
    """Every tunnel of every connection is closed for good: the servers said so, or too many attempts failed.

    The machine goes on, and its health check fails; whether the program goes on is its own affair. `exhausted` says
    that attempts failed, so that a new start may help.
    """

    reason: str
    exhausted: bool = False


class Dialling:
    """The tunnels' deadlines in one heap: a turn costs the same whether a client has two tunnels or fifty."""

    def __init__(
        self,
        wishes: deque[Any],
        outgoing: Outgoing,
        config: BrokerClientConfig,
        connections: Sequence[Connection],
        *,
        client_id: str,
        entropy: Entropy,
    ) -> None:
        self._wishes = wishes
        self._connections = connections
        self._tunnels = [tunnel for connection in connections for tunnel in connection.tunnels]
        self._authentication = Authentication(wishes, outgoing, config, connections, client_id, entropy)
        self._dispatch = Dispatch(wishes, outgoing, config, client_id)
        self._undispatched = config.high_availability
        # Those that were never told to go.
        self._held: set[Tunnel] = set(self._tunnels)
        self._alarms: Alarms[Tunnel] = Alarms()

    def deadline(self) -> Instant | None:
        return earliest(self._alarms.deadline(), self._dispatch.deadline(), self._authentication.deadline())

    def begin(self, now: Instant) -> None:
        """The client begins."""
        self._authentication.begin(now)

    def wake(self, now: Instant) -> None:
        self._authentication.wake(now)
        self._dispatch.wake(now)
        for tunnel in list(self._alarms.due(now)):
            self._wake(tunnel, now)
        self._release(now)

    def touched(self, tunnel: Tunnel) -> None:
        """Something happened on a tunnel, so that its deadline may be another."""
        self._alarms.set(tunnel, tunnel.client.deadline())

    def opened(self, tunnel: Tunnel, now: Instant) -> None:
        self._authentication.opened(tunnel, now)

    def lost(self, tunnel: Tunnel, now: Instant) -> None:
        self._authentication.lost(tunnel, now)
        if tunnel.failures and tunnel.failures % _MISSES == 0:
            # Perhaps the server that it belongs to is no more.
            self._dispatch.again(tunnel.connection, now)

    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        """Take what came of a request for a token, or of one to the dispatcher."""
        if isinstance(errand.owner, Asking):
            self._dispatch.happened(errand, event, now)
        else:
            self._authentication.happened(errand, event, now)
        self._release(now)

    def _release(self, now: Instant) -> None:
        """Let those go that need not wait any more."""
        if not self._held:
            return
        if self._authentication.holds:
            why = self._authentication.take_exhausted()
            if why is not None:
                self._wishes.append(TunnelsEnded(why, exhausted=True))
            return
        if self._undispatched:
            self._undispatched = False
            for connection in self._connections:
                self._dispatch.begin(connection, now)
        for tunnel in self._tunnels:
            if tunnel in self._held and not self._dispatch.holds(tunnel.connection):
                self._held.discard(tunnel)
                self._wake(tunnel, now)

    def _wake(self, tunnel: Tunnel, now: Instant) -> None:
        tunnel.client.handle(WAKE, now)
        self.touched(tunnel)
