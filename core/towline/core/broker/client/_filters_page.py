"""A client's `/filters`: the rules in force, and reading their files again (broker-protocol.md §2.9).

Files are the application's: it hears `RulesWanted` and says `RulesRead`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from towline.core._contract import Instant, Record
from towline.core.broker._alarms import Alarms, Timed
from towline.core.broker._answers import JSON, compact
from towline.core.broker._desk import Desk, Visit
from towline.core.broker.client._connection import Connection
from towline.core.broker.filter._rules import AcceptRules

_SECONDS: Final = 10.0


class RulesWanted(Record, frozen=True):
    """The accept files are to be read again. One that is wanted already is not wanted twice."""


class RulesRead(Record, frozen=True):
    """The accept files were read: the rules by connection ("" for the only one of a classic client), or why not.

    With a `fault` the rules stay as they are, all of them.
    """

    rules: Mapping[str, AcceptRules] = msgspec.field(default_factory=dict)
    fault: str | None = None


class _Asker(Timed):
    __slots__ = ("visit",)

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self.visit = visit


class FiltersPage:
    """Everybody who asked for a reading waits for the same one."""

    def __init__(self, desk: Desk, connections: Sequence[Connection]) -> None:
        self._desk = desk
        self._connections = connections
        self._waiting: dict[int, _Asker] = {}
        self._alarms: Alarms[_Asker] = Alarms()
        self._wanted = False

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    def came(self, visit: Visit, now: Instant) -> bool:
        """Answer a GET; take a POST and return whether the files are to be read for it."""
        if visit.head.method != "POST":
            self._desk.respond(visit, 200, (JSON,), compact(self._shown()), now=now)
            return False
        asker = self._waiting[visit.number] = _Asker(visit)
        self._alarms.set(asker, now + _SECONDS)
        return self.want()

    def want(self) -> bool:
        """Return whether this is the first wish since the files were last read."""
        first, self._wanted = not self._wanted, True
        return first

    def read(self, said: RulesRead, now: Instant) -> None:
        """The files were read."""
        self._wanted = False
        if said.fault is None:
            for connection in self._connections:
                if connection.slug in said.rules:
                    connection.take_rules(said.rules[connection.slug])
        waiting, self._waiting = self._waiting, {}
        for asker in waiting.values():
            self._alarms.set(asker, None)
            if said.fault is None:
                self._desk.respond(asker.visit, 200, (JSON,), compact(self._shown()), now=now)
            else:
                self._refuse(asker, 500, "INVALID_CONFIGURATION", f"the rules stay as they were: {said.fault}", now)

    def left(self, visit: Visit) -> None:
        asker = self._waiting.pop(visit.number, None)
        if asker is not None:
            self._alarms.set(asker, None)

    def wake(self, now: Instant) -> None:
        for asker in self._alarms.due(now):
            if self._waiting.pop(asker.visit.number, None) is not None:
                self._refuse(asker, 504, "TIMEOUT", f"the rules were not read in {_SECONDS:g} s", now)

    def _refuse(self, asker: _Asker, status: int, code: str, message: str, now: Instant) -> None:
        self._desk.respond(asker.visit, status, (JSON,), compact({"code": code, "message": message[:1024]}), now=now)

    def _shown(self) -> dict[str, Any]:
        first = self._connections[0]
        if not first.slug:
            return first.own.rules.shown()
        return {connection.slug: connection.own.rules.shown() for connection in self._connections}
