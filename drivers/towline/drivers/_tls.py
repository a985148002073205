"""TLS as a transform of bytes: ciphertext in, plaintext out, and back. It knows no loop and no socket.

A link's driver feeds it what it received and sends what it says; the machine above does not know.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from typing import Any

from towline.core import Data, RemoteProtocolError
from towline.drivers._config import Listener, TlsSettings
from towline.drivers._guard import literal

# One TLS record is 16 KiB at most (RFC 8446 §5.1); OpenSSL never returns more from one read.
RECORD = 16 * 1024
# What goes through a BIO at a time: it keeps the room of the most it ever held, and this much stays in a core's cache.
SLICE = 64 * 1024


class Tls:
    """One side of one TLS connection.

    `start()`, then `receive()` until `ready`; `seal()` and `receive()` or `fill()` as the link lives; `close()` says
    that we send no more. `output()` has the bytes for the wire after each of them.
    """

    __slots__ = ("_from_wire", "_ssl", "_to_wire", "_what", "more", "ready")

    def __init__(self, context: ssl.SSLContext, *, server_name: str | None) -> None:
        """`server_name` is the host to verify on the client's side, None on the server's."""
        self._from_wire = ssl.MemoryBIO()
        self._to_wire = ssl.MemoryBIO()
        self._what = server_name or "the peer"
        self._ssl = context.wrap_bio(
            self._from_wire,
            self._to_wire,
            server_side=server_name is None,
            server_hostname=server_name,
        )
        self.ready = False
        # There may be plaintext that the last window had no room for; the socket does not tell of it again.
        self.more = False

    def start(self) -> None:
        """Begin the handshake."""
        self._shake()

    def receive(self, data: Data) -> tuple[bytes, bool]:
        """Take ciphertext and return the plaintext in it, and whether the peer said that it sends no more.

        Raises: RemoteProtocolError "tls-error"; `output()` may still hold the alert that tells the peer why
        """
        self.more = False
        self._from_wire.write(data)
        if not self.ready:
            self._shake()
            if not self.ready:
                return b"", False
        pieces: list[bytes] = []
        try:
            while piece := self._ssl.read(RECORD):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            return pieces[0] if len(pieces) == 1 else b"".join(pieces), False
        except ssl.SSLZeroReturnError:
            # So if we have said close_notify, too; an empty read if only the peer has.
            pass
        except ssl.SSLError as error:
            raise self._broken(error) from None
        return b"".join(pieces), True

    def fill(self, window: memoryview, data: memoryview) -> tuple[int, bool]:
        """Take ciphertext and decrypt into a window, as far as it goes; the connection must be ready.

        Return how many bytes of the window are filled, and whether the peer said that it sends no more. `more` says
        whether there may be plaintext for which the window had no room.
        Raises: as `receive`
        """
        count, room = 0, len(window)
        while True:
            # The BIO keeps the room of the most it ever held.
            self._from_wire.write(data[:SLICE])
            data = data[SLICE:]
            try:
                while count < room:
                    taken = self._read(room - count, window[count:])
                    if not taken:
                        raise ssl.SSLZeroReturnError
                    count += taken
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self.more = False
                return count, True
            except ssl.SSLError as error:
                raise self._broken(error) from None
            self.more = count == room
            if self.more or not data:
                self._from_wire.write(data)
                return count, False

    def _read(self, count: int, window: memoryview) -> int:
        """Decrypt one record's worth into a window; 0 is close_notify."""
        taken: Any = self._ssl.read(count, window)
        return int(taken)

    def seal(self, data: Data) -> Iterator[bytes]:
        """Encrypt, and yield the bytes for the wire; the connection must be ready. Raises ssl.SSLError."""
        view = memoryview(data)
        while view:
            view = view[self._ssl.write(view[:SLICE]) :]
            yield self._to_wire.read()

    def close(self) -> None:
        """Say close_notify. Reading goes on."""
        try:
            self._ssl.unwrap()
        except ssl.SSLError:
            # WantRead: ours is said, the peer's has not come. Anything else: the connection is beyond manners.
            pass

    def _broken(self, error: ssl.SSLError) -> RemoteProtocolError:
        return RemoteProtocolError("tls-error", f"TLS with {self._what} broke: {_reason(error)}")

    def output(self) -> bytes:
        """Return the bytes for the wire, once."""
        return self._to_wire.read() if self._to_wire.pending else b""

    def _shake(self) -> None:
        try:
            self._ssl.do_handshake()
            self.ready = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLCertVerificationError as error:
            raise RemoteProtocolError(
                "tls-error",
                f"the certificate of {self._what} was refused: {error.verify_message}{self._certificate()}",
                hint="add the issuing authority to the trusted CA files if this certificate is meant",
            ) from None
        except ssl.SSLError as error:
            raise RemoteProtocolError(
                "tls-error", f"the TLS handshake with {self._what} failed: {_reason(error)}"
            ) from None
        except ValueError as error:
            # OpenSSL takes names that its Python wrapper refuses only here (an empty label, for one).
            raise RemoteProtocolError("tls-error", f"no TLS name to verify in {self._what!r}: {error}") from None

    def _certificate(self) -> str:
        """Describe the certificate that was refused: OpenSSL keeps it, the public API shows only verified ones."""
        try:
            inner: Any = getattr(self._ssl, "_sslobj", None) or getattr(self._ssl, "_sslsocket", None)
            info = inner.get_unverified_chain()[0].get_info()
            return f" (subject {_name(info['subject'])}, issuer {_name(info['issuer'])})"
        except (AttributeError, IndexError, KeyError, TypeError):
            return ""


