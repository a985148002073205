"""How links end: early answers, cuts, slow parting, and a system without room."""

from __future__ import annotations

import errno
import socket
import threading
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from drivers.loops import LOOPS, Loop

from towline.core import Close, Drop, Ended, Finished, Lost, Open, Opened, Received, Shut, Transmit, Wake
from towline.drivers import Dialer, Guard, Listener, _flow, testing
from towline.drivers._kit_machines import Dials, Dropper
from towline.drivers._links import Link, listening


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


class Sends(testing.Small):
    """Sends a lot over one link, and ends when that ends."""

    def __init__(self, port: int, words: Any, *more: Any) -> None:
        super().__init__()
        self.wish(Open(1, "127.0.0.1", port, False), Transmit(1, words), *more)

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Lost | Ended):
            self.wish(Finished(fact))


def test_an_early_answer_is_heard_before_the_loss(loop: Loop) -> None:
    def refuses(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(b"413")

    with testing.peers() as crowd:
        machine = Sends(crowd.serve(refuses), bytes(16 << 20))
        end = loop.run(lambda: loop.perform(machine))
    assert machine.facts[:3] == [Wake(), Opened(1), Received(1, b"413")]
    assert isinstance(end, Lost)
    assert end.kind == "registry-unreachable"
    assert end.why in ("connection reset by peer", "broken pipe")


def test_a_reset_is_a_loss_and_not_an_end(loop: Loop) -> None:
    def resets(sock: socket.socket) -> None:
        sock.recv(100)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with testing.peers() as crowd:
        assert loop.run(lambda: loop.perform(Sends(crowd.serve(resets), b"hi"))) == Lost(1, "connection reset by peer")


def test_what_is_transmitted_before_the_link_is_open_is_sent_then(loop: Loop) -> None:
    heard = []
    with testing.peers() as crowd:
        port = crowd.serve(lambda sock: heard.append(testing.read_all(sock)))
        machine = Sends(port, b"early ", Transmit(1, memoryview(b"bird")), Shut(1), Transmit(1, b"too late"))
        assert loop.run(lambda: loop.perform(machine)) == Ended(1)
    assert heard == [b"early bird"]


def test_a_link_closed_before_it_opened_still_sends_what_is_queued(loop: Loop) -> None:
    heard: tuple[threading.Event, list[bytes]] = threading.Event(), []

    def play(sock: socket.socket) -> None:
        heard[1].append(testing.read_all(sock))
        heard[0].set()

    async def main() -> Any:
        port = crowd.serve(play)
        async with loop.open_pump(Sends(port, b"last words", Close(1))) as pump:
            await testing.until(heard[0].is_set)
            await testing.until(lambda: not pump._links)
            return pump._machine.facts

    with testing.peers() as crowd:
        assert loop.run(main) == [Wake()]
    assert heard[1] == [b"last words"]


def test_a_link_dropped_or_closed_while_it_opens_is_never_heard_of(loop: Loop) -> None:
    async def main(last: Any) -> Any:
        async with loop.open_pump(Quits(last)) as pump:
            await testing.until(lambda: not pump._links)
            return pump._machine.facts

    class Quits(testing.Small):
        def __init__(self, last: Any) -> None:
            super().__init__()
            self.wish(Open(1, "127.0.0.1", port, False), last)

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        for last in (Close(1), Drop(1)):
            assert loop.run(partial(main, last)) == [Wake()]


def test_the_linger_is_bounded(loop: Loop) -> None:
    """A peer that reads nothing does not keep a finished machine."""
    go = threading.Event()
    with testing.peers() as crowd:
        port = crowd.serve(lambda sock: go.wait(10), small=True)

        class Leaves(testing.Small):
            def take(self, fact: Any, now: float) -> None:
                if isinstance(fact, Opened):
                    self.wish(Transmit(1, bytes(8 << 20)), Finished("left"))

        machine = Leaves()
        machine.wish(Open(1, "127.0.0.1", port, False))
        assert loop.run(lambda: loop.perform(machine, linger=0.2), seconds=5) == "left"
        go.set()


def test_the_peer_that_was_really_connected_is_judged_too(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that answers differently the second time gains nothing."""
    monkeypatch.setattr(_flow.Flow, "_targets", lambda self, wish, found: [(found[0][0], found[0][4])])
    with testing.peers() as crowd:
        port = crowd.serve(lambda sock: testing.read_all(sock))
        wish = Open(1, "127.0.0.1", port, False, "untrusted")
        end = loop.run(lambda: loop.perform(Dials(wish)))
        assert end.kind == "address-blocked"


def test_where_the_operator_says_a_host_lives(loop: Loop) -> None:
    with testing.peers() as crowd:
        port = crowd.serve(lambda sock: testing.read_all(sock))
        dialer = Dialer(guard=Guard(), resolve={("registry.example", 443): ("127.0.0.1", port)})
        wish = Open(1, "registry.example", 443, False, "untrusted")
        assert loop.run(lambda: loop.perform(Dials(wish), dialer=dialer)) == Opened(1)


def test_a_system_without_room_is_asked_again(loop: Loop) -> None:
    class Full:
        """A listener whose first accepts fail."""

        def __init__(self, sock: socket.socket) -> None:
            self._sock = sock
            self.left = 2

        def accept(self) -> Any:
            if self.left:
                self.left -= 1
                raise OSError(errno.EMFILE, "too many open files")
            return self._sock.accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

    async def main() -> None:
        machine = Dropper()
        async with loop.open_pump(machine, listeners={"in": Listener()}) as pump:
            accept, full = pump._accept, Full(pump._listening[0][1])
            pump._accept = lambda name, sock, context: accept(name, full, context)
            crowd.dial(pump.ports["in"], lambda sock: None)
            await testing.until(lambda: len(machine.facts) >= 2)
            assert full.left == 0

    with testing.peers() as crowd:
        loop.run(main)


def test_a_name_whose_second_address_is_missing_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    there = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    missing = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("203.0.113.1", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [missing, there])
    (sock,) = listening("name.test", 0)
    sock.close()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [missing])
    with pytest.raises(OSError, match="assign"):
        listening("name.test", 0)


def test_a_link_that_was_dropped_as_it_connected_keeps_no_socket(loop: Loop) -> None:
    """The system's word that it is connected may be on its way to the loop when the machine drops it."""
    wish = Open(1, "127.0.0.1", 9, False)
    ours, theirs = socket.socketpair()

    async def main() -> None:
        machine = testing.Small()
        async with loop.open_pump(machine) as pump:
            pump._connected(Link(1, "peer"), wish, ours)
            assert ours.fileno() == -1
            assert machine.facts == [Wake()]

    with closing(theirs):
        loop.run(main)
        assert theirs.recv(1) == b""
