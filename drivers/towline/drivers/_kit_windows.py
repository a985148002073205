"""The checks of windows: what goes through a reused buffer arrives as it was sent, whoever is slow.

The bytes are random, because a repeating pattern looks right out of the wrong buffer. A driver without windows passes
too: it says `Received`.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

from towline.core import KIB, MIB, Opened, Proved
from towline.drivers._config import Dialer, Listener, TlsSettings
from towline.drivers._kit_machines import Keeper, SumPlan, WindowHashes, WindowRelay, build_sum
from towline.drivers._kit_peers import HERE, OpenPump, Play, digest, peers, read_all, read_exactly, until

# A certificate and its key, as PEM files, good for "localhost".
Certificate = tuple[str, str]
# What follows the body on its link, and must not come through its window.
TAIL: Final = 100
# The socket buffers of a slow reader: far less than a body, so that the driver has a backlog.
BUFFER: Final = 64 * KIB
SIZE: Final = 3 * MIB + 12_345


async def check_window_relay(open_pump: OpenPump, certificate: Certificate | None = None) -> None:
    """From link to link, both ways, to fast readers and slow ones; the first bytes come while the other side opens."""
    for slow in (False, True):
        await _relayed(open_pump, certificate, slow)


async def _relayed(open_pump: OpenPump, certificate: Certificate | None, slow: bool) -> None:
    # The system takes some MiB for a reader that sleeps; the backlog begins after them.
    size = 8 * MIB if slow else SIZE
    there, back = os.urandom(size + TAIL), os.urandom(size + TAIL)
    heard, got = list[bytes](), list[bytes]()

    def upstream(sock: socket.socket) -> None:
        heard.append(read_exactly(sock, len(there), slowly=slow))
        sock.sendall(back)
        read_all(sock)

    def caller(sock: socket.socket) -> None:
        sock.sendall(there)
        got.append(read_exactly(sock, len(back), slowly=slow))

    with peers() as crowd:
        port = crowd.serve(_server(upstream, certificate), small=slow, size=BUFFER)
        machine = WindowRelay(port, size, host="localhost", secure=certificate is not None)
        async with open_pump(machine, **_how(certificate)) as pump:
            crowd.dial(pump.ports["in"], _client(caller, certificate), small=slow, size=BUFFER)
            assert await pump.finished() == "relayed"
    assert digest(heard[0]) == digest(there), f"there: {len(heard[0])} bytes arrived, not as they were sent"
    assert digest(got[0]) == digest(back), f"back: {len(got[0])} bytes arrived, not as they were sent"


async def check_window_stream(open_pump: OpenPump, certificate: Certificate | None = None) -> None:
    """Into a stream and a store, inline and in a worker that is slow at first."""
    words = os.urandom(SIZE + TAIL)
    for expected, pause in ((100, 0.0), (None, 0.0), (None, 0.02)):
        plan, keeper = SumPlan(digest(words), pause=pause), Keeper()

        def sends(sock: socket.socket) -> None:
            sock.sendall(words)
            # A plain close would be a reset where TLS sent a session ticket that nobody read.
            if isinstance(sock, ssl.SSLSocket):
                sock.unwrap()

        with peers() as crowd:
            machine = WindowHashes(plan, expected, SIZE)
            async with open_pump(machine, build=build_sum, store=keeper, **_how(certificate)) as pump:
                crowd.dial(pump.ports["in"], _client(sends, certificate))
                fact = await pump.finished()
        assert fact == Proved(1, plan.digest), fact
        assert keeper.kept == {plan.digest: words}, "what was kept is not what was sent"


def _opened(machine: WindowRelay, number: int) -> bool:
    return sum(isinstance(fact, Opened) for fact in machine.facts) == number


async def check_window_cut(open_pump: OpenPump, certificate: Certificate | None = None) -> None:
    """A reader who leaves in the middle takes nothing of the next one's bytes with it, and gives none to it."""
    words, heard = os.urandom(SIZE), list[bytes]()

    def leaves(sock: socket.socket) -> None:
        read_exactly(sock, 100 * KIB)

    def reads(sock: socket.socket) -> None:
        heard.append(read_exactly(sock, len(words), slowly=True))

    def sends(sock: socket.socket) -> None:
        try:
            sock.sendall(words)
            read_all(sock)
        except OSError:
            # The relay drops it when its reader has left.
            pass

    with peers() as crowd:
        machine = WindowRelay(0, SIZE, host="localhost", secure=certificate is not None)
        async with open_pump(machine, **_how(certificate)) as pump:
            for number, play in enumerate((leaves, reads), 1):
                machine.port = crowd.serve(_server(play, certificate), small=True, size=BUFFER)
                crowd.dial(pump.ports["in"], _client(sends, certificate))
                await until(partial(_opened, machine, number))
            assert await pump.finished() == "relayed"
    assert digest(heard[0]) == digest(words)


WINDOW_CHECKS: Final[tuple[Callable[..., Awaitable[None]], ...]] = (
    check_window_relay,
    check_window_stream,
    check_window_cut,
)


# ── over TLS, where there is a certificate ───────────────────────────────────────
def _how(certificate: Certificate | None) -> dict[str, Any]:
    if certificate is None:
        return {"listeners": HERE}
    return {
        "listeners": {"in": Listener("127.0.0.1", 0, *certificate)},
        "dialer": Dialer(tls=TlsSettings(ca_files=(certificate[0],))),
    }


def _server(play: Play, certificate: Certificate | None) -> Play:
    if certificate is None:
        return play
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def secure(sock: socket.socket) -> None:
        # What was sent to a link that is still opening waits in the driver.
        time.sleep(0.1)
        with context.wrap_socket(sock, server_side=True) as safe:
            play(safe)

    return secure


def _client(play: Play, certificate: Certificate | None) -> Play:
    if certificate is None:
        return play
    context = ssl.create_default_context(cafile=certificate[0])

    def secure(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_hostname="localhost") as safe:
            play(safe)

    return secure
