"""Several server nodes: who answers, what is tried elsewhere, what a node believes of another, and what is bounded."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest
from worlds.brokers import SERVER_RULES, TOKEN, HandMade, Serving, plain
from worlds.nodes import EPOCH, ClusterWorld
from worlds.world import Answer, Upstream

from towline.core import LIMITS, WAKE, Accepted, Entropy, Finished, Limits, Received, Secret, Transmit
from towline.core.broker import (
    BrokerServer,
    BrokerServerConfig,
    ClusterConfig,
    Found,
    Located,
    Stop,
    TokenHeld,
    TokenLeft,
    encode_upload_head,
)
from towline.core.broker.nodes._cluster import (
    NODE_HEADER,
    ClusterKeys,
    NodeGuard,
    NodeSigner,
    digest_of,
    node_number,
    session_mark,
    session_node,
    stream_id,
)
from towline.core.http import Url

HEAD = encode_upload_head(200, {"content-type": "text/plain", "x-a": "b"})
MARKED = (("Idempotency-Key", "k1"),)


# ── callers ───────────────────────────────────────────────────────────────────
def test_a_caller_of_a_node_without_the_tunnel_gets_the_same_answer() -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    answers: list[Answer] = []
    for node in (1, 2):
        headers = (("X-A", "1"), ("Connection", "x-hop"), ("x-hop", "1"), ("Accept-Encoding", "gzip"))
        answers.append(world.relay(node, "/a%2Fb?q=1&r=%20", "POST", headers=headers, body=b'{"x":1}'))
        world.upload(1, client.asked[-1]["streamingID"], HEAD + b"body")
    direct, through = client.asked
    assert direct["streamingID"] != through["streamingID"]
    assert {**direct, "streamingID": 0, "requestId": 0, "headers": 0} == {
        **through, "streamingID": 0, "requestId": 0, "headers": 0,
    }  # fmt: skip
    ids = [payload["headers"].pop("snyk-request-id") for payload in client.asked]
    assert direct["headers"] == through["headers"], "the hop between the nodes does not show"
    first, second = answers
    assert (first.status, first.body, first.end) == (200, b"body", "whole")
    assert (second.status, second.body, second.end) == (200, b"body", "whole")
    assert [first.get("snyk-request-id"), second.get("snyk-request-id")] == ids
    shown = [[pair for pair in answer.headers if pair[0] != "snyk-request-id"] for answer in answers]
    assert shown[0] == shown[1]


def forget_nodes(machine: BrokerServer) -> None:
    """Let a node know of no other."""
    assert machine._forwarding is not None
    machine._forwarding.nodes._by_number.clear()


def test_a_node_that_holds_the_token_asks_nobody() -> None:
    world = ClusterWorld()
    world.client(1)
    world.client(2)
    assert world.relay(1, "/x").pending
    assert world.directory.asked == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_acknowledged_answer_and_one_without_a_body(method: str) -> None:
    world = ClusterWorld()
    party, client = world.client(1)
    waiting = world.relay(2, "/x", method, headers=(("x-broker-ws-response", "true"),))
    (arrived,) = (said for said in client.arrived if said.name == "request")
    assert arrived.ack_id is not None
    client.acknowledge(arrived.ack_id, {"status": 203, "headers": {"x-a": "b"}, "body": "hello"})
    world.tell(party, WAKE)
    world.run(0.1)
    assert (waiting.status, waiting.body) == (203, b"hello" if method == "GET" else b"")
    assert waiting.get("x-a") == "b"


def test_a_service_command_goes_to_the_node_with_the_client() -> None:
    world = ClusterWorld()
    party, client = world.client(1)
    waiting = world.ask(2, f"/service/{TOKEN}/filters/reload")
    (arrived,) = (said for said in client.arrived if said.name == "service")
    assert arrived.ack_id is not None
    client.acknowledge(arrived.ack_id, {"status": 200, "body": "reloaded"})
    world.tell(party, WAKE)
    world.run(0.1)
    assert (waiting.status, waiting.body) == (200, b"reloaded")


def test_a_denial_is_the_other_nodes() -> None:
    world = ClusterWorld()
    world.client(1)
    got = world.relay(2, "/..%2f/x")
    assert got.status == 401
    assert json.loads(got.body)["code"] == "FILTER_BLOCKED"
    assert got.get(NODE_HEADER) is None


def test_nobody_holds_the_token() -> None:
    world = ClusterWorld()
    got = world.relay(2, "/x")
    assert (got.status, got.get("x-broker-failure")) == (404, "no-connection")
    party, _ = world.client(1)
    world.kill(party)
    world.run(0.1)
    got = world.relay(2, "/x")
    assert (got.status, got.get("x-broker-failure"), got.get("retry-after")) == (503, "connection-not-ready", "1")
    assert world.nodes[0].party.of(TokenLeft), "the last client left"


def test_what_was_located_is_remembered_for_a_second_at_most() -> None:
    world = ClusterWorld()
    world.client(1)
    for _ in range(3):
        world.relay(2, "/x")
    assert len(world.directory.asked) == 1
    world.run(LIMITS.node_memory)
    world.relay(2, "/x")
    assert len(world.directory.asked) == 2


def test_callers_of_one_token_share_a_question() -> None:
    world = ClusterWorld()
    world.client(1)
    world.directory.silent = True
    waiting = [world.relay(2, f"/{number}", run=0.0) for number in range(3)]
    (question,) = world.directory.asked
    world.directory.silent = False
    world.tell(world.nodes[1].party, Located(question.question, world.directory._find(question)[0]))
    world.run(0.1)
    assert all(answer.pending for answer in waiting)
    assert len(world.nodes[0].machine._calls) == 3


def test_the_newest_client_is_asked_first() -> None:
    world = ClusterWorld(3)
    _, first = world.client(1, "first")
    _, second = world.client(2, "second")
    world.relay(3, "/x")
    assert [len(first.asked), len(second.asked)] == [0, 1]


# ── the directory is away ─────────────────────────────────────────────────────
@pytest.mark.parametrize("how", ["away", "silent"])
def test_while_the_directory_is_away_a_node_serves_what_it_holds(how: str) -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    setattr(world.directory, how, True)
    waiting = world.relay(1, "/x")
    world.upload(1, client.asked[0]["streamingID"], HEAD + b"body")
    assert waiting.body == b"body"
    got = world.relay(2, "/x", run=LIMITS.node_answer + 0.1)
    assert (got.status, got.get("retry-after")) == (503, "1")
    assert json.loads(got.body)["code"] == "DIRECTORY_AWAY"
    page = world.ask(2, f"/connection-status/{TOKEN}", run=LIMITS.node_answer + 0.1)
    assert page.status == 503
    page = world.ask(1, f"/connection-status/{TOKEN}", run=LIMITS.node_answer + 0.1)
    assert len(json.loads(page.body)["clients"]) == 1


def test_questions_are_bounded() -> None:
    world = ClusterWorld(limits=Limits(node_questions=2))
    world.directory.silent = True
    answers = [world.ask(2, f"/broker/{number}/x", run=0.0) for number in range(3)]
    assert [answer.status for answer in answers] == [None, None, 503]
    world.run(LIMITS.node_answer)
    assert [answer.status for answer in answers] == [503, 503, 503]
    assert len(world.nodes[1].machine._forwarding or ()) == 0


def test_an_answer_that_nobody_waits_for() -> None:
    world = ClusterWorld()
    world.directory.silent = True
    answer = world.relay(2, "/x", run=0.0)
    world.callers.leave(answer)
    world.tell(world.caller, WAKE)
    world.run(0.1)
    (question,) = world.directory.asked
    world.tell(world.nodes[1].party, Located(question.question, ()))
    world.tell(world.nodes[1].party, Located(question.question, ()))
    world.tell(world.nodes[1].party, Located(99, None))
    world.run(0.1)
    assert answer.pending


# ── nodes and clients that are lost ───────────────────────────────────────────
def test_a_node_that_cannot_be_reached_is_passed_over_and_left_alone() -> None:
    world = ClusterWorld(3)
    _, first = world.client(1, "first")
    world.client(2, "second")
    world.lose(2)
    waiting = world.relay(3, "/x")
    world.upload(1, first.asked[0]["streamingID"], HEAD + b"body")
    assert waiting.body == b"body", "the second-newest serves it at once: nothing was sent to the newest"
    (note,) = world.nodes[2].party.notes("node.lost")
    assert note.fields["node"] == "node-2"
    world.run(LIMITS.node_memory)
    opened = world.nodes[1].port
    world.refusing.add(opened)
    world.relay(3, "/y")
    assert len(world.nodes[2].party.notes("node.lost")) == 1, "it is not dialled again while it rests"


def test_nobody_who_holds_it_can_be_reached() -> None:
    world = ClusterWorld()
    world.client(1)
    world.lose(1)
    for _ in range(2):
        got = world.relay(2, "/x")
        assert (got.status, got.get("x-broker-failure"), got.get("retry-after")) == (503, "connection-not-ready", "1")
    world.expire(1)
    world.run(LIMITS.node_memory)
    got = world.relay(2, "/x")
    assert got.status == 404, "its lease has ended"


def test_a_request_in_flight_fails_when_its_node_dies() -> None:
    world = ClusterWorld(3)
    _, first = world.client(1, "first")
    _, second = world.client(2, "second")
    waiting = world.relay(3, "/x", "POST", body=b"once")
    assert len(second.asked) == 1
    world.lose(2)
    world.run(0.1)
    assert waiting.status == 502
    assert json.loads(waiting.body)["code"] == "NODE_LOST"
    assert first.asked == [], "it may have been done: it is not asked of another client"


def test_a_marked_request_goes_to_another_node_when_its_node_dies() -> None:
    world = ClusterWorld(3)
    _, first = world.client(1, "first")
    _, second = world.client(2, "second")
    waiting = world.relay(3, "/x", "POST", body=b"twice", headers=MARKED)
    assert len(second.asked) == 1
    world.lose(2)
    world.run(0.1)
    assert first.asked[0]["body"] == b"twice"
    world.upload(1, first.asked[0]["streamingID"], HEAD + b"body")
    assert waiting.body == b"body"


def test_an_answer_under_way_is_cut_when_its_node_dies() -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    waiting = world.relay(2, "/x")
    stream = client.asked[0]["streamingID"]
    upload = world.callers.ask(
        f"http://host:{world.nodes[0].port}/response-data/{TOKEN}/{stream}", "POST", chunked=True
    )
    world.callers.more(upload, HEAD + b"half")
    world.tell(world.caller, WAKE)
    world.run(0.1)
    assert waiting.body == b"half"
    world.lose(1)
    world.run(0.1)
    assert waiting.end == "broken"


def test_a_node_that_vanishes_without_a_reset_is_given_up_with_its_lease() -> None:
    world = ClusterWorld()
    world.client(1)
    waiting = world.relay(2, "/x")
    world.expire(1)
    for status in (None, 502):
        world.lease()
        world.run(10.0)
        assert waiting.status == status, "a directory that lost everything may have lost this for a moment only"
    assert len(world.nodes[1].machine._forwarding or ()) == 0


def test_while_the_directory_is_away_no_lease_ends() -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    waiting = world.relay(2, "/x")
    world.directory.away = True
    world.run(100.0)
    world.directory.away = False
    world.lease()
    world.upload(1, client.asked[0]["streamingID"], HEAD + b"late")
    assert waiting.body == b"late"


def test_a_client_that_left_is_looked_for_elsewhere() -> None:
    world = ClusterWorld(3)
    _, first = world.client(1, "first")
    party, _ = world.client(2, "second")
    world.relay(3, "/warm")
    world.kill(party)
    waiting = world.relay(3, "/x")
    assert len(first.asked) == 1, "the second node proved that it did nothing with the request"
    world.upload(1, first.asked[0]["streamingID"], HEAD + b"body")
    assert waiting.body == b"body"


def test_a_clients_end_fails_what_it_was_asked_and_a_marked_request_goes_on() -> None:
    world = ClusterWorld(3)
    _, first = world.client(1, "first")
    party, _ = world.client(2, "second")
    plain_one = world.relay(3, "/x")
    marked = world.relay(3, "/y", headers=MARKED)
    at_home = world.relay(2, "/z", headers=MARKED)
    world.kill(party)
    world.run(0.1)
    assert plain_one.status == 502
    assert [payload["url"] for payload in first.asked] == ["/y", "/z"]
    for payload in first.asked:
        world.upload(1, payload["streamingID"], HEAD + payload["url"].encode())
    assert (marked.body, at_home.body) == (b"/y", b"/z")


def test_a_marked_request_is_asked_of_another_client_of_the_same_node_once() -> None:
    world = ClusterWorld(1)
    one, first = world.client(1, "first")
    two, second = world.client(1, "second")
    waiting = world.relay(1, "/x", headers=MARKED)
    assert len(second.asked) == 1
    world.kill(two)
    world.run(0.1)
    assert len(first.asked) == 1
    assert first.asked[0]["streamingID"] != second.asked[0]["streamingID"]
    world.kill(one)
    world.run(0.1)
    assert waiting.status == 502


def test_a_caller_that_leaves_is_noticed_by_the_other_node() -> None:
    world = ClusterWorld()
    world.client(1)
    answer = world.relay(2, "/x")
    assert len(world.nodes[0].machine._calls) == 1
    world.callers.leave(answer)
    world.tell(world.caller, WAKE)
    world.run(0.1)
    assert len(world.nodes[0].machine._calls) == 0
    assert len(world.nodes[1].machine._forwarding or ()) == 0


# ── uploads ───────────────────────────────────────────────────────────────────
def test_an_upload_that_comes_to_another_node_finds_its_stream() -> None:
    world = ClusterWorld(3)
    _, client = world.client(1)
    waiting = world.relay(2, "/x")
    done = world.upload(3, client.asked[0]["streamingID"], HEAD + b"body" * 1000)
    assert (waiting.status, waiting.get("x-a"), waiting.body) == (200, "b", b"body" * 1000)
    assert (done.status, done.body) == (200, b"{}")
    again = world.upload(3, client.asked[0]["streamingID"], HEAD)
    assert again.status == 500, "an upload is taken once, wherever it comes"


@pytest.mark.parametrize("known", [True, False])
def test_an_upload_is_streamed_through(known: bool) -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    waiting = world.relay(1, "/x")
    if not known:
        # A node that was not there at the last renewal.
        forget_nodes(world.nodes[1].machine)
    stream = client.asked[0]["streamingID"]
    url = f"http://host:{world.nodes[1].port}/response-data/{TOKEN}/{stream}"
    upload = world.callers.ask(url, "POST", chunked=True)
    world.callers.more(upload, HEAD + b"first")
    world.tell(world.caller, WAKE)
    world.run(0.1)
    assert waiting.body == b"first"
    world.callers.more(upload, b" last", end=True)
    world.tell(world.caller, WAKE)
    world.run(0.1)
    assert (waiting.body, waiting.end) == (b"first last", "whole")
    assert upload.status == 200
    assert len(world.directory.asked) == (0 if known else 1)


def test_an_upload_that_is_complete_before_its_node_is_known() -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    waiting = world.relay(1, "/x")
    forget_nodes(world.nodes[1].machine)
    world.directory.silent = True
    done = world.upload(2, client.asked[0]["streamingID"], HEAD + b"body")
    assert (waiting.pending, done.pending) == (True, True)
    (question,) = world.directory.asked
    world.tell(world.nodes[1].party, Located(question.question, (Found(world.nodes[0].record),)))
    world.run(0.1)
    assert (waiting.body, done.status) == (b"body", 200)


def test_an_upload_whose_caller_leaves_is_cut() -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    waiting = world.relay(1, "/x")
    stream = client.asked[0]["streamingID"]
    url = f"http://host:{world.nodes[1].port}/response-data/{TOKEN}/{stream}"
    upload = world.callers.ask(url, "POST", chunked=True)
    world.callers.more(upload, HEAD + b"first")
    world.tell(world.caller, WAKE)
    world.run(0.1)
    world.callers.leave(waiting)
    world.tell(world.caller, WAKE)
    world.run(0.1)
    assert upload.end == "broken"


def test_a_client_that_breaks_its_upload_off_cuts_the_answer() -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    waiting = world.relay(1, "/x")
    stream = client.asked[0]["streamingID"]
    url = f"http://host:{world.nodes[1].port}/response-data/{TOKEN}/{stream}"
    upload = world.callers.ask(url, "POST", chunked=True)
    world.callers.more(upload, HEAD + b"first")
    world.tell(world.caller, WAKE)
    world.run(0.1)
    world.callers.leave(upload)
    world.tell(world.caller, WAKE)
    world.run(0.1)
    assert waiting.end == "broken"


def test_uploads_that_are_nobodys() -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    world.relay(1, "/x")
    stream = client.asked[0]["streamingID"]
    assert world.upload(2, stream, HEAD, token="another").status == 500
    assert world.upload(2, stream[:15] + "2bc" + stream[18:], HEAD).status == 500, "no node has this number"
    assert world.upload(2, "no-id-at-all", HEAD).status == 500
    world.lose(1)
    lost = world.upload(2, stream, HEAD)
    assert lost.status == 502
    assert world.upload(2, stream, HEAD).status == 500, "it rests"


def test_what_comes_before_the_directory_answers_is_bounded() -> None:
    world = ClusterWorld(limits=Limits(node_held=1000))
    world.directory.silent = True
    stream = stream_id("00000000-0000-4000-8000-000000000000", 9)
    assert world.upload(2, stream, b"x" * 1001, run=0.0).status == 503
    late = world.upload(2, stream, b"x" * 999, run=0.0)
    assert late.pending
    world.run(LIMITS.node_answer)
    assert late.status == 503
    assert len(world.nodes[1].machine._forwarding or ()) == 0


# ── sessions that poll ────────────────────────────────────────────────────────
def poll(world: ClusterWorld, node: int, sid: str, method: str = "GET", **more: Any) -> Answer:
    return world.ask(node, f"/primus/{TOKEN}/?EIO=4&transport=polling&b64=1&sid={sid}", method, **more)


def test_a_session_that_polls_any_node() -> None:
    world = ClusterWorld(3)
    begun = world.ask(1, f"/primus/{TOKEN}/?EIO=4&transport=polling")
    sid = json.loads(begun.body[begun.body.index(b"{") :].partition(b"\x1e")[0])["sid"]
    assert (len(sid), session_node(sid)) == (20, 1)
    metadata = {"capabilities": ["post-streams"], "version": "local", "clientId": "polls", "role": "primary"}
    said = json.dumps({"type": 0, "data": ["identify", {"token": TOKEN, "metadata": metadata}]})
    assert poll(world, 2, sid, "POST", body=b"4" + said.encode()).body == b"ok"
    assert world.nodes[0].party.of(TokenHeld), "what came to the second node is the first one's"
    waiting = poll(world, 3, sid)
    while waiting.body and b"request" not in waiting.body:
        waiting = poll(world, 3, sid)
    assert waiting.pending, "it is answered when there is something to say"
    asker = world.relay(2, "/x")
    assert b'"url":"/x"' in waiting.body
    assert asker.pending


def test_sessions_that_are_nobodys() -> None:
    world = ClusterWorld()
    for sid in (session_mark(7) + "x" * 18, session_mark(2) + "x" * 18, "x" * 20, "short"):
        got = poll(world, 1, sid)
        assert (got.status, json.loads(got.body)) == (400, {"code": 1, "message": "Session ID unknown"})
    world.lose(2)
    assert poll(world, 1, session_mark(2) + "x" * 18).status == 503


def test_a_node_that_stops_does_not_wait_for_polls() -> None:
    world = ClusterWorld()
    begun = world.ask(1, f"/primus/{TOKEN}/?EIO=4&transport=polling")
    sid = json.loads(begun.body[begun.body.index(b"{") :].partition(b"\x1e")[0])["sid"]
    waiting = poll(world, 2, sid)
    while not waiting.pending:
        waiting = poll(world, 2, sid)
    world.tell(world.nodes[1].party, Stop(30.0))
    assert world.nodes[1].party.of(Finished)


# ── the page of clients ───────────────────────────────────────────────────────
def test_the_page_of_clients_is_the_union() -> None:
    world = ClusterWorld(3)
    world.client(1, "first")
    world.client(2, "second")
    for node in (1, 2, 3):
        got = world.ask(node, f"/connection-status/{TOKEN}")
        assert (got.status, len(json.loads(got.body)["clients"])) == (200, 2)
    assert world.ask(3, f"/connection-status/{TOKEN}", "HEAD").status == 200
    assert world.ask(3, "/connection-status/nobody").status == 404
    world.lose(2)
    got = world.ask(3, f"/connection-status/{TOKEN}")
    assert (got.status, len(json.loads(got.body)["clients"])) == (200, 1), "what one node knows is told"
    world.lose(1)
    got = world.ask(3, f"/connection-status/{TOKEN}")
    assert (got.status, got.get("retry-after")) == (503, "1")


def test_a_page_of_too_much_and_an_asker_that_leaves() -> None:
    world = ClusterWorld(limits=Limits(node_page=10))
    world.client(1)
    assert world.ask(2, f"/connection-status/{TOKEN}").status == 503
    world.directory.silent = True
    world.run(LIMITS.node_memory)
    answer = world.ask(2, f"/connection-status/{TOKEN}", run=0.0)
    world.callers.leave(answer)
    world.tell(world.caller, WAKE)
    world.run(LIMITS.node_answer)
    assert len(world.nodes[1].machine._forwarding or ()) == 0


# ── clients that prove who they are ───────────────────────────────────────────
def test_a_credential_is_renewed_and_an_upload_is_judged_where_the_tunnel_is() -> None:
    shown = "Bearer e30." + base64.urlsafe_b64encode(b'{"azp":"app"}').decode().rstrip("=") + ".c2ln"
    world = ClusterWorld(authorization="gateway", gateway_url="http://gateway:9400")
    asked = Upstream(lambda head, body: (201, [("content-length", "0")], []))
    world.add("gateway", asked, 9400)
    made = HandMade(TOKEN, port=world.nodes[0].port, authorization=Secret(shown))
    world.add("client", made)
    world.run(0.1)
    waiting = world.relay(2, "/x")
    path = f"/hidden/brokers/response-data/{TOKEN}/{made.asked[0]['streamingID']}"
    assert world.ask(2, path, "POST", body=HEAD + b"body").status == 401
    done = world.ask(2, path, "POST", body=HEAD + b"body", headers=(("Authorization", shown),))
    assert (done.status, waiting.body) == (200, b"body")
    renewal = f"/hidden/brokers/connections/{TOKEN}/auth/refresh?connection_role=primary"
    who = {"data": {"type": "broker_connection", "attributes": {"broker_client_id": "hand-made"}}}
    headers = (("Authorization", shown), ("Content-Type", "application/vnd.api+json"))
    before = len(asked.requests)
    got = world.ask(2, renewal, "POST", headers=headers, body=json.dumps(who).encode())
    assert (got.status, got.body) == (201, b"OK")
    assert len(asked.requests) == before + 1
    stranger = json.dumps(who).replace("hand-made", "stranger").encode()
    got = world.ask(2, renewal, "POST", headers=headers, body=stranger)
    assert got.status == 503, "its tunnel may be about to move"
    got = world.ask(2, renewal.replace(TOKEN, "nobody"), "POST", headers=headers, body=stranger)
    assert got.status == 401


# ── what a node believes ──────────────────────────────────────────────────────
def signed(world: ClusterWorld, asked: str, **changed: str) -> str:
    """What node 1 would send node 2 with a GET of this target."""
    one, two = world.nodes
    keys = one.config.keys()
    node = keys.node_of(two.record)
    assert node is not None
    node = msgspec.structs.replace(node, incarnation=changed.get("to", node.incarnation))
    signer = NodeSigner(keys, one.config.incarnation)
    seconds = world.now + EPOCH + float(changed.get("later", 0))
    value, _ = signer.sign(node, changed.get("method", "GET"), changed.get("target", asked), digest_of(b""), seconds)
    return value


def test_a_signed_request_is_answered_from_the_nodes_own_tunnels() -> None:
    world = ClusterWorld()
    world.client(1)
    target = f"/broker/{TOKEN}/x"
    got = world.ask(2, target, headers=((NODE_HEADER, signed(world, target)),))
    assert got.status == 421, "it is not handed on a second time"
    assert got.get(NODE_HEADER) is not None
    assert world.directory.asked == []
    again = world.ask(2, target, headers=((NODE_HEADER, signed(world, target)),))
    assert again.status == 401, "the count was taken"


@pytest.mark.parametrize("changed", [{"to": "f" * 32}, {"later": "31"}, {"later": "-32"}])
def test_what_a_node_means_for_another_is_turned_away_with_proof(changed: dict[str, str]) -> None:
    """The one that ran at this address before, for one: the node that asks goes on looking."""
    world = ClusterWorld()
    world.client(2)
    target = f"/broker/{TOKEN}/x"
    value = signed(world, target, **changed)
    got = world.ask(2, target, headers=((NODE_HEADER, value),))
    assert (got.status, got.get(NODE_HEADER)) == (421, world.nodes[0].config.keys().proof(value.rpartition(".")[2]))
    (note,) = world.nodes[1].party.notes("node.refused")
    assert note.level == "warning"


@pytest.mark.parametrize("changed", [{"method": "POST"}, {"target": "/broker/other/x"}])
def test_a_signature_for_another_request_is_refused(changed: dict[str, str]) -> None:
    world = ClusterWorld()
    world.client(2)
    target = f"/broker/{TOKEN}/x"
    got = world.ask(2, target, headers=((NODE_HEADER, signed(world, target, **changed)),))
    assert got.status == 401
    assert json.loads(got.body)["code"] == "NODE_REFUSED"
    assert got.get(NODE_HEADER) is None


def test_a_node_that_started_anew_is_passed_over_until_its_old_lease_ends() -> None:
    world = ClusterWorld(3)
    _, first = world.client(1, "first")
    world.client(2, "second")
    old = world.nodes[1]
    world.lose(2)
    again = msgspec.structs.replace(old.config, incarnation="e" * 32)
    machine = BrokerServer(
        BrokerServerConfig(rules=SERVER_RULES, cluster=again), entropy=Entropy(b"again" * 4), limits=LIMITS
    )
    world.add("node-2 again", machine, old.port)
    waiting = world.relay(3, "/x")
    world.upload(1, first.asked[0]["streamingID"], HEAD + b"body")
    assert waiting.body == b"body"


@pytest.mark.parametrize("value", ["", "1", "1.2.3", "x" * 200, f"1.{'0' * 32}.{'0' * 32}.1.1.{'0' * 64}"])
def test_what_is_no_signature_is_refused(value: str) -> None:
    world = ClusterWorld()
    assert world.ask(2, f"/broker/{TOKEN}/x", headers=((NODE_HEADER, value),)).status == 401
    assert world.ask(2, f"/response-data/{TOKEN}/x", "POST", body=b"x", headers=((NODE_HEADER, value),)).status == 401


def test_a_node_without_a_lease_takes_nothing_from_others() -> None:
    world = ClusterWorld()
    world.client(2)
    machine = world.nodes[1].machine
    assert machine._forwarding is not None
    machine._forwarding.nodes.epoch = None
    target = f"/broker/{TOKEN}/x"
    assert world.ask(2, target, headers=((NODE_HEADER, signed(world, target)),)).status == 421


def test_a_node_of_another_secret_is_none_of_ours() -> None:
    world = ClusterWorld()
    world.client(1)
    foreign = ClusterConfig(Secret("another secret"), world.nodes[0].config.url, "foreign", "f" * 32)
    world.directory.records = {1: foreign.record(1)}
    world.lease()
    got = world.relay(2, "/x")
    assert got.status == 404
    assert len(world.nodes[1].party.notes("node.record")) == 1


def test_a_client_cannot_say_that_it_is_not_there() -> None:
    """Only the node can prove that it did nothing: an upstream's own 421 is an answer like any other."""
    world = ClusterWorld()
    _, client = world.client(1)
    waiting = world.relay(2, "/x")
    head = encode_upload_head(421, {NODE_HEADER: "0" * 32})
    world.upload(1, client.asked[0]["streamingID"], head + b"mine")
    assert (waiting.status, waiting.body) == (421, b"mine")


