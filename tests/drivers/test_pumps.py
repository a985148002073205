"""What open_pump and perform do around the machine: events, faults, ends, time."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import Any, get_args, get_origin

import pytest
import trio
import trio.testing
from drivers.loops import LOOPS, Loop

from towline.core import (
    Accepted,
    Close,
    Ended,
    Failed,
    Finished,
    LocalProtocolError,
    Note,
    Open,
    Opened,
    Received,
    RemoteProtocolError,
    Sleep,
    TowlineError,
    Transmit,
    Wake,
    WireWish,
)
from towline.drivers import Listener, _turns, on_trio, testing
from towline.drivers._kit_machines import Dials, Earlier, Relay, Said, Talks


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


class Fault(Exception):
    pass


class Faulty(testing.Small):
    """Has a fault of its own at a chosen kind of fact."""

    def __init__(self, at: Any) -> None:
        super().__init__()
        self.breaks = at

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, self.breaks):
            raise Fault(type(fact).__name__)


class Ends(testing.Small):
    def __init__(self, *wishes: Any) -> None:
        super().__init__()
        self.wish(*wishes)


def test_perform_returns_the_value_and_hands_events_on(loop: Loop) -> None:
    heard: list[Any] = []
    notes = [Note("info", str(number)) for number in range(3)]
    machine = Ends(*notes, Finished(42))
    assert loop.run(lambda: loop.perform(machine, on_event=heard.append)) == 42
    assert heard == notes
    assert loop.run(lambda: loop.perform(Ends(*notes, Finished(None)))) is None


def test_perform_raises_the_machines_error(loop: Loop) -> None:
    error = RemoteProtocolError("image-not-found", "no such image")
    with pytest.raises(RemoteProtocolError) as caught:
        loop.run(lambda: loop.perform(Ends(Failed(error))))
    assert caught.value is error


@pytest.mark.parametrize("at", [Wake, Accepted, Received])
def test_a_fault_of_the_machine_ends_the_block_as_itself(loop: Loop, at: Any) -> None:
    def speaks(sock: socket.socket) -> None:
        # What the machine did not read any more makes the end a reset.
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"x")
            testing.read_all(sock)

    async def main() -> None:
        async with loop.open_pump(Faulty(at), listeners={"in": Listener()}) as pump:
            crowd.dial(pump.ports["in"], speaks)
            await pump.finished()

    with testing.peers() as crowd, pytest.raises(Fault, match=at.__name__):
        loop.run(main)


def test_a_fault_at_the_deadline_ends_the_block(loop: Loop) -> None:
    class Late(Faulty):
        def take(self, fact: Any, now: float) -> None:
            if self.at is not None:
                raise Fault("late")
            self.at = now + 0.01

    with pytest.raises(Fault, match="late"):
        loop.run(lambda: loop.perform(Late(())))


def test_the_blocks_own_error_is_not_wrapped(loop: Loop) -> None:
    async def main() -> None:
        async with loop.open_pump(Talks(), listeners={"in": Listener()}):
            raise Fault("the block's")

    with pytest.raises(Fault, match="the block's"):
        loop.run(main)


def test_a_caller_that_breaks_the_law_hears_it(loop: Loop) -> None:
    class Strict(testing.Small):
        def handle(self, fact: Any, now: float) -> None:
            if isinstance(fact, Said):
                raise LocalProtocolError("not so")
            super().handle(fact, now)

    async def main() -> None:
        async with loop.open_pump(Strict()) as pump:
            with pytest.raises(LocalProtocolError):
                pump.tell(Said(1))
            pump.tell(Earlier())
            assert pump._machine.facts[1:] == [Earlier()]

    loop.run(main)


def test_a_pump_that_is_left_says_so(loop: Loop) -> None:
    async def main() -> None:
        async with loop.open_pump(Talks()) as pump:
            assert "running" in repr(pump)
        with pytest.raises(TowlineError) as caught:
            await pump.finished()
        assert caught.value.kind == "cancelled"
        assert [event async for event in pump.events] == []
        pump.tell(Said(1))

    loop.run(main)


def test_events_nobody_reads_hold_the_links(loop: Loop) -> None:
    class Chatty(testing.Small):
        def take(self, fact: Any, now: float) -> None:
            if isinstance(fact, Received):
                self.wish(*[Note("debug", "heard")] * 512, Transmit(fact.link, b"."))
            elif isinstance(fact, Ended):
                self.wish(Close(fact.link), Finished("ended"))

    answered = []

    def asks(sock: socket.socket) -> None:
        for _ in range(40):
            sock.sendall(b"x")
            answered.append(sock.recv(1))

    async def main() -> None:
        async with loop.open_pump(Chatty(), listeners={"in": Listener()}) as pump:
            crowd.dial(pump.ports["in"], asks)
            assert await testing.rests(lambda: len(answered)) == _turns.EVENTS // 512
            assert len([event async for event in pump.events]) == 40 * 512
            assert await pump.finished() == "ended"

    with testing.peers() as crowd:
        loop.run(main)
    assert len(answered) == 40


def test_every_address_of_a_name_is_listened_on_at_one_port(loop: Loop) -> None:
    async def main() -> None:
        async with loop.open_pump(Talks(), listeners={"in": Listener("localhost"), "other": Listener()}) as pump:
            assert set(pump.ports) == {"in", "other"}
            assert {port for _, port in pump.addresses["in"]} == {pump.ports["in"]}

    loop.run(main)


def test_links_over_ipv6(loop: Loop) -> None:
    async def main() -> None:
        machine = Relay(0)
        async with loop.open_pump(machine, listeners={"in": Listener("::1")}) as pump:
            fact = await loop.perform(Dials(Open(1, "::1", pump.ports["in"], False)))
            assert fact == Opened(1)
            await testing.until(lambda: len(machine.facts) > 1)
        assert machine.facts[1].peer.startswith("[::1]:")

    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    loop.run(main)


def test_the_face_imports_no_loop() -> None:
    script = "import sys, towline.drivers; sys.exit(bool({'trio', 'asyncio', 'anyio', 'sqlite3'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_time_can_be_moved_by_hand() -> None:
    class Sleeper(testing.Small):
        def take(self, fact: Any, now: float) -> None:
            if self.at is not None and now >= self.at:
                self.wish(Finished(now))
            self.at = self.at or now + 86_400.0

    async def main() -> None:
        began = trio.current_time()
        assert await on_trio.perform(Sleeper()) - began >= 86_400.0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_question_no_driver_knows_is_an_event(loop: Loop) -> None:
    async def main() -> Any:
        async with loop.open_pump(Ends(Sleep(5.0))) as pump:
            return await anext(aiter(pump.events))

    assert loop.run(main) == Sleep(5.0)


def test_every_wish_of_the_wire_is_one_that_drivers_do() -> None:
    assert {get_origin(wish) or wish for wish in get_args(WireWish)} == set(_turns.DO)
