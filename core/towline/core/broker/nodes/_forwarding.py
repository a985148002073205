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
from typing import Any

from towline.core._contract import Data, Instant
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head
from towline.core._wire import Ended, Filled, LinkNumbers, Lost, Note, Opened, Received
from towline.core.broker._alarms import earliest
from towline.core.broker._answers import (
    JSON,
    RETRY_SOON,
    UNKNOWN_SESSION,
    UNKNOWN_STREAM,
    WholeAnswer,
    compact,
    no_client,
)
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._headers import answer_headers
from towline.core.broker._inbound import is_marked
from towline.core.broker._outgoing import Errand
from towline.core.broker._tally import Tally
from towline.core.broker.nodes._cluster import NODE_HEADER, ClusterConfig, Node, node_number, session_node
from towline.core.broker.nodes._nodes import Holders, Leased, Located
from towline.core.broker.nodes._peers import MISDIRECTED, Peers
from towline.core.broker.server._clients_page import ClientsPages, Page, Part
from towline.core.broker.server._server_config import BrokerServerConfig
from towline.core.http import ClientEvent
from towline.core.http._headers import content_length


class _Forward:
    """One request on its way through another node."""

    __slots__ = (
        "begun", "ended", "errand", "held", "held_bytes", "nobody", "node", "nodes", "proof", "streams", "token",
        "tried", "turned_away", "visit", "waits",
    )  # fmt: skip

    def __init__(self, visit: Visit, token: str, nobody: WholeAnswer) -> None:
        self.visit = visit
        self.token = token
        # The answer where no node has what is asked for.
        self.nobody = nobody
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
        # It is a poll, which is answered when there is something to say.
        self.waits = False
        # An upload's bytes that came while nobody knew where they go.
        self.streams = visit.limit is None
        self.held: list[bytes] = []
        self.held_bytes = 0
        self.ended = False


