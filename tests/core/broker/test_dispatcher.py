"""What a server tells its dispatcher, and that nothing waits for it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs

from worlds.brokers import TOKEN, Serving
from worlds.world import Upstream, World

from towline.core import Finished, Limits
from towline.core.broker import Stop
from towline.core.broker._ids import hashed_token
from towline.core.broker.server._dispatcher import AT_ONCE

DISPATCHER = 9500
HERE = "/x/internal/brokerservers/7"
CLIENT = f"{HERE}/connections/{hashed_token(TOKEN.lower())}"


class Reported(Serving):
    def __init__(self, answer: Any = lambda head, body: (200, [("content-length", "0")], []), **more: Any) -> None:
        world = World()
        self.dispatcher = Upstream(answer)
        world.add("dispatcher", self.dispatcher, DISPATCHER)
        super().__init__(
            world=world,
            dispatcher_url=f"http://dispatcher:{DISPATCHER}/x",
            server_id="7",
            host_name="pod-7",
            epoch=1000.0,
            **more,
        )
        self.world.run(0.0)

    @property
    def reports(self) -> list[tuple[str, str, dict[str, list[str]]]]:
        """Method, path and query of each request that the dispatcher got."""
        found = []
        for head, _ in self.dispatcher.requests:
            path, _, query = head.target.partition("?")
            found.append((head.method, path, parse_qs(query)))
        return found


VERSION = {"version": ["2022-12-02~experimental"]}
WHO = {"broker_client_id": ["hand-made"], **VERSION}


def test_a_life_is_told() -> None:
    serving = Reported()
    assert serving.reports == [("POST", HERE, VERSION)]
    head, body = serving.dispatcher.requests[0]
    assert json.loads(body) == {"data": {"attributes": {"health_check_link": "http://pod-7/healthcheck"}}}
    assert head.get("content-type") == "application/vnd.api+json"
    party, _ = serving.client()
    assert serving.reports[1:] == [("POST", CLIENT, {"request_type": ["client-connected"], **WHO})]
    attributes = json.loads(serving.dispatcher.requests[1][1])["data"]["attributes"]
    assert attributes == {"health_check_link": "http://pod-7/healthcheck", "broker_client_version": "local"}
    serving.world.run(26.0)
    method, path, query = serving.reports[2]
    # The client's clock is 1000 s behind the server's here.
    assert (method, path, query) == (
        "POST",
        CLIENT,
        {"latency": ["1000000"], "request_type": ["client-pinged"], **WHO},
    )
    serving.world.kill(party)
    serving.world.run(0.1)
    assert serving.reports[3:] == [("DELETE", CLIENT, WHO)]
    serving.world.tell(serving.server, Stop(5.0))
    serving.world.run(0.1)
    assert serving.reports[4:] == [("DELETE", HERE, VERSION)]
    assert serving.server.of(Finished)
    assert serving.machine.figures().told == {"success": 5, "failure": 0}


def test_a_client_that_terminates_is_pinged_of_no_more_and_gone_with_its_last_session() -> None:
    serving = Reported()
    party, client = serving.client()
    client.emit("terminate", {"signal": "SIGTERM"})
    serving.say(party)
    other, _ = serving.client()
    serving.world.run(30.0)
    kinds = [query.get("request_type") for _, _, query in serving.reports]
    assert ["client-pinged"] not in kinds
    serving.world.kill(other)
    serving.world.run(0.1)
    assert "DELETE" not in [method for method, _, _ in serving.reports]
    serving.world.kill(party)
    serving.world.run(0.1)
    assert serving.reports[-1][0] == "DELETE"


def test_a_failing_dispatcher_is_tried_four_times_and_holds_nothing_up() -> None:
    serving = Reported(lambda head, body: (500, [("content-length", "0")], []))
    _, client = serving.client()
    assert serving.relay("/x").pending
    assert len(client.asked) == 1
    serving.world.run(5.0)
    assert len(serving.reports) == 8  # two reports, four tries each
    assert serving.machine.figures().told == {"success": 0, "failure": 2}
    assert len(serving.server.notes("dispatcher.failed")) == 2


def test_a_silent_dispatcher_is_given_up_after_two_and_a_half_seconds() -> None:
    serving = Reported(lambda head, body: (200, [], ["hang"]))
    serving.world.run(2.3)
    assert len(serving.reports) == 1
    serving.world.run(0.5)
    assert len(serving.reports) == 2
    serving.world.run(20.0)
    assert serving.machine.figures().told == {"success": 0, "failure": 1}


def test_a_dispatcher_that_is_away_delays_the_end_a_little_only() -> None:
    serving = Reported()
    serving.world.refusing.add(DISPATCHER)
    serving.client()
    serving.world.tell(serving.server, Stop(60.0))
    serving.world.run(2.0)
    assert serving.server.of(Finished)


def test_an_endless_answer_is_not_read() -> None:
    serving = Reported(lambda head, body: (200, [], [b"x" * 65537, "hang"]))
    assert serving.machine.figures().told == {"success": 1, "failure": 0}


def test_what_waits_is_bounded_and_the_oldest_is_forgotten() -> None:
    serving = Reported(lambda head, body: (200, [], ["hang"]), limits=Limits(tunnel_sockets=3))
    serving.world.run(1.0)
    for number in range(AT_ONCE + 5):
        party, _ = serving.client(f"token-{number}")
        serving.world.kill(party)
    # The server's own report and one of most tokens are being told; three more may wait, and their end is all they say.
    assert serving.machine._dispatcher is not None
    assert len(serving.machine._dispatcher._waiting) == 3
    assert serving.machine.figures().told["failure"] > 0


def test_only_the_last_of_what_waits_is_told() -> None:
    serving = Reported(lambda head, body: (200, [], ["hang"]))
    for _ in range(3):
        party, _ = serving.client()
        serving.world.kill(party)
        serving.world.run(0.05)
    # The first connection is being told; what came of it since is one report.
    assert [query.get("request_type") for _, _, query in serving.reports] == [None, ["client-connected"]]
    serving.dispatcher.answer = lambda head, body: (200, [("content-length", "0")], [])
    serving.world.run(3.0)
    assert [method for method, path, _ in serving.reports if path == CLIENT] == ["POST", "DELETE"]
