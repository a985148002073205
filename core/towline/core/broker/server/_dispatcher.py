"""Reports of a server to a dispatcher, which tells clients where to connect (broker-protocol.md §4.3).

What is reported never waits for, and never holds up, anything else: a report that fails is tried three times more,
then noted and forgotten. Of one client's reports the last is what counts, so they go one after the other and a newer
one replaces one that has not gone out.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

import msgspec

from towline.core._contract import Instant
from towline.core._entropy import Entropy
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head
from towline.core._wire import Note
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._ids import hashed_token
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker.server._directory import Session
from towline.core.broker.server._server_config import BrokerServerConfig
from towline.core.http import ClientEvent, Url

REPORT_SECONDS: Final = 2.5
REPORT_RETRIES: Final = 3
REPORT_PAUSE: Final = 0.2
"""Doubled for each further try."""
AT_ONCE: Final = 32
"""Reports under way at one time; the others wait, at most one for each client."""

Happening = Literal["server-starting", "server-stopping", "client-connected", "client-pinged", "client-disconnected"]
Key = tuple[str, str]
_SERVER: Final[Key] = ("", "")
_VERSION: Final = ("version", "2022-12-02~experimental")


class Report(Timed):
    """One thing to tell the dispatcher, and how often it was tried."""

    __slots__ = ("attempt", "body", "happening", "key", "method", "size", "status", "target")

    def __init__(self, key: Key, happening: Happening, method: str, target: str, body: bytes | None) -> None:
        super().__init__()
        self.key = key
        self.happening = happening
        self.method = method
        self.target = target
        self.body = body
        self.attempt = 0
        self.status = 0
        self.size = 0


class Dispatcher:
    """Tells the dispatcher at `url` of this server and its clients."""

    def __init__(
        self,
        outgoing: Outgoing,
        wishes: deque[Any],
        config: BrokerServerConfig,
        url: str,
        *,
        entropy: Entropy,
        limits: Limits = LIMITS,
    ) -> None:
        self._outgoing = outgoing
        self._wishes = wishes
        self._url = Url.parse(url, "invalid-configuration")
        self._base = f"{self._url.path.rstrip('/')}/internal/brokerservers/{quote(config.server_id, safe='')}"
        self._health = f"http://{config.host_name}/healthcheck"
        self._epoch = config.epoch
        self._entropy = entropy
        self._limits = limits
        self._waiting: OrderedDict[Key, Report] = OrderedDict()
        self._running: dict[Key, Report] = {}
        self._alarms: Alarms[Report] = Alarms()
        # Clients that said that they terminate: their pings are reported no more.
        self._leaving: set[Key] = set()
        self.succeeded = 0
        self.failed = 0

    @property
    def busy(self) -> bool:
        """Whether something about the server itself is still to be told."""
        return _SERVER in self._waiting or _SERVER in self._running

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    # ── what is reported ───────────────────────────────────────────────────────
    def started(self, now: Instant) -> None:
        self._report(_SERVER, "server-starting", "POST", self._base, (), {"health_check_link": self._health}, now)

    def stopping(self, now: Instant) -> None:
        """The server takes no more clients. What was to be said of single ones says this too."""
        self._waiting.clear()
        self._report(_SERVER, "server-stopping", "DELETE", self._base, (), None, now)

    def connected(self, session: Session, now: Instant) -> None:
        self._client(session, "client-connected", (), now)

    def pinged(self, session: Session, sent_ms: int, now: Instant) -> None:
        """A client's ping came. Its number is the client's clock, which may be anything."""
        if _key(session) in self._leaving:
            return
        latency = round((self._epoch + now) * 1000) - sent_ms
        self._client(session, "client-pinged", (("latency", str(latency)),), now)

    def terminating(self, session: Session) -> None:
        """A client said that it is about to end."""
        self._leaving.add(_key(session))

    def disconnected(self, session: Session, others: Iterable[Session], now: Instant) -> None:
        """A session ended. `others` are those of its token that are left: its client may have one among them."""
        key = _key(session)
        if any(_key(other) == key for other in others):
            return
        self._leaving.discard(key)
        self._report(key, "client-disconnected", "DELETE", self._place(session), _id(session), None, now)

    def _client(self, session: Session, happening: Happening, more: tuple[tuple[str, str], ...], now: Instant) -> None:
        attributes = {"health_check_link": self._health, "broker_client_version": session.version or "undefined"}
        query = (*_id(session), *more, ("request_type", happening))
        self._report(_key(session), happening, "POST", self._place(session), query, attributes, now)

    def _place(self, session: Session) -> str:
        return f"{self._base}/connections/{hashed_token(session.token)}"

    def _report(
        self,
        key: Key,
        happening: Happening,
        method: str,
        place: str,
        query: tuple[tuple[str, str], ...],
        attributes: dict[str, str] | None,
        now: Instant,
    ) -> None:
        body = None if attributes is None else msgspec.json.encode({"data": {"attributes": attributes}})
        target = f"{place}?{urlencode((*query, _VERSION))}"
        self._waiting[key] = Report(key, happening, method, target, body)
        if len(self._waiting) > self._limits.tunnel_sockets:
            self._waiting.popitem(last=False)
            self.failed += 1
        self._go(now)

    # ── on their way ───────────────────────────────────────────────────────────
    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        """Take what the dispatcher answers."""
        report: Report = errand.owner
        if isinstance(event, Head):
            report.status = event.status
        elif isinstance(event, Body):
            report.size += len(event.data)
            if report.size > self._limits.registry_error_body:
                self._outgoing.give_up(errand)
                self._over(report, now)
        elif isinstance(event, Broken):
            self._failed(report, event.why, now)
        else:
            self._over(report, now)

    def wake(self, now: Instant) -> None:
        for report in self._alarms.due(now):
            self._send(report, now)

    def _go(self, now: Instant) -> None:
        if len(self._running) >= AT_ONCE:
            return
        ready = (key for key in self._waiting if key not in self._running)
        for key in list(islice(ready, AT_ONCE - len(self._running))):
            report = self._running[key] = self._waiting.pop(key)
            self._send(report, now)

    def _send(self, report: Report, now: Instant) -> None:
        headers = (
            ("Content-Type", "application/vnd.api+json"),
            ("Connection", "Keep-Alive"),
            ("Keep-Alive", "timeout=60, max=10"),
            ("Snyk-Request-Id", self._entropy.uuid4()),
            ("Host", self._url.authority),
        )
        errand = Errand(
            report, report.method, self._url, report.target, headers, report.body or b"",
            repeatable=True, patience=REPORT_SECONDS, retries=0,
        )  # fmt: skip
        self._outgoing.begin(errand, now)

    def _over(self, report: Report, now: Instant) -> None:
        if report.status >= 300:
            self._failed(report, f"status {report.status}", now)
            return
        self.succeeded += 1
        self._done(report, now)

    def _failed(self, report: Report, why: str, now: Instant) -> None:
        if report.attempt < REPORT_RETRIES and report.key not in self._waiting:
            self._alarms.set(report, now + REPORT_PAUSE * 2**report.attempt)
            report.attempt += 1
            return
        self.failed += 1
        self._wishes.append(Note("warning", "dispatcher.failed", {"report": report.happening, "why": why[:200]}))
        self._done(report, now)

    def _done(self, report: Report, now: Instant) -> None:
        del self._running[report.key]
        self._go(now)


def _key(session: Session) -> Key:
    return session.token, session.client_id


def _id(session: Session) -> tuple[tuple[str, str], ...]:
    return (("broker_client_id", session.client_id),) if session.client_id else ()
