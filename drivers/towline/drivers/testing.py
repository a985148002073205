"""Hold a driver to what drivers promise: `await check_driver(open_pump)`, on the loop it is for.

The driver under test runs small machines (they are below, and are examples of machines as well); their peers
are plain blocking sockets in threads, so that nothing of the kit depends on the loop, except cancelling, which
anyio does for both. Each check is a function in CHECKS, to be run alone as well.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, closing, contextmanager
from typing import Any, Final, TypeAlias

from towline.core import (
    KIB,
    MIB,
    Accepted,
    Begin,
    Data,
    Drained,
    Drop,
    End,
    Ended,
    Feed,
    Finished,
    Lost,
    Note,
    Open,
    Opened,
    Plan,
    Proved,
    Received,
    Record,
    Refused,
    RemoteProtocolError,
    Share,
    Shut,
    Store,
    Transmit,
    Wake,
)
from towline.drivers._config import Dialer, Listener

OpenPump: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
# Long enough for a busy machine, short enough to call it a lock.
PATIENCE: Final = 20.0
HERE: Final = {"in": Listener("127.0.0.1", 0)}


# ── machines ───────────────────────────────────────────────────────────────────
class Small:
    """A machine's common part: a queue of wishes, and every fact kept to be looked at."""

    def __init__(self) -> None:
        self.wishes: list[Any] = []
        self.facts: list[Any] = []
        self.at: float | None = None

    def wish(self, *wishes: Any) -> None:
        self.wishes += wishes

    def handle(self, fact: Any, now: float) -> None:
        self.facts.append(fact)
        self.take(fact, now)

    def take(self, fact: Any, now: float) -> None:
        pass

    def poll(self) -> Any:
        return self.wishes.pop(0) if self.wishes else None

    def deadline(self) -> float | None:
        return self.at


class Relay(Small):
    """Joins each accepted link to a new one; ends when both sides of the first pair have ended.

    `share` puts the accepted links under Share.
    """

    def __init__(self, port: int, *, share: bool = False) -> None:
        super().__init__()
        self.port = port
        self.share = share
        self.other: dict[int, int] = {}
        self.ended: set[int] = set()

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Accepted):
            out = fact.link - 1
            self.other |= {fact.link: out, out: fact.link}
            if self.share:
                self.wish(Share(fact.link))
            self.wish(Open(out, "127.0.0.1", self.port, False))
        elif isinstance(fact, Received):
            self.wish(Transmit(self.other[fact.link], fact.data))
        elif isinstance(fact, Ended):
            self.ended.add(fact.link)
            self.wish(Shut(self.other[fact.link]))
            if self.other[fact.link] in self.ended:
                self.wish(Finished("relayed"))
        elif isinstance(fact, Lost):
            self.wish(Drop(self.other[fact.link]))


class Parting(Small):
    """Says all it has to say to the first peer, and is finished in the same turn."""

    def __init__(self, words: bytes) -> None:
        super().__init__()
        self.words = words

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self.wish(Transmit(fact.link, self.words), Finished("said"))


class Dropper(Small):
    """Drops each link at its first byte."""

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self.wish(Drop(fact.link), Note("info", "dropped", {"link": fact.link}))


class Alarms(Small):
    """Wakes a few times, and can be told to wake earlier; its value is how late each was."""

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Wake):
            if self.at is not None:
                self.wish(Note("debug", "woken", {"late": now - self.at}))
            self.at = now + (0.03 if len(self.facts) < 4 else 600.0)
        elif isinstance(fact, Earlier):
            self.at = now + 0.03
            self.wish(Note("debug", "moved"))


class Dials(Small):
    """Opens one link and ends with the first thing it hears of it."""

    def __init__(self, wish: Open) -> None:
        super().__init__()
        self.wish(wish)

    def take(self, fact: Any, now: float) -> None:
        if not isinstance(fact, Wake):
            self.wish(Finished(fact))


class Earlier(Record, frozen=True):
    """The application's fact to Alarms."""


class Said(Record, frozen=True):
    """An event no driver knows."""

    number: int