def test_one_node_alone_knows_no_header() -> None:
    """A server without a cluster passes the header on as any other."""
    serving = Serving()
    _, client = serving.client()
    serving.relay("/x", headers=((NODE_HEADER, "1"),))
    assert client.asked[0]["headers"][NODE_HEADER] == "1"


# ── a node that is not as it should be ────────────────────────────────────────
def strange(answer: Any, peer: Any = None) -> ClusterWorld:
    """Two nodes of which the second is whatever answers so; it says that it holds the token."""
    world = ClusterWorld()
    world.lose(2)
    world.add("strange", peer or Upstream(lambda head, body: answer), world.nodes[1].port)
    name = world.nodes[0].config.keys().name_of(TOKEN)
    world.directory.held[name] = {2: 1}
    return world


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ((421, [], [b"no proof"]), 421),
        ((421, [(NODE_HEADER, "0" * 32)], [b"another's"]), 421),
        ((304, [("content-length", "5")], []), 304),
        ((204, [], []), 204),
        ((200, [], [b"he", "cut"]), 502),
        ((999, [], []), 502),
    ],
)
def test_answers_of_a_strange_node(answer: Any, status: int) -> None:
    world = strange(answer)
    got = world.relay(1, "/x")
    assert got.status == status
    assert len(world.nodes[0].machine._forwarding or ()) == 0
    assert got.end == "whole"


