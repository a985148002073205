"""Links over TLS: proved, refused, ended; our own two sides and the standard library's."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from drivers.loops import LOOPS, Loop, make_certificate

from towline.core import (
    Accepted,
    Close,
    Ended,
    Finished,
    Lost,
    Open,
    Opened,
    Received,
    Shut,
    TowlineError,
    Transmit,
    Wake,
)
from towline.drivers import Dialer, Listener, TlsSettings, testing
from towline.drivers._tls import Tls, client_context, server_context


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trusting(certificate: tuple[str, str]) -> Any:
    return Dialer(tls=TlsSettings(ca_files=(certificate[0],)))


class Asks(testing.Small):
    """Sends words over one TLS link, shuts it, and ends with all that came back and how."""

    def __init__(self, port: int, words: bytes, host: str = "localhost") -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.wish(Open(1, host, port, True), Transmit(1, words), Shut(1))

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self.heard.append(bytes(fact.data))
        elif isinstance(fact, Ended | Lost):
            self.wish(Finished((b"".join(self.heard), fact)))


class Echo(testing.Small):
    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received):
            self.wish(Transmit(fact.link, fact.data))
        elif isinstance(fact, Ended):
            self.wish(Shut(fact.link), Close(fact.link))


def serve_stdlib(crowd: Any, certificate: tuple[str, str], play: Any) -> Any:
    """A TLS server of the standard library in a thread."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def shake(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            play(secure)

    return crowd.serve(shake)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_of_the_standard_library(loop: Loop, certificate: tuple[str, str], trusting: Any, host: str) -> None:
    heard = []

    def play(sock: socket.socket) -> None:
        assert isinstance(sock, ssl.SSLSocket)
        heard.append(sock.recv(100))
        sock.sendall(b"answer")
        sock.unwrap()

    with testing.peers() as crowd:
        port = serve_stdlib(crowd, certificate, play)
        answer, end = loop.run(lambda: loop.perform(Asks(port, b"question", host), dialer=trusting))
    assert (heard, answer, end) == ([b"question"], b"answer", Ended(1))


def test_an_end_without_close_notify_is_an_end(loop: Loop, certificate: tuple[str, str], trusting: Any) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(b"answer")
        sock.recv(100)
        sock.shutdown(socket.SHUT_RDWR)

    with testing.peers() as crowd:
        port = serve_stdlib(crowd, certificate, play)
        assert loop.run(lambda: loop.perform(Asks(port, b"q"), dialer=trusting)) == (b"answer", Ended(1))


def test_a_client_of_the_standard_library(loop: Loop, certificate: tuple[str, str]) -> None:
    listeners = {"tls": Listener(tls_cert=certificate[0], tls_key=certificate[1])}
    context = ssl.create_default_context(cafile=certificate[0])
    got = []

    def play(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_hostname="localhost") as secure:
            secure.sendall(b"hello")
            got.append(secure.recv(100))
            secure.unwrap()

    async def main() -> Any:
        machine = Echo()
        async with loop.open_pump(machine, listeners=listeners) as pump:
            crowd.dial(pump.ports["tls"], play)
            await testing.until(lambda: any(isinstance(fact, Ended) for fact in machine.facts))
        return machine

    with testing.peers() as crowd:
        machine = loop.run(main)
    assert got == [b"hello"]
    assert [type(fact) for fact in machine.facts] == [Wake, Accepted, Received, Ended]


def test_8_mib_both_ways_between_our_own_two_sides(loop: Loop, certificate: tuple[str, str], trusting: Any) -> None:
    words = os.urandom(8 << 20)
    listeners = {"tls": Listener("localhost", tls_cert=certificate[0], tls_key=certificate[1])}

    async def main() -> Any:
        async with loop.open_pump(Echo(), listeners=listeners) as pump:
            return await loop.perform(Asks(pump.ports["tls"], words), dialer=trusting)

    heard, end = loop.run(main)
    assert end == Ended(1)
    assert testing.digest(heard) == testing.digest(words)


def test_what_is_not_trusted_is_lost_with_its_name(loop: Loop, certificate: tuple[str, str]) -> None:
    port = 0
    listeners = {"tls": Listener("localhost", tls_cert=certificate[0], tls_key=certificate[1])}

    async def lost(dialer: Any, host: str = "localhost") -> Any:
        _, end = await loop.perform(Asks(port, b"secret", host), dialer=dialer)
        return end

    async def main() -> Any:
        nonlocal port
        machine = Echo()
        async with loop.open_pump(machine, listeners=listeners) as pump:
            port = pump.ports["tls"]
            found = [
                await lost(Dialer()),
                await lost(Dialer(tls=TlsSettings(system_roots=False))),
                await lost(
                    Dialer(tls=TlsSettings((certificate[0],)), resolve={("other.test", port): ("127.0.0.1", port)}),
                    "other.test",
                ),
                await lost(Dialer(tls=TlsSettings(insecure_hosts=frozenset({"localhost"})))),
            ]
        assert b"secret" not in b"".join(bytes(fact.data) for fact in machine.facts[:-2] if isinstance(fact, Received))
        return found

    unknown, rootless, misnamed, insecure = loop.run(main)
    for fact in (unknown, rootless):
        assert fact.kind == "tls-error"
        assert "self-signed certificate" in fact.why
        assert "subject O=Towline tests, CN=localhost" in fact.why
        assert "issuer O=Towline tests" in fact.why
    assert misnamed.kind == "tls-error"
    assert "other.test" in misnamed.why
    assert insecure == Ended(1)


