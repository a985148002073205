"""Requests that another node answers: a caller's, a client's upload, the page of who is connected.

    asked ──▶ sent ──▶ answering ──▶ (over)      the answer is complete, or cut
      │         ├─ not reached, not there ─▶ sent  to the next node that holds the token
      └─────────┴─ 502, 503, 404 ──▶ (over)

A request reaches a client once. It goes to another node after it was sent only if the first one proves that it did
nothing with it, or if its caller marked it with an Idempotency-Key (security.md §8). A node answers others from its
own tunnels alone, so that nothing is handed on twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from towline.core._contract import Data, Instant
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head
from towline.core._wire import Ended, LinkNumbers, Lost, Note, Opened, Received
from towline.core.broker._alarms import earliest
from towline.core.broker._answers import JSON, RETRY_SOON, Missing, clients_page, compact, no_client
from towline.core.broker._cluster import (
    NODE_HEADER,
    STREAMED,
    ClusterConfig,
    Node,
    NodeGuard,
    NodeSigner,
    digest_of,
    node_number,
)
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._headers import answer_headers, hop_names
from towline.core.broker._inbound import is_marked
from towline.core.broker._nodes import Holders, Leased, Located, Nodes
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.http import ClientEvent

_MISDIRECTED: Final = 421
# What each hop writes anew.
_OURS: Final = frozenset({"host", "content-length", "snyk-request-id", NODE_HEADER})


class _Forward:
    """One request on its way through another node."""

    __slots__ = (
        "begun", "ended", "errand", "held", "held_bytes", "missing", "node", "nodes", "proof", "streams", "token",
        "tried", "turned_away", "visit",
    )  # fmt: skip

    def __init__(self, visit: Visit, token: str, missing: Missing) -> None:
        self.visit = visit
        self.token = token
        # Why nobody here serves the token.
        self.missing: Missing = missing
        # Nodes that may still be asked, the best one first.
        self.nodes: deque[Node] = deque()
        self.node: Node | None = None
        self.errand: Errand | None = None
        self.proof = ""
        # Some node was to have the token's client, and could not be asked.
        self.tried = False
        # The node that is asked proved that it has no such client: the rest of its answer is nobody's.
        self.turned_away = False
        self.begun = False
        # An upload's bytes that came while nobody knew where they go.
        self.streams = visit.limit is None
        self.held: list[bytes] = []
        self.held_bytes = 0
        self.ended = False


class _Page:
    """The union of what several nodes say of a token's clients."""

    __slots__ = ("clients", "complete", "parts", "visit")

    def __init__(self, visit: Visit, clients: list[Any]) -> None:
        self.visit = visit
        self.clients = clients
        self.complete = True
        self.parts: list[_Part] = []


class _Part:
    __slots__ = ("errand", "page", "pieces", "size", "status")

    def __init__(self, page: _Page) -> None:
        self.page = page
        self.errand: Errand | None = None
        self.status = 0
        self.pieces: list[bytes] = []
        self.size = 0