class Says:
    """A peer that says the same bytes to everything."""

    def __init__(self, said: bytes) -> None:
        self._said = said
        self._wishes: list[Any] = []

    def handle(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self._wishes.append(Transmit(fact.link, self._said))

    def poll(self) -> Any:
        return self._wishes.pop(0) if self._wishes else None

    def deadline(self) -> None:
        return None


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: many\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    ],
)
def test_a_node_that_speaks_something_else(said: bytes) -> None:
    world = strange(plain(), peer=Says(said))
    got = world.relay(1, "/x")
    assert got.status == 502
    assert len(world.nodes[0].machine._forwarding or ()) == 0


@pytest.mark.parametrize(
    "answer", [plain(200, b"no json"), plain(200, b'{"clients":7}'), plain(500), (200, [], [b"{", "cut"])]
)
def test_a_page_of_a_strange_node_is_no_page(answer: Any) -> None:
    assert strange(answer).ask(1, f"/connection-status/{TOKEN}").status == 503


@pytest.mark.parametrize("status", [404, 421])
def test_a_node_that_has_no_client_has_no_page(status: int) -> None:
    assert strange(plain(status)).ask(1, f"/connection-status/{TOKEN}").status == 404


def test_an_asker_of_a_page_leaves_while_a_node_is_silent() -> None:
    world = strange((200, [], ["hang"]))
    answer = world.ask(1, f"/connection-status/{TOKEN}")
    world.callers.leave(answer)
    world.tell(world.caller, WAKE)
    world.run(0.1)
    assert len(world.nodes[0].machine._forwarding or ()) == 0


