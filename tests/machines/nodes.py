"""A server that is one of several nodes, as a machine: what the directory and the other nodes tell it as well."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from machines.broker import ACCEPTED, COMMANDS, SAID_TO_SERVER, SMALL, Recorder
from machines.case import MachineCase, wire_facts
from worlds.brokers import TOKEN
from worlds.nodes import EPOCH, ClusterWorld, Node

from towline.core.broker import BrokerServer, Found, Leased, Located, encode_upload_head
from towline.core.broker.nodes._cluster import NODE_HEADER

# An answer of unknown length would be framed as it comes, and so tell where it was cut.
UPLOAD = encode_upload_head(200, {"content-type": "text/plain", "content-length": "600"}) + b"answer" * 100
NUMBERS = (1, 2, 3)


def make_node() -> BrokerServer:
    """The second node of three, fresh."""
    return Node(2, SMALL).machine


@cache
def recorded() -> list[tuple[float, Any]]:
    """Return what the second of three nodes was told: it asks, it is asked, and it hands uploads on."""
    recorders: list[Recorder] = []

    def watch(machine: Any) -> Recorder:
        recorders.append(Recorder(machine))
        return recorders[-1]

    world = ClusterWorld(3, limits=SMALL, watch=watch)
    _, first = world.client(1, "first")
    for asks, uploads in ((2, 1), (2, 2), (3, 2)):
        world.relay(asks, "/x", "POST", body=b"asked")
        world.upload(uploads, first.asked[-1]["streamingID"], UPLOAD)
    party, second = world.client(2, "second")
    # What node 3 remembers of the token is a second old.
    world.run(1.0)
    world.relay(3, "/y")
    world.upload(3, second.asked[-1]["streamingID"], UPLOAD)
    for node in NUMBERS:
        world.ask(node, f"/connection-status/{TOKEN}")
    world.relay(2, "/lost", headers=(("Idempotency-Key", "k"),))
    world.kill(party)
    world.run(0.1)
    world.upload(2, first.asked[-1]["streamingID"], UPLOAD)
    world.relay(2, "/in-flight")
    world.lose(1)
    world.run(2.0)
    world.lease()
    world.ask(2, "/broker/nobody/x")
    world.directory.away = True
    world.relay(2, "/away")
    world.run(5.0)
    return recorders[1].told


RECORDS = tuple(Node(number, SMALL).record for number in NUMBERS)
SAID = [
    *SAID_TO_SERVER,
    b"GET /connection-status/%s HTTP/1.1\r\nHost: a\r\n\r\n" % TOKEN.encode(),
    b"POST /response-data/%s/01234567-89ab-4001-8f01-23456789abcd HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n"
    % TOKEN.encode(),
    b"GET /broker/%s/x HTTP/1.1\r\nHost: a\r\n%s: 1\r\n\r\n" % (TOKEN.encode(), NODE_HEADER.encode()),
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"clients":[{}]}\r\n0\r\n\r\n',
]
FOUND = st.builds(Found, st.sampled_from([*RECORDS, "no record"]), st.integers(0, 9))
DIRECTORY = st.one_of(
    st.builds(Leased, st.integers(0, 4095), st.just(EPOCH), st.lists(st.sampled_from(RECORDS)).map(tuple)),
    st.builds(Located, st.integers(0, 6), st.none() | st.lists(FOUND, max_size=3).map(tuple), st.booleans()),
)

CASES = [
    MachineCase(
        "broker-node",
        make_node,
        recorded,
        wire_facts([2, 4, 6, 1, 3, 5], st.sampled_from(SAID), ACCEPTED, COMMANDS, DIRECTORY),
        floods=(b"\0", b"a", b"a: b\r\n", b"1\r\na\r\n", SAID[0]),
    ),
]
