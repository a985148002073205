"""How nodes speak to each other: signed requests over links of their own, and the judgement of those that come."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import msgspec

from towline.core._contract import Instant
from towline.core._limits import LIMITS, Limits
from towline.core._wire import LinkNumbers, Note
from towline.core.broker._answers import JSON, compact
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._headers import hop_names
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker.nodes._cluster import (
    NODE_HEADER,
    STREAMED,
    ClusterConfig,
    Node,
    NodeGuard,
    NodeSigner,
    digest_of,
)
from towline.core.broker.nodes._nodes import Nodes

MISDIRECTED: Final = 421
# What each hop writes anew.
_OURS: Final = frozenset({"host", "content-length", "snyk-request-id", NODE_HEADER})


class Peers:
    """What this node knows of the others (`nodes`), its links to them (`outgoing`), and what it admits from them."""

    def __init__(
        self,
        cluster: ClusterConfig,
        desk: Desk,
        wishes: deque[Any],
        links: LinkNumbers,
        *,
        route: str,
        limits: Limits = LIMITS,
    ) -> None:
        self.nodes = Nodes(cluster, wishes, limits)
        near = msgspec.structs.replace(limits, time_connect=limits.node_connect)
        self.outgoing = Outgoing(wishes, links, limits=near, route=route)
        self._desk = desk
        self._wishes = wishes
        self._signer = NodeSigner(self.nodes.keys, cluster.incarnation)
        self._guard = NodeGuard(self.nodes.keys, cluster.incarnation, limits)

    # ── from nodes ─────────────────────────────────────────────────────────────
    def admit(self, visit: Visit, now: Instant) -> bool:
        """Judge a visit that may come from a node; False if it pretends to, and was answered."""
        value = visit.head.get(NODE_HEADER)
        if value is None:
            return True
        digest = STREAMED if visit.limit is None else digest_of(visit.body)
        seconds = now + self.nodes.epoch if self.nodes.epoch is not None else None
        visit.node, problem = self._guard.check(value, visit.head.method, visit.head.target, digest, seconds)
        if problem:
            self._wishes.append(Note("warning", "node.refused", {"peer": visit.peer, "problem": problem}))
            if visit.node is not None:
                self.turn_away(visit, now)
                return False
            body = compact({"code": "NODE_REFUSED", "message": problem})
            self._desk.respond(visit, 401, (JSON,), body, now=now)
            return False
        kept = tuple(field for field in visit.head.headers if field[0] != NODE_HEADER)
        visit.head = msgspec.structs.replace(visit.head, headers=kept)
        return True

    def turn_away(self, visit: Visit, now: Instant) -> None:
        """Tell the node that asked, and prove to it, that nothing was done with its request."""
        headers = (JSON, (NODE_HEADER, visit.node or ""))
        self._desk.respond(visit, MISDIRECTED, headers, compact({"code": "NOT_HERE"}), now=now)

    # ── to nodes ───────────────────────────────────────────────────────────────
    def errand(
        self, owner: Any, method: str, visit: Visit, node: Node, patience: float, now: Instant
    ) -> tuple[Errand, str]:
        """Return a visit's request as it goes to a node, and the proof that the node may answer with.

        A signature is good for one request, so it is never sent twice: whether there is another is the owner's choice.
        """
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