def test_a_node_that_says_nothing_for_a_page_is_left_out() -> None:
    world = strange((200, [], ["hang"]))
    world.client(1)
    got = world.ask(1, f"/connection-status/{TOKEN}", run=LIMITS.node_page_time + 0.1)
    assert len(json.loads(got.body)["clients"]) == 1


def test_what_is_remembered_is_bounded() -> None:
    world = ClusterWorld(limits=Limits(node_memories=1))
    for token in ("one", "two", "one"):
        world.client(1, token, token=token)
        world.ask(2, f"/broker/{token}/x")
    assert len(world.directory.asked) == 3


def test_a_marked_request_without_another_client() -> None:
    serving = Serving()
    party, _ = serving.client()
    waiting = serving.relay("/x", headers=MARKED)
    serving.world.kill(party)
    serving.world.run(0.1)
    assert waiting.status == 502


def test_what_is_read_here_can_be_written_to_a_node() -> None:
    """Headers that a link lets in go through the next one as they came."""
    world = ClusterWorld()
    _, client = world.client(1)
    asked = (
        b"PUT /broker/%s/x?y=%%C3%%A9 HTTP/1.1\r\nHost: a\r\nX-A: caf\xe9\r\nX-B:\r\nX-C:\ta\tb\r\n\r\n"
        % TOKEN.encode()
    )
    for node in (1, 2):
        party = world.nodes[node - 1].party
        world.tell(party, Accepted(1000, "http", "raw"))
        world.tell(party, Received(1000, asked))
        world.run(0.1)
    here, there = client.asked
    assert {name: here["headers"][name] for name in ("x-a", "x-b", "x-c")} == {
        "x-a": "caf\xe9",
        "x-b": "",
        "x-c": "a\tb",
    }
    assert {**here["headers"], "snyk-request-id": 0} == {**there["headers"], "snyk-request-id": 0}


