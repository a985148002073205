"""The end of a server: what began is finished, what comes is turned away, and tunnels are closed with 1001."""

from __future__ import annotations

import json

import pytest
from worlds.brokers import TOKEN, Serving
from worlds.nodes import ClusterWorld
from worlds.world import Answer

from towline.core import WAKE, Finished
from towline.core.broker import CallbackArrived, Stop, TokenLeft, encode_upload_head
from towline.core.http import Answer as Reply
from towline.core.http import Asked

HEAD = encode_upload_head(200, {"content-type": "text/plain"})


def stop(serving: Serving, within: float = 25.0) -> None:
    serving.world.tell(serving.server, Stop(within))
    serving.world.run(0.05)


def over(serving: Serving) -> bool:
    return bool(serving.server.of(Finished))


def test_with_nothing_under_way_it_is_over_at_once() -> None:
    serving = Serving()
    _, client = serving.client()
    stop(serving)
    assert over(serving)
    (closed,) = client.closed
    assert not closed.final  # it may come back
    assert serving.machine.figures().closed == {"server-stops": 1}


def test_what_began_is_finished_and_what_comes_is_turned_away() -> None:
    serving = Serving()
    _, client = serving.client()
    waiting = serving.relay("/x")
    stop(serving)
    assert not over(serving)
    health = serving.ask("/healthcheck")
    assert (health.status, json.loads(health.body)["ok"]) == (503, False)
    late = serving.relay("/late")
    assert (late.status, late.get("retry-after")) == (503, "1")
    assert late.get("x-broker-failure") == "connection-not-ready"
    another = serving.ask(f"/primus/{TOKEN}/?EIO=4&transport=polling")
    assert (another.status, another.get("retry-after")) == (503, "1")
    assert len(client.asked) == 1
    done = serving.upload(client.asked[0]["streamingID"], HEAD + b"body")
    assert (done.status, waiting.status, waiting.body, waiting.end) == (200, 200, b"body", "whole")
    assert over(serving)
    assert len(client.closed) == 1
    assert serving.machine.figures().refused["stopping"] == 1


def test_a_request_whose_body_is_still_coming_began_before_the_stop() -> None:
    serving = Serving()
    _, client = serving.client()
    waiting = serving.relay("/x", "POST", chunked=True)
    serving.callers.more(waiting, b"half")
    serving.ask("/healthcheck")
    stop(serving)
    assert not over(serving)
    serving.callers.more(waiting, b" whole", end=True)
    serving.ask("/healthcheck")
    assert client.asked[0]["body"] == b"half whole"
    serving.upload(client.asked[0]["streamingID"], HEAD)
    assert (waiting.status, over(serving)) == (200, True)


def test_callbacks_and_the_application_are_waited_for() -> None:
    serving = Serving()
    party, client = serving.client()
    client.emit("request", {"url": "/other/kept", "method": "POST", "headers": {}, "body": "x"}, ack=True)
    serving.say(party)
    (arrived,) = serving.server.of(CallbackArrived)
    page: Answer = serving.ask("/results")
    (asked,) = serving.server.of(Asked)
    stop(serving)
    serving.world.tell(serving.server, Reply(arrived.exchange, 200, (), b"kept"))
    assert not over(serving)
    serving.world.tell(serving.server, Reply(asked.exchange, 200, (), b"page"))
    serving.world.run(0.1)
    assert over(serving)
    assert (page.status, len(client.acked)) == (200, 1)


@pytest.mark.parametrize("began", [False, True])
def test_what_does_not_fit_into_the_time_ends_clearly(began: bool) -> None:
    serving = Serving()
    _, client = serving.client()
    waiting = serving.relay("/x")
    if began:
        path = f"/response-data/{TOKEN}/{client.asked[0]['streamingID']}"
        upload = serving.ask(path, "POST", chunked=True)
        serving.callers.more(upload, HEAD + b"some")
        serving.ask("/healthcheck")
    stop(serving, 5.0)
    serving.world.run(4.8)
    assert not over(serving)
    serving.world.run(0.3)
    assert over(serving)
    if began:
        assert (waiting.body, waiting.end) == (b"some", None)  # the driver's closing of its link cuts it
    else:
        assert (waiting.status, json.loads(waiting.body)["code"]) == (502, "TUNNEL_LOST")


def test_a_polling_client_is_told_with_its_poll() -> None:
    serving = Serving()
    opened = serving.ask(f"/primus/{TOKEN}/?EIO=4&transport=polling")
    sid = json.loads(opened.body[1:])["sid"]
    poll = f"/primus/{TOKEN}/?EIO=4&transport=polling&sid={sid}"
    serving.ask(poll)
    pending = serving.ask(poll)
    assert pending.pending
    stop(serving)
    assert (pending.status, pending.body) == (200, b"1")


def test_a_second_stop_moves_the_end() -> None:
    serving = Serving()
    serving.client()
    serving.relay("/x")
    stop(serving, 60.0)
    stop(serving, 1.0)
    serving.world.run(1.1)
    assert over(serving)


def test_where_a_client_stops_the_one_at_another_node_is_asked() -> None:
    world = ClusterWorld()
    party, first = world.client(1, "c-1")
    _, second = world.client(2, "c-2")
    first.emit("terminate", {"signal": "SIGTERM"})
    world.tell(party, WAKE)
    world.run(0.1)
    assert len(world.nodes[0].party.of(TokenLeft)) == 1
    waiting = world.relay(1, "/x")
    assert (len(first.asked), len(second.asked)) == (0, 1)
    world.upload(2, second.asked[0]["streamingID"], HEAD + b"body")
    assert (waiting.status, waiting.body) == (200, b"body")
