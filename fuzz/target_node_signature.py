"""What says that it is from a node of the cluster: nothing that this cluster did not sign is believed, and none twice.

Lines: signature, method, target, record, stream id.
"""

from __future__ import annotations

from fuzz.harness import BrokenPromise
from towline.core import Secret
from towline.core.broker.nodes._cluster import (
    ClusterKeys,
    Node,
    NodeGuard,
    NodeSigner,
    digest_of,
    node_number,
)
from towline.core.http import Url

KEYS = ClusterKeys(Secret("what only the nodes know"))
HERE, THERE = "2" * 32, "1" * 32
NOW = 1_700_000_000.0


def run(data: bytes) -> None:
    value, method, target, record, stream = [*data.decode("latin-1").split("\n", 4), "", "", "", "", ""][:5]
    guard = NodeGuard(KEYS, HERE)
    proof, problem = guard.check(value, method, target, digest_of(b""), NOW)
    if not problem or proof is not None:
        raise BrokenPromise(f"believed {value!r}")
    node = Node(2, HERE, Url.parse("http://node-2:7341"), "node-2")
    signed, _ = NodeSigner(KEYS, THERE).sign(node, "GET", "/broker/a/b", digest_of(b""), NOW)
    proof, problem = guard.check(signed, "GET", "/broker/a/b", digest_of(b""), NOW)
    if problem or proof is None:
        raise BrokenPromise(f"a good signature was refused: {problem}")
    for again in (signed, value, signed[: len(signed) // 2] + value):
        if not guard.check(again, method or "GET", target or "/broker/a/b", digest_of(b""), NOW)[1]:
            raise BrokenPromise(f"believed {again!r}")
    if KEYS.node_of(record) is not None:
        raise BrokenPromise(f"took {record!r} for a node's record")
    if not 0 <= node_number(stream) <= 0xFFF:
        raise BrokenPromise(f"{stream!r} has a number that no node has")