# ── figures ───────────────────────────────────────────────────────────────────
def test_what_became_of_requests_at_other_nodes_is_counted() -> None:
    world = ClusterWorld()
    _, client = world.client(1)
    world.relay(2, "/x")
    assert world.nodes[1].machine.figures().in_flight == 1
    world.upload(1, client.asked[0]["streamingID"], HEAD + b"body")
    world.ask(2, "/broker/nobody/x")
    world.callers.leave(world.relay(2, "/left"))
    world.tell(world.caller, WAKE)
    world.run(0.1)
    world.relay(2, "/lost")
    world.lose(1)
    world.run(1.0)
    world.relay(2, "/unreachable")
    world.directory.away = True
    world.ask(2, "/broker/other/x")
    figures = world.nodes[1].machine.figures()
    assert figures.in_flight == 0
    assert figures.forwarded == {
        "answered": 1, "gone": 1, "lost": 1, "unreachable": 1, "no-client": 2, "directory-away": 1,
    }  # fmt: skip


# ── names, records, counts ────────────────────────────────────────────────────
def test_no_token_and_no_secret_is_in_what_the_directory_gets() -> None:
    world = ClusterWorld()
    world.client(1)
    (held,) = world.nodes[0].party.of(TokenHeld)
    assert held.name == ClusterKeys(world.nodes[0].config.secret).name_of(TOKEN.lower())
    assert held.name != ClusterKeys(Secret("another")).name_of(TOKEN)
    said = repr(world.nodes[0].party.events) + world.nodes[0].record + repr(world.nodes[0].config)
    assert TOKEN not in said
    assert TOKEN.lower() not in said
    assert world.nodes[0].config.secret.reveal() not in said


