"""What the end of a tunnel is called where ends are counted: one word for each kind of reason, at either side."""

from __future__ import annotations

from typing import Final

_WORDS: Final = {
    # a server's
    "no identify in time": "identify-timeout",
    "stale credentials": "stale-credentials",
    "a refused credential": "refused-credential",
    "no message in time": "heartbeat",
    "no pong in time": "heartbeat",
    "the client does not read what it is sent": "not-reading",
    "the client closed the session": "client",
    "the client closed the websocket": "client",
    "the client closed the connection": "client",
    "outdated version": "outdated-version",
    "the server stops": "server-stops",
    "too many events before identify": "protocol",
    "polls overlapped": "protocol",
    "expected the token of the address in identify, got another": "protocol",
    # a client's
    "no answer to the handshake in time": "connect-timeout",
    "the server sent no engine.io ping in time": "heartbeat",
    "the server sent no Primus pong in time": "heartbeat",
    "the server does not read what it is sent": "not-reading",
    "the server closed the session": "server",
    "the server closed the websocket": "server",
    "the server closed the connection": "server",
    "the server closed the tunnel for good": "server-close",
}
_BEGINNINGS: Final = {
    "no connection": "unreachable",
    "expected 200": "refused",
    "expected 101": "refused",
    "the client broke": "protocol",
    "the server broke": "protocol",
}


def ended(reason: str, *, opened: bool = True) -> str:
    """Return the word for a tunnel's end. What has none is mostly the network's doing: the tunnel was `lost`, or its
    peer `unreachable` if it never `opened`."""
    word = _WORDS.get(reason)
    if word is None:
        word = next((word for begins, word in _BEGINNINGS.items() if reason.startswith(begins)), None)
    return word or ("lost" if opened else "unreachable")
