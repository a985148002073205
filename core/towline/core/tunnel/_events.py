"""What a tunnel says to its owner, and the settings that the owner gives it.

Client side: one `TunnelClient` is one tunnel through all its reconnections. Its *session* is the number of the
connection, counted from 1. Host side: one `TunnelHost` holds every client's session, numbered from 1 and never again.

    TunnelClient(config, *, links, entropy, limits)
        handle(fact, now)   poll()   deadline()   owns(link)   state
        emit(name, args, *, ack=False, now) -> int | None      an ack handle, unique in the tunnel's life
        acknowledge(ack_id, args, *, now)                      the `ack_id` of an Arrived; a dead session's is dropped
        forget(ack_id)                                         no longer wait for this ack, nor send it if still queued
        reconfigure(config)                                    other settings for the next attempt
        close(reason, *, now)                                  end for good: TunnelClosed(final=True) follows
    TunnelHost(config, *, entropy, limits)
        handle(fact, now)   poll()   deadline()   owns(link)
        request(exchange, link, request, now)                  an HTTP request under /primus, body whole
        gone(exchange, now)                                    the asker left before the Reply
        emit(session, name, args, *, ack=False, now) -> int | None
        acknowledge(session, ack_id, args, *, now)   forget(session, ack_id)
        close_session(session, *, deliberate, now, reason="")  deliberate: `primus::server::close` goes first
        authorize(exchange, refused, *, now)                   the answer to an AuthorizationAsked
        stop(now)   close_all(now)                             take no new sessions; end all with 1001

Every call is a fact in the sense of the contract: drain `poll` after it. `emit` raises TunnelBusy (kind
"too-busy") when the tunnel's outgoing buffer is full; nothing was queued then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

from towline.core._contract import Record
from towline.core._errors import TowlineError
from towline.core._secret import Secret

Role: TypeAlias = Literal["primary", "secondary"]


class TunnelBusy(TowlineError):
    """The tunnel's outgoing buffer is full: what was to be emitted is not queued. Try again later."""

    def __init__(self, message: str) -> None:
        super().__init__("too-busy", message, retry_after=1.0)


class TunnelConfig(Record, frozen=True):
    """Settings of one tunnel of a client.

    Shape:  `metadata` is the identify metadata without the token, JSON-ready (broker-protocol.md §1.8);
            `extra_query` comes right before `connection_role` (the `server_id` of high availability)
    Units:  seconds; `epoch` is wall-clock seconds since 1970 minus the driver's `now`
    """

    server_url: str
    token: Secret
    role: Role
    client_id: str
    version: str
    metadata: Mapping[str, Any]
    epoch: float = 0.0
    polling_first: bool = False
    authorization: Secret | None = None
    extra_query: tuple[tuple[str, str], ...] = ()
    primus_ping: float = 25.0
    primus_pong: float = 10.0
    connect: float = 10.0
    connect_again: float = 30.0
    backoff: float = 0.5
    backoff_cap: float = 20 * 60.0
    attempts: int = 30
    good_service: float = 60.0
    heartbeat_least: float = 5.0
    heartbeat_most: float = 120.0
    route: str = "direct"


class HostConfig(Record, frozen=True):
    """Settings of a server's tunnel side. `tokens` None takes any token, as the stock server does.

    Shape:  with `authorization` each client must prove who it is: AuthorizationAsked
    Units:  seconds; `credential_life` is how long one proof is good
    """

    tokens: tuple[Secret, ...] | None = None
    capabilities: tuple[str, ...] = ("receive-post-streams",)
    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    silence: float = 35.0
    minimal_version: str = "4.100.0"
    recommended_version: str = "4.182.0"
    authorization: bool = False
    credential_life: float = 65 * 60.0


# ── both sides ────────────────────────────────────────────────────────────────
class Arrived(Record, frozen=True):
    """The peer emitted an event. `ack_id` is None when it wants no answer."""

    session: int
    name: str
    args: tuple[Any, ...]
    ack_id: int | None = None


class Acked(Record, frozen=True):
    """The peer answered the event for which `emit(..., ack=True)` returned this handle."""

    session: int
    ack_id: int
    args: tuple[Any, ...]


# ── client side ───────────────────────────────────────────────────────────────
class TunnelOpened(Record, frozen=True):
    """The tunnel is open and identified itself; what was queued goes out right after."""

    session: int
    role: Role
    transport: Literal["polling", "websocket"]


class TunnelIdentified(Record, frozen=True):
    """The server's identify came: what it can do."""

    session: int
    role: Role
    capabilities: tuple[str, ...]


class TunnelClosed(Record, frozen=True):
    """The tunnel was lost (`session` says which connection; 0 when an attempt failed), or is closed for good.

    `lost_acks` are the handles that will never be answered. `retry_at` is the next attempt, None when `final`;
    `exhausted` says that it is final because too many attempts failed.
    """

    session: int
    role: Role
    reason: str
    final: bool
    lost_acks: tuple[int, ...] = ()
    retry_at: float | None = None
    exhausted: bool = False


# ── host side ─────────────────────────────────────────────────────────────────
class HttpRequest(Protocol):
    """What the host reads of a request: core.http's ServerRequest fits."""

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """Names in lower case."""

    @property
    def body(self) -> bytes: ...


class Reply(Record, frozen=True):
    """Answer this exchange. `headers` hold no content-length: the owner's HTTP side adds it."""

    exchange: int
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Upgrade(Record, frozen=True):
    """Send `response` (a whole 101 head) on the link and hand its further bytes to the host as Received."""

    exchange: int
    link: int
    response: bytes


class AuthorizationAsked(Record, frozen=True):
    """May this client connect under this token? `TunnelHost.authorize(exchange, ...)` answers; its request waits.

    `authorization` is the whole header; `forwarded_for` the asker's, empty without one.
    """

    exchange: int
    token: Secret
    client_id: str
    authorization: Secret
    forwarded_for: str


class SessionOpened(Record, frozen=True):
    """A client shook hands. It is of no use before it is Identified."""

    session: int
    token: Secret
    role: str
    client_id: str


class Identified(Record, frozen=True):
    """The client said who it is; its token equals the one it connected with.

    `version` None or `capabilities` None: callers are answered 400. `metadata` is as it came (a JSON object).
    A second identify of one session gives a second Identified.
    """

    session: int
    token: Secret
    role: str
    client_id: str
    version: str | None
    capabilities: tuple[str, ...] | None
    metadata: dict[str, Any]


class SessionClosed(Record, frozen=True):
    """The session is gone; its unanswered acks never come. Said once for each SessionOpened."""

    session: int
    reason: str
    identified: bool


class Ponged(Record, frozen=True):
    """A client's Primus ping was answered: it is alive. `sent_ms` is the number in the ping."""

    session: int
    sent_ms: int
