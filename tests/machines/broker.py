"""The broker room's machines: both roots, with conversations recorded in one world."""

from __future__ import annotations

from functools import cache
from typing import Any

from hypothesis import strategies as st
from machines.case import KIB, MachineCase, wire_facts
from worlds.brokers import CLIENT, SERVER, TOKEN, Brokers, make_client, make_server, plain
from worlds.connections import Several, connection

from towline.core import Accepted, Entropy, Limits, Secret
from towline.core.broker import (
    DEFAULT_AGENT_RULES,
    BrokerClient,
    BrokerClientConfig,
    CallbackArrived,
    Reload,
    RulesRead,
    Stop,
)
from towline.core.http import Answer, AnswerBody, AnswerCut, AnswerEnd, AnswerHead, Asked

SMALL = Limits(
    http_request_body=64 * KIB,
    tunnel_payload=128 * KIB,
    ws_message=160 * KIB,
    tunnel_buffer=64 * KIB,
    tunnel_answer=64 * KIB,
    stream_buffer=32 * KIB,
)


class Recorder:
    """A machine, and what it was told."""

    def __init__(self, machine: Any) -> None:
        self._machine = machine
        self.told: list[tuple[float, Any]] = []

    def handle(self, fact: Any, now: float) -> None:
        self.told.append((now, fact))
        self._machine.handle(fact, now)

    def poll(self) -> Any:
        return self._machine.poll()

    def deadline(self) -> float | None:
        at: float | None = self._machine.deadline()
        return at


def upstream(head: Any, body: bytes) -> Any:
    last = head.target.rpartition("/")[2]
    return plain(200, b"y" * (int(last) if last.isdigit() else 0))


@cache
def recorded() -> tuple[list[tuple[float, Any]], list[tuple[float, Any]]]:
    """Return what the client and the server were told in one good conversation."""
    recorders: list[Recorder] = []

    def watch(machine: Any) -> Recorder:
        recorders.append(Recorder(machine))
        return recorders[-1]

    brokers = Brokers(upstream, limits=SMALL, watch=watch)
    brokers.relay("/bytes/5")
    brokers.relay("/bytes/40000", headers=(("x-broker-var-sub", "x-a"), ("x-a", "${BROKER_CLIENT_URL}")))
    brokers.relay("/scan/7", "POST", body=b'{"BROKER_VAR_SUB":["a"],"a":"${CR_AGENT_URL}"}')
    brokers.relay("/bytes/9", headers=(("x-broker-ws-response", "true"),))
    brokers.relay("/..%2f/denied")
    brokers.ask("/broker/nobody/x")
    brokers.ask(f"/service/{TOKEN}/filters/reload")
    brokers.ask("/api/v2/import/done", "POST", port=CLIENT, body=b'{"job":1}')
    brokers.ask("/other/kept", "POST", port=CLIENT, body=b"kept")
    (arrived,) = brokers.server.of(CallbackArrived)
    brokers.world.tell(brokers.server, Answer(arrived.exchange, 200, (), b"ok"))
    brokers.world.run(1.0)
    brokers.ask("/results")
    (asked,) = brokers.server.of(Asked)
    brokers.world.tell(brokers.server, AnswerHead(asked.exchange, 200, (("Content-Length", "2"),)))
    brokers.world.tell(brokers.server, AnswerBody(asked.exchange, b"[]"))
    brokers.world.tell(brokers.server, AnswerEnd(asked.exchange))
    brokers.world.run(30.0)
    brokers.ask("/healthcheck", port=CLIENT)
    brokers.ask("/systemcheck", port=CLIENT)
    brokers.ask("/connections-status", port=SERVER)
    server, client = recorders
    return client.told, server.told


SEVERAL: dict[str, Any] = {
    "preflight": True,
    "high_availability": True,
    "dispatcher_url": "http://api:9100",
    "api_url": "http://api:9100",
    "oauth_id": "me",
    "oauth_secret": Secret("secret"),
}
CONTEXT = {"contexts": {"c": {"CR_CREDENTIALS": "x", "TOK_POOL": "a,b"}}}


def several() -> BrokerClient:
    made = (connection("first", **CONTEXT), connection("second"))
    config = BrokerClientConfig(connections=made, **SEVERAL)
    return BrokerClient(config, entropy=Entropy(b"client" * 4), limits=SMALL)


