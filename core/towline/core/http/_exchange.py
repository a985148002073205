"""What a server's link is about: its events, the order of its steps, and the words of its answers."""

from __future__ import annotations

import json
from typing import Final, TypeAlias

from towline.core._script import Body, Broken, Tail
from towline.core._table import Table
from towline.core.http._framing import Fault
from towline.core.http._headers import Fields, members


class RequestHead(Fields, frozen=True):
    """A request began. `target` is byte for byte what stood in the request line; it begins with `/` or is `*`."""

    method: str
    target: str
    version: str = "1.1"

    def __repr__(self) -> str:
        return f"RequestHead({self.method}, {', '.join(name for name, _ in self.headers)})"

    @property
    def upgrades_to(self) -> str | None:
        """The protocol this request wants to switch to, in lower case, or None (RFC 9110 §7.8)."""
        if self.version == "1.0" or "upgrade" not in members(self.all("connection")):
            return None
        return next(iter(members(self.all("upgrade"))), None)


ServerEvent: TypeAlias = RequestHead | Body | Tail | Broken

SERVER_TABLE: Final = Table(
    "http server",
    "idle",
    {
        ("idle", "head"): "asked",
        ("idle", "fault"): "lingering",
        ("idle", "last"): "closed",
        ("idle", "cut"): "closed",
        ("asked", "answer head"): "answering",
        ("asked", "upgrade"): "switched",
        ("asked", "fault"): "lingering",
        ("asked", "cut"): "closed",
        ("answering", "answered"): "emptying",
        ("answering", "cut"): "closed",
        ("emptying", "next"): "idle",
        ("emptying", "last"): "closed",
        ("emptying", "linger"): "lingering",
        ("emptying", "cut"): "closed",
        ("lingering", "last"): "closed",
        ("lingering", "cut"): "closed",
    },
    ends=frozenset({"closed", "switched"}),
)


def fault_body(fault: Fault) -> bytes:
    """Return the body of the answer to a peer's fault."""
    code = {408: "TIMEOUT", 413: "REQUEST_TOO_LARGE", 431: "REQUEST_TOO_LARGE"}.get(fault.status, "BAD_REQUEST")
    return error_body(code, fault.why)


def error_body(code: str, message: str) -> bytes:
    """Return the small JSON body of an error answer (agent.md §5)."""
    return json.dumps({"error": {"code": code, "message": message}}, separators=(",", ":")).encode("ascii")
