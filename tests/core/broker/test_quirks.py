"""The quirks of the stock broker (broker-protocol.md §6), each with the safe choice that Towline makes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tunnelkit.roots import HostRoot
from worlds.brokers import CLIENT, PLATFORM, SERVER, TOKEN, UPSTREAM, Brokers, HandMade, Serving, make_client, plain
from worlds.connections import Several
from worlds.world import Answer, Caller, Party, Upstream, World

from towline.core import WAKE, Entropy, RemoteProtocolError, Secret, Transmit
from towline.core.broker import (
    DEFAULT_AGENT_RULES,
    AcceptRules,
    BrokerClient,
    BrokerClientConfig,
    encode_upload_head,
)
from towline.core.tunnel import Acked, Arrived, Identified
from towline.core.tunnel import _engineio as engineio

OTHER = "99999999-0000-4000-8000-000000000009"
LIST_ONLY = AcceptRules.load({"private": [{"path": "/list/*", "origin": "${CR_AGENT_URL}"}]})
ESCAPES = ("/list/%2e%2e/secret", "/list/%2E%2E/secret", "/list/.%2e/secret", "/list/a\\..\\b", "/list/..%2fsecret")


class HandMadeServer:
    """A server made by hand, which asks our client what a test wants: its own filter keeps nothing from it."""

    def __init__(self, **client: Any) -> None:
        self.world = World()
        self.root = HostRoot()
        self.upstream = Upstream(lambda head, body: plain())
        self.world.add("agent", self.upstream, UPSTREAM)
        self.server = self.world.add("server", self.root, SERVER)
        self.machine = make_client(**client)
        self.client = self.world.add("client", self.machine, CLIENT)
        self.callers = Caller()
        self.caller = self.world.add("caller", self.callers)
        self.world.run(2.0)

    def request(self, **payload: Any) -> Any:
        """Ask for an answer as an acknowledgement; return it."""
        session = self.server.of(Identified)[-1].session
        asked = {"url": "/a", "method": "GET", "headers": {}, "streamingID": "", **payload}
        handle = self.root.host.emit(session, "request", [asked], ack=True, now=self.world.now)
        self.world.tell(self.server, WAKE)
        self.world.run(3.0)
        return next(said.args[0] for said in self.server.of(Acked) if said.ack_id == handle)


def code(got: Answer) -> Any:
    return json.loads(got.body)["code"]


def cut_tunnels(brokers: Brokers) -> None:
    for end in list(brokers.client.ends.values()):
        if end.other is not None and end.other.party is brokers.server:
            brokers.world.cut_link(end)


def asked(**more: Any) -> tuple[Serving, Party, HandMade, Answer, str]:
    """Return a server, a hand-made client, a caller that waits, and the id under which it waits."""
    serving = Serving(**more)
    party, client = serving.client()
    waiting = serving.relay("/a")
    return serving, party, client, waiting, client.asked[0]["streamingID"]


# ── the filter ────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("path", ESCAPES)
def test_q1_what_is_matched_is_what_is_sent(path: str) -> None:
    brokers = Brokers(client={"rules": LIST_ONLY})
    assert (brokers.relay(path).status, brokers.upstream.requests) == (401, [])
    made = HandMadeServer(rules=LIST_ONLY)
    assert (made.request(url=path)["status"], made.upstream.requests) == (401, [])
    # An encoded slash is one of a repository's name, and goes on as it came.
    assert made.request(url="/list/library%2Falpine?q=%20")["status"] == 200
    assert made.upstream.requests[0][0].target == "/list/library%2Falpine?q=%20"


# ── what kills the reference ──────────────────────────────────────────────────
JUNK: list[tuple[str, Any]] = [
    ("message", b"null"),
    ("identify", ()),
    ("identify", (None,)),
    ("identify", ("text",)),
    ("identify", ({"token": TOKEN},)),
    ("identify", ({"token": TOKEN, "metadata": "text"},)),
    ("identify", ({"token": TOKEN, "metadata": {"version": "no semver", "capabilities": []}},)),
    ("identify", ({"token": TOKEN, "metadata": {"version": "1" * 5_000, "capabilities": "all"}},)),
    ("terminate", ()),
    ("terminate", (None,)),
    ("client-event", (None,)),
]


@pytest.mark.parametrize(("name", "said"), JUNK, ids=range(len(JUNK)))
def test_q2_a_client_that_says_anything_harms_nobody_else(name: str, said: Any) -> None:
    serving = Serving()
    _, good = serving.client(OTHER)
    party, rude = serving.client()
    if name == "message":
        transport = rude.tunnel._transport
        assert transport is not None
        transport.send(engineio.MESSAGE + said, serving.world.now)
    else:
        rude.emit(name, *said)
    serving.say(party)
    waiting = serving.ask(f"/broker/{OTHER}/x")
    assert serving.upload(good.asked[0]["streamingID"], encode_upload_head(200, {}) + b"ok", token=OTHER).status == 200
    assert (waiting.status, waiting.body) == (200, b"ok")


# ── the head of an upload ─────────────────────────────────────────────────────
def test_q3_a_length_in_utf16_units_is_read_and_ours_is_in_bytes() -> None:
    head = json.dumps({"status": 201, "headers": {"x-a": "é", "x-b": "ü"}}, ensure_ascii=False)
    units = len(head.encode("utf-16-le")) // 2
    assert units < len(head.encode())
    serving, _, _, waiting, stream = asked()
    upload = units.to_bytes(4, "little") + head.encode() + b"body"
    assert serving.upload(stream, upload).status == 200
    assert (waiting.status, waiting.body, waiting.get("x-a"), waiting.get("x-b")) == (201, b"body", "é", "ü")
    ours = encode_upload_head(200, {"x-name": "é"})
    assert int.from_bytes(ours[:4], "little") == len(ours) - 4 == len(ours[4:].decode().encode("utf-16-le")) // 2


# ── nobody waits for ever ─────────────────────────────────────────────────────
def test_q4_a_caller_whose_client_vanishes_is_answered() -> None:
    serving, party, _, waiting, _ = asked()
    serving.world.kill(party)
    serving.world.run(0.1)
    assert (waiting.status, code(waiting)) == (502, "TUNNEL_LOST")


def test_q4_a_caller_whose_client_is_silent_is_answered_in_time() -> None:
    serving, _, _, waiting, _ = asked(answer_seconds=30.0)
    serving.world.run(29.0)
    assert waiting.pending
    serving.world.run(2.0)
    assert (waiting.status, code(waiting)) == (504, "TIMEOUT")


def test_q4_a_caller_that_vanishes_ends_the_upload_and_the_upstreams_answer() -> None:
    brokers = Brokers(lambda head, body: (200, [("content-length", "9000000")], [b"x" * 200_000, "hang"]))
    leaving = brokers.relay("/long")
    assert leaving.status == 200
    brokers.callers.leave(leaving)
    brokers.turn()
    brokers.world.run(1.0)
    assert brokers.upstream.lost
    assert len(brokers.server_machine._calls) == len(brokers.client_machine._jobs) == 0


# ── conditions on a body ──────────────────────────────────────────────────────
def test_q5_the_references_reading_of_a_body_value_is_an_option() -> None:
    valid = [{"path": "action", "value": "read"}]
    rule = {"method": "POST", "path": "/d", "origin": "${CR_AGENT_URL}", "valid": valid}
    rules = AcceptRules.load({"private": [rule]})
    for strict, status in ((True, 401), (False, 200)):
        brokers = Brokers(client={"rules": rules, "filter_strict": strict})
        assert brokers.relay("/d", "POST", body=b'{"action":"read"}').status == 200
        assert brokers.relay("/d", "POST", body=b'{"action":"write"}').status == status
        assert brokers.relay("/d", "POST", body=b'{"other":1}').status == 401


# ── whose tunnel it is ────────────────────────────────────────────────────────
def test_q6_a_client_is_the_token_it_connected_with_or_nobody() -> None:
    serving = Serving()
    party, rude = serving.client(metadata={"capabilities": ["post-streams"], "version": "local"})
    rude.emit("identify", {"token": OTHER, "metadata": {"capabilities": ["post-streams"], "version": "local"}})
    serving.say(party)
    assert rude.closed
    assert serving.ask(f"/broker/{OTHER}/x").status == 404
    serving.world.kill(party)
    # Case is no difference, and what leaves leaves nothing behind.
    party, client = serving.client(TOKEN.upper())
    assert serving.relay("/x").pending
    assert len(client.asked) == 1
    serving.world.kill(party)
    serving.world.run(61.0)
    assert serving.relay("/x").status == 404
    assert json.loads(serving.ask("/connections-status").body) == []


def test_q7_an_upload_needs_the_streams_token_and_role_and_counts_once() -> None:
    serving, _, _, waiting, stream = asked()
    good, poison = encode_upload_head(200, {}) + b"good", encode_upload_head(200, {}) + b"POISON"
    serving.client(OTHER)
    for token, query in ((OTHER, ""), ("", ""), (TOKEN, "?connection_role=secondary")):
        assert serving.upload(stream, poison, token=token, query=query).status == 500
    assert waiting.pending
    assert serving.upload(stream, good).status == 200
    assert serving.upload(stream, poison).status == 500
    assert (waiting.body, waiting.end) == (b"good", "whole")


def test_q8_a_clients_own_request_is_answered_to_it_alone() -> None:
    serving = Serving()
    serving.world.add("platform", Upstream(lambda head, body: plain(200, b"x" * 100_000)), PLATFORM)
    _, bystander = serving.client()
    _, other = serving.client(OTHER)
    party, client = serving.client()
    asked = {"url": "/api/x", "method": "POST", "headers": {}, "body": "{}", "streamingID": OTHER, "requestId": OTHER}
    client.emit("request", asked, ack=True)
    serving.say(party)
    assert [said.args[0]["status"] for said in client.acked] == [200]
    assert len(client.acked[0].args[0]["body"]) == 100_000
    assert [said.name for one in (client, bystander, other) for said in one.arrived] == []


def test_q8_our_client_names_no_stream_of_its_own() -> None:
    made = HandMadeServer()
    made.callers.ask(f"http://host:{CLIENT}/api/x", "POST", body=b"{}")
    made.world.tell(made.caller, WAKE)
    made.world.run(1.0)
    (event,) = made.server.of(Arrived)
    assert (event.name, event.args[0]["streamingID"]) == ("request", "")
    assert event.ack_id is not None


# ── headers ───────────────────────────────────────────────────────────────────
HOP = {
    "connection": "x-hop, close",
    "x-hop": "1",
    "keep-alive": "5",
    "te": "trailers",
    "trailer": "x-a",
    "upgrade": "h2c",
    "proxy-authorization": "Basic eDp5",
    "proxy-connection": "keep-alive",
    "transfer-encoding": "chunked",
}


def test_q9_what_belongs_to_one_hop_stays_on_it() -> None:
    made = HandMadeServer()
    assert made.request(headers={**HOP, "x-end": "2"}, method="POST", body="body")["status"] == 200
    ((head, body),) = made.upstream.requests
    assert (body, head.get("x-end"), head.get("content-length")) == (b"body", "2", "4")
    assert (head.get("connection"), head.get("keep-alive")) == ("Keep-Alive", "timeout=60, max=1000")
    assert [name for name in HOP if head.get(name) is not None] == ["connection", "keep-alive"]
    serving, _, _, waiting, stream = asked()
    serving.upload(stream, encode_upload_head(200, {**HOP, "x-end": "2"}) + b"body")
    assert (waiting.body, waiting.get("x-end"), waiting.end) == (b"body", "2", "whole")
    assert {name for name, _ in waiting.headers} & (HOP.keys() - {"transfer-encoding"}) == set()


def test_q10_rest_scan_result_passes_with_one_connection_and_with_several() -> None:
    private = [{"method": "POST", "path": "/rest/scan/result", "origin": "${PLATFORM}"}]
    server = {"rules": AcceptRules.load({"private": private, "public": [{"method": "any", "path": "/*"}]})}
    brokers = Brokers(client={"rules": DEFAULT_AGENT_RULES}, server=server)
    assert brokers.ask("/rest/scan/result", "POST", port=CLIENT, body=b"{}").status == 200
    several = Several(first={"rules": DEFAULT_AGENT_RULES}, second={"rules": DEFAULT_AGENT_RULES}, server=server)
    assert several.call_back("/connections/second/rest/scan/result").status == 200
    assert several.called() == ["second"]


# ── ways ──────────────────────────────────────────────────────────────────────
def test_q11_a_path_of_the_servers_url_is_the_posts_and_not_the_tunnels() -> None:
    sent: list[bytes] = []

    def watch(machine: Any) -> Any:
        poll = machine.poll

        def tapped() -> Any:
            wish = poll()
            if isinstance(wish, Transmit) and isinstance(machine, BrokerClient):
                sent.append(bytes(wish.data).partition(b"\r\n")[0])
            return wish

        machine.poll = tapped
        return machine

    client = {"server_url": f"http://server:{SERVER}/some/path?kept=1", "one_event_answers": False}
    brokers = Brokers(client=client, watch=watch)
    brokers.relay("/x")
    lines = [line for line in sent if line.endswith(b" HTTP/1.1")]
    tunnels = [line for line in lines if b"/primus/" in line]
    assert len(tunnels) == 2
    assert all(line.startswith(f"GET /primus/{TOKEN}/?kept=1&connection_role=".encode()) for line in tunnels)
    (post,) = [line for line in lines if b"/response-data/" in line]
    assert post.startswith(f"POST /some/path/response-data/{TOKEN}/".encode())


def test_q12_an_answer_that_has_to_be_a_text_is_asked_for_as_one() -> None:
    brokers = Brokers()
    accepts = (("accept-encoding", "gzip, br"),)
    brokers.relay("/text", headers=(*accepts, ("x-broker-ws-response", "1")))
    brokers.relay("/bytes", headers=accepts)
    assert [head.get("accept-encoding") for head, _ in brokers.upstream.requests] == ["identity", "gzip, br"]
    brokers.ask("/api/x", "POST", port=CLIENT, body=b"{}", headers=accepts)
    assert brokers.platform.requests[0][0].get("accept-encoding") == "identity"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_q13_what_was_sent_is_not_sent_again(method: str) -> None:
    brokers = Brokers(lambda head, body: (200, [("content-length", "9")], ["cut"]))
    got = brokers.relay("/x", method, body=b"once", run=5.0)
    assert (got.status, code(got)) == (502, "DOWNSTREAM_ERROR")
    assert len(brokers.upstream.requests) == 1


def test_q13_what_could_not_be_sent_is_tried_three_times_more() -> None:
    brokers = Brokers()
    brokers.world.refusing.add(UPSTREAM)
    waiting = brokers.relay("/x", "POST", body=b"once", run=1.2)
    assert waiting.pending
    brokers.world.refusing.clear()
    brokers.world.run(0.5)
    assert (waiting.status, [body for _, body in brokers.upstream.requests]) == (200, [b"once"])
    brokers = Brokers()
    brokers.world.refusing.add(UPSTREAM)
    got = brokers.relay("/x", "POST", body=b"never", run=2.0)
    assert (got.status, code(got)) == (502, "DOWNSTREAM_UNREACHABLE")


def test_q14_a_tokens_case_does_not_matter() -> None:
    brokers = Brokers()
    for token in (TOKEN.upper(), TOKEN.lower()):
        assert brokers.ask(f"/broker/{token}/x").status == 200
        assert brokers.ask(f"/connection-status/{token}").status == 200
        assert brokers.ask(f"/service/{token}/filters/reload").status == 200


@pytest.mark.parametrize(
    ("body", "status", "came"),
    [
        ("text é", 200, "text é".encode()),
        (b"\xff\x00", 200, b"\xff\x00"),
        ("", 200, b""),
        ({"an": "object"}, 400, None),
        (["list"], 400, None),
        (5, 400, None),
    ],
)
def test_q15_a_body_is_a_text_or_bytes(body: Any, status: int, came: bytes | None) -> None:
    made = HandMadeServer()
    assert made.request(method="POST", body=body)["status"] == status
    assert [body for _, body in made.upstream.requests] == ([] if came is None else [came])
    serving = Serving()
    serving.world.add("platform", Upstream(lambda head, body: plain(200, body)), PLATFORM)
    party, client = serving.client()
    client.emit("request", {"url": "/api/x", "method": "POST", "headers": {}, "body": body}, ack=True)
    serving.say(party)
    assert [said.args[0]["status"] for said in client.acked] == [status]


def test_q16_a_client_without_a_token_is_no_client() -> None:
    """The program that gets this ends with a status that is not 0 (tests/runtimes/test_quirks.py)."""
    config = BrokerClientConfig(server_url=f"http://server:{SERVER}", token=Secret(""))
    with pytest.raises(RemoteProtocolError, match="token") as refused:
        BrokerClient(config, entropy=Entropy(b"client" * 4))
    assert refused.value.kind == "invalid-configuration"


# ── which tunnel ──────────────────────────────────────────────────────────────
@pytest.mark.parametrize("last", ["primary", "secondary"])
def test_q17_the_last_to_identify_serves_whatever_its_role(last: str) -> None:
    serving = Serving()
    made = {}
    for role in sorted(("primary", "secondary"), key=lambda role: role == last):
        metadata = {"capabilities": ["post-streams"], "version": "local", "role": role}
        made[role] = serving.client(metadata=metadata)
    serving.relay("/x")
    assert {role: len(client.asked) for role, (_, client) in made.items()} == {last: 1, _other(last): 0}
    serving.world.kill(made[last][0])
    serving.relay("/x")
    assert len(made[_other(last)][1].asked) == 1


def _other(role: str) -> str:
    return "primary" if role == "secondary" else "secondary"


# ── what is said while nothing is open ────────────────────────────────────────
def test_q18_a_callback_goes_up_after_identify_or_is_told_to_come_again() -> None:
    brokers = Brokers()
    brokers.world.refusing.add(SERVER)
    cut_tunnels(brokers)
    waiting = brokers.ask("/api/x", "POST", port=CLIENT, body=b"late", run=0.1)
    assert waiting.pending
    brokers.world.refusing.clear()
    brokers.world.run(2.5)
    assert (waiting.status, waiting.body) == (200, b"got late")
    brokers.world.refusing.add(SERVER)
    cut_tunnels(brokers)
    got = brokers.ask("/api/x", "POST", port=CLIENT, body=b"lost", run=3.5)
    assert (got.status, got.get("retry-after"), code(got)) == (503, "1", "CONNECTION_NOT_READY")
    assert [body for _, body in brokers.platform.requests] == [b"late"]


def test_q18_a_server_holds_what_comes_before_identify() -> None:
    """A client that asks first and identifies itself afterwards, as the stock one does after an outage."""
    serving = Serving()
    platform = Upstream(lambda head, body: plain(200, b"got " + body))
    serving.world.add("platform", platform, PLATFORM)
    path = f"/primus/{TOKEN}/?EIO=4&transport=polling"
    path += "&sid=" + json.loads(serving.ask(path).body[1:])["sid"]
    request = {"url": "/api/x", "method": "POST", "headers": {}, "body": "early", "streamingID": ""}
    identify = {"token": TOKEN, "metadata": {"capabilities": ["post-streams"], "version": "local"}}
    serving.ask(path, "POST", body=b"4" + json.dumps({"type": 0, "data": ["request", request], "id": 1}).encode())
    assert platform.requests == []
    serving.ask(path, "POST", body=b"4" + json.dumps({"type": 0, "data": ["identify", identify]}).encode())
    assert [body for _, body in platform.requests] == [b"early"]
    (ack,) = [packet for packet in serving.ask(path).body.split(b"\x1e") if b'"type":1' in packet]
    assert json.loads(ack[1:])["data"][0]["body"] == "got early"


def test_q19_a_body_too_large_is_answered_in_plain_json() -> None:
    brokers = Brokers()
    for port, path in ((SERVER, f"/broker/{TOKEN}/x"), (CLIENT, "/api/x")):
        got = brokers.ask(path, "POST", port=port, body=b"x" * (10 * 1024 * 1024 + 1))
        assert (got.status, got.get("content-type")) == (413, "application/json; charset=utf-8")
        assert json.loads(got.body)["error"]["code"] == "REQUEST_TOO_LARGE"
        assert not any(sign in got.body for sign in (b"/", b"<", b"Error:"))
    assert (brokers.upstream.requests, brokers.platform.requests) == ([], [])


def test_every_quirk_has_its_test() -> None:
    tests = [name for name in globals() if name.startswith("test_q")]
    assert {int(name.removeprefix("test_q").partition("_")[0]) for name in tests} == set(range(1, 20))
