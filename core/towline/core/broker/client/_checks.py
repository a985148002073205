"""A client's `/systemcheck`: whether each credential of each connection is good for the upstream.

One request for each credential, one after the other; connections side by side. Every asker is answered within the
check's time, also where nothing is configured or nothing answers (broker-protocol.md §4.5, agent.md §3.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from towline.core._contract import Instant, Record
from towline.core._errors import RemoteProtocolError
from towline.core._script import Body, Broken, Head, HeaderList
from towline.core._secret import Secret
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._answers import JSON, compact
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.http import ClientEvent, Url, redacted


class Credential(Record, frozen=True):
    """An Authorization header's value, and the part of it that is shown masked."""

    header: Secret
    shown: Secret


class CheckConfig(Record, frozen=True):
    """What is asked for one connection: a request for each credential, without one a single request."""

    url: Url
    method: str = "GET"
    credentials: tuple[Credential, ...] = ()


class Probe:
    """One connection in one check."""

    __slots__ = ("check", "config", "errand", "left", "name", "results", "status")

    def __init__(self, check: Check, name: str, config: CheckConfig | None) -> None:
        self.check = check
        self.name = name
        self.config = config
        credentials: tuple[Credential, ...] = () if config is None else config.credentials
        self.left: list[Credential | None] = [*credentials] or [None]
        self.results: list[dict[str, Any]] = []
        self.errand: Errand | None = None
        self.status: int | None = None

    @property
    def passed(self) -> bool:
        """The established client goes by the last credential."""
        return not self.left and bool(self.results[-1]["ok"])


class Check(Timed):
    """One asker's check."""

    __slots__ = ("probes", "visit")

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self.visit = visit
        self.probes: list[Probe] = []


class Checks:
    """All checks under way. `configs` is by the name of the connection, "" for the only one of a classic client."""

    def __init__(
        self, desk: Desk, outgoing: Outgoing, configs: Mapping[str, CheckConfig | None], version: str, seconds: float
    ) -> None:
        self._desk = desk
        self._outgoing = outgoing
        self._configs = configs
        self._version = version
        self._seconds = seconds
        self._by_visit: dict[int, Check] = {}
        self._alarms: Alarms[Check] = Alarms()

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def came(self, visit: Visit, now: Instant) -> None:
        """Start a check for an asker."""
        check = self._by_visit[visit.number] = Check(visit)
        self._alarms.set(check, now + self._seconds)
        check.probes = [Probe(check, name, config) for name, config in self._configs.items()]
        for probe in check.probes:
            self._next(probe, now)
        self._settle(check, now)

    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        probe: Probe = errand.owner
        if probe.check.visit.number not in self._by_visit or isinstance(event, Body):
            return
        if isinstance(event, Head):
            probe.status = event.status
            return
        probe.errand = None
        self._done(probe, f"no answer: {event.why}"[:1024] if isinstance(event, Broken) else None)
        self._next(probe, now)
        self._settle(probe.check, now)

    def left(self, visit: Visit) -> None:
        check = self._by_visit.pop(visit.number, None)
        if check is not None:
            self._end(check)

    def wake(self, now: Instant) -> None:
        for check in self._alarms.due(now):
            if check.visit.number in self._by_visit:
                for probe in check.probes:
                    while probe.left:
                        probe.status = None
                        self._done(probe, f"no answer in {self._seconds:g} s")
                self._settle(check, now)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _next(self, probe: Probe, now: Instant) -> None:
        """Ask with the next credential; what cannot be asked at all is done at once."""
        config = probe.config
        while probe.left and config is not None:
            credential = probe.left[0]
            agent = f"Snyk Broker Client {self._version}"
            headers: HeaderList = (("Host", config.url.authority), ("user-agent", agent))
            if credential is not None:
                headers += (("authorization", credential.header),)
            probe.status = None
            probe.errand = Errand(probe, config.method, config.url, config.url.target, headers, patience=self._seconds)
            try:
                self._outgoing.begin(probe.errand, now)
                return
            except RemoteProtocolError as error:
                probe.errand = None
                self._done(probe, error.message)
        while probe.left:
            self._done(probe, "no check is configured")

    def _done(self, probe: Probe, failure: str | None) -> None:
        """Note the outcome for the credential whose turn it is."""
        credential, status, config = probe.left.pop(0), probe.status, probe.config
        result: dict[str, Any] = {"brokerClientValidationUrl": None if config is None else redacted(config.url)}
        if config is not None:
            result["brokerClientValidationMethod"] = config.method
            result["brokerClientValidationTimeoutMs"] = int(self._seconds * 1000)
        if status is not None:
            result["brokerClientValidationUrlStatusCode"] = status
        if failure is None and status is not None and not 200 <= status < 300:
            failure = "Failed due to invalid credentials" if status in (401, 403) else "Status code is not 2xx"
        result["ok"] = failure is None and status is not None
        if failure is not None:
            result["error"] = failure
        # Three characters of each end are the established form; they are not enough of a secret to shorten the search.
        result["maskedCredentials"] = None if credential is None else _masked(credential.shown)
        probe.results.append(result)

    def _settle(self, check: Check, now: Instant) -> None:
        """Answer once every connection is checked."""
        if any(probe.left for probe in check.probes):
            return
        self._by_visit.pop(check.visit.number, None)
        self._end(check)
        first = check.probes[0]
        passed = all(probe.passed for probe in check.probes)
        document = [_told(probe) for probe in check.probes] if first.name else first.results
        self._desk.respond(check.visit, 200 if passed else 500, (JSON,), compact(document), now=now)

    def _end(self, check: Check) -> None:
        self._alarms.set(check, None)
        for probe in check.probes:
            if probe.errand is not None:
                self._outgoing.give_up(probe.errand)
                probe.errand = None


def _told(probe: Probe) -> dict[str, Any]:
    """Return a connection's outcome in the universal client's form."""
    told = {"connectionName": probe.name, "validated": probe.passed, "results": probe.results}
    if not probe.passed:
        told["message"] = f"Validation failed, please review connection details for {probe.name}."
    return told


def _masked(secret: Secret) -> str:
    text = secret.reveal()
    return "***" if len(text) <= 6 else f"{text[:3]}***{text[-3:]}"
