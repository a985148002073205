"""The page of who is connected under a token, on all nodes that hold it."""

from __future__ import annotations

from typing import Any

import msgspec

from towline.core._contract import Instant
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head
from towline.core.broker._answers import JSON, RETRY_SOON, clients_page, compact
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._outgoing import Errand
from towline.core.broker.nodes._nodes import Holders
from towline.core.broker.nodes._peers import MISDIRECTED, Peers
from towline.core.http import ClientEvent


class Page:
    """One visit, and the clients known so far."""

    __slots__ = ("clients", "complete", "parts", "visit")

    def __init__(self, visit: Visit, clients: list[Any]) -> None:
        self.visit = visit
        self.clients = clients
        self.complete = True
        self.parts: list[Part] = []


class Part:
    """What one node has to say for a page."""

    __slots__ = ("errand", "page", "pieces", "size", "status")

    errand: Errand

    def __init__(self, page: Page) -> None:
        self.page = page
        self.status = 0
        self.pieces: list[bytes] = []
        self.size = 0


class ClientsPages:
    """All pages that wait for other nodes. What a node does not tell is left out where others tell something."""

    def __init__(self, peers: Peers, desk: Desk, limits: Limits = LIMITS) -> None:
        self._peers = peers
        self._desk = desk
        self._limits = limits
        self._pages: dict[int, Page] = {}

    def __len__(self) -> int:
        return len(self._pages)

    def visit(self, visit: Visit, token: str, clients: list[Any], now: Instant) -> None:
        """Answer who is connected, here (`clients`) and elsewhere."""
        page = self._pages[visit.number] = Page(visit, clients)
        holders = self._peers.nodes.holders(token, page, now)
        if holders is not None:
            self.located(page, holders, now)

    def left(self, visit: Visit) -> None:
        """The asker is gone."""
        page = self._pages.pop(visit.number, None)
        for part in page.parts if page is not None else ():
            self._peers.outgoing.give_up(part.errand)

    def located(self, page: Page, holders: Holders | None, now: Instant) -> None:
        """Ask the nodes that hold the token; None where the directory does not say which."""
        if page.visit.number not in self._pages:
            return
        page.complete = holders is not None
        for node in holders.nodes if holders is not None else ():
            part = Part(page)
            part.errand, _ = self._peers.errand(part, "GET", page.visit, node, self._limits.node_page_time, now)
            try:
                self._peers.outgoing.begin(part.errand, now)
            except RemoteProtocolError:
                page.complete = False
            else:
                page.parts.append(part)
        self._complete(page, now)

    def happened(self, part: Part, event: ClientEvent, now: Instant) -> None:
        page = part.page
        if isinstance(event, Head):
            part.status = event.status
            return
        if type(event) is Body:
            part.size += len(event.data)
            part.pieces.append(bytes(event.data))
            if part.size <= self._limits.node_page:
                return
        self._peers.outgoing.give_up(part.errand)
        page.parts.remove(part)
        listed = None if isinstance(event, Body | Broken) else _clients_of(part)
        if listed is None:
            page.complete = False
        else:
            page.clients.extend(listed)
        self._complete(page, now)

    def _complete(self, page: Page, now: Instant) -> None:
        """Answer once nothing is owed."""
        if page.parts or self._pages.pop(page.visit.number, None) is None:
            return
        if page.clients or page.complete:
            status, headers, body = clients_page(page.clients)
        else:
            status, headers = 503, [JSON, RETRY_SOON]
            body = compact({"ok": False, "message": "the nodes that may know do not answer"})
        self._desk.respond(page.visit, status, headers, body, now=now)


class _Clients(msgspec.Struct):
    clients: list[dict[str, Any]] = []


def _clients_of(part: Part) -> list[Any] | None:
    """Return the clients of a node's page: none where it has none, None where it is no such page."""
    if part.status in (404, MISDIRECTED):
        return []
    if part.status != 200:
        return None
    try:
        return list(msgspec.json.decode(b"".join(part.pieces), type=_Clients).clients)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
