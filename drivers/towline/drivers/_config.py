"""What a driver is told from outside, the same for every loop: where to dial, where to listen, where bytes are kept."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from towline.core import LIMITS, Data, Machine, Plan, Record
from towline.drivers._guard import Guard


class TlsSettings(Record, frozen=True):
    """How servers prove themselves to us.

    The system's roots are trusted, and beside them those in `ca_files` (instead of them, where `system_roots`
    is off). `insecure_hosts` are dialled without any proof; a program that fills it says so at every start.
    `server_names` are the names that hosts prove to have, where those are not the ones that are dialled.
    """

    ca_files: tuple[str, ...] = ()
    insecure_hosts: frozenset[str] = frozenset()
    server_names: Mapping[str, str] = msgspec.field(default_factory=dict)
    system_roots: bool = True


class Dialer(Record, frozen=True):
    """How links are opened.

    `resolve` names targets that live elsewhere: (host, port) → (address, port), as curl's --connect-to; TLS
    still expects the host's own name. An address put there by the operator counts as configured.
    `connect_seconds` covers resolving, connecting and the TLS handshake together.
    """

    guard: Guard = Guard()
    tls: TlsSettings = TlsSettings()
    resolve: Mapping[tuple[str, int], tuple[str, int]] = msgspec.field(default_factory=dict)
    connect_seconds: float = LIMITS.time_connect


class Listener(Record, frozen=True):
    """One address to accept links on. Port 0 lets the system choose; the pump's `ports` says what it chose."""

    host: str = "127.0.0.1"
    port: int = 0
    tls_cert: str | None = None
    tls_key: str | None = None


class Sink(Protocol):
    """Where one stream's stored bytes go. Called from one thread, and not from the loop's when the stream is large."""

    def write(self, data: Data) -> None:
        """Keep these bytes too; they may be a window's, and are good for the call only."""

    def commit(self) -> None:
        """Keep the bytes under their name; the stream has proved them."""

    def abort(self) -> None:
        """Throw the bytes away. Also called after a `commit` that raised."""


class BlobStore(Protocol):
    """Where the bytes of `Store` wishes are kept."""

    def open(self, plan: Plan) -> Sink:
        """Begin to keep the bytes of the stream with this plan; called at its first Store, in its thread."""


class Driver(Protocol):
    """A module that runs machines on a loop: `towline.drivers.on_trio` or `on_asyncio`."""

    def open_pump(
        self,
        machine: Machine[Any, Any],
        *,
        dialer: Dialer | None = None,
        listeners: Mapping[str, Listener] | None = None,
    ) -> AbstractAsyncContextManager[Any]: ...

    async def perform(
        self,
        machine: Machine[Any, Any],
        *,
        dialer: Dialer | None = None,
        on_event: Any = None,
    ) -> Any: ...
