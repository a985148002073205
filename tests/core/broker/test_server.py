"""The broker server before clients made by hand: what it believes of an answer, and how each way of answering ends."""

from __future__ import annotations

import json
from typing import Any

import pytest
from worlds.brokers import TOKEN, HandMade, Serving
from worlds.world import Answer, Party

from towline.core import Accepted, Finished, Limits, Received, Secret
from towline.core.broker import AcceptRules, Reload, Stop, encode_upload_head

HEAD = encode_upload_head(200, {"content-type": "text/plain", "x-a": "b"})


def asked(**more: Any) -> tuple[Serving, Party, HandMade, Answer, str]:
    """Return a server with a client that was asked /x, the caller's answer to come, and the stream's id."""
    serving = Serving(**more)
    party, client = serving.client()
    waiting = serving.relay("/x")
    return serving, party, client, waiting, client.asked[0]["streamingID"]


# ── what is sent down ─────────────────────────────────────────────────────────
def test_the_request_as_a_client_gets_it() -> None:
    serving = Serving()
    _, client = serving.client()
    headers = (
        ("X-A", "1"),
        ("x-a", "2"),
        ("Cookie", "c=1"),
        ("cookie", "d=2"),
        ("Connection", "x-hop"),
        ("x-hop", "1"),
        ("x-request-id", "11111111-1111-4111-8111-111111111111"),
        ("x-forwarded-for", "1.2.3.4"),
    )
    got = serving.relay("/a/ctx/my-context/b?q=1&connection_role=primary&r=%20", "POST", headers=headers, body=b"")
    (payload,) = client.asked
    assert payload["url"] == "/a/b?q=1&r=%20"
    assert payload["method"] == "POST"
    assert payload["body"] == b""
    assert payload["requestId"] == "11111111-1111-4111-8111-111111111111"
    assert payload["headers"] == {
        "x-a": "1, 2",
        "cookie": "c=1; d=2",
        "x-request-id": "11111111-1111-4111-8111-111111111111",
        "x-snyk-broker-context-id": "my-context",
        "snyk-request-id": "11111111-1111-4111-8111-111111111111",
    }
    assert len(payload["streamingID"]) == 36
    assert got.pending
    assert serving.relay("/no-body").pending
    assert "body" not in client.asked[1]


@pytest.mark.parametrize(
    ("metadata", "status"),
    [
        ({"version": "local"}, 400),
        ({"capabilities": []}, 400),
        ({"version": "local", "capabilities": []}, None),
        ({"version": "local", "capabilities": ["unknown"]}, None),
        ({"version": "5.22.14", "capabilities": ["post-streams"]}, None),
    ],
)
def test_capabilities_steer_the_way_of_the_answer(metadata: dict[str, Any], status: int | None) -> None:
    serving = Serving()
    party, client = serving.client(metadata=metadata)
    got = serving.relay("/x")
    assert got.status == status
    if status is not None:
        assert got.get("x-broker-failure") == "bad-request"
        return
    (arrived,) = (said for said in client.arrived if said.name == "request")
    if "post-streams" in metadata["capabilities"]:
        assert arrived.ack_id is None
        return
    assert (arrived.ack_id is not None, arrived.args[0]["streamingID"]) == (True, "")
    client.acknowledge(arrived.ack_id or 0, {"status": 201, "body": {"a": 1}, "headers": {"x-b": "c"}})
    serving.say(party)
    assert (got.status, got.body, got.get("x-b")) == (201, b'{"a":1}', "c")
    assert got.get("content-type") == "application/json; charset=utf-8"


def test_the_newest_client_is_asked_and_the_next_takes_over() -> None:
    serving = Serving()
    _, first = serving.client()
    party, second = serving.client()
    serving.relay("/x")
    assert (len(first.asked), len(second.asked)) == (0, 1)
    serving.world.kill(party)
    serving.relay("/x")
    assert len(first.asked) == 1


