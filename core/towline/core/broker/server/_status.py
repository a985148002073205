"""A server's own pages: its health and who is connected (broker-protocol.md §2.2)."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import unquote

from towline.core._contract import Instant
from towline.core.broker._answers import JSON, clients_page, compact
from towline.core.broker._desk import Desk, Visit
from towline.core.broker.nodes._forwarding import Forwarding
from towline.core.broker.server._directory import Directory

# A context does not change who is connected.
_CONTEXT: Final = re.compile(r"/?|/ctx/[^/]+/?", re.IGNORECASE)


class StatusPages:
    """Answers about a directory. No token is shown but to whoever named it."""

    def __init__(self, desk: Desk, directory: Directory, version: str, forwarding: Forwarding | None = None) -> None:
        self._desk = desk
        self._directory = directory
        self._version = version
        self.stopping = False
        self._forwarding = forwarding

    def visit(self, visit: Visit, name: str, token: str, rest: str, now: Instant) -> bool:
        """Answer a visit to /`name`/`token``rest`; False if it is no page of these."""
        if visit.head.method not in ("GET", "HEAD"):
            return False
        if name == "connection-status" and token and _CONTEXT.fullmatch(rest):
            self._connection(visit, unquote(token), now)
        elif name == "connections-status" and not token:
            self._json(visit, 200, self._directory.summary(), now)
        elif name in ("healthcheck", "") and not token:
            ready = not self.stopping
            self._json(visit, 200 if ready else 503, {"ok": ready, "version": self._version}, now)
        else:
            return False
        return True

    def _connection(self, visit: Visit, token: str, now: Instant) -> None:
        clients = []
        for session in self._directory.all_of(token):
            entry: dict[str, Any] = {"version": session.version}
            if session.filters is not None:
                entry["filters"] = session.filters
            clients.append(entry)
        if self._forwarding is not None and visit.node is None:
            self._forwarding.pages.visit(visit, token, clients, now)
            return
        status, headers, body = clients_page(clients)
        self._desk.respond(visit, status, headers, body, now=now)

    def _json(self, visit: Visit, status: int, document: object, now: Instant) -> None:
        self._desk.respond(visit, status, (JSON,), compact(document), now=now)
