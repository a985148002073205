"""A caller who goes away: the client is told, and stops asking its upstream."""

from __future__ import annotations

from typing import Any

import pytest
from worlds.brokers import TOKEN, Brokers, Serving
from worlds.world import Answer

from towline.core.broker import encode_upload_head
from towline.core.tunnel import read_cancel

HEAD = encode_upload_head(200, {"content-type": "text/plain"})


def leave(brokers: Any, answer: Answer) -> None:
    brokers.callers.leave(answer)
    brokers.ask("/healthcheck", run=0.2)


@pytest.mark.parametrize("headers", [(), (("x-broker-ws-response", "true"),)])
def test_an_upstream_that_is_silent_is_let_go(headers: Any) -> None:
    brokers = Brokers(lambda head, body: (200, [], ["hang"]))
    waiting = brokers.relay("/x", headers=headers)
    other = brokers.relay("/y", headers=headers)
    assert (len(brokers.upstream.requests), brokers.upstream.lost) == (2, [])
    leave(brokers, waiting)
    assert len(brokers.upstream.lost) == 1
    assert other.pending


def test_an_upstream_amid_its_answer_is_let_go() -> None:
    brokers = Brokers(lambda head, body: (200, [], [b"x" * 100_000, "hang"]))
    waiting = brokers.relay("/x")
    assert len(waiting.body) == 100_000
    leave(brokers, waiting)
    assert len(brokers.upstream.lost) == 1


def test_what_the_client_is_told() -> None:
    serving = Serving()
    _, client = serving.client()
    serving.callers.leave(serving.relay("/x"))
    serving.ask("/healthcheck")
    (told,) = (said for said in client.arrived if said.name == "cancel")
    assert told.args == ({"streamingID": client.asked[0]["streamingID"]},)
    assert told.ack_id is None
    serving.callers.leave(serving.relay("/x", headers=(("x-broker-ws-response", "1"),)))
    serving.ask("/healthcheck")
    asked, told = client.arrived[-2:]
    assert told.name == "cancel"
    stream, number = read_cancel(told.args)
    assert (stream, client.tunnel.handle_of(number or 0)) == ("", asked.ack_id)


def test_who_waited_in_vain_is_told_too() -> None:
    serving = Serving(answer_seconds=5.0)
    _, client = serving.client()
    waiting = serving.relay("/x", run=6.0)
    assert waiting.status == 504
    assert client.arrived[-1].name == "cancel"


def test_what_is_answered_or_was_never_asked_is_not_cancelled() -> None:
    serving = Serving()
    party, client = serving.client()
    serving.relay("/x")
    serving.upload(client.asked[0]["streamingID"], HEAD)
    serving.world.kill(party)
    serving.callers.leave(serving.relay("/y"))
    serving.ask("/healthcheck")
    assert "cancel" not in [said.name for said in client.arrived]


@pytest.mark.parametrize(
    "junk", [(), ("x",), ({},), ({"streamingID": 7, "id": "x"},), ({"streamingID": "", "id": True},)]
)
def test_a_cancel_that_names_nothing_is_nothing(junk: Any) -> None:
    assert read_cancel(junk) == ("", None)


@pytest.mark.parametrize("junk", [{}, {"streamingID": "00000000-0000-4000-8000-000000000000"}, {"id": 1 << 60}])
def test_a_cancel_of_another_request_is_nothing(junk: Any) -> None:
    brokers = Brokers(lambda head, body: (200, [], ["hang"]))
    waiting = brokers.relay("/x")
    (session, *_) = brokers.server_machine._directory.all_of(TOKEN)
    brokers.server_machine._host.emit(session.number, "cancel", (junk,), now=brokers.world.now)
    brokers.ask("/healthcheck")
    assert (waiting.pending, brokers.upstream.lost) == (True, [])


def test_an_upstream_that_fails_at_once_is_a_cut_and_not_a_silence() -> None:
    """Its answer breaks before the link of the upload is open."""
    brokers = Brokers(lambda head, body: (200, [("content-length", "100000")], [b"x" * 30_000, "cut"]))
    got = brokers.relay("/x")
    assert (got.status, got.end) in ((200, "broken"), (502, "whole"))
    assert len(got.body) <= 30_000