class Forwarding:
    """What this node asks of others. Who they are, and what comes from them, is the business of `peers`."""

    def __init__(
        self,
        config: BrokerServerConfig,
        cluster: ClusterConfig,
        desk: Desk,
        wishes: deque[Any],
        links: LinkNumbers,
        tally: Tally,
        *,
        limits: Limits = LIMITS,
    ) -> None:
        peers = self.peers = Peers(cluster, desk, wishes, links, route=config.route, limits=limits)
        self.nodes = peers.nodes
        self.pages = ClientsPages(peers, desk, limits)
        self._outgoing = peers.outgoing
        self._desk = desk
        self._wishes = wishes
        self._tally = tally
        self._limits = limits
        # The other node's own limits come first.
        self._answer_seconds = config.answer_seconds + 5.0
        self._upload_silence = config.upload_silence + 5.0
        self._under_way: dict[int, _Forward] = {}

    def __len__(self) -> int:
        """How many are under way; of those that may wait for ever, none."""
        return sum(not forward.waits for forward in self._under_way.values()) + len(self.pages)

    def deadline(self) -> Instant | None:
        return earliest(self._outgoing.deadline(), self.nodes.deadline())

    # ── from callers and clients ───────────────────────────────────────────────
    def call(self, visit: Visit, token: str, nobody: WholeAnswer, now: Instant) -> None:
        """Have a request answered where the token's client is; by `nobody` if that is nowhere."""
        forward = _Forward(visit, token, nobody)
        self._under_way[visit.number] = forward
        holders = self.nodes.holders(token, forward, now)
        if holders is not None:
            self._found(forward, holders, now)

    def upload(self, visit: Visit, stream: str, now: Instant) -> bool:
        """Hand an upload to the node that gave the stream its id; False if no other can have done so."""
        return self._to_node(node_number(stream), _Forward(visit, "", UNKNOWN_STREAM), now)

    def poll(self, visit: Visit, sid: str, now: Instant) -> bool:
        """Hand a request of a session that polls to the node that began it; False if no other can have done so.

        An upgrade is not handed on: a client whose upgrade is refused goes on polling.
        """
        if visit.node is not None or visit.head.upgrades_to is not None:
            return False
        forward = _Forward(visit, "", UNKNOWN_SESSION)
        forward.waits = True
        return self._to_node(session_node(sid), forward, now)

    def _to_node(self, number: int, forward: _Forward, now: Instant) -> bool:
        if number in (0, self.nodes.number):
            return False
        self._under_way[forward.visit.number] = forward
        node = self.nodes.node(number, forward, now)
        if node is not None:
            self._found(forward, Holders((node,)), now)
        return True

    def upload_piece(self, visit: Visit, data: Data, now: Instant) -> None:
        forward = self._under_way.get(visit.number)
        if forward is None:
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
        if forward is not None:
            forward.ended = True
            if forward.errand is not None:
                self._outgoing.end(forward.errand, now)

    def left(self, visit: Visit) -> None:
        """The asker is gone: whoever was asked sees that."""
        forward = self._under_way.pop(visit.number, None)
        if forward is None:
            self.pages.left(visit)
        elif forward.errand is not None:
            self._tally.forward("gone")
            self._outgoing.give_up(forward.errand)

    # ── facts ──────────────────────────────────────────────────────────────────
    def handle(self, fact: Opened | Received | Filled | Ended | Lost, now: Instant) -> None:
        self._outgoing.handle(fact, now)

    def directory(self, fact: Leased | Located, now: Instant) -> None:
        """Take a fact about the other nodes."""
        if isinstance(fact, Located):
            self.nodes.located(fact, now)
            return
        self.nodes.leased(fact, now)
        for forward in list(self._under_way.values()):
            # A node that vanished without a reset: nothing will come of what it was asked.
            if forward.errand is not None and forward.node is not None and self.nodes.gone(forward.node):
                self._outgoing.give_up(forward.errand)
                self._broken(forward, Broken("its lease has ended"), now)

    def wake(self, now: Instant) -> None:
        self._outgoing.wake(now)
        self.nodes.wake(now)

    def settle(self, now: Instant) -> bool:
        """Hand on what came; return whether there was anything."""
        busy = False
        while (answered := self.nodes.next()) is not None:
            busy = True
            asker, holders = answered
            if isinstance(asker, Page):
                self.pages.located(asker, holders, now)
            else:
                self._located(asker, holders, now)
        while (found := self._outgoing.next()) is not None:
            busy = True
            errand, event = found
            if isinstance(errand.owner, Part):
                self.pages.happened(errand.owner, event, now)
            else:
                self._happened(errand.owner, event, now)
        return busy

    # ── inside ─────────────────────────────────────────────────────────────────
    def _located(self, forward: _Forward, holders: Holders | None, now: Instant) -> None:
        if self._under_way.get(forward.visit.number) is not forward:
            return
        if holders is not None:
            self._found(forward, holders, now)
        else:
            self._tally.forward("directory-away")
            self._fail(forward, 503, "DIRECTORY_AWAY", "the directory of nodes does not answer", now)

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
        self._tally.forward("no-client")
        del self._under_way[forward.visit.number]
        again = forward.tried and not forward.streams
        status, headers, body = no_client("connection-not-ready") if again else forward.nobody
        self._desk.respond(forward.visit, status, headers, body, now=now)

    def _send(self, forward: _Forward, node: Node, now: Instant) -> None:
        visit = forward.visit
        errand, forward.proof = self.peers.errand(
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
            # What one reader took, another writer need not: the request goes nowhere then.
            self._fail(forward, 400, error.code, error.message, now)
            return
        forward.node, forward.errand = node, errand
        for piece in forward.held:
            self._outgoing.send(errand, piece, now)
        forward.held.clear()
        if forward.ended:
            self._outgoing.end(errand, now)

    def _happened(self, forward: _Forward, event: ClientEvent, now: Instant) -> None:
        if type(event) is Body:
            if not forward.turned_away:
                self._desk.send(forward.visit, event.data, now=now)
        elif isinstance(event, Head):
            self._head(forward, event, now)
        elif isinstance(event, Broken):
            self._broken(forward, event, now)
        elif forward.turned_away:
            self._next(forward, now)
        else:
            self._tally.forward("answered")
            del self._under_way[forward.visit.number]
            self._desk.end(forward.visit, now=now)

    def _head(self, forward: _Forward, head: Head, now: Instant) -> None:
        if head.status == MISDIRECTED and head.get(NODE_HEADER) == forward.proof:
            self._tally.forward("turned-away")
            forward.turned_away = forward.tried = True
            self.nodes.forget(forward.token)
            return
        headers = answer_headers(head.headers)
        length = content_length(next((value for name, value in headers if name == "content-length"), ""))
        forward.begun = 200 <= head.status <= 599 and self._desk.begin(
            forward.visit, head.status, headers, length, now=now
        )
        if not forward.begun:
            self._fail(forward, 502, "NODE_LOST", "the node that serves this gave an answer that is none", now)

    def _broken(self, forward: _Forward, broken: Broken, now: Instant) -> None:
        """A node was not reached, or went away before its answer was complete."""
        node, visit = forward.node, forward.visit
        assert node is not None
        self._tally.forward("cut" if forward.begun else "lost" if broken.sent else "unreachable")
        if not broken.sent:
            self.nodes.unreachable(node, now)
            forward.tried = True
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
        del self._under_way[forward.visit.number]
        if forward.errand is not None:
            self._outgoing.give_up(forward.errand)
        self._respond(forward.visit, status, {"code": code, "message": message}, now)

    def _respond(self, visit: Visit, status: int, document: object, now: Instant) -> None:
        headers = (JSON, RETRY_SOON) if status == 503 else (JSON,)
        self._desk.respond(visit, status, headers, compact(document), now=now)
