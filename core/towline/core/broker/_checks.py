"""A client's `/systemcheck`: whether each of its credentials is good for the upstream (broker-protocol.md §4.5).

Every check is answered within its time, also where nothing is configured or nothing answers (agent.md §3.3).
"""

from __future__ import annotations

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


class CheckConfig(Record, frozen=True):
    """What `/systemcheck` asks: one request for each authorization, without one a single request."""

    url: Url
    method: str = "GET"
    authorizations: tuple[Secret, ...] = ()
    seconds: float = 5.0


class Check(Timed):
    """One asker's check, one credential after the other."""

    __slots__ = ("errand", "left", "results", "status", "visit")

    def __init__(self, visit: Visit, authorizations: tuple[Secret, ...]) -> None:
        super().__init__()
        self.visit = visit
        self.left: list[Secret | None] = [*authorizations] or [None]
        self.results: list[dict[str, Any]] = []
        self.errand: Errand | None = None
        self.status: int | None = None


class Checks:
    """All checks under way."""

    def __init__(self, desk: Desk, outgoing: Outgoing, config: CheckConfig | None, version: str) -> None:
        self._desk = desk
        self._outgoing = outgoing
        self._config = config
        self._version = version
        self._by_visit: dict[int, Check] = {}
        self._alarms: Alarms[Check] = Alarms()

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def came(self, visit: Visit, now: Instant) -> None:
        """Start a check for an asker."""
        config = self._config
        if config is None:
            unchecked = {"brokerClientValidationUrl": None, "ok": False, "error": "no check is configured"}
            self._desk.respond(visit, 500, (JSON,), compact([unchecked]), now=now)
            return
        check = self._by_visit[visit.number] = Check(visit, config.authorizations)
        self._alarms.set(check, now + config.seconds)
        self._next(check, config, now)

    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        check: Check = errand.owner
        if self._config is None or check.visit.number not in self._by_visit or isinstance(event, Body):
            return
        if isinstance(event, Head):
            check.status = event.status
            return
        failure = f"no answer: {event.why}"[:1024] if isinstance(event, Broken) else None
        self._done(check, self._config, failure, now)

    def left(self, visit: Visit) -> None:
        check = self._by_visit.pop(visit.number, None)
        if check is not None:
            self._alarms.set(check, None)
            if check.errand is not None:
                self._outgoing.give_up(check.errand)

    def wake(self, now: Instant) -> None:
        for check in self._alarms.due(now):
            if self._config is not None and check.visit.number in self._by_visit:
                if check.errand is not None:
                    self._outgoing.give_up(check.errand)
                failure = f"no answer in {self._config.seconds:g} s"
                check.results += [self._result(secret, self._config, None, failure) for secret in check.left]
                self._answer(check, now)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _next(self, check: Check, config: CheckConfig, now: Instant) -> None:
        secret = check.left[0]
        headers: HeaderList = (("Host", config.url.authority), ("user-agent", f"Snyk Broker Client {self._version}"))
        if secret is not None:
            headers += (("authorization", secret),)
        check.status = None
        check.errand = Errand(check, config.method, config.url, config.url.target, headers, patience=config.seconds)
        try:
            self._outgoing.begin(check.errand, now)
        except RemoteProtocolError as error:
            self._done(check, config, error.message, now)

    def _done(self, check: Check, config: CheckConfig, failure: str | None, now: Instant) -> None:
        check.errand = None
        check.results.append(self._result(check.left.pop(0), config, check.status, failure))
        if check.left:
            self._next(check, config, now)
        else:
            self._answer(check, now)

    def _answer(self, check: Check, now: Instant) -> None:
        self._by_visit.pop(check.visit.number, None)
        self._alarms.set(check, None)
        status = 200 if check.results[-1]["ok"] else 500
        self._desk.respond(check.visit, status, (JSON,), compact(check.results), now=now)

    def _result(
        self, secret: Secret | None, config: CheckConfig, status: int | None, failure: str | None
    ) -> dict[str, Any]:
        result: dict[str, Any] = {
            "brokerClientValidationUrl": redacted(config.url),
            "brokerClientValidationMethod": config.method,
            "brokerClientValidationTimeoutMs": int(config.seconds * 1000),
        }
        if status is not None:
            result["brokerClientValidationUrlStatusCode"] = status
        if failure is None and status is not None and not 200 <= status < 300:
            failure = "Failed due to invalid credentials" if status in (401, 403) else "Status code is not 2xx"
        result["ok"] = failure is None and status is not None
        if failure is not None:
            result["error"] = failure
        # Three characters of each end are the established form; they are not enough of a secret to shorten the search.
        result["maskedCredentials"] = None if secret is None else _masked(secret)
        return result


def _masked(secret: Secret) -> str:
    text = secret.reveal()
    return "***" if len(text) <= 6 else f"{text[:3]}***{text[-3:]}"
