"""What a server counts, for whoever asks."""

from __future__ import annotations

from collections import Counter

import pytest
from worlds.brokers import TOKEN, Brokers, Serving, plain

from towline.core.broker import AcceptRules, Distribution, encode_upload_head
from towline.core.broker._ends import ended
from towline.core.broker._tally import NO_RULE, SECONDS, Buckets, Tally

HEAD = encode_upload_head(200, {"content-type": "text/plain"})


def counted(serving: Serving) -> Counter[tuple[str, int, str, int]]:
    figures = serving.machine.figures()
    return Counter({(row.direction, row.rule, row.method, row.status): row.seconds.count for row in figures.requests})


def test_a_request_is_counted_once_with_its_rule_and_its_time() -> None:
    rules = AcceptRules.load({"public": [{"method": "POST", "path": "/a"}, {"method": "any", "path": "/*"}]})
    serving = Serving(rules=rules)
    _, client = serving.client()
    serving.relay("/x", run=2.0)
    assert serving.machine.figures().in_flight == 1
    serving.upload(client.asked[0]["streamingID"], HEAD + b"0123456789")
    assert counted(serving) == {("inbound", 1, "GET", 200): 1}
    figures = serving.machine.figures()
    assert (figures.tunnels, figures.in_flight, figures.uploads) == (1, 0, 1)
    assert figures.requests[0].seconds.total == pytest.approx(2.0, abs=0.2)
    assert figures.answers[True].total == 10.0
    assert figures.answers[True].count == 1
    serving.relay("/x", "BREW")
    serving.relay("/x", "STEEP")
    serving.upload(client.asked[1]["streamingID"], HEAD)
    serving.upload(client.asked[2]["streamingID"], HEAD)
    assert counted(serving)["inbound", 1, "other", 200] == 2


def test_refusals_are_counted_by_reason() -> None:
    serving = Serving(rules=AcceptRules.load({"public": [{"method": "GET", "path": "/x"}]}))
    serving.ask("/broker/nobody/x")
    party, client = serving.client()
    serving.relay("/denied")
    serving.relay("/x", "GET", body=b"not gzip", headers=(("content-encoding", "gzip"),))
    serving.relay("/x", "GET", body=b"x", headers=(("content-encoding", "br"),))
    serving.relay("/x")
    serving.upload(client.asked[0]["streamingID"], b"\4\0\0\0oops")
    serving.relay("/x")
    serving.world.kill(party)
    serving.relay("/x")
    assert serving.machine.figures().refused == {
        "no-connection": 1,
        "denied": 1,
        "bad-request": 1,
        "unsupported-media-type": 1,
        "tunnel-protocol": 1,
        "tunnel-lost": 1,
        "connection-not-ready": 1,
    }
    assert counted(serving) == {
        ("inbound", NO_RULE, "GET", 404): 1,
        ("inbound", NO_RULE, "GET", 401): 1,
        ("inbound", NO_RULE, "GET", 400): 1,
        ("inbound", NO_RULE, "GET", 415): 1,
        ("inbound", 0, "GET", 502): 2,
        ("inbound", NO_RULE, "GET", 503): 1,
    }
    assert serving.machine.figures().closed == {"lost": 1}


def test_who_leaves_is_counted_without_a_status_and_a_cut_as_one() -> None:
    serving = Serving()
    party, client = serving.client()
    waiting = serving.relay("/x")
    serving.callers.leave(waiting)
    serving.ask("/healthcheck")
    assert counted(serving) == {("inbound", 0, "GET", 0): 1}
    serving.relay("/x")
    client.emit("chunk", client.asked[1]["streamingID"], "", False, {"status": 200, "headers": {}})
    client.emit("chunk", client.asked[1]["streamingID"], "abc", False)
    serving.say(party)
    serving.world.kill(party)
    assert serving.machine.figures().refused == {"cut": 1}
    assert serving.machine.figures().answers[True].total == 3


