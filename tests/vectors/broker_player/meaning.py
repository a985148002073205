"""What a message means: where it belongs, what it is called there, and its fields, in which two of them can differ."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from vectors.broker_player.wire import Frame, Http

from towline.core import RemoteProtocolError
from towline.core.tunnel import _ejson as ejson

Where = tuple[str, ...]


class Item(msgspec.Struct):
    """One thing that a peer said: `where` it belongs, its `key` there, what can be compared, and when it was said."""

    where: Where
    key: Where
    fields: dict[str, Any]
    t: float
    line: int = 0
    # The number under which an event wants its answer.
    ack: int | None = None


# Fields whose values are made afresh by each peer: compared by their form, and by being the same again where the
# recording has the same again. The last part of a field's name tells.
RENAMED = frozenset(
    {
        "sid",
        "streamingID",
        "requestId",
        "snyk-request-id",
        "x-request-id",
        "clientId",
        "brokerClientId",
        "x-snyk-broker-client-id",
    }
)
FORMS = {
    "_primuscb": re.compile(r"[0-9A-Za-z_-]{7}(\.\d+)?"),
    "t": re.compile(r"[0-9A-Za-z_-]{7}(\.\d+)?"),
    "sec-websocket-key": re.compile(r"[A-Za-z0-9+/]{22}=="),
    "date": re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"),
    "ts": re.compile(r"\d{13}"),
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SID = re.compile(r"[0-9A-Za-z_-]{20}")
_UPLOAD = "application/vnd.broker.stream+octet-stream"


class Names:
    """What was made afresh at either side, one for one."""

    def __init__(self) -> None:
        self.ours: dict[str, str] = {}
        self._theirs: dict[str, str] = {}

    def same(self, theirs: str, ours: str) -> bool:
        """Whether the two stand for one another; from the first time on they do."""
        if theirs in self.ours or ours in self._theirs:
            return self.ours.get(theirs) == ours
        alike = theirs == ours or any(form.fullmatch(theirs) and form.fullmatch(ours) for form in (_UUID, _SID))
        if alike:
            self.ours[theirs] = ours
            self._theirs[ours] = theirs
        return alike


def differences(theirs: Any, ours: Any, names: Names, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (field, expected, came) for every difference of two values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in [*theirs, *(name for name in ours if name not in theirs)]:
            inner = f"{at}.{name}" if at else name
            if name in theirs and name in ours:
                yield from differences(theirs[name], ours[name], names, inner)
            else:
                yield inner, theirs.get(name, ABSENT), ours.get(name, ABSENT)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for place, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(one, other, names, f"{at}[{place}]")
    else:
        name = re.split(r"[.:]|\[\d+\]$", at.removesuffix("[0]"))[-1]
        texts = isinstance(theirs, str) and isinstance(ours, str)
        if name in FORMS and type(theirs) is type(ours):
            alike = bool(FORMS[name].fullmatch(str(theirs))) == bool(FORMS[name].fullmatch(str(ours)))
        elif texts and name in RENAMED:
            alike = names.same(theirs, ours)
        else:
            alike = type(theirs) is type(ours) and bool(theirs == ours)
        if not alike:
            yield at, theirs, ours


class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT = _Absent()


# ── HTTP ───────────────────────────────────────────────────────────────────────
def request_fields(one: Http) -> dict[str, Any]:
    """Method, path, query parameters, headers, framing and body of a request."""
    method, target, _ = one.start.split(" ")
    path, _, query = target.partition("?")
    fields: dict[str, Any] = {"method": method, "path": path}
    if path.startswith("/primus"):
        pairs = parse_qsl(query, keep_blank_values=True)
        fields["query"] = dict(pairs)
        # The session's id moves within the query; the others keep their order.
        fields["query order"] = [name for name, _ in pairs if name != "sid"]
    elif path.startswith("/response-data/"):
        *_, fields["path"], fields["streamingID"] = path.rpartition("/")
        fields["path"] = path.rpartition("/")[0]
        fields["query"] = query
    else:
        fields["query"] = query
    return fields | _headers(one) | {"body": _body(one)}


def response_fields(one: Http, *, body: bool = True) -> dict[str, Any]:
    """Status, headers, framing and body of a response. The reason phrase means nothing."""
    fields: dict[str, Any] = {"status": int(one.start.split(" ")[1])}
    return fields | _headers(one) | ({"body": _body(one)} if body else {})


def _headers(one: Http) -> dict[str, Any]:
    listed: dict[str, list[str]] = {}
    for name, value in one.headers:
        lower = name.lower()
        if lower not in ("content-length", "transfer-encoding"):
            listed.setdefault(lower, []).append(value)
    return {"framing": one.framing} | {f"header:{name}": values for name, values in listed.items()}


def _body(one: Http) -> Any:
    kind = "".join(one.all("content-type")[:1]).lower()
    if kind == _UPLOAD and len(one.body) >= 4 and one.start.startswith("POST"):
        size = int.from_bytes(one.body[:4], "little")
        try:
            head = json.loads(one.body[4 : 4 + size])
        except ValueError:
            return one.body
        return {"head": head, "rest": _document(one.body[4 + size :])}
    return _document(one.body) if not kind or "json" in kind or "html" in kind else _text(one.body)


def _document(body: bytes) -> Any:
    try:
        document = json.loads(body)
    except ValueError:
        return _text(body)
    return document if isinstance(document, dict | list) else _text(body)


def _text(body: bytes) -> Any:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body


# ── packets ────────────────────────────────────────────────────────────────────
def packet_item(where: Where, packet: str, t: float, line: int = 0) -> Item:
    """Return an engine.io packet of a session."""
    key, fields = _packet(packet)
    ack = fields.pop("ack", None)
    return Item(where, key, fields, t, line, ack)


def _packet(packet: str) -> tuple[Where, dict[str, Any]]:
    if packet.startswith("0{"):
        return ("open",), json.loads(packet[1:])
    if not packet.startswith("4"):
        return ("packet", packet), {}
    if packet.startswith('4"primus::'):
        name, _, rest = packet[2:-1].removeprefix("primus::").partition("::")
        return ("primus", name), {{"ping": "ts", "id": "sid"}.get(name, "text"): rest}
    try:
        message = ejson.decode(packet[1:].encode())
    except RemoteProtocolError:
        return ("packet", packet), {}
    if not isinstance(message, dict) or not isinstance(message.get("data"), list):
        return ("message",), {"message": message}
    data = message["data"]
    if message.get("type") == 1:
        return ("ack", str(message.get("id"))), {"args": _shown(data)}
    fields = {"args": _shown(data[1:]), "wants an answer": "id" in message, "ack": message.get("id")}
    first = data[1] if len(data) > 1 else None
    if data[0] == "chunk":
        return ("chunk", str(first)), {"chunk": data[1:]}
    if isinstance(first, dict) and "url" in first:
        return ("event", str(data[0]), str(first.get("method")), str(first["url"])), fields
    return ("event", str(data[0])), fields


def _shown(value: Any) -> Any:
    """Return an EJSON value with bodies of acks, which are texts of JSON, left as texts."""
    if isinstance(value, dict):
        return {name: _shown(member) for name, member in value.items()}
    return [_shown(member) for member in value] if isinstance(value, list | tuple) else value


def frame_item(where: Where, frame: Frame, t: float, line: int = 0) -> Item:
    """Return a websocket frame that is not a packet."""
    names = {8: "close", 9: "ping", 10: "pong"}
    code = int.from_bytes(frame.payload[:2], "big") if frame.opcode == 8 and frame.payload else None
    key = ("frame", names.get(frame.opcode, str(frame.opcode)))
    return Item(where, key, {"code": code, "whole": frame.fin}, t, line)


def joined_chunks(items: list[Item]) -> list[Item]:
    """Join the pieces of each stream that was sent as events: where they were cut means nothing."""
    out: dict[tuple[Where, Where], Item] = {}
    rest = []
    for item in items:
        if item.key[0] != "chunk":
            rest.append(item)
            continue
        _, data, finished, *more = item.fields["chunk"]
        whole = out.setdefault(
            (item.where, item.key),
            Item(item.where, item.key, {"status": None, "data": b"", "finished": 0}, item.t, item.line),
        )
        whole.fields["data"] += data.encode() if isinstance(data, str) else data
        whole.fields["finished"] += 1 if finished else 0
        if more and isinstance(more[0], dict):
            whole.fields |= more[0]
    for whole in out.values():
        whole.fields["data"] = _document(whole.fields["data"])
    return [*rest, *out.values()]
