"""Hold a driver to what drivers promise: `await check_driver(open_pump)`, on the loop it is for.

The driver under test runs small machines (`_kit_machines.py`); their peers are plain blocking sockets in threads
(`_kit_peers.py`), so that nothing of the kit depends on the loop, except time and cancelling, which anyio does for
both. Each check is a function in CHECKS, to be run alone as well.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import closing
from functools import partial
from typing import Any, Final

from towline.core import KIB, MIB, Accepted, Drained, Lost, Open, Opened, Proved, Received, Refused
from towline.drivers._config import Dialer
from towline.drivers._kit_machines import (
    Alarms,
    Dials,
    Dropper,
    Earlier,
    Hashes,
    Keeper,
    Parting,
    Relay,
    Said,
    Small,
    SumPlan,
    Talks,
    build_sum,
)
from towline.drivers._kit_peers import (
    HERE,
    PATIENCE,
    OpenPump,
    Peers,
    both_ways,
    digest,
    eight_for_one,
    open_files,
    peers,
    read_all,
    rests,
    until,
)
from towline.drivers._kit_windows import WINDOW_CHECKS

__all__ = ["CHECKS", "Peers", "Small", "check_driver", "digest", "peers", "read_all", "rests", "until"]


# ── checks ─────────────────────────────────────────────────────────────────────
async def check_no_lock(open_pump: OpenPump) -> None:
    """A relay to a peer that answers eight bytes for each it reads, with small buffers, delivers all of it."""
    words, heard, got = os.urandom(512 * KIB), list[bytes](), list[bytes]()
    with peers() as crowd:
        port = crowd.serve(lambda sock: eight_for_one(sock, heard), small=True)
        async with open_pump(Relay(port), listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], lambda sock: got.append(both_ways(sock, words)), small=True)
            assert await pump.finished() == "relayed"
    assert b"".join(heard) == words, "the relay changed the bytes"
    assert digest(got[0]) == digest(b"".join(piece * 8 for piece in heard)), "the relay changed the answer"


async def check_tail(open_pump: OpenPump) -> None:
    """What is in the outbox when the machine finishes still leaves, also to a peer that writes before it reads."""
    words, got = os.urandom(4 * MIB), list[bytes]()

    def play(sock: socket.socket) -> None:
        sock.sendall(b"!" * 256 * KIB)
        got.append(read_all(sock))

    with peers() as crowd:
        async with open_pump(Parting(words), listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], play, small=True)
            assert await pump.finished() == "said"
    assert digest(got[0]) == digest(words), f"{len(got[0])} of {len(words)} bytes arrived"


async def check_both_ways(open_pump: OpenPump) -> None:
    """8 MiB of random data both ways at once arrive as they were sent."""
    there, back = os.urandom(8 * MIB), os.urandom(8 * MIB)
    got, heard = list[bytes](), list[bytes]()
    with peers() as crowd:
        port = crowd.serve(lambda sock: heard.append(both_ways(sock, back)))
        async with open_pump(Relay(port), listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], lambda sock: got.append(both_ways(sock, there)))
            await pump.finished()
    assert digest(got[0]) == digest(back)
    assert digest(heard[0]) == digest(there)


async def check_half_close(open_pump: OpenPump) -> None:
    """Each side may end first, and still hear what the other says after it."""
    for first_ends in (True, False):
        heard, got = list[bytes](), list[bytes]()
        turn = threading.Event()

        def ends_first(sock: socket.socket, into: list[bytes] = heard, turn: threading.Event = turn) -> None:
            sock.sendall(b"first")
            sock.shutdown(socket.SHUT_WR)
            into.append(read_all(sock))

        def ends_last(sock: socket.socket, into: list[bytes] = got, turn: threading.Event = turn) -> None:
            into.append(read_all(sock))
            sock.sendall(b"after your end")

        with peers() as crowd:
            port = crowd.serve(ends_last if first_ends else ends_first)
            async with open_pump(Relay(port), listeners=HERE) as pump:
                crowd.dial(pump.ports["in"], ends_first if first_ends else ends_last)
                await pump.finished()
        assert (got, heard) == ([b"first"], [b"after your end"])


async def check_deadlines(open_pump: OpenPump) -> None:
    """The machine is woken once at the start, then at its deadline and not before, also when that moves."""
    late: list[float] = []
    async with open_pump(Alarms()) as pump:
        async for event in pump.events:
            if event.event != "woken":
                continue
            late.append(event.fields["late"])
            if len(late) == 3:
                pump.tell(Earlier())
            if len(late) == 4:
                break
    assert all(0.0 <= seconds < 2.0 for seconds in late), late


async def check_held(open_pump: OpenPump) -> None:
    """A slow reader holds the one that sends to it, within a bounded memory, and then gets all of it."""
    words, got, go = os.urandom(32 * MIB), list[bytes](), threading.Event()
    sent = [0]

    def slow(sock: socket.socket) -> None:
        go.wait(PATIENCE)
        got.append(read_all(sock))

    def pushes(sock: socket.socket) -> None:
        view = memoryview(words)
        while sent[0] < len(words):
            sent[0] += sock.send(view[sent[0] : sent[0] + 64 * KIB])
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""

    with peers() as crowd:
        port = crowd.serve(slow, small=True)
        async with open_pump(Relay(port), listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], pushes)
            before = await rests(lambda: sent[0])
            # The sockets' own buffers take a few MiB on loopback; the driver may add its high-water mark.
            assert 0 < before < 16 * MIB, f"{before} bytes were taken for a reader that reads nothing"
            go.set()
            await pump.finished()
    assert digest(got[0]) == digest(words)


async def check_shared(open_pump: OpenPump) -> None:
    """A link under Share is read on although what it fills is slow; the machine is told when that has drained."""
    words, got, go = os.urandom(16 * MIB), list[bytes](), threading.Event()

    def slow(sock: socket.socket) -> None:
        go.wait(PATIENCE)
        got.append(read_all(sock))

    def pushes(sock: socket.socket) -> None:
        sock.sendall(words)
        go.set()
        sock.shutdown(socket.SHUT_WR)
        assert read_all(sock) == b""

    with peers() as crowd:
        port = crowd.serve(slow, small=True)
        machine = Relay(port, share=True)
        async with open_pump(machine, listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], pushes)
            await pump.finished()
    assert digest(got[0]) == digest(words), "sent before the slow side read anything, or not at all"
    assert Drained(1) in machine.facts


async def check_dead_links(open_pump: OpenPump) -> None:
    """After a Drop nothing is heard of that link, and its peer sees a cut."""

    def talks_on(sock: socket.socket) -> None:
        try:
            for _ in range(1000):
                sock.sendall(b"x" * 4 * KIB)
            read_all(sock)
        except ConnectionError:
            return
        raise AssertionError("a dropped link ended well")

    machine = Dropper()
    with peers() as crowd:
        async with open_pump(machine, listeners=HERE) as pump:
            for _ in range(3):
                crowd.dial(pump.ports["in"], talks_on)
            dropped = 0
            async for _ in pump.events:
                dropped += 1
                if dropped == 3:
                    break
            await rests(lambda: len(machine.facts))
    assert sorted(type(fact).__name__ for fact in machine.facts) == ["Accepted"] * 3 + ["Received"] * 3 + ["Wake"]
    assert len({fact.link for fact in machine.facts if isinstance(fact, Received)}) == 3
    assert all(fact.link % 2 == 0 for fact in machine.facts if isinstance(fact, Accepted))


async def check_events(open_pump: OpenPump) -> None:
    """What a driver does not know is the application's, unchanged and in order."""
    heard = []
    async with open_pump(Talks()) as pump:
        for number in (1, 2, 3):
            pump.tell(Said(number))
        async for event in pump.events:
            heard.append(event)
        assert await pump.finished() == "told"
        pump.tell(Said(4))
    assert heard == [Said(1), Said(2), Said(3)]


