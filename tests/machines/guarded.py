"""A broker server whose clients prove who they are to a gateway, and that tells a dispatcher of them."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from machines.broker import ACCEPTED, COMMANDS, SAID_TO_SERVER, SMALL, Recorder
from machines.case import MachineCase, wire_facts
from worlds.brokers import SERVER, TOKEN, HandMade, make_server
from worlds.world import Answer, Caller, Upstream, World

from towline.core import WAKE, Entropy, Secret
from towline.core.broker import Authorize, BrokerServer, BrokerServerConfig, Stop, encode_upload_head

GATEWAY, DISPATCHER = 9100, 9200
BEARER = "Bearer e30.eyJhenAiOiJhcHAifQ.c2ln"
RENEWAL = b'{"data":{"attributes":{"broker_client_id":"hand-made"}}}'


def guarded() -> BrokerServer:
    return make_server(
        SMALL,
        authorization="gateway",
        gateway_url=f"http://gateway:{GATEWAY}",
        dispatcher_url=f"http://dispatcher:{DISPATCHER}",
        epoch=1_700_000_000.0,
    )


def asking() -> BrokerServer:
    """Return a server whose application decides."""
    return BrokerServer(BrokerServerConfig(authorization="application"), entropy=Entropy(b"server" * 4), limits=SMALL)


@cache
def recorded() -> list[tuple[float, Any]]:
    """Return what the server was told in a client's life: admitted, asked, answering, renewed, refused, gone."""
    recorder = Recorder(guarded())
    world, callers = World(), Caller()
    admitted = {BEARER}

    def judge(head: Any, body: bytes) -> Any:
        return (201 if head.get("authorization") in admitted else 403), [("content-length", "0")], []

    world.add("gateway", Upstream(judge), GATEWAY)
    world.add("dispatcher", Upstream(lambda head, body: (200, [("content-length", "2")], [b"{}"])), DISPATCHER)
    server = world.add("server", recorder, SERVER)
    caller = world.add("caller", callers)
    client = HandMade(authorization=Secret(BEARER))
    world.add("hand-made", client)
    world.run(0.1)

    def ask(path: str, method: str = "GET", body: bytes | None = None, shown: str = BEARER) -> Answer:
        answer = callers.ask(f"http://host:{SERVER}{path}", method, (("authorization", shown),), body)
        world.tell(caller, WAKE)
        world.run(0.1)
        return answer

    ask(f"/primus/{TOKEN}/?EIO=4&transport=polling", shown="")
    ask(f"/broker/{TOKEN}/x")
    upload = encode_upload_head(200, {"content-length": "4"}) + b"body"
    stream = client.asked[0]["streamingID"]
    ask(f"/hidden/brokers/response-data/{TOKEN}/{stream}", "POST", upload, shown="Bearer other")
    ask(f"/hidden/brokers/response-data/{TOKEN}/{stream}", "POST", upload)
    ask(f"/hidden/brokers/connections/{TOKEN}/auth/refresh?connection_role=primary", "POST", RENEWAL)
    world.run(30.0)
    admitted.clear()
    ask(f"/hidden/brokers/connections/{TOKEN}/auth/refresh?connection_role=primary", "POST", RENEWAL, "Bearer worse")
    world.tell(server, Stop(5.0))
    world.run(1.0)
    return recorder.told


SAID = [
    *SAID_TO_SERVER,
    b"GET /primus/%s/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nx-snyk-broker-client-id: c\r\n"
    b"authorization: Bearer a.b.c\r\n\r\n" % TOKEN.encode(),
    b"POST /hidden/brokers/connections/%s/auth/refresh HTTP/1.1\r\nHost: a\r\nauthorization: Bearer x\r\n"
    b"Content-Length: 56\r\n\r\n%s" % (TOKEN.encode(), RENEWAL),
    b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
]
DECISIONS = st.builds(Authorize, st.integers(0, 12), st.sampled_from([None, "Not here."]))

CASES = [
    MachineCase(
        "broker-server-guarded",
        guarded,
        recorded,
        wire_facts([2, 4, 6, 8, 1, 3], st.sampled_from(SAID), ACCEPTED, COMMANDS),
    ),
    MachineCase(
        "broker-server-asking",
        asking,
        recorded,
        wire_facts([2, 4, 6, 8], st.sampled_from(SAID), ACCEPTED, COMMANDS, DECISIONS),
    ),
]