def test_callbacks_count_as_outbound() -> None:
    brokers = Brokers(lambda head, body: plain())
    brokers.ask("/api/v2/import/done", "POST", port=8000, body=b"{}")
    brokers.relay("/bytes")
    rows = {(row.direction, row.status): row.seconds.count for row in brokers.server_machine.figures().requests}
    assert rows == {("outbound", 200): 1, ("inbound", 200): 1}
    assert brokers.server_machine.figures().tunnels == 2


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (0.005, 0), (0.0051, 1), (300.0, 13), (301.0, 14)])
def test_a_value_falls_into_the_first_bucket_that_holds_it(value: float, bucket: int) -> None:
    buckets = Buckets(SECONDS)
    buckets.add(value)
    read = buckets.read()
    assert read == Distribution(SECONDS, tuple(int(at == bucket) for at in range(15)), value)
    assert read.count == 1


def test_methods_from_outside_make_no_more_than_one_counter() -> None:
    tally = Tally()
    for number in range(1000):
        tally.request("inbound", 0, f"M{number}", 200, 0.0)
    (row,) = tally.read(tunnels=0, in_flight=0).requests
    assert (row.method, row.seconds.count) == ("other", 1000)


def test_the_token_of_a_refused_caller_is_no_label() -> None:
    serving = Serving()
    for number in range(50):
        serving.ask(f"/broker/token-{number}/x")
    assert TOKEN not in repr(serving.machine.figures())
    assert len(serving.machine.figures().requests) == 1


# ── the client's ──────────────────────────────────────────────────────────────
def test_a_client_counts_what_it_asks_and_what_it_refuses() -> None:
    brokers = Brokers(lambda head, body: plain(200, b"x" * 40_000) if head.target == "/long" else plain())
    brokers.relay("/x")
    brokers.relay("/long")
    brokers.relay("/x", headers=(("x-broker-ws-response", "1"),))
    brokers.ask("/api/v2/import/done", "POST", port=8000, body=b"{}")
    brokers.ask("/nowhere", "POST", port=8000, body=b"{}")
    figures = brokers.client_machine.figures()
    rows = {(row.direction, row.rule, row.method, row.status): row.seconds.count for row in figures.requests}
    assert rows == {
        ("inbound", 0, "GET", 200): 3,
        ("outbound", 0, "POST", 200): 1,
        ("outbound", NO_RULE, "POST", 401): 1,
    }
    assert figures.refused == {"denied": 1}
    assert (figures.tunnels, figures.in_flight, figures.closed) == (2, 0, {})
    assert figures.answers[True].total == 40_000
    assert figures.answers[False].count == 2


def test_a_client_counts_failures_cuts_and_cancels() -> None:
    brokers = Brokers(lambda head, body: (200, [], ["hang"]))
    waiting = brokers.relay("/hang")
    assert brokers.client_machine.figures().in_flight == 1
    brokers.callers.leave(waiting)
    brokers.ask("/healthcheck")
    brokers.upstream.answer = lambda head, body: (200, [("content-length", "100000")], [b"x" * 30_000, "hang"])
    brokers.relay("/cut")
    brokers.world.kill(brokers.upstream_party)
    brokers.relay("/away", run=5.0)
    brokers.world.kill(brokers.server)
    brokers.world.run(0.1)
    brokers.ask("/api/v2/import/done", "POST", port=8000, body=b"{}", run=10.0)
    figures = brokers.client_machine.figures()
    assert figures.refused == {"cut": 1, "downstream-unreachable": 1, "connection-not-ready": 1}
    rows = {(row.direction, row.status): row.seconds.count for row in figures.requests}
    assert rows == {("inbound", 200): 1, ("inbound", 0): 1, ("inbound", 502): 1, ("outbound", 503): 1}
    assert figures.tunnels == 0
    assert figures.closed["lost"] == 2
    assert figures.closed["unreachable"] > 2


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("no pong in time", "heartbeat"),
        ("no connection: connection refused", "unreachable"),
        ("expected 101 to the upgrade, got 502", "refused"),
        ("no connection: refused; gave up after 30 attempts", "unreachable"),
        ("the client broke the websocket protocol: text that is not UTF-8", "protocol"),
        ("Connection reset by peer", "lost"),
    ],
)
def test_the_end_of_a_tunnel_has_one_word(reason: str, word: str) -> None:
    assert ended(reason) == word