class Talks(Small):
    """Says what it is told."""

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Said):
            self.wish(fact)
            if fact.number == 3:
                self.wish(Finished("told"))


class SumPlan(Plan, frozen=True):
    """A stream that proves SHA-256 and can be slow: `gate` is waited for before each buffer."""

    digest: str
    gate: threading.Event | None = None


class Sum:
    """The stream of a SumPlan."""

    def __init__(self, plan: SumPlan) -> None:
        self._plan = plan
        self._hash = hashlib.sha256()
        self._thread = threading.get_ident()

    def feed(self, data: Data) -> None:
        assert self._thread == threading.get_ident(), "a stream was touched by two threads"
        if self._plan.gate is not None:
            self._plan.gate.wait(PATIENCE)
        self._hash.update(data)

    def end(self) -> str:
        assert self._thread == threading.get_ident(), "a stream was touched by two threads"
        if self._hash.hexdigest() != self._plan.digest:
            raise RemoteProtocolError("digest-mismatch", "expected another digest")
        return self._plan.digest


def build_sum(plan: Plan) -> Sum:
    assert isinstance(plan, SumPlan)
    return Sum(plan)


class Keeper:
    """A BlobStore in memory that remembers how each of its blobs ended."""

    def __init__(self) -> None:
        self.ends: dict[str, str] = {}
        self.kept: dict[str, bytes] = {}

    def open(self, plan: Plan) -> _Kept:
        assert isinstance(plan, SumPlan)
        return _Kept(self, plan.digest)


class _Kept:
    def __init__(self, keeper: Keeper, name: str) -> None:
        self._keeper = keeper
        self._name = name
        self._data = bytearray()

    def write(self, data: Data) -> None:
        self._data += data

    def commit(self) -> None:
        self._keeper.ends[self._name] = "committed"
        self._keeper.kept[self._name] = bytes(self._data)

    def abort(self) -> None:
        self._keeper.ends[self._name] = "aborted"


class Hashes(Small):
    """Feeds and stores what the first link sends, and ends with the stream's verdict."""

    def __init__(self, plan: SumPlan, expected: int | None) -> None:
        super().__init__()
        self.wish(Begin(1, plan, expected))

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self.wish(Feed(1, fact.data), Store(1, fact.data))
        elif isinstance(fact, Ended):
            self.wish(End(1))
        elif isinstance(fact, Proved | Refused):
            self.wish(Finished(fact))


# ── peers ──────────────────────────────────────────────────────────────────────
Play: TypeAlias = Callable[[socket.socket], None]


class Peers:
    """Blocking sockets in threads: `serve` plays one accepted connection, `dial` one that it opens."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._faults: list[BaseException] = []
        self._sockets: list[socket.socket] = []

    def serve(self, play: Play, *, small: bool = False) -> int:
        """Listen, play the first connection, and return the port."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._sockets.append(listener)
        if small:
            # Inherited by what it accepts, and only before listening does it bound the window.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)
        listener.settimeout(PATIENCE)
        self.run(lambda: self._play(listener.accept()[0], play))
        port: int = listener.getsockname()[1]
        return port

    def dial(self, port: int, play: Play, *, small: bool = False) -> None:
        """Connect, and play that connection."""
        sock = socket.socket()
        if small:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * KIB)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", port))
        self.run(lambda: self._play(sock, play))

    def run(self, call: Callable[[], None]) -> None:
        """Run a call in a thread; its fault comes out of `join`."""

        def guarded() -> None:
            try:
                call()
            except BaseException as fault:
                self._faults.append(fault)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        self._threads.append(thread)

    def join(self) -> None:
        """Wait for every peer to have played to its end."""
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), f"a peer still waits: the driver is locked ({self._faults})"
        for sock in self._sockets:
            sock.close()
        if self._faults:
            raise self._faults[0]

    @staticmethod
    def _play(sock: socket.socket, play: Play) -> None:
        with closing(sock):
            sock.settimeout(PATIENCE)
            play(sock)


@contextmanager
def peers() -> Generator[Peers]:
    """Yield Peers, and join them when the block ends well."""
    crowd = Peers()
    try:
        yield crowd
    except BaseException:
        for sock in crowd._sockets:
            sock.close()
        raise
    crowd.join()