def test_records_are_read_back_and_only_ours() -> None:
    config = ClusterConfig(Secret("s"), Url.parse("https://node:8443"), "a name\nof two lines", "a" * 32)
    keys = config.keys()
    record = config.record(4095)
    node = keys.node_of(record)
    assert node is not None
    assert (node.number, node.incarnation, str(node.url.origin)) == (4095, "a" * 32, "https://node:8443")
    assert node.name == "a-name-of-two-lines"
    for at in range(len(record)):
        assert keys.node_of(record[:at] + ("x" if record[at] != "x" else "y") + record[at + 1 :]) is None
    sealed = f"1 5 {'a' * 32} not-a-url name"
    assert keys.node_of(f"{sealed} {keys.seal(sealed)}") is None


def test_a_streams_id_tells_its_node_and_stays_a_uuid() -> None:
    drawn = "01234567-89ab-4cde-8f01-23456789abcd"
    assert stream_id(drawn, 0xABC) == "01234567-89ab-4abc-8f01-23456789abcd"
    assert node_number(stream_id(drawn, 0xABC)) == 0xABC
    for text in ("", "x" * 36, "01234567-89ab-5abc-8f01-23456789abcd", "01234567-89ab-4xyz-8f01-23456789abcd"):
        assert node_number(text) == 0