# ── uploads ───────────────────────────────────────────────────────────────────
def test_an_upload_is_the_answer_once() -> None:
    serving, _, _, waiting, stream = asked()
    done = serving.upload(stream, HEAD + b"body", query="?connection_role=primary")
    assert (waiting.status, waiting.body, waiting.get("x-a"), waiting.end) == (200, b"body", "b", "whole")
    assert waiting.get("content-type") == "text/plain"  # as it came, no charset added
    assert (done.status, done.body) == (200, b"{}")
    again = serving.upload(stream, HEAD + b"other")
    assert (again.status, json.loads(again.body)["message"]) == (500, "Unable to find request matching streaming id.")


@pytest.mark.parametrize(
    ("token", "query", "prefix"),
    [
        ("99999999-0000-4000-8000-000000000009", "", ""),
        (TOKEN, "?connection_role=secondary", ""),
        (TOKEN, "", "not-"),
        ("", "", ""),
    ],
)
def test_an_upload_under_another_name_is_refused(token: str, query: str, prefix: str) -> None:
    serving, _, _, waiting, stream = asked()
    assert serving.upload(prefix + stream, HEAD + b"POISON", token=token, query=query).status == 500
    assert waiting.pending
    assert serving.upload(stream, HEAD + b"good").status == 200
    assert waiting.body == b"good"


@pytest.mark.parametrize(
    "upload",
    [b"", b"\x01", b"\xff\xff\xff\xff{}", b"\x40\0\0\0{}", b"\x02\0\0\0{}", b"\x05\0\0\0nope!", b"\x04\0\0\0null"],
)
def test_a_malformed_upload_gives_the_caller_502(upload: bytes) -> None:
    serving, _, _, waiting, stream = asked()
    done = serving.upload(stream, upload)
    assert (waiting.status, json.loads(waiting.body)["code"]) == (502, "TUNNEL_PROTOCOL")
    assert done.status == 400


def test_headers_of_one_hop_do_not_reach_the_caller() -> None:
    serving, _, _, waiting, stream = asked()
    hop = {"connection": "x-hop", "x-hop": "1", "keep-alive": "5", "transfer-encoding": "chunked", "x-end": "2"}
    serving.upload(stream, encode_upload_head(200, hop) + b"body")
    assert (waiting.body, waiting.get("x-end")) == (b"body", "2")
    assert [name for name, _ in waiting.headers if name in ("x-hop", "keep-alive", "connection")] == []


@pytest.mark.parametrize("length", ["3", "5"])
def test_a_body_of_another_length_than_announced_is_cut(length: str) -> None:
    serving, _, _, waiting, stream = asked()
    serving.upload(stream, encode_upload_head(200, {"content-length": length}) + b"body")
    assert waiting.end == "broken"


def test_an_upload_that_breaks_off() -> None:
    for begun in (False, True):
        serving, _, _, waiting, stream = asked()
        upload = serving.ask(f"/response-data/{TOKEN}/{stream}", "POST", chunked=True)
        if begun:
            serving.callers.more(upload, HEAD + b"half")
            serving.say(serving.caller)
        serving.callers.leave(upload)
        serving.say(serving.caller)
        if begun:
            assert (waiting.status, waiting.body, waiting.end) == (200, b"half", "broken")
        else:
            assert (waiting.status, waiting.end) == (502, "whole")


@pytest.mark.parametrize("quietly", [False, True], ids=["reset", "closed"])
def test_a_caller_that_leaves_cuts_the_upload(quietly: bool) -> None:
    serving, _, _, waiting, stream = asked()
    upload = serving.ask(f"/response-data/{TOKEN}/{stream}", "POST", chunked=True)
    serving.callers.more(upload, HEAD + b"half")
    serving.callers.leave(waiting, quietly=quietly)
    serving.say(serving.caller)
    assert upload.end == "broken"
    assert serving.upload(stream, HEAD).status == 500