def refuses(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    testing.read_all(sock)


def test_a_peer_that_speaks_no_tls(loop: Loop, trusting: Any) -> None:
    with testing.peers() as crowd:
        port = crowd.serve(refuses)
        _, end = loop.run(lambda: loop.perform(Asks(port, b"q"), dialer=trusting))
    assert end.kind == "tls-error"
    assert "handshake" in end.why


def test_a_peer_that_leaves_in_the_handshake(loop: Loop, trusting: Any) -> None:
    with testing.peers() as crowd:
        port = crowd.serve(lambda sock: sock.recv(10))
        _, end = loop.run(lambda: loop.perform(Asks(port, b"q"), dialer=trusting))
    assert end.kind == "registry-unreachable"


def test_one_who_knocks_without_tls_is_not_told(loop: Loop, certificate: tuple[str, str]) -> None:
    listeners = {"tls": Listener(tls_cert=certificate[0], tls_key=certificate[1])}

    def silent(sock: socket.socket) -> None:
        assert testing.read_all(sock) == b""

    def plain(sock: socket.socket) -> None:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        testing.read_all(sock)

    async def main() -> Any:
        machine = Echo()
        async with loop.open_pump(machine, listeners=listeners, dialer=Dialer(connect_seconds=0.3)) as pump:
            crowd.dial(pump.ports["tls"], silent)
            crowd.dial(pump.ports["tls"], plain)
            await testing.until(lambda: not pump._links and pump._next_accepted == 6)
        return machine.facts

    with testing.peers() as crowd:
        assert [type(fact) for fact in loop.run(main)] == [Wake]


def test_files_that_cannot_be_used_are_named(loop: Loop, certificate: tuple[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for listener in (Listener(tls_cert=str(empty), tls_key=certificate[1]), Listener(tls_cert=str(tmp_path / "none"))):

        async def main(listener: Any = listener) -> None:
            async with loop.open_pump(Echo(), listeners={"a": Listener(), "tls": listener}):
                pass

        with pytest.raises(TowlineError) as caught:
            loop.run(main)
        assert caught.value.kind == "invalid-configuration"
        assert str(listener.tls_cert) in caught.value.message
    dialer = Dialer(tls=TlsSettings(ca_files=(str(empty),)))
    _, end = loop.run(lambda: loop.perform(Asks(1, b"q"), dialer=dialer))
    assert (end.kind, str(empty) in end.why) == ("invalid-configuration", True)


def test_a_port_that_is_taken_is_named(loop: Loop) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]

        async def main() -> None:
            async with loop.open_pump(Echo(), listeners={"a": Listener(port=port)}):
                pass

        with pytest.raises(TowlineError, match=f"cannot listen on 127.0.0.1:{port}: address already in use"):
            loop.run(main)


@pytest.mark.parametrize("window", [0, 1000, 16_384, 100_000])
@pytest.mark.parametrize("cut", [1, 2, 7, 100, 100_000])
def test_the_transform_is_blind_to_cuts(certificate: tuple[str, str], cut: int, window: int) -> None:
    """Ciphertext may come in any pieces, and plaintext leave through windows of any size, or none."""
    ours = Tls(client_context(TlsSettings((certificate[0],)), insecure=False), server_name="localhost")
    context = server_context(Listener(tls_cert=certificate[0], tls_key=certificate[1]))
    assert context is not None
    theirs = Tls(context, server_name=None)
    words, heard, ended = os.urandom(40_000), b"", False

    def take(to: Tls, wire: bytes) -> None:
        nonlocal heard, ended
        if not window or not to.ready:
            plain, ended = to.receive(wire)
            heard += plain
            return
        buffer, rest, more = memoryview(bytearray(window)), memoryview(wire), True
        while more:
            count, ended = to.fill(buffer, rest)
            heard += bytes(buffer[:count])
            rest, more = memoryview(b""), to.more

    def carry(wire: bytes, to: Tls) -> bool:
        for at in range(0, len(wire), cut):
            take(to, wire[at : at + cut])
        return bool(wire)

    ours.start()
    theirs.start()
    while carry(ours.output(), theirs) | carry(theirs.output(), ours):
        pass
    assert ours.ready
    assert theirs.ready
    carry(b"".join(ours.seal(memoryview(words))), theirs)
    assert not ended
    ours.close()
    carry(ours.output(), theirs)
    assert (heard, ended) == (words, True)
    # The other direction is still open.
    heard, ended = b"", False
    carry(b"".join(theirs.seal(b"after your end")), ours)
    assert heard == b"after your end"


def test_old_tls_is_not_spoken(certificate: tuple[str, str]) -> None:
    for context in (
        client_context(TlsSettings(), insecure=True),
        server_context(Listener(tls_cert=certificate[0], tls_key=certificate[1])),
    ):
        assert context is not None
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_the_opened_fact_comes_after_the_handshake(loop: Loop, certificate: tuple[str, str], trusting: Any) -> None:
    go = threading.Event()

    class Watches(Asks):
        def take(self, fact: Any, now: float) -> None:
            if isinstance(fact, Opened):
                assert go.is_set()
            super().take(fact, now)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def play(sock: socket.socket) -> None:
        threading.Event().wait(0.2)
        go.set()
        with context.wrap_socket(sock, server_side=True) as secure:
            secure.sendall(secure.recv(100))
            secure.unwrap()

    with testing.peers() as crowd:
        port = crowd.serve(play)
        machine = Watches(port, b"q")
        assert loop.run(lambda: loop.perform(machine, dialer=trusting)) == (b"q", Ended(1))
    assert Opened(1) in machine.facts
