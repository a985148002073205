"""Where our peers differ from the recorded ones on purpose: what, at which hop, and by which rule.

A difference that fits no row fails. `PLACES` (places.json) says for each known recording how often each row occurs
in it, by role and hop: once more or once less fails as well. A recording that is not known there is held to the rows
alone.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from vectors.broker_player.ledger import Difference
from vectors.broker_player.meaning import ABSENT

PLACES: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "places.json").read_text("utf-8"))

ANY = re.compile(r".*", re.DOTALL)


class Deviation(msgspec.Struct, frozen=True):
    """One row. `field`, `expected` and `came` are expressions on the whole text; None is nothing at all."""

    name: str
    hops: tuple[str, ...]
    field: str
    expected: str | None
    came: str | None
    stock: str
    ours: str
    why: str
    role: str | None = None

    def fits(self, one: Difference) -> bool:
        return (
            one.hop in self.hops
            and self.role in (None, one.role)
            and re.fullmatch(self.field, one.field) is not None
            and _fits(self.expected, one.expected)
            and _fits(self.came, one.came)
        )


DEVIATIONS = (
    Deviation(
        "relayed-hop-headers",
        ("client-server",),
        r"args\[0\]\.headers\.(host|content-length|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect"
        r"|forwarded|x-forwarded-[a-z]+|proxy-[a-z-]+|x-real-ip)",
        r".+",
        None,
        "relays the asker's `host`, `content-length`, `x-forwarded-*` and hop-by-hop headers down the tunnel",
        "takes them out at once; lengths are computed where a body is sent",
        "security.md §5.8: Host, framing, forwarding and hop-by-hop headers never pass; Q9",
    ),
    Deviation(
        "undone-encoding",
        ("client-server",),
        r"args\[0\]\.headers\.content-encoding",
        r"gzip|x-gzip|deflate",
        None,
        "relays `content-encoding` beside a body that it has decompressed",
        "takes it out with the encoding",
        "security.md §5.8: framing is what the body is; the stock client takes it out later (§2.8)",
    ),
    Deviation(
        "hop-by-hop-answer",
        ("client-server",),
        r"(body\.head\.|args\[0\]\.)?headers\.(transfer-encoding|connection|keep-alive)",
        r".+",
        None,
        "copies `transfer-encoding` of the upstream's answer into the posted or emitted headers",
        "takes out what belongs to one hop",
        "Q9; security.md §12: hop-by-hop and framing headers dropped",
        role="client",
    ),
    Deviation(
        "upload-length",
        ("client-server",),
        r"framing",
        r"chunked",
        r"length",
        "sends every response POST chunked",
        "tells the length when it is known; else chunked",
        "security.md §6: a short answer is seen as cut, here against the announced length; the body is the same",
        role="client",
    ),
    Deviation(
        "ack-length",
        ("caller-server", "agent-client"),
        r"framing",
        r"chunked",
        r"length",
        "answers chunked from an acknowledgement whose headers say `transfer-encoding: chunked`",
        "tells the length of a body that is all there",
        "Q9; security.md §12: framing headers dropped",
    ),
    Deviation(
        "upstream-length",
        ("client-upstream", "server-platform"),
        r"framing",
        r"chunked",
        r"length",
        "relays `transfer-encoding: chunked` beside a computed `Content-Length`",
        "says the length alone",
        "Q9",
    ),
    Deviation(
        "cancel-event",
        ("client-server",),
        r"said",
        None,
        r"\{'args': \[\{'streamingID': '[0-9a-f-]{36}'\}\], 'wants an answer': False\}",
        "lets the client go on with an answer that nobody waits for",
        "emits `cancel`, which a stock client ignores (broker-protocol.md §1.6)",
        "Q4; security.md §6: a cancelled request cancels the registry's within a second",
        role="server",
    ),
    Deviation(
        "no-credentials-shown",
        ("client-server", "caller-server", "agent-client"),
        r".*\.auth\.(username|password|token)",
        r".+",
        None,
        "shows the rules' `auth` with its templates, and with what is not a template",
        "shows the scheme alone",
        "security.md §12: redacting types first; a rule may hold a password in clear",
    ),
    Deviation(
        "own-answer-type",
        ("caller-server", "client-server"),
        r"(header:|headers\.)content-type",
        None,
        r"\['application/json; charset=utf-8'\]|application/json; charset=utf-8",
        "gives the client's own JSON answers (denied, unreachable) no `content-type` when they are posted or emitted",
        "names the type, as the stock pair does when the same answer is an acknowledgement",
        "broker-protocol.md §3.6: the denial is JSON; §2.2 leaves the type of a posted answer to the client",
    ),
    Deviation(
        "type-as-it-came",
        ("caller-server", "agent-client"),
        r"header:content-type\[0\]",
        r"(application/json|text/[a-z]+|application/javascript); charset=utf-8",
        r"(application/json|text/[a-z]+|application/javascript)",
        "appends `; charset=utf-8` to some types",
        "passes the upstream's `content-type` on as it came",
        "security.md §12: headers of an answer are validated, not rewritten (§2.2 calls it a habit of express)",
    ),
    Deviation(
        "no-etag",
        ("caller-server", "client-server", "agent-client"),
        r"header:etag",
        r"\['W/\"[0-9a-f]+-[A-Za-z0-9+/]{27}\"'\]",
        None,
        "adds a weak `ETag` to JSON answers",
        "does not",
        "broker-protocol.md §2.1: not part of the contract",
    ),
    Deviation(
        "keep-alive-unsaid",
        ("caller-server", "client-server", "agent-client"),
        r"header:(connection|keep-alive)",
        r"\['keep-alive'\]|\['timeout=\d+'\]",
        None,
        "says `Connection: keep-alive` and `Keep-Alive: timeout=…` in HTTP/1.1 answers",
        "keeps the link all the same, which is what HTTP/1.1 means when nothing is said",
        "Q9: headers of one hop are not written where they say nothing",
    ),
    Deviation(
        "no-compression-offered",
        ("client-server",),
        r"header:sec-websocket-extensions",
        r"\['permessage-deflate; client_max_window_bits'\]",
        None,
        "offers permessage-deflate, which the server declines",
        "does not offer it",
        "security.md §3: `ws.deflate` is off",
        role="client",
    ),
    Deviation(
        "text-in-acks",
        ("client-upstream", "server-platform"),
        r"header:accept-encoding(\[0\])?",
        ".*",
        r"\['identity'\]|identity",
        "leaves `accept-encoding` alone when the answer has to be a text",
        "asks for `identity`",
        "Q12",
    ),
    Deviation(
        "error-text",
        ("client-server",),
        r"(args\[0\]\.body|body\.rest|data)\.message",
        r"connect ECONNREFUSED .+",
        r"connect http://.+: connection refused",
        "words the message for people as Node does",
        "words it its own way; status, `code` and `errorType` are the same",
        "security.md §5.10: the far side learns the kind; the log has the rest",
        role="client",
    ),
)


WHOLE = (
    Deviation(
        "denied-target",
        ("caller-server", "client-server", "client-upstream", "agent-client", "server-platform"),
        ".*",
        ".*",
        ".*",
        "lets a target through that is not canonical once it is decoded",
        "denies it at the first filter",
        "Q1; security.md §5.1, §5.2, §5.4",
    ),
    Deviation(
        "unknown-context",
        ("caller-server", "client-server", "client-upstream"),
        ".*",
        ".*",
        ".*",
        "serves a context that the client does not have with the connection's own settings",
        "answers 400",
        "security.md §2, T5: never other credentials in place of those that were meant",
    ),
    Deviation(
        "caller-left",
        ("caller-server", "client-server", "client-upstream"),
        ".*",
        ".*",
        ".*",
        "keeps the upload of an answer open whose caller left, and stops reading it",
        "ends the upload, so that the client ends the upstream's answer",
        "Q4; security.md §6",
    ),
    Deviation(
        "token-in-capitals",
        ("caller-server", "client-server", "client-upstream"),
        ".*",
        ".*",
        ".*",
        "finds nothing under a token in capitals",
        "finds it",
        "Q14",
    ),
    Deviation(
        "no-repeats",
        ("client-upstream", "client-server", "caller-server"),
        ".*",
        ".*",
        ".*",
        "asks again, up to three times, when an answer breaks off",
        "asks again only while no byte was sent",
        "Q13",
    ),
)
"""Rows for whole requests: the player reads off a request and the recorded answer that it comes under one."""


def _fits(expression: str | None, value: Any) -> bool:
    if expression is None:
        return value is ABSENT
    if value is ABSENT:
        return expression == ".*"
    return re.fullmatch(expression, str(value), re.DOTALL) is not None


def sorted_out(found: list[Difference]) -> tuple[list[Difference], Counter[tuple[str, str, str]]]:
    """Return the differences that no row allows, and how often each row occurs, as (role, hop, row)."""
    left, listed = [], Counter[tuple[str, str, str]]()
    for one in found:
        name = one.excuse or next((row.name for row in DEVIATIONS if row.fits(one)), None)
        if name is None:
            left.append(one)
        else:
            listed[one.role, one.hop, name] += 1
    return left, listed


def misplaced(session: str, digest: str, role: str, listed: Counter[tuple[str, str, str]]) -> list[str]:
    """Return what occurs elsewhere, or not as often, as places.json says; nothing about recordings it does not know."""
    known = PLACES.get(session)
    if known is None or known["sha256"] != digest:
        return []
    places = known.get(role, {})
    declared = {(role, hop, name): count for hop, rows in places.items() for name, count in rows.items()}
    return [
        f"{session}: {role}, {hop}: deviation {name}: expected {declared.get((role, hop, name), 0)} times, "
        f"got {listed[role, hop, name]}"
        for role, hop, name in sorted(declared.keys() | listed.keys())
        if declared.get((role, hop, name), 0) != listed[role, hop, name]
    ]
