"""One epoll for all links: none starves another, and one that is not read costs nothing."""

from __future__ import annotations

import select
import socket
import struct
from typing import Any

import pytest
import trio

from towline.core import Accepted, Received, Share, Transmit
from towline.drivers import Listener, on_trio, testing
from towline.drivers._epoll import HAS_EPOLL, ROUND, Epoll
from towline.drivers._links import Link

pytestmark = pytest.mark.skipif(not HAS_EPOLL, reason="this system has no epoll")


def paired(number: int) -> tuple[Link, socket.socket]:
    ours, theirs = socket.socketpair()
    link = Link(number, "peer")
    link.sock = ours
    link.reading = True
    return link, theirs


def test_each_ready_link_is_served_before_one_is_served_twice() -> None:
    """And after a round the loop's other tasks have their turn."""
    epoll = Epoll()
    pairs = [paired(number) for number in range(ROUND + 40)]
    for link, theirs in pairs:
        epoll.watch(link)
        theirs.send(b"always ready")
    served: list[int] = []

    def receive(link: Link) -> bool:
        served.append(link.number)
        return True

    epoll.serve(receive, lambda link: False)
    assert len(served) == ROUND == len(set(served))
    epoll.serve(receive, lambda link: False)
    assert set(served) == {link.number for link, _ in pairs}
    epoll.close()
    for link, theirs in pairs:
        link.close(reset=False)
        theirs.close()


def test_what_a_link_waits_for_follows_it() -> None:
    epoll, asked = Epoll(), list[str]()
    link, theirs = paired(1)

    def receive(link: Link) -> bool:
        asked.append("read")
        link.reading = False
        return False

    def write(link: Link) -> bool:
        asked.append("write")
        link.writing = False
        return False

    epoll.watch(link)
    epoll.serve(receive, write)
    assert asked == []
    link.writing = True
    epoll.watch(link)
    theirs.send(b"x")
    for _ in range(3):
        epoll.serve(receive, write)
    assert sorted(asked) == ["read", "write"]
    # It waits for nothing, so not even its error wakes anybody.
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    assert not select.select([epoll], [], [], 0)[0]
    link.reading = True
    epoll.watch(link)
    epoll.serve(receive, write)
    assert len(asked) == 3
    epoll.forget(link)
    epoll.forget(link)
    epoll.close()
    assert epoll.closed
    link.close(reset=False)


class Gathering(testing.Small):
    """Passes on to its first link, which is shared, what comes on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[int] = []

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Accepted):
            self.links.append(fact.link)
            if len(self.links) == 1:
                self.wish(Share(fact.link))
        elif isinstance(fact, Received):
            self.wish(Transmit(self.links[0], fact.data))


def test_what_a_round_writes_on_a_tunnel_leaves_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, flushed = Gathering(), list[int]()
    flush = Link.flush

    def counted(link: Link) -> bool:
        flushed.append(link.queued)
        return flush(link)

    async def main() -> None:
        async with on_trio.open_pump(machine, listeners={"in": Listener()}) as pump:
            dialled = [socket.create_connection(("127.0.0.1", pump.ports["in"])) for _ in range(9)]
            while len(machine.links) < 9:
                await trio.sleep(0.01)
            monkeypatch.setattr(Link, "flush", counted)
            for sock in dialled[1:]:
                sock.send(b"hello")
            got = b""
            while len(got) < 40:
                await trio.lowlevel.wait_readable(dialled[0])
                got += dialled[0].recv(100)
            assert flushed == [40]
            # And by itself, at once.
            dialled[1].send(b"again")
            await trio.lowlevel.wait_readable(dialled[0])
            assert dialled[0].recv(100) == b"again"
            for sock in dialled:
                sock.close()

    trio.run(main)
