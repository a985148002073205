"""A server that is one of several, with a gateway and a dispatcher: callers, clients and nodes say anything."""

from __future__ import annotations

from typing import Any

from machines.broker import SMALL
from worlds.brokers import SERVER_RULES, TOKEN
from worlds.nodes import EPOCH, SECRET

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import Accepted, Entropy, Received
from towline.core.broker import BrokerServer, BrokerServerConfig, ClusterConfig, Found, Leased, Located
from towline.core.http import Url

OTHER = ClusterConfig(SECRET, Url.parse("http://node-2:7342"), "node-2", "2" * 32)
HERE = ClusterConfig(SECRET, Url.parse("http://node-1:7341"), "node-1", "1" * 32)
ASKED = b"GET /broker/%s/x HTTP/1.1\r\nHost: a\r\n\r\n" % TOKEN.encode()


def made() -> BrokerServer:
    config = BrokerServerConfig(
        rules=SERVER_RULES,
        variables={"PLATFORM": "http://platform:9000"},
        cluster=HERE,
        authorization="gateway",
        gateway_url="http://gateway:9100",
        dispatcher_url="http://dispatcher:9200",
    )
    return BrokerServer(config, entropy=Entropy(b"server" * 4), limits=SMALL)


def run(data: bytes) -> None:
    before: list[tuple[float, Any]] = [(0.0, Accepted(link, "http", "x")) for link in (2, 4, 6, 8)]
    before.append((0.0, Leased(1, EPOCH, (HERE.record(1), OTHER.record(2)))))
    if data[:1] == b"\x01":
        # A caller whose client is at the other node: a request to that node is on its way.
        before += [(0.0, Received(8, ASKED)), (0.0, Located(1, (Found(OTHER.record(2), 5),)))]
    said = peer_facts(data[1:], links=(2, 4, 6, 1, 3, 5), opened=False)
    # What is relayed with an unknown length is framed as it comes: its chunks tell where it was cut.
    hold_to_promises(made, [*before, *said], growth=64, splits=False)
