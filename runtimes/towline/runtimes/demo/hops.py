"""The demo's hops: what each part says, as lines that a newcomer can follow."""

from __future__ import annotations

import sys
import time
from typing import Final

from towline.core import Note
from towline.core.http import ServerRequest
from towline.runtimes.demo.registry import Reply
from towline.runtimes.logs import Log, plain

# What a program's note means to somebody who watches; {…} are the note's fields. Only these are hops.
_TOLD: Final[dict[tuple[str, str], str]] = {
    ("server", "server started"): "listens on {address}",
    ("client", "client started"): "listens on {address}, dials out to {server}",
    ("agent", "agent started"): "listens on {address}, knows the registry {registry}",
    ("client", "tunnel.open"): "{role} tunnel is open ({transport})",
    ("server", "tunnel.identified"): "{role} tunnel identified, token {token}",
    ("server", "filter.passed inbound-request"): "{method} {path} goes down the tunnel",
    (
        "client",
        "filter.passed inbound-request",
    ): "{method} {path} is on the allow-list (rule {rule}), goes to the agent",
    ("agent", "request"): "{method} {path} → {status}",
    ("agent", "job settled done"): "every digest proven, inventory taken ({ms} ms); result is in the outbox",
    ("agent", "job settled failed"): "scan failed ({ms} ms); that is in the outbox",
    ("client", "filter.passed outbound-request"): "callback {method} {path} goes up the tunnel",
    ("server", "filter.passed outbound-request"): "callback {method} {path} arrived",
    ("server", "callback kept"): "results box keeps the {kind} message",
    ("agent", "job delivered"): "every message acknowledged",
}
# A denied request, a tunnel that broke: never left out.
_WORTH: Final = ("warning", "error")


class Hops:
    """Prints hops with the time since the demo began. Silent where the answer is a document."""

    def __init__(self, *, talks: bool, verbose: bool) -> None:
        self._talks = talks
        self._verbose = verbose
        self._began = time.monotonic()

    def hop(self, who: str, what: str) -> None:
        """Print one hop as it happens."""
        if self._talks:
            sys.stdout.write(f"{time.monotonic() - self._began:6.2f}s  {who:<9} {what}\n")
            sys.stdout.flush()

    def replied(self, request: ServerRequest, reply: Reply) -> None:
        """Print what the registry was asked and said."""
        login = (request.get("authorization") or "anonymous").partition(" ")[0]
        self.hop("registry", f"{request.method} {_short(request.path)} ({plain(login)}) → {reply.status}")

    def noted(self, program: str, note: Note) -> None:
        """Print a program's note, if it is a hop."""
        turn = note.fields.get("flow") or note.fields.get("outcome")
        told = _TOLD.get((program, f"{note.event} {turn}" if turn else note.event))
        if told is not None:
            self.hop(program, told.format_map({name: plain(str(value)) for name, value in note.fields.items()}))
        elif self._verbose or note.level in _WORTH or note.event == "filter.denied":
            fields = " ".join(f"{name}={plain(str(value))}" for name, value in note.fields.items() if value is not None)
            self.hop(program, f"{note.event}  {fields}".rstrip())


class HopLog(Log):
    """A program's log in the demo."""

    def __init__(self, hops: Hops, program: str) -> None:
        super().__init__("warning", "human")
        self._hops = hops
        self._program = program

    def note(self, note: Note) -> None:
        self._hops.noted(self._program, note)


def _short(path: str) -> str:
    """Return a path with its digest cut to what a person compares."""
    head, separator, digest = path.partition("sha256:")
    return plain(head + separator + (f"{digest[:12]}…" if len(digest) > 12 else digest))