def client_context(settings: TlsSettings, *, insecure: bool) -> ssl.SSLContext:
    """Return a context for links that we open. Make it once: loading the roots takes milliseconds.

    Raises: RemoteProtocolError "invalid-configuration" for a CA file that cannot be read
    """
    context = _rooted(settings)
    _modern(context)
    for path in settings.ca_files:
        try:
            context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise RemoteProtocolError(
                "invalid-configuration", f"expected certificates in PEM form in {path}: {error.strerror or error}"
            ) from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def server_context(listener: Listener) -> ssl.SSLContext | None:
    """Return a context for links that a listener accepts, or None if it speaks plain.

    Raises: RemoteProtocolError "invalid-configuration" for a certificate or key that cannot be used
    """
    if listener.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _modern(context)
    try:
        context.load_cert_chain(listener.tls_cert, listener.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise RemoteProtocolError(
            "invalid-configuration",
            f"expected a certificate and its key in PEM form in {listener.tls_cert}: {error.strerror or error}",
        ) from None
    return context


class Contexts:
    """The client contexts of one dialer, made when first needed."""

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._insecure = frozenset(host.rstrip(".").lower() for host in settings.insecure_hosts)
        self._made: dict[bool, ssl.SSLContext] = {}

    def client(self, host: str) -> Tls:
        """Return our side of a connection to `host`, which the peer must prove to be unless it is listed."""
        name = host.rstrip(".").lower()
        insecure = name in self._insecure
        if insecure not in self._made:
            self._made[insecure] = client_context(self._settings, insecure=insecure)
        address = literal(host)
        name = self._settings.server_names.get(name, str(address) if address is not None else name)
        try:
            return Tls(self._made[insecure], server_name=name)
        except ValueError as error:
            raise RemoteProtocolError("tls-error", f"no TLS name to verify in {host!r}: {error}") from None


def _rooted(settings: TlsSettings) -> ssl.SSLContext:
    """Return a client context that trusts the system's roots, if it shall.

    OpenSSL's own default paths are taken where they lead somewhere. Where they do not (macOS, Windows, a
    Python built elsewhere) truststore finds the roots; not always, because on Linux it reads the whole bundle
    again for each connection (20 ms on the loop, against 0.04).
    """
    if not settings.system_roots:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    paths = ssl.get_default_verify_paths()
    if sys.platform.startswith("linux") and (paths.cafile or paths.capath):
        return ssl.create_default_context()
    try:
        import truststore
    except ImportError:
        return ssl.create_default_context()
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _modern(context: ssl.SSLContext) -> None:
    """TLS 1.2 or newer, no renegotiation (a peer's way to make us work, and our writes wait), HTTP/1.1."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _name(parts: Any) -> str:
    """Write a distinguished name as `CN=…, O=…`, bounded: it is the peer's text."""
    short = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}
    words = [f"{short.get(key, key)}={value}" for part in parts for key, value in part]
    return (", ".join(words) or "empty")[:200].encode("ascii", "backslashreplace").decode()
