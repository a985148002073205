"""What a driver knows, and all that it knows: facts about links, wishes for links, streams of bulk bytes.

A link is one byte stream, named by an integer that is never used twice: odd when a machine opened it,
even when the driver accepted it. Facts are past participles, wishes are imperatives.
A wish that a driver does not know is an event for the application and is handed on unchanged.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, Protocol, TypeAlias, TypeVar

import msgspec

from towline.core._contract import Data, Record
from towline.core._errors import TowlineError

T = TypeVar("T")

Purpose: TypeAlias = Literal["configured", "untrusted", "metadata"]
"""What the dial guard is told of a target: named by the operator, named by a peer, or the machine's own metadata
service, the one place for which link-local addresses are dialled."""


# ── facts ──────────────────────────────────────────────────────────────────────
class Wake(Record, frozen=True):
    """The deadline came, or the driver has just started."""


WAKE = Wake()


class Opened(Record, frozen=True):
    """The link that was wished for is connected, and its TLS handshake done."""

    link: int


class Accepted(Record, frozen=True):
    """A peer connected to a listener. `peer` is its address for logs, `listener` the listener's name."""

    link: int
    listener: str
    peer: str


class Received(Record, frozen=True):
    """Bytes came. The buffer is given away: the driver never writes in it again."""

    link: int
    data: Data


class Filled(Record, frozen=True):
    """Bytes came into the window that was wished for; a machine that takes them takes `Received` in their place.

    The view is of a buffer that the driver fills again: good for this turn and for what the turn wished with it
    (`Transmit`, `Feed`, `Store`). Whoever keeps its bytes copies them.
    """

    link: int
    view: memoryview


class Ended(Record, frozen=True):
    """The peer will send no more; it may still read."""

    link: int


class Lost(Record, frozen=True):
    """The link is gone: it could not be opened, was reset, or broke. `kind` is a row of KINDS."""

    link: int
    why: str
    kind: str = "registry-unreachable"


class Drained(Record, frozen=True):
    """All bytes transmitted on this link so far have left: said after a backlog, and after a shared link's turn."""

    link: int


class Proved(Record, frozen=True):
    """A stream took its last byte and everything it promised to check holds."""

    stream: int
    value: Any


class Refused(Record, frozen=True):
    """A stream found its bytes wrong; what was stored under it is thrown away."""

    stream: int
    error: TowlineError


WireFact: TypeAlias = Wake | Opened | Accepted | Received | Filled | Ended | Lost | Drained | Proved | Refused


# ── wishes ─────────────────────────────────────────────────────────────────────
class Open(Record, frozen=True):
    """Connect. `purpose` tells the dial guard who named the target."""

    link: int
    host: str
    port: int
    tls: bool
    purpose: Purpose = "configured"
    route: str = "direct"


class Transmit(Record, frozen=True):
    """Send, in order, after what is queued on this link."""

    link: int
    data: Data


class Window(Record, frozen=True):
    """The next read of this link may be one piece of up to `limit` bytes, which all belong to one body.

    Good for one read, which is told as `Filled`; a driver without windows reads as ever and says `Received`.
    """

    link: int
    limit: int


class Share(Record, frozen=True):
    """From here on this link is a tunnel: never pause its reading because another link is slow.

    Its machine bounds each stream on it instead: each link that its turn transmitted to says `Drained` as soon as
    all of that has left, also where that is at once.
    """

    link: int


class Shut(Record, frozen=True):
    """Half-close after what is queued; the driver still reads until the peer ends."""

    link: int


class Close(Record, frozen=True):
    """Close after what is queued, within the driver's linger; nothing more is read."""

    link: int


class Drop(Record, frozen=True):
    """Close at once, discard what is queued, with a reset where the transport has one."""

    link: int


class Plan(Record, frozen=True):
    """Data from which a driver builds a stream, through the `build` that comes with the plan's package."""


class Begin(Record, frozen=True):
    """Start a stream. Above 256 KiB of `expected_bytes` (or unknown) the driver runs it in a worker thread."""

    stream: int
    plan: Plan
    expected_bytes: int | None = None


class Feed(Record, frozen=True):
    """The stream's next bytes. A full ring stops the link whose turn fed it."""

    stream: int
    data: Data


class Store(Record, frozen=True):
    """Keep these bytes under the stream's name: final when it is Proved, thrown away when it is not."""

    stream: int
    data: Data


class End(Record, frozen=True):
    """The stream has all its bytes; Proved or Refused follows."""

    stream: int


class Abandon(Record, frozen=True):
    """Forget the stream, without a verdict."""

    stream: int


class Note(Record, frozen=True):
    """Something worth a log line. `fields` hold no secrets but `Secret`s."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, Any] = msgspec.field(default_factory=dict)


class Finished(Record, Generic[T], frozen=True):
    """The machine is done, and this came of it."""

    value: T


class Failed(Record, frozen=True):
    """The machine is done, and this stopped it."""

    error: TowlineError


WireWish: TypeAlias = (
    Open
    | Transmit
    | Window
    | Share
    | Shut
    | Close
    | Drop
    | Begin
    | Feed
    | Store
    | End
    | Abandon
    | Finished[Any]
    | Failed
)


class Stream(Protocol):
    """Bulk bytes in, one verdict out. A plain object with synchronous calls; one thread touches it."""

    def feed(self, data: Data) -> None:
        """Take the next bytes; raise a TowlineError at the first that is wrong.

        They may be a window's: whoever keeps some past the call copies them.
        """

    def end(self) -> Any:
        """Say that there are no more; return the value of `Proved`, or raise a TowlineError."""


class LinkNumbers:
    """The odd numbers a root machine gives to the links it opens, shared by all its parts."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 1

    def take(self) -> int:
        """Return the next unused link number."""
        number, self._next = self._next, self._next + 2
        return number
