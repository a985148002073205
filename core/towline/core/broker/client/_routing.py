"""Whose callback it is, in a client of several connections (agent.md §3.3: by an explicit id, never by type alone).

1. the path begins with `/connections/NAME`, as the BROKER_CLIENT_URL does that the agent was given
2. the header `x-cra-connection` names it, as the request did that the callback answers
3. there is only one
4. `/webhook/TYPE/…`, where one connection is of that type
5. one connection's rules alone let it pass
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from towline.core._contract import Record
from towline.core.broker._answers import DENIED_OVER_HTTP, denial
from towline.core.broker._inbound import Incoming
from towline.core.broker.client._client_config import CONNECTION_HEADER, PREFIX
from towline.core.broker.client._connection import Connection
from towline.core.broker.filter._filter import Allowed

WEBHOOK: Final = "/webhook/"


class Routed(Record, frozen=True):
    """`url` is the request's without the prefix."""

    connection: Connection
    url: str


class Unrouted(Record, frozen=True):
    """It cannot be told whose it is."""

    status: int
    document: dict[str, Any]


Route: TypeAlias = Routed | Unrouted


def split_prefix(url: str) -> tuple[str | None, str]:
    """Return the connection's name that a path begins with, and the rest; None for a path without one."""
    if not url.startswith(PREFIX):
        return None, url
    path, mark, query = url.partition("?")
    name, slash, rest = path.removeprefix(PREFIX).partition("/")
    return (name, f"/{rest}{mark}{query}") if slash else (None, url)


def route(connections: Sequence[Connection], asked: Incoming) -> Route:
    """Return which connection a callback belongs to. `asked.url` has its prefix yet."""
    named, url = split_prefix(asked.url) if connections[0].slug else (None, asked.url)
    alone = len(connections) == 1
    said = None if alone else asked.headers.get(CONNECTION_HEADER)
    if named is not None and said is not None and named != said:
        return _unclear(connections, f"the path names another connection than {CONNECTION_HEADER}")
    wanted = named if named is not None else said
    if wanted is not None:
        found = next((connection for connection in connections if connection.slug == wanted), None)
        return _unclear(connections, "no connection of this name", 404) if found is None else Routed(found, url)
    if alone:
        return Routed(connections[0], url)
    kind = url.removeprefix(WEBHOOK).partition("/")[0] if url.startswith(WEBHOOK) else None
    likely = [connection for connection in connections if kind is not None and connection.own.type == kind]
    if len(likely) != 1:
        likely = [connection for connection in likely or connections if _allows(connection, asked, url)]
    if not likely:
        return Unrouted(401, denial(DENIED_OVER_HTTP, url))
    return Routed(likely[0], url) if len(likely) == 1 else _unclear(connections, "it may be several connections'")


def _allows(connection: Connection, asked: Incoming, url: str) -> bool:
    return isinstance(connection.outbound.rules.decide(asked.method, url, asked.headers, asked.body), Allowed)


def _unclear(connections: Sequence[Connection], why: str, status: int = 400) -> Unrouted:
    known = [PREFIX + connection.slug for connection in connections]
    message = f"whose callback is this: {why}; its path begins with one of the prefixes"
    return Unrouted(status, {"code": "UNKNOWN_CONNECTION", "message": message, "prefixes": known})