async def check_dialling(open_pump: OpenPump) -> None:
    """A link that cannot be opened is Lost, with the kind that says why."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    hole = socket.create_server(("127.0.0.1", 0), backlog=0)
    with closing(hole), closing(socket.create_connection(hole.getsockname())):
        mute = hole.getsockname()[1]
        for wish, kind in (
            (Open(1, "127.0.0.1", port, False), "registry-unreachable"),
            (Open(1, "localhost", port, False), "registry-unreachable"),
            (Open(1, "name.invalid", 80, False), "registry-unreachable"),
            (Open(1, "..", 80, False), "registry-unreachable"),
            (Open(1, "127.0.0.1", port, False, "untrusted"), "address-blocked"),
            (Open(1, "2130706433", port, False, "untrusted"), "address-blocked"),
            (Open(1, "169.254.169.254", 80, False), "address-blocked"),
            (Open(1, "127.0.0.1", mute, True), "timeout"),
            (Open(1, "127.0.0.1", port, False, "configured", "no such route"), "proxy-error"),
        ):
            async with open_pump(Dials(wish), dialer=Dialer(connect_seconds=0.5)) as pump:
                fact = await pump.finished()
            assert isinstance(fact, Lost), fact
            assert (fact.link, fact.kind) == (1, kind), fact


async def check_streams(open_pump: OpenPump) -> None:
    """Streams prove their bytes inline and in a thread; what was stored is kept only when they did."""
    words = os.urandom(3 * MIB)
    for expected in (100, None):
        for good in (True, False):
            plan = SumPlan(digest(words) if good else digest(b"else"))
            keeper = Keeper()
            with peers() as crowd:
                async with open_pump(Hashes(plan, expected), listeners=HERE, build=build_sum, store=keeper) as pump:
                    crowd.dial(pump.ports["in"], lambda sock: sock.sendall(words))
                    fact = await pump.finished()
            if good:
                assert fact == Proved(1, plan.digest)
                assert keeper.kept == {plan.digest: words}
            else:
                assert isinstance(fact, Refused)
                assert fact.error.kind == "digest-mismatch"
                assert (keeper.ends, keeper.kept) == ({plan.digest: "aborted"}, {})


async def check_stream_holds(open_pump: OpenPump) -> None:
    """A slow stream holds the link that feeds it; what is left when the block ends is thrown away."""
    gate, sent = threading.Event(), [0]
    plan = SumPlan(digest(b""), gate)
    keeper = Keeper()

    def pushes(sock: socket.socket) -> None:
        try:
            while sent[0] < 64 * MIB:
                sent[0] += sock.send(bytes(64 * KIB))
        except ConnectionError:
            pass

    with peers() as crowd:
        async with open_pump(Hashes(plan, None), listeners=HERE, build=build_sum, store=keeper) as pump:
            crowd.dial(pump.ports["in"], pushes)
            before = await rests(lambda: sent[0])
            assert 0 < before < 32 * MIB, f"{before} bytes were taken for a stream that takes none"
            gate.set()
            await until(lambda: sent[0] > before + MIB)
    assert keeper.ends == {plan.digest: "aborted"}


def _at_most(count: Callable[[], int], most: int) -> bool:
    return count() <= most


async def check_cancelled(open_pump: OpenPump) -> None:
    """Cancelled at each of its checkpoints in turn, a pump leaves no socket and no thread behind."""
    import anyio

    plan = SumPlan(digest(b"x" * 70_000))
    finished, step = False, 0
    while not finished:
        step += 1
        assert step < 500, "the conversation never ends"
        threads, sockets = threading.active_count(), open_files()
        with anyio.CancelScope() as scope:
            await _Cut(_converse(open_pump, plan), step, scope.cancel)
            finished = True
        assert finished or scope.cancelled_caught
        await until(partial(_at_most, threading.active_count, threads))
        await until(partial(_at_most, open_files, sockets))
    assert step > 3, f"cancelled at {step} checkpoints only"


async def _converse(open_pump: OpenPump, plan: SumPlan) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        machine = Relay(server.getsockname()[1])
        async with open_pump(machine, listeners=HERE) as relay:
            async with open_pump(Hashes(plan, None), listeners=HERE, build=build_sum, store=Keeper()) as hashes:
                with closing(socket.create_connection(("127.0.0.1", hashes.ports["in"]))) as sock:
                    sock.sendall(b"x" * 70_000)
                    sock.shutdown(socket.SHUT_WR)
                    assert isinstance(await hashes.finished(), Proved)
            with closing(socket.create_connection(("127.0.0.1", relay.ports["in"]))) as near:
                near.sendall(b"x" * 1000)
                near.shutdown(socket.SHUT_WR)
                await until(lambda: any(isinstance(fact, Opened) for fact in machine.facts))
                with closing(server.accept()[0]) as far:
                    far.shutdown(socket.SHUT_WR)
                    await relay.finished()


class _Cut:
    """Await a coroutine, and call `cancel` at its n-th checkpoint; works on every loop, since it asks none."""

    def __init__(self, coroutine: Coroutine[Any, Any, None], step: int, cancel: Callable[[], Any]) -> None:
        self._coroutine = coroutine
        self._left = step
        self._cancel = cancel

    def __await__(self) -> Generator[Any, Any, None]:
        inner = self._coroutine.__await__()
        answer: Any = None
        fault: BaseException | None = None
        while True:
            try:
                trap = inner.send(answer) if fault is None else inner.throw(fault)
            except StopIteration:
                return
            self._left -= 1
            if self._left == 0:
                self._cancel()
            fault = None
            try:
                answer = yield trap
            except BaseException as raised:
                fault = raised


CHECKS: Final[tuple[Callable[[OpenPump], Awaitable[None]], ...]] = (
    check_events,
    check_deadlines,
    check_dialling,
    check_no_lock,
    check_tail,
    check_both_ways,
    check_half_close,
    check_held,
    check_shared,
    check_dead_links,
    check_streams,
    check_stream_holds,
    *WINDOW_CHECKS,
    check_cancelled,
)


async def check_driver(open_pump: OpenPump) -> None:
    """Run every check against a driver's `open_pump`; raises AssertionError at the first promise it breaks."""
    import anyio

    for check in CHECKS:
        with anyio.fail_after(3 * PATIENCE):
            await check(open_pump)