class Forwarding:
    """What this node asks of others, and what it admits from them."""

    def __init__(
        self,
        cluster: ClusterConfig,
        desk: Desk,
        wishes: deque[Any],
        links: LinkNumbers,
        *,
        answer_seconds: float,
        upload_silence: float,
        limits: Limits = LIMITS,
        route: str = "direct",
    ) -> None:
        self.nodes = Nodes(cluster, wishes, limits)
        self._desk = desk
        self._wishes = wishes
        self._limits = limits
        near = msgspec.structs.replace(limits, time_connect=limits.node_connect)
        self._outgoing = Outgoing(wishes, links, limits=near, route=route)
        self._signer = NodeSigner(self.nodes.keys, cluster.incarnation)
        self._guard = NodeGuard(self.nodes.keys, cluster.incarnation, limits)
        # The other node's own limits come first.
        self._answer_seconds = answer_seconds + 5.0
        self._upload_silence = upload_silence + 5.0
        self._under_way: dict[int, _Forward | _Page] = {}
        self.forwarded = 0

    def __len__(self) -> int:
        return len(self._under_way)

    def owns(self, link: int) -> bool:
        return self._outgoing.owns(link)

    def deadline(self) -> Instant | None:
        return earliest(self._outgoing.deadline(), self.nodes.deadline())

    # ── from nodes ─────────────────────────────────────────────────────────────
    def admit(self, visit: Visit, now: Instant) -> bool:
        """Judge a visit that may come from a node; False if it pretends to, and was answered."""
        value = visit.head.get(NODE_HEADER)
        if value is None:
            return True
        digest = STREAMED if visit.limit is None else digest_of(visit.body)
        problem = "this node has no lease yet"
        if self.nodes.epoch is not None:
            seconds = now + self.nodes.epoch
            visit.node, problem = self._guard.check(value, visit.head.method, visit.head.target, digest, seconds)
        if visit.node is None:
            self._wishes.append(Note("warning", "node.refused", {"peer": visit.peer, "problem": problem}))
            self._respond(visit, 401, {"code": "NODE_REFUSED", "message": problem}, now)
            return False
        kept = tuple(field for field in visit.head.headers if field[0] != NODE_HEADER)
        visit.head = msgspec.structs.replace(visit.head, headers=kept)
        return True

    def turn_away(self, visit: Visit, now: Instant) -> None:
        """Tell the node that asked that nothing was done with its request."""
        assert visit.node is not None
        body = compact({"code": "NOT_HERE"})
        self._desk.respond(visit, _MISDIRECTED, (JSON, (NODE_HEADER, visit.node)), body, now=now)

    # ── from callers and clients ───────────────────────────────────────────────
    def call(self, visit: Visit, token: str, missing: Missing, now: Instant) -> None:
        """Have a caller's request answered where the token's client is."""
        forward = _Forward(visit, token, missing)
        self._under_way[visit.number] = forward
        holders = self.nodes.holders(token, forward, now)
        if holders is not None:
            self._found(forward, holders, now)

    def page(self, visit: Visit, token: str, clients: list[Any], now: Instant) -> None:
        """Answer who is connected, here (`clients`) and elsewhere."""
        page = _Page(visit, clients)
        self._under_way[visit.number] = page
        holders = self.nodes.holders(token, page, now)
        if holders is not None:
            self._gather(page, holders, now)

    def upload(self, visit: Visit, stream: str, now: Instant) -> bool:
        """Hand an upload to the node that gave the stream its id; False if no other can have done so."""
        number = node_number(stream)
        if number in (0, self.nodes.number):
            return False
        forward = _Forward(visit, "", "no-connection")
        self._under_way[visit.number] = forward
        node = self.nodes.node(number, forward, now)
        if node is not None:
            self._found(forward, Holders((node,)), now)
        return True

    def upload_piece(self, visit: Visit, data: Data, now: Instant) -> None:
        forward = self._under_way.get(visit.number)
        if not isinstance(forward, _Forward):
            return
        if forward.errand is not None:
            self._outgoing.send(forward.errand, data, now)
            return
        forward.held_bytes += len(data)
        if forward.held_bytes > self._limits.node_held:
            self._fail(forward, 503, "TOO_BUSY", "the directory of nodes does not answer", now)
        else:
            forward.held.append(bytes(data))

    def upload_over(self, visit: Visit, now: Instant) -> None:
        forward = self._under_way.get(visit.number)
        if isinstance(forward, _Forward):
            forward.ended = True
            if forward.errand is not None:
                self._outgoing.end(forward.errand, now)

    def left(self, visit: Visit) -> bool:
        """The asker is gone: whoever was asked sees that. Return whether it was one of these."""
        asked = self._under_way.pop(visit.number, None)
        for errand in _errands(asked):
            self._outgoing.give_up(errand)
        return asked is not None

    # ── facts ──────────────────────────────────────────────────────────────────
    def handle(self, fact: Opened | Received | Ended | Lost, now: Instant) -> None:
        self._outgoing.handle(fact, now)

    def directory(self, fact: Leased | Located, now: Instant) -> None:
        """Take a fact about the other nodes."""
        if isinstance(fact, Located):
            self.nodes.located(fact, now)
            return
        self.nodes.leased(fact, now)
        for asked in list(self._under_way.values()):
            # A node that vanished without a reset: nothing will come of what it was asked.
            if isinstance(asked, _Forward) and asked.node is not None and self.nodes.gone(asked.node, now):
                for errand in _errands(asked):
                    self._outgoing.give_up(errand)
                self._broken(asked, Broken("the lease of the node that was asked has ended"), now)

    def wake(self, now: Instant) -> None:
        self._outgoing.wake(now)
        self.nodes.wake(now)

    def settle(self, now: Instant) -> bool:
        """Hand on what came; return whether there was anything."""
        busy = False
        while (answered := self.nodes.next()) is not None:
            busy = True
            self._answered(*answered, now)
        while (found := self._outgoing.next()) is not None:
            busy = True
            errand, event = found
            if isinstance(errand.owner, _Part):
                self._part(errand.owner, event, now)
            else:
                self._happened(errand.owner, event, now)
        return busy

    # ── calls and uploads ──────────────────────────────────────────────────────
    def _answered(self, asker: _Forward | _Page, holders: Holders | None, now: Instant) -> None:
        if self._under_way.get(asker.visit.number) is not asker:
            return
        if isinstance(asker, _Page):
            self._gather(asker, holders, now)
        elif holders is not None:
            self._found(asker, holders, now)
        else:
            self._fail(asker, 503, "DIRECTORY_AWAY", "the directory of nodes does not answer", now)

    def _found(self, forward: _Forward, holders: Holders, now: Instant) -> None:
        forward.nodes.extend(holders.nodes)
        forward.tried = holders.left
        self._next(forward, now)

    def _next(self, forward: _Forward, now: Instant) -> None:
        """Ask the next node; without one, tell the asker that there is no client."""
        forward.errand = forward.node = None
        forward.turned_away = False
        while forward.nodes:
            node = forward.nodes.popleft()
            if not self.nodes.resting(node, now):
                self._send(forward, node, now)
                return
            forward.tried = True
        if forward.streams:
            self._fail(forward, 500, "TUNNEL_PROTOCOL", "Unable to find request matching streaming id.", now)
            return
        del self._under_way[forward.visit.number]
        status, headers, body = no_client("connection-not-ready" if forward.tried else forward.missing)
        self._desk.respond(forward.visit, status, headers, body, now=now)

    def _send(self, forward: _Forward, node: Node, now: Instant) -> None:
        visit = forward.visit
        errand, forward.proof = self._errand(
            forward,
            visit.head.method,
            visit,
            node,
            self._upload_silence if forward.streams else self._answer_seconds,
            now,
        )
        try:
            self._outgoing.begin(errand, now)
        except RemoteProtocolError as error:
            self._fail(forward, 400, error.code, error.message, now)
            return
        self.forwarded += 1
        forward.node, forward.errand = node, errand
        for piece in forward.held:
            self._outgoing.send(errand, piece, now)
        forward.held.clear()
        if forward.ended:
            self._outgoing.end(errand, now)

    def _errand(
        self, owner: _Forward | _Part, method: str, visit: Visit, node: Node, patience: float, now: Instant
    ) -> tuple[Errand, str]:
        """Return a visit's request as it goes to a node, and the proof of having done nothing with it."""
        streamed, target = visit.limit is None, visit.head.target
        length = visit.head.get("content-length") if streamed else None
        digest = STREAMED if streamed else digest_of(visit.body)
        signature, proof = self._signer.sign(node, method, target, digest, now + (self.nodes.epoch or 0.0))
        hop = hop_names(",".join(visit.head.all("connection")))
        headers = (
            ("host", node.url.authority),
            *(
                (name, value)
                for name, value in visit.head.headers
                if name not in hop and name not in _OURS and not name.startswith("proxy-")
            ),
            ("snyk-request-id", visit.request_id),
            (NODE_HEADER, signature),
        )
        # A signature is good for one request: whether there is another is decided here.
        errand = Errand(
            owner,
            method,
            node.url,
            target,
            headers,
            visit.body,
            length=int(length) if length is not None else None,
            chunked=streamed and length is None,
            repeatable=False,
            retries=0,
            patience=patience,
        )
        return errand, proof

    def _happened(self, forward: _Forward, event: ClientEvent, now: Instant) -> None:
        if type(event) is Body:
            if not forward.turned_away and not self._desk.send(forward.visit, event.data, now=now):
                self.left(forward.visit)
        elif isinstance(event, Head):
            self._head(forward, event, now)
        elif isinstance(event, Broken):
            self._broken(forward, event, now)
        elif forward.turned_away:
            self._next(forward, now)
        elif self._under_way.pop(forward.visit.number, None) is not None:
            self._desk.end(forward.visit, now=now)

    def _head(self, forward: _Forward, head: Head, now: Instant) -> None:
        if head.status == _MISDIRECTED and head.get(NODE_HEADER) == forward.proof:
            forward.turned_away = forward.tried = True
            self.nodes.forget(forward.token)
            return
        headers = answer_headers(head.headers)
        length = next((value for name, value in headers if name == "content-length"), None)
        known = int(length) if length is not None else None
        forward.begun = self._desk.begin(forward.visit, head.status, headers, known, now=now)
        if not forward.begun:
            self.left(forward.visit)
            self._respond(forward.visit, 502, {"code": "TUNNEL_PROTOCOL", "message": "no answer to write"}, now)

    def _broken(self, forward: _Forward, broken: Broken, now: Instant) -> None:
        """A node was not reached, or went away before its answer was complete."""
        node, visit = forward.node, forward.visit
        if node is not None and not broken.sent:
            self.nodes.unreachable(node, now)
            forward.tried = True
        if node is not None:
            self.nodes.forget(forward.token)
            self._wishes.append(Note("warning", "node.lost", {"node": node.name, "problem": broken.why}))
        if forward.begun or (forward.streams and broken.sent):
            del self._under_way[visit.number]
            self._desk.cut(visit, now=now)
        elif not forward.streams and (not broken.sent or forward.turned_away or is_marked(visit)):
            self._next(forward, now)
        else:
            self._fail(forward, 502, "NODE_LOST", "the node that serves this was lost before its answer came", now)

    def _fail(self, forward: _Forward, status: int, code: str, message: str, now: Instant) -> None:
        self.left(forward.visit)
        self._respond(forward.visit, status, {"code": code, "message": message}, now)

    def _respond(self, visit: Visit, status: int, document: object, now: Instant) -> None:
        headers = (JSON, RETRY_SOON) if status == 503 else (JSON,)
        self._desk.respond(visit, status, headers, compact(document), now=now)

    # ── pages ──────────────────────────────────────────────────────────────────
    def _gather(self, page: _Page, holders: Holders | None, now: Instant) -> None:
        page.complete = holders is not None
        for node in holders.nodes if holders is not None else ():
            part = _Part(page)
            part.errand, _ = self._errand(part, "GET", page.visit, node, self._limits.node_page_time, now)
            try:
                self._outgoing.begin(part.errand, now)
            except RemoteProtocolError:
                page.complete = False
            else:
                page.parts.append(part)
        self._complete(page, now)

    def _part(self, part: _Part, event: ClientEvent, now: Instant) -> None:
        page = part.page
        if isinstance(event, Head):
            part.status = event.status
            return
        if type(event) is Body:
            part.size += len(event.data)
            part.pieces.append(bytes(event.data))
            if part.size <= self._limits.node_page:
                return
        if part.errand is not None:
            self._outgoing.give_up(part.errand)
        page.parts.remove(part)
        listed = None if isinstance(event, Body | Broken) else _clients_of(part)
        if listed is None:
            page.complete = False
        else:
            page.clients.extend(listed)
        self._complete(page, now)

    def _complete(self, page: _Page, now: Instant) -> None:
        """Answer once nothing is owed. What some node did not tell is left out where others told something."""
        if page.parts or self._under_way.pop(page.visit.number, None) is None:
            return
        if not page.clients and not page.complete:
            message = "the nodes that may know do not answer"
            self._respond(page.visit, 503, {"ok": False, "message": message}, now)
            return
        status, headers, body = clients_page(page.clients)
        self._desk.respond(page.visit, status, headers, body, now=now)


def _errands(asked: _Forward | _Page | None) -> Iterator[Errand]:
    for owner in asked.parts if isinstance(asked, _Page) else (asked,):
        if owner is not None and owner.errand is not None:
            yield owner.errand


class _Clients(msgspec.Struct):
    clients: list[dict[str, Any]] = []


def _clients_of(part: _Part) -> list[Any] | None:
    """Return the clients of a node's page: none where it has none, None where it is no such page."""
    if part.status in (404, _MISDIRECTED):
        return []
    if part.status != 200:
        return None
    try:
        return list(msgspec.json.decode(b"".join(part.pieces), type=_Clients).clients)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