@cache
def recorded_of_several() -> list[tuple[float, Any]]:
    """Return what a client of two connections was told, from its first token to a reading of its rules."""
    recorders: list[Recorder] = []

    def watch(machine: Any) -> Recorder:
        recorders.append(Recorder(machine))
        return recorders[-1]

    def api(head: Any, body: bytes) -> Any:
        if head.target.startswith("/oauth2/"):
            return plain(200, b'{"access_token":"t","expires_in":200}')
        return plain(200, b'{"data":{"attributes":{"server_id":7}}}')

    world = Several(first=CONTEXT, limits=SMALL, watch=watch, api=api, **SEVERAL)
    fill = (("x-broker-var-sub", "x-a"), ("x-a", "${CR_CREDENTIALS}"))
    for name in ("first", "second"):
        world.relay(name, "/bytes/9", headers=fill)
        world.relay(name, "/bytes/9", headers=(*fill, ("x-snyk-broker-context-id", "c")))
        world.call_back(f"/connections/{name}/api/x")
    world.call_back("/api/unclear")
    for path in ("/healthcheck", "/systemcheck", "/filters", "/health/checks", "/health/checks/none"):
        world.ask(path, port=CLIENT)
    world.ask("/filters", "POST", port=CLIENT)
    world.world.tell(world.client, RulesRead({"second": DEFAULT_AGENT_RULES}))
    world.world.run(150.0)
    return recorders[0].told


SAID_TO_SERVER = [
    b"GET /broker/%s/x HTTP/1.1\r\nHost: a\r\n\r\n" % TOKEN.encode(),
    b"POST /response-data/%s/x HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\n\x02\0\0\0{}" % TOKEN.encode(),
    b"GET /primus/%s/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n\r\n" % TOKEN.encode(),
    b"GET /results HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\x81\x04null",
]
SAID_TO_CLIENT = [
    b"POST /api/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /healthcheck HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"\x81\x40" + b'4{"type":0,"data":["request",{"url":"/x","method":"GET","id":7}]}'[:64],
]
EXCHANGE = st.integers(0, 12)
COMMANDS = st.one_of(
    st.builds(Answer, EXCHANGE, st.sampled_from([200, 404, 99]), st.just(()), st.binary(max_size=20)),
    st.builds(Answer, EXCHANGE, st.just(200), st.just((("X", "a\r\nb"),))),
    st.builds(AnswerHead, EXCHANGE, st.just(200), st.sampled_from([(), (("Content-Length", "5"),), (("x y", "z"),)])),
    st.builds(AnswerBody, EXCHANGE, st.sampled_from([b"", b"hello", b"xx"])),
    st.builds(AnswerEnd, EXCHANGE),
    st.builds(AnswerCut, EXCHANGE),
    st.builds(Stop, st.sampled_from([0.0, 5.0])),
    st.just(Reload(DEFAULT_AGENT_RULES)),
    st.sampled_from([RulesRead({"": DEFAULT_AGENT_RULES, "first": DEFAULT_AGENT_RULES}), RulesRead(fault="no")]),
)
ACCEPTED = st.builds(Accepted, st.sampled_from([2, 4, 6]), st.just("http"), st.just("peer"))

CASES = [
    MachineCase(
        "broker-client",
        lambda: make_client(SMALL),
        lambda: recorded()[0],
        wire_facts([1, 3, 5, 2, 4], st.sampled_from(SAID_TO_CLIENT), ACCEPTED, COMMANDS),
    ),
    MachineCase(
        "broker-client-of-several",
        several,
        recorded_of_several,
        wire_facts([1, 3, 5, 7, 2, 4], st.sampled_from(SAID_TO_CLIENT), ACCEPTED, COMMANDS),
    ),
    MachineCase(
        "broker-server",
        lambda: make_server(SMALL),
        lambda: recorded()[1],
        wire_facts([2, 4, 6, 8, 1], st.sampled_from(SAID_TO_SERVER), ACCEPTED, COMMANDS),
        floods=(b"\0", b"a", b"a: b\r\n", b"1\r\na\r\n", SAID_TO_SERVER[0]),
    ),
]
