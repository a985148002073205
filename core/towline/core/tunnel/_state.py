"""The tunnel's states, as tables: what may follow what, at either end.

A client's tunnel lives through many connections (CLIENT). Each connection has one transport (TRANSPORT), which may
begin as polling and move to a websocket. A host has one session for each client's connection (SESSION).

What the peer does out of turn is not a step at all: it is ignored, or it is `broken`, which every state knows.
"""

from __future__ import annotations

from typing import Final

from towline.core._table import Table

CLIENT: Final = Table(
    "tunnel client",
    "waiting",
    {
        ("waiting", "attempt"): "connecting",
        ("connecting", "open"): "open",
        ("connecting", "lost"): "waiting",
        ("open", "lost"): "waiting",
        ("connecting", "exhausted"): "closed",
        ("open", "exhausted"): "closed",
        ("open", "server close"): "closed",
        ("waiting", "close"): "closed",
        ("connecting", "close"): "closed",
        ("open", "close"): "closed",
    },
    ends=frozenset({"closed"}),
    kind="tunnel-protocol",
)
"""waiting: for the next attempt · connecting: up to the open packet · open: identified itself · closed: for good."""

TRANSPORT: Final = Table(
    "client transport",
    "new",
    {
        ("new", "begin websocket"): "dialling",
        ("new", "begin polling"): "handshaking",
        ("dialling", "switched"): "websocket",
        ("dialling", "refused"): "handshaking",
        ("dialling", "broken"): "lost",
        ("handshaking", "handshake"): "polling",
        ("handshaking", "broken"): "lost",
        ("polling", "upgrade"): "probing",
        ("polling", "broken"): "lost",
        ("probing", "probe answered"): "pausing",
        ("probing", "probe failed"): "polling",
        ("probing", "broken"): "lost",
        ("pausing", "paused"): "websocket",
        ("pausing", "probe failed"): "polling",
        ("pausing", "broken"): "lost",
        ("websocket", "broken"): "lost",
    },
    ends=frozenset({"lost"}),
    kind="tunnel-protocol",
)
"""dialling: a websocket without a session · handshaking: the first poll · polling: works that way · probing: a
websocket is being tried beside it · pausing: it answered, and the polls under way are waited for · websocket · lost."""

SESSION: Final = Table(
    "tunnel session",
    "new",
    {
        ("new", "poll"): "polling",
        ("new", "websocket"): "websocket",
        ("polling", "offer"): "offered",
        ("offered", "probe"): "probing",
        ("offered", "offer failed"): "polling",
        ("probing", "offer failed"): "polling",
        ("probing", "upgrade"): "websocket",
        ("polling", "end"): "ending",
        ("offered", "end"): "ending",
        ("probing", "end"): "ending",
        ("polling", "closed"): "closed",
        ("offered", "closed"): "closed",
        ("probing", "closed"): "closed",
        ("websocket", "closed"): "closed",
        ("ending", "closed"): "closed",
    },
    ends=frozenset({"closed"}),
    kind="tunnel-protocol",
)
"""polling · offered: a websocket came with the session's id · probing: it said `2probe` · websocket · ending: closed,
and the last packets wait for the poll that fetches them · closed."""
