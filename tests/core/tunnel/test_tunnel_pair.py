"""Our client against our host, over links that cut, delay and die, with a dict of what was said as the judge."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tunnelkit.pair import Pair
from tunnelkit.roots import HostRoot, make_client

from towline.core.tunnel import (
    Acked,
    Arrived,
    Identified,
    SessionClosed,
    SessionOpened,
    TunnelBusy,
    TunnelClosed,
    TunnelIdentified,
    TunnelOpened,
)


class Tunnel(RuleBasedStateMachine):
    """What one side emitted arrives at the other once, in order, or not at all because a connection was lost.

    An event that wants an answer is answered once, or its handle is reported lost, or it still waits.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[int, int] = {}  # handle → number, of events that want an answer
        self.answered: dict[int, int] = {}
        self.lost: set[int] = set()
        self.counts = {"client": 0, "host": 0}
        self.arrived: dict[str, list[int]] = {"client": [], "host": []}
        self.live: list[int] = []
        self.identified: set[int] = set()
        self.opened = 0
        self.pair: Pair | None = None

    @initialize(polling=st.booleans(), delay=st.sampled_from([0.0001, 0.02, 0.3]), cut=st.integers(1, 5000))
    def start(self, polling: bool, delay: float, cut: int) -> None:
        chance = random.Random(cut)

        def pieces(data: bytes) -> list[bytes]:
            out = []
            while data:
                size = chance.randint(1, cut)
                out.append(data[:size])
                data = data[size:]
            return out

        self.pair = Pair(make_client(polling_first=polling), HostRoot(), delay=delay, cut=pieces)

    @rule(ack=st.booleans(), size=st.sampled_from([0, 10, 300, 70_000]))
    def client_emits(self, ack: bool, size: int) -> None:
        assert self.pair is not None
        self.counts["client"] += 1
        try:
            handle = self.pair.client.emit("say", [self.counts["client"], "x" * size], ack=ack, now=self.pair.now)
        except TunnelBusy:
            return
        if handle is not None:
            self.asked[handle] = self.counts["client"]
        self.pair.drain_client()
        self.listen()

    @rule(size=st.sampled_from([0, 300, 70_000]))
    def host_emits(self, size: int) -> None:
        assert self.pair is not None
        session = next((number for number in reversed(self.live) if number in self.identified), None)
        if session is not None:
            self.counts["host"] += 1
            self.pair.root.host.emit(session, "say", [self.counts["host"], b"x" * size], now=self.pair.now)
            self.pair.root.drain(self.pair.now)
            self.pair.drain_host()
            self.listen()

    @rule(seconds=st.sampled_from([0.0005, 0.01, 0.2, 1.0, 11.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        assert self.pair is not None
        until = self.pair.now + seconds
        while self.pair.now < until:
            self.pair.run(min(0.05, until - self.pair.now) if seconds < 5 else min(5.0, until - self.pair.now))
            self.listen()

    @rule()
    def links_die(self) -> None:
        assert self.pair is not None
        self.pair.kill_all()

    @rule(up=st.booleans())
    def the_server_goes_or_comes(self, up: bool) -> None:
        assert self.pair is not None
        self.pair.up = up

    @rule(frozen=st.booleans())
    def the_path_goes_silent(self, frozen: bool) -> None:
        assert self.pair is not None
        self.pair.freeze(frozen)

    def listen(self) -> None:
        assert self.pair is not None
        heard, self.pair.heard = self.pair.heard, []
        for event in heard:
            if isinstance(event, TunnelOpened):
                self.opened += 1
                assert event.session == self.opened
            elif isinstance(event, Arrived):
                self.arrived["client"].append(event.args[0])
            elif isinstance(event, Acked):
                assert event.ack_id not in self.answered
                assert event.ack_id not in self.lost
                assert event.args == (self.asked[event.ack_id],)
                self.answered[event.ack_id] = event.session
            elif isinstance(event, TunnelClosed):
                for handle in event.lost_acks:
                    assert handle not in self.lost
                    self.lost.add(handle)
            else:
                assert isinstance(event, TunnelIdentified)
        self._listen_to_host()

    def _listen_to_host(self) -> None:
        assert self.pair is not None
        heard, self.pair.host_heard = self.pair.host_heard, []
        for event in heard:
            if isinstance(event, SessionOpened):
                self.live.append(event.session)
            elif isinstance(event, SessionClosed):
                self.live.remove(event.session)
                assert event.identified == (event.session in self.identified)
            elif isinstance(event, Identified):
                assert event.session in self.live
                self.identified.add(event.session)
            elif isinstance(event, Arrived):
                assert event.session in self.identified, "an event before identify"
                self.arrived["host"].append(event.args[0])
                if event.ack_id is not None:
                    self._acknowledge(event)
        self.pair.root.drain(self.pair.now)
        self.pair.drain_host()

    def _acknowledge(self, event: Any) -> None:
        assert self.pair is not None
        self.pair.root.host.acknowledge(event.session, event.ack_id, [event.args[0]], now=self.pair.now)

    @invariant()
    def in_order_and_once(self) -> None:
        for said in self.arrived.values():
            assert said == sorted(set(said))

    def teardown(self) -> None:
        if self.pair is None:
            return
        self.pair.up = True
        self.pair.freeze(False)
        for _ in range(300):
            self.time_passes(11.0)
            if self.pair.client.state in ("open", "closed"):
                break
        if self.pair.client.state == "open":  # it comes back, and whatever waited has gone out
            self.time_passes(60.0)
            for handle in self.asked:
                assert (handle in self.answered) != (handle in self.lost)


TestTunnel = Tunnel.TestCase
TestTunnel.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