# ── answers by event ──────────────────────────────────────────────────────────
def test_a_legacy_stream() -> None:
    serving, party, client, waiting, stream = asked()
    client.emit("chunk", stream, "", False, {"status": 202, "headers": {"x-a": "b"}})
    client.emit("chunk", stream, b"\x00bytes", False)
    serving.say(party)
    assert (waiting.status, waiting.body, waiting.end) == (202, b"\x00bytes", None)
    client.emit("chunk", stream, "text \u00e9", True)
    serving.say(party)
    assert (waiting.body, waiting.end) == (b"\x00bytestext \xc3\xa9", "whole")
    client.emit("chunk", stream, "late", False)
    client.emit("chunk", "unknown", "x", True)
    client.emit("chunk")
    client.emit("chunk", stream, {"a": 1}, 7)
    serving.say(party)
    assert serving.relay("/x").pending


def test_another_client_cannot_answer() -> None:
    serving, party, client, waiting, stream = asked()
    other_party, other = serving.client("99999999-0000-4000-8000-000000000009")
    other.emit("chunk", stream, "POISON", True, {"status": 200, "headers": {}})
    serving.say(other_party)
    assert waiting.pending
    client.emit("chunk", stream, "good", True, {"status": 200, "headers": {"content-length": "999"}})
    serving.say(party)
    assert (waiting.status, waiting.body, waiting.end) == (200, b"good", "whole")


@pytest.mark.parametrize(
    "args",
    [
        ("no head", True),
        ("", False, {"status": 99, "headers": {}}),
        ("", False, {"headers": {}}),
        ("", True, {"status": 200, "headers": {"a": "b\r\nc: d"}}),
    ],
)
def test_a_stream_without_a_good_head(args: tuple[Any, ...]) -> None:
    serving, party, client, waiting, stream = asked()
    client.emit("chunk", stream, *args)
    serving.say(party)
    assert waiting.status in (None, 502)
    serving.world.kill(party)
    serving.world.run(0.1)
    assert waiting.status == 502


def test_a_slow_caller_of_a_legacy_stream_is_let_go_and_the_tunnel_goes_on() -> None:
    serving, party, client, waiting, stream = asked(limits=Limits(stream_buffer=10_000))
    (end,) = (end for end in serving.caller.ends.values() if end.number == waiting.link)
    client.emit("chunk", stream, "", False, {"status": 200, "headers": {}})
    for _ in range(20):  # a fast reader takes more than the limit
        client.emit("chunk", stream, b"x" * 5_000, False)
        serving.say(party)
    assert len(waiting.body) == 100_000
    end.held = True
    for _ in range(3):
        client.emit("chunk", stream, b"x" * 5_000, False)
        serving.say(party)
    assert end.waiting < 20_000
    client.emit("chunk", stream, b"x" * 5_000, False)
    serving.say(party)
    end.held = False
    serving.world.run(0.1)
    assert waiting.end == "broken"
    assert serving.relay("/x").pending
    assert len(client.asked) == 2


def test_a_legacy_stream_whose_tunnel_is_lost_is_cut() -> None:
    serving, party, client, waiting, stream = asked()
    client.emit("chunk", stream, "half", False, {"status": 200, "headers": {}})
    serving.say(party)
    serving.world.kill(party)
    serving.world.run(0.1)
    assert (waiting.status, waiting.body, waiting.end) == (200, b"half", "broken")


# ── the rest ──────────────────────────────────────────────────────────────────
def test_an_ack_that_cannot_be_read() -> None:
    serving = Serving()
    party, client = serving.client(metadata={"version": "local", "capabilities": []})
    for answer in (None, 7, {"status": "x"}, {"status": 200, "headers": {"a": "\r\n"}}):
        waiting = serving.relay("/x")
        client.acknowledge(client.arrived[-1].ack_id or 0, answer)
        serving.say(party)
        assert (waiting.status, waiting.end) == (502, "whole")


def test_callbacks_from_clients_that_say_anything() -> None:
    serving = Serving()
    party, client = serving.client()
    for request in (None, 7, {}, {"url": 7, "method": "GET"}, {"url": "/api/x", "method": "POST", "body": {"a": 1}}):
        client.emit("request", request, ack=True)
    client.emit("request", {"url": "/api/x", "method": "POST"})  # nobody waits for an answer
    client.emit("terminate")
    client.emit("nonsense", 1)
    serving.say(party)
    assert [said.args[0]["status"] for said in client.acked] == [400] * 5
    client.emit("request", {"url": "/other/%2e%2e/x", "method": "POST", "streamingID": "x"}, ack=True)
    serving.say(party)
    assert (client.acked[-1].args[0]["status"], client.acked[-1].args[0]["errorType"]) == (401, "FILTER_BLOCKED")


