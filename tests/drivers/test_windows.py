"""The law of windows, seen from inside: how many buffers are out, who has them, and that all come back."""

from __future__ import annotations

import os
import socket
import threading
from typing import Any

import pytest
from drivers.loops import LOOPS, Loop, make_certificate

from towline.core import KIB, MIB, Accepted, Filled, Proved, Received, Window
from towline.drivers import Listener, _windows, testing
from towline.drivers._kit_machines import Keeper, SumPlan, WindowHashes, WindowRelay, build_sum
from towline.drivers._kit_windows import WINDOW_CHECKS
from towline.drivers._windows import FEW, KEPT, LARGE, OUT, SMALL, Pool

HERE = {"in": Listener()}


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


def relay(loop: Loop, size: int, upstream: Any, during: Any = None, share: bool = False) -> WindowRelay:
    """Relay `size` random bytes from a caller to `upstream`; `during` is awaited meanwhile. All windows come back."""
    words, heard = os.urandom(size), list[bytes]()
    machine = WindowRelay(0, size)
    machine.share = share

    def sends(sock: socket.socket) -> None:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)
        testing.read_all(sock)

    async def main() -> None:
        async with loop.open_pump(machine, listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], sends)
            if during is not None:
                await during(pump)
            await pump.finished()
            assert pump._pool.out == 0

    with testing.peers() as crowd:
        machine.port = crowd.serve(lambda sock: heard.append(upstream(sock)), small=True, size=64 * KIB)
        loop.run(main)
    assert testing.digest(heard[0]) == testing.digest(words)
    return machine


def filled(machine: testing.Small) -> list[int]:
    return [len(fact.view) for fact in machine.facts if isinstance(fact, Filled)]


def test_a_body_is_read_through_windows_and_nothing_else(loop: Loop) -> None:
    machine = relay(loop, 8 * MIB, testing.read_all)
    assert sum(filled(machine)) == 8 * MIB
    assert not any(isinstance(fact, Received) for fact in machine.facts)
    assert max(filled(machine)) > 64 * KIB


def test_a_slow_reader_holds_one_window_and_the_link_that_filled_it(loop: Loop) -> None:
    go = threading.Event()

    def slow(sock: socket.socket) -> bytes:
        go.wait(20)
        return testing.read_all(sock)

    async def during(pump: Any) -> None:
        machine = pump._machine
        taken = await testing.rests(lambda: sum(filled(machine)))
        (link,) = (link for link in pump._links.values() if link.number % 2 == 0)
        assert (link.lent, link.relayed, link.reading, link.blocked) == (1, 1, False, True)
        assert pump._pool.out in (SMALL, LARGE)
        assert 0 < taken < 8 * MIB
        go.set()

    relay(loop, 16 * MIB, slow, during)


def test_a_shared_link_has_no_windows(loop: Loop) -> None:
    machine = relay(loop, 1 * MIB, testing.read_all, share=True)
    assert not [fact for fact in machine.facts if isinstance(fact, Filled) and fact.link % 2 == 0]


def test_a_pool_that_has_nothing_left_stops_nobody(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_windows, "OUT", 0)
    machine = relay(loop, 8 * MIB, testing.read_all)
    assert filled(machine) == []
    assert sum(len(fact.data) for fact in machine.facts if isinstance(fact, Received)) == 8 * MIB


@pytest.mark.parametrize("ends", ["proved", "left"])
def test_a_worker_has_up_to_four_windows_while_it_hashes(loop: Loop, ends: str) -> None:
    words, gate, keeper = os.urandom(16 * MIB), threading.Event(), Keeper()
    plan = SumPlan(testing.digest(words), gate)
    machine = WindowHashes(plan, None, len(words))

    def sends(sock: socket.socket) -> None:
        try:
            sock.sendall(words)
        except ConnectionError:
            assert ends == "left"

    async def main() -> None:
        async with loop.open_pump(machine, listeners=HERE, build=build_sum, store=keeper) as pump:
            crowd.dial(pump.ports["in"], sends)
            assert await testing.rests(lambda: len(filled(machine))) == 4
            (link,) = pump._links.values()
            assert (link.lent, link.relayed, link.blocked) == (4, 0, True)
            gate.set()
            if ends == "proved":
                assert await pump.finished() == Proved(1, plan.digest)
                assert pump._pool.out == 0

    with testing.peers() as crowd:
        loop.run(main)
    # One that was left may not have stored its first byte yet.
    assert keeper.ends.get(plan.digest, "aborted") == ("committed" if ends == "proved" else "aborted")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("check", WINDOW_CHECKS, ids=lambda check: check.__name__)
def test_nobody_reads_a_buffer_that_came_back(
    loop: Loop, check: Any, secure: bool, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is written over at once, and not only by whatever is read next."""
    give = Pool.give

    def scribble(pool: Pool, buffer: bytearray) -> None:
        buffer[:] = b"\xa5" * len(buffer)
        give(pool, buffer)

    monkeypatch.setattr(Pool, "give", scribble)
    certificate = make_certificate(tmp_path_factory.mktemp("scribble")) if secure else None
    loop.run(lambda: check(loop.open_pump, certificate), 60.0)


def test_a_window_is_good_for_one_read(loop: Loop) -> None:
    class Once(testing.Small):
        def take(self, fact: Any, now: float) -> None:
            if isinstance(fact, Accepted):
                self.wish(Window(fact.link, 3), Window(99, 3), Window(fact.link, 0))

    machine = Once()

    async def main() -> None:
        async with loop.open_pump(machine, listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], lambda sock: sock.sendall(b"abcdef"))
            await testing.until(lambda: len(machine.facts) == 5)

    with testing.peers() as crowd:
        loop.run(main)
    _, _, one, rest, _ = machine.facts
    assert (bytes(one.view), bytes(rest.data)) == (b"abc", b"def")


def test_a_pool_gives_large_buffers_to_few_and_keeps_some() -> None:
    pool = Pool()
    assert [len(pool.take(limit, 1) or b"") for limit in (1, SMALL, SMALL + 1)] == [SMALL, SMALL, LARGE]
    assert len(pool.take(LARGE, FEW + 1) or b"") == SMALL
    pool = Pool()
    taken = []
    while buffer := pool.take(LARGE, 1):
        taken.append(buffer)
    assert pool.out == OUT == sum(map(len, taken))
    assert len({id(buffer) for buffer in taken}) == len(taken)
    for buffer in taken:
        pool.give(buffer)
    assert pool.out == 0
    assert len(pool._kept[LARGE]) == KEPT[LARGE]
    assert pool.take(LARGE, 1) is taken[KEPT[LARGE] - 1]
