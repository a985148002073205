"""Preflight checks: what an operator most often has wrong, looked at when the client starts (broker-protocol.md §4.5).

None of them holds anything up. Their outcomes travel in the next identify, and `/health/checks` makes those anew that
ask somebody.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias
from urllib.parse import urlsplit

from towline.core._contract import Instant
from towline.core._errors import RemoteProtocolError
from towline.core._script import Body, Broken, Head
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._answers import JSON, compact
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._ids import is_uuid
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker.client._client_config import BrokerClientConfig
from towline.core.http import ClientEvent, Url, redacted

Result: TypeAlias = dict[str, str]
Status: TypeAlias = Literal["passing", "warning", "error"]

SERVER_STATUS: Final = "broker-server-status"
API_STATUS: Final = "rest-api-status"
_NAMES: Final = {SERVER_STATUS: "Broker Server Healthcheck", API_STATUS: "REST API Healthcheck"}
_SECONDS: Final = 5.0
_SHOWN: Final = 200
_KEPT: Final = 4096
# Minor versions that a client may be behind its server.
_BEHIND: Final = 10


def _result(check: str, name: str, status: Status, output: str) -> Result:
    return {"id": check, "name": name, "status": status, "output": output}


class Round(Timed):
    """The checks that are made together. `visit` is who asked; None at the start."""

    __slots__ = ("asked", "one", "results", "visit")

    def __init__(self, visit: Visit | None, one: bool) -> None:
        super().__init__()
        self.visit = visit
        self.one = one
        self.asked: dict[str, Asking] = {}
        self.results: dict[str, Result] = {}


class Asking:
    """One request of a round, and what came of it so far."""

    __slots__ = ("body", "check", "errand", "round", "status", "url")

    def __init__(self, round_: Round, check: str, url: Url) -> None:
        self.round = round_
        self.check = check
        self.url = url
        self.errand: Errand | None = None
        self.status: int | None = None
        self.body = b""


class Preflight:
    """`known` are the outcomes so far; `news` whether some came since it was last looked at."""

    def __init__(self, desk: Desk, outgoing: Outgoing, config: BrokerClientConfig, servers: Mapping[str, Url]) -> None:
        self._desk = desk
        self._outgoing = outgoing
        self._config = config
        self._urls = dict(servers)
        if config.api_url is not None:
            api = config.api(next(iter(servers.values())))
            assert api is not None
            self._urls[API_STATUS] = _below(api, "/rest/openapi")
        self._rounds: dict[int, Round] = {}
        self._alarms: Alarms[Round] = Alarms()
        self._settled: dict[str, Result] = {result["id"]: result for result in _of_configuration(config)}
        self.news = False

    @property
    def known(self) -> list[Result]:
        return list(self._settled.values())

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def begin(self, now: Instant) -> None:
        """Make all checks that ask somebody."""
        self._start(0, Round(None, False), list(self._urls), now)

    def came(self, visit: Visit, wanted: str | None, now: Instant) -> None:
        """Answer `/health/checks`, or `/health/checks/ID`."""
        if wanted is not None and wanted not in self._urls:
            body = {"code": "NOT_FOUND", "message": "no such check", "checks": list(self._urls)}
            self._desk.respond(visit, 404, (JSON,), compact(body), now=now)
            return
        checks = list(self._urls) if wanted is None else [wanted]
        self._start(visit.number, Round(visit, wanted is not None), checks, now)

    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        asking: Asking = errand.owner
        if asking.check in asking.round.results:
            return
        if isinstance(event, Head):
            asking.status = event.status
        elif isinstance(event, Body):
            asking.body = (asking.body + bytes(event.data))[:_KEPT]
        else:
            self._done(asking, event.why if isinstance(event, Broken) else None, now)

    def left(self, visit: Visit) -> None:
        round_ = self._rounds.pop(visit.number, None)
        if round_ is not None:
            self._end(round_)

    def wake(self, now: Instant) -> None:
        for round_ in self._alarms.due(now):
            for asking in round_.asked.values():
                if asking.check not in round_.results:
                    self._done(asking, f"no answer in {_SECONDS:g} s", now)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _start(self, number: int, round_: Round, checks: list[str], now: Instant) -> None:
        self._rounds[number] = round_
        self._alarms.set(round_, now + _SECONDS)
        for check in checks:
            round_.asked[check] = Asking(round_, check, self._urls[check])
        for asking in round_.asked.values():
            headers = (("Host", asking.url.authority), ("Accept", "application/json"))
            asking.errand = Errand(asking, "GET", asking.url, asking.url.target, headers, patience=_SECONDS)
            try:
                self._outgoing.begin(asking.errand, now)
            except RemoteProtocolError as error:
                self._done(asking, error.message, now)

    def _done(self, asking: Asking, failure: str | None, now: Instant) -> None:
        round_, status = asking.round, asking.status
        word: Status = "error"
        if failure is None and status is not None:
            word = "passing" if 200 <= status < 300 else "warning" if status == 429 else "error"
        told = asking.body[:_SHOWN].decode("utf-8", "replace")
        output = f"HTTP GET {redacted(asking.url)}: {status}, response: {told}" if failure is None else failure
        if failure is not None and asking.errand is not None:
            self._outgoing.give_up(asking.errand)
        result = _result(asking.check, _NAMES.get(asking.check, _NAMES[SERVER_STATUS]), word, output[:1024])
        round_.results[asking.check] = self._settled[asking.check] = result
        if asking.check == SERVER_STATUS:
            compared = _version_check(self._config.version, asking.body)
            self._settled[compared["id"]] = compared
        self.news = True
        if len(round_.results) == len(round_.asked):
            self._rounds.pop(0 if round_.visit is None else round_.visit.number, None)
            self._end(round_)
            results = list(round_.results.values())
            if round_.visit is not None:
                document: object = results[0] if round_.one else results
                self._desk.respond(round_.visit, 200, (JSON,), compact(document), now=now)

    def _end(self, round_: Round) -> None:
        self._alarms.set(round_, None)
        for asking in round_.asked.values():
            if asking.check not in round_.results and asking.errand is not None:
                self._outgoing.give_up(asking.errand)


def server_checks(servers: list[Url]) -> dict[str, Url]:
    """Return the checks of the servers' health by their ids; the first has the established client's."""
    distinct = list(dict.fromkeys(servers))
    ids = [SERVER_STATUS, *(f"{SERVER_STATUS}-{at}" for at in range(2, len(distinct) + 1))]
    return {check: _below(server, "/healthcheck") for check, server in zip(ids, distinct, strict=True)}


def _below(url: Url, path: str) -> Url:
    return Url(url.scheme, url.host, url.port, url.path.rstrip("/") + path)


def _of_configuration(config: BrokerClientConfig) -> list[Result]:
    """Return the outcomes of the checks that ask nobody."""
    served = config.served()
    called = [url for connection in served if (url := connection.client_url)]
    results = []
    if called:
        odd = [url for url in called if urlsplit(url).scheme not in ("http", "https")]
        bare = [url for url in called if urlsplit(url).scheme == "https" and not config.tls_here]
        local = [url for url in called if urlsplit(url).hostname == "localhost"]
        status: Status = "error" if odd or bare else "warning" if local else "passing"
        output = "config check: ok"
        if odd:
            output = "the broker client's URL must begin with http:// or https://"
        elif bare:
            output = f"{bare[0]} is https, and neither a certificate of the client's nor another's TLS is configured"
        elif local:
            output = f"the broker client's URL is on localhost, where an agent elsewhere cannot call: {local[0]}"
        results.append(_result("broker-client-url-validation", "Broker Client URL Validation Check", status, output))
    if not config.connections:
        well = is_uuid(config.token.reveal())
        output = "Broker Token parsed successfully" if well else "the broker token is no UUID"
        name = "Broker Token Validation Check"
        results.append(_result("broker-token-validation", name, "passing" if well else "error", output))
    results.append(_version_check(config.version, b""))
    return results


def _version_check(version: str, server_says: bytes) -> Result:
    """Compare minor versions with the server's, where it told its own."""
    check, name = "client-version-validation", "Broker Client Version Check"
    if version == "local":
        return _result(check, name, "warning", "the client's version is not known: it calls itself local")
    try:
        theirs = json.loads(server_says)["version"]
        behind = int(theirs.split(".")[1]) - int(version.split(".")[1])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return _result(check, name, "passing", "the server tells no version to compare with")
    if behind > _BEHIND:
        return _result(check, name, "error", f"the client is {behind} minor versions behind its server")
    return _result(check, name, "passing", "the client's version is recent enough for its server")