def test_an_old_client_has_no_service_channel() -> None:
    serving = Serving()
    serving.client(metadata={"version": "4.190.0", "capabilities": ["post-streams"]})
    assert serving.ask(f"/service/{TOKEN}/filters/reload").status == 501


def test_rules_are_taken_anew() -> None:
    serving = Serving()
    serving.client()
    rules = AcceptRules.load({"public": [{"path": "/only"}], "private": []})
    serving.world.tell(serving.server, Reload(rules))
    assert serving.relay("/x").status == 401
    assert serving.relay("/only").pending


def test_tokens_that_are_listed() -> None:
    serving = Serving(tokens=(Secret(TOKEN),))
    _, listed = serving.client(TOKEN.lower())
    _, unlisted = serving.client("99999999-0000-4000-8000-000000000009")
    assert listed.tunnel.state == "open"
    assert unlisted.closed


def test_requests_behind_one_another_on_one_link() -> None:
    serving = Serving()
    party, client = serving.client(metadata={"version": "local", "capabilities": []})
    waiting = serving.relay("/one")
    end = next(end for end in serving.caller.ends.values() if end.number == waiting.link).other
    assert end is not None
    end.inbox.append(b"GET /broker/%s/two HTTP/1.1\r\nHost: a\r\n\r\n" % TOKEN.encode())
    serving.world.run(0.1)
    assert [payload["url"] for payload in client.asked] == ["/one"]
    client.acknowledge(client.arrived[-1].ack_id or 0, {"status": 200, "body": "1", "headers": {}})
    serving.say(party)
    assert [payload["url"] for payload in client.asked] == ["/one", "/two"]


def test_no_secret_is_printed() -> None:
    serving, _, client, _, stream = asked()
    said = repr(serving.server.events) + repr(serving.machine) + repr(serving.machine._calls)
    assert TOKEN.lower() not in said.lower()
    assert stream not in said
    assert client.tunnel.state == "open"


def test_a_client_that_stops_is_asked_no_more_and_answers_what_it_was() -> None:
    serving = Serving()
    other_party, other = serving.client()
    party, client = serving.client()
    waiting = serving.relay("/x")
    client.emit("terminate", {"signal": "SIGTERM"})
    serving.say(party)
    serving.relay("/y")
    assert (len(client.asked), len(other.asked)) == (1, 1)
    other.emit("terminate", {"signal": "SIGTERM"})
    serving.say(other_party)
    late = serving.relay("/z")
    assert (late.status, late.get("x-broker-failure"), late.get("retry-after")) == (503, "connection-not-ready", "1")
    serving.upload(client.asked[0]["streamingID"], HEAD + b"body")
    assert (waiting.status, waiting.body) == (200, b"body")
    serving.client()
    assert serving.relay("/z").pending


def test_a_server_that_stops_takes_answers_on_links_that_stood() -> None:
    """What was asked before is finished, though its answer comes on a link that was idle."""
    serving = Serving()
    _, client = serving.client()
    serving.world.tell(serving.server, Accepted(1000, "http", "raw"))

    def upload(number: int) -> None:
        target = f"/response-data/{TOKEN}/{client.asked[number]['streamingID']}"
        body = HEAD + b"answer"
        head = f"POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        serving.world.tell(serving.server, Received(1000, head.encode() + body))
        serving.world.run(0.1)

    first = serving.relay("/first")
    upload(0)
    second = serving.relay("/second")
    serving.world.tell(serving.server, Stop(25.0))
    serving.world.run(0.1)
    upload(1)
    assert [first.body, second.body] == [b"answer", b"answer"]
    assert serving.server.of(Finished)