def read_all(sock: socket.socket) -> bytes:
    """Read until the peer ends."""
    pieces = []
    while piece := sock.recv(64 * KIB):
        pieces.append(piece)
    return b"".join(pieces)


def both_ways(sock: socket.socket, words: bytes, crowd: Peers) -> bytes:
    """Send `words` and a half-close while reading until the peer ends."""

    def send() -> None:
        sock.sendall(words)
        sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    heard = read_all(sock)
    sender.join(PATIENCE)
    assert not sender.is_alive(), "the driver stopped reading"
    return heard


def eight_for_one(sock: socket.socket, heard: list[bytes]) -> None:
    """Answer each byte with eight, and read no further before they are gone."""
    while piece := sock.recv(4 * KIB):
        heard.append(piece)
        sock.sendall(piece * 8)


# ── checks ─────────────────────────────────────────────────────────────────────
async def check_no_lock(open_pump: OpenPump) -> None:
    """A relay to a peer that answers eight bytes for each it reads, with small buffers, delivers all of it."""
    words, heard, got = os.urandom(512 * KIB), list[bytes](), list[bytes]()
    with peers() as crowd:
        port = crowd.serve(lambda sock: eight_for_one(sock, heard), small=True)
        async with open_pump(Relay(port), listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], lambda sock: got.append(both_ways(sock, words, crowd)), small=True)
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
        port = crowd.serve(lambda sock: heard.append(both_ways(sock, back, crowd)))
        async with open_pump(Relay(port), listeners=HERE) as pump:
            crowd.dial(pump.ports["in"], lambda sock: got.append(both_ways(sock, there, crowd)))
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
            before = await _rests(lambda: sent[0])
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
            await _rests(lambda: len(machine.facts))
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
            before = await _rests(lambda: sent[0])
            assert 0 < before < 32 * MIB, f"{before} bytes were taken for a stream that takes none"
            gate.set()
            await _until(lambda: sent[0] > before + MIB)
    assert keeper.ends == {plan.digest: "aborted"}


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
        await _until(lambda before=threads: threading.active_count() <= before)  # type: ignore[misc]
        await _until(lambda before=sockets: open_files() <= before)  # type: ignore[misc]
    assert step > 3, f"cancelled at {step} checkpoints only"


async def _converse(open_pump: OpenPump, plan: SumPlan) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        async with open_pump(Relay(server.getsockname()[1]), listeners=HERE) as relay:
            async with open_pump(Hashes(plan, None), listeners=HERE, build=build_sum, store=Keeper()) as hashes:
                with closing(socket.create_connection(("127.0.0.1", hashes.ports["in"]))) as sock:
                    sock.sendall(b"x" * 70_000)
                    sock.shutdown(socket.SHUT_WR)
                    assert isinstance(await hashes.finished(), Proved)
            with closing(socket.create_connection(("127.0.0.1", relay.ports["in"]))) as near:
                near.sendall(b"x" * 1000)
                near.shutdown(socket.SHUT_WR)
                await _until(lambda: any(isinstance(fact, Opened) for fact in relay._machine.facts))
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
    check_cancelled,
)


async def check_driver(open_pump: OpenPump) -> None:
    """Run every check against a driver's `open_pump`; raises AssertionError at the first promise it breaks."""
    import anyio

    for check in CHECKS:
        with anyio.fail_after(3 * PATIENCE):
            await check(open_pump)


# ── what the checks use ────────────────────────────────────────────────────────
def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_files() -> int:
    """Return how many descriptors this process has open, or 0 where that cannot be seen."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


async def _rests(value: Callable[[], int], seconds: float = 0.3) -> int:
    """Wait until a number has been the same (and not 0) for a while, and return it."""
    import anyio

    seen, quiet = -1, 0.0
    while quiet < seconds:
        await anyio.sleep(0.05)
        quiet = quiet + 0.05 if value() == seen and seen else 0.0
        seen = value()
    return seen


async def _until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    import anyio

    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.sleep(0.005)