def test_counts_are_taken_once_and_in_any_order_within_the_window() -> None:
    keys = ClusterKeys(Secret("s"))
    node = keys.node_of(ClusterConfig(Secret("s"), Url.parse("http://b"), "b", "b" * 32).record(2))
    assert node is not None
    signer, guard = NodeSigner(keys, "a" * 32), NodeGuard(keys, "b" * 32)
    values = [signer.sign(node, "GET", "/", "-", 1000.0)[0] for _ in range(6000)]
    for index in (0, 5, 3, 1, 4, 2, 5999, 2000):
        assert guard.check(values[index], "GET", "/", "-", 1000.0)[1] == "", index
        assert guard.check(values[index], "GET", "/", "-", 1000.0)[0] is None, index
    assert guard.check(values[1000], "GET", "/", "-", 1000.0)[0] is None, "older than the window"


def test_nodes_that_are_remembered_are_bounded_and_forgotten_when_silent() -> None:
    keys = ClusterKeys(Secret("s"))
    node = keys.node_of(ClusterConfig(Secret("s"), Url.parse("http://b"), "b", "b" * 32).record(2))
    assert node is not None
    guard = NodeGuard(keys, "b" * 32, Limits(nodes=2))

    def comes(sender: str, seconds: float) -> bool:
        value, proof = NodeSigner(keys, sender * 32).sign(node, "GET", "/", "-", seconds)
        told, problem = guard.check(value, "GET", "/", "-", seconds)
        assert told == proof
        return not problem

    assert comes("1", 1000.0)
    assert comes("2", 1000.0)
    assert not comes("3", 1000.0)
    assert comes("3", 1061.0)


# ── the end ───────────────────────────────────────────────────────────────────
def test_a_node_that_stops_sends_others_on_and_finishes_what_it_began() -> None:
    world = ClusterWorld(3)
    _, first = world.client(1, "first")
    _, second = world.client(2, "second")
    begun = world.relay(3, "/begun")
    world.tell(world.nodes[1].party, Stop(30.0))
    after = world.relay(3, "/after")
    assert [payload["url"] for payload in second.asked] == ["/begun"]
    assert [payload["url"] for payload in first.asked] == ["/after"]
    world.upload(3, second.asked[0]["streamingID"], HEAD + b"begun")
    world.upload(3, first.asked[0]["streamingID"], HEAD + b"after")
    assert (begun.body, after.body) == (b"begun", b"after")
