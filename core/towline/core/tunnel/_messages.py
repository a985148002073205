"""The broker's own events, parsed from and made into emitter arguments (broker-protocol.md §1.7, §1.8, §2.4 to 2.6)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._secret import Secret

CAPABILITY_POST: Final = "post-streams"
CAPABILITY_RECEIVE_POST: Final = "receive-post-streams"

# Semantic Versioning 2.0.0, bounded: a version comes from outside and is compared (security.md §12).
_VERSION: Final = re.compile(
    r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})(-[0-9A-Za-z.-]{1,32})?(\+[0-9A-Za-z.-]{1,32})?", re.ASCII
)


class IdentifyPayload(Record, frozen=True):
    """What a client says of itself. `token` is as sent; `metadata` is everything it said, as it came."""

    token: Secret
    version: str | None
    capabilities: tuple[str, ...] | None
    client_id: str | None
    role: str | None
    metadata: dict[str, Any]


class RequestPayload(Record, frozen=True):
    """A relayed HTTP request. Names of headers are lower case, as they came; `body` None when there is none."""

    url: str
    method: str
    headers: dict[str, str]
    body: bytes | None
    streaming_id: str
    request_id: str


class ResponsePayload(Record, frozen=True):
    """A relayed HTTP answer, as an acknowledgement carries it. `body` is a text, bytes, or an object of JSON."""

    status: int
    headers: dict[str, str | list[str]]
    body: Any = ""
    error_type: str | None = None
    original_body_size: int | None = None

    def to_wire(self) -> dict[str, Any]:
        """Return the acknowledgement's argument, in the reference's order of keys."""
        wire: dict[str, Any] = {"status": self.status}
        if self.error_type is not None:
            wire["errorType"] = self.error_type
        if self.original_body_size is not None:
            wire["originalBodySize"] = self.original_body_size
        return wire | {"body": self.body, "headers": self.headers}


class ChunkPayload(Record, frozen=True):
    """One piece of an answer. The first carries status and headers."""

    streaming_id: str
    data: bytes
    finished: bool
    status: int | None = None
    headers: dict[str, str | list[str]] = msgspec.field(default_factory=dict)


class Version(Record, frozen=True, order=True):
    """A version that can be compared; `release` is False for one with a pre-release tag, which is less."""

    major: int
    minor: int
    patch: int
    release: bool = True


def read_version(text: str) -> Version | None:
    """Return the version that a text is, or None."""
    found = _VERSION.fullmatch(text) if len(text) <= 64 else None
    return Version(int(found[1]), int(found[2]), int(found[3]), found[4] is None) if found else None


def read_identify(args: Sequence[Any]) -> IdentifyPayload | None:
    """Return what a client's identify says; None without a token; "tunnel-protocol" for what no client says."""
    said = args[0] if args else None
    if type(said) is not dict:
        raise RemoteProtocolError("tunnel-protocol", "expected an object in identify")
    token, metadata = said.get("token"), said.get("metadata")
    if token is None or token == "":
        return None
    if type(token) is not str or type(metadata) is not dict:
        raise RemoteProtocolError("tunnel-protocol", "expected a token and metadata in identify")
    version, capabilities = metadata.get("version"), metadata.get("capabilities")
    if version is not None and not (type(version) is str and (version == "local" or read_version(version))):
        raise RemoteProtocolError("tunnel-protocol", "expected a semantic version or 'local' in identify")
    return IdentifyPayload(
        Secret(token),
        version,
        _texts(capabilities) if type(capabilities) is list else None,
        _short(metadata.get("clientId")),
        _short(metadata.get("role")),
        metadata,
    )


def read_capabilities(args: Sequence[Any]) -> tuple[str, ...]:
    """Return the capabilities in a server's identify; none if it says none."""
    said = args[0] if args else None
    listed = said.get("capabilities") if type(said) is dict else None
    return _texts(listed) if type(listed) is list else ()


def read_request(args: Sequence[Any]) -> RequestPayload:
    """Return the request that an event carries; "tunnel-protocol" for what is none.

    A header whose value is a list of texts is joined; others that are no texts are refused.
    """
    said = args[0] if args else None
    if type(said) is not dict:
        raise RemoteProtocolError("tunnel-protocol", "expected a request object")
    url, method, headers = said.get("url"), said.get("method"), said.get("headers")
    body, stream, request_id = said.get("body"), said.get("streamingID"), said.get("requestId")
    if type(url) is not str or type(method) is not str:
        raise RemoteProtocolError("tunnel-protocol", "expected texts as url and method of a request")
    if type(body) is str:
        body = body.encode("utf-8", "replace")
    if not (body is None or type(body) is bytes):
        raise RemoteProtocolError("tunnel-protocol", "expected bytes or text as body of a request")
    if not (stream is None or type(stream) is str):
        raise RemoteProtocolError("tunnel-protocol", "expected a text as streamingID of a request")
    flat = {name: value if type(value) is str else ", ".join(value) for name, value in _headers(headers).items()}
    if type(request_id) is not str:
        request_id = flat.get("snyk-request-id", "")
    return RequestPayload(url, method, flat, body, stream or "", request_id)


def write_request(request: RequestPayload) -> dict[str, Any]:
    """Return the event's argument for a request, in the reference's order of keys."""
    wire: dict[str, Any] = {"url": request.url, "method": request.method}
    if request.body is not None:
        wire["body"] = request.body
    wire |= {"headers": request.headers, "streamingID": request.streaming_id, "requestId": request.request_id}
    return wire


def read_response(args: Sequence[Any]) -> ResponsePayload:
    """Return the answer that an acknowledgement carries; "tunnel-protocol" for what is none."""
    said = args[0] if args else None
    if type(said) is not dict:
        raise RemoteProtocolError("tunnel-protocol", "expected a response object")
    kind, size = said.get("errorType"), said.get("originalBodySize")
    return ResponsePayload(
        _status(said.get("status")),
        _headers(said.get("headers")),
        said.get("body", ""),
        kind if type(kind) is str else None,
        size if type(size) is int else None,
    )


def read_chunk(args: Sequence[Any]) -> ChunkPayload:
    """Return the piece that a chunk event carries; "tunnel-protocol" for what is none."""
    if len(args) < 3 or type(args[0]) is not str:
        raise RemoteProtocolError("tunnel-protocol", "expected streamingID, data and finished in a chunk")
    data = args[1]
    if data is None:
        data = b""
    elif type(data) is str:
        data = data.encode("utf-8", "replace")
    if type(data) is not bytes:
        raise RemoteProtocolError("tunnel-protocol", "expected bytes or text as data of a chunk")
    first = args[3] if len(args) > 3 else None
    if type(first) is not dict:
        return ChunkPayload(args[0], data, bool(args[2]))
    return ChunkPayload(args[0], data, bool(args[2]), _status(first.get("status")), _headers(first.get("headers")))


def write_chunk(chunk: ChunkPayload) -> tuple[Any, ...]:
    """Return the event's arguments for a piece. An empty piece goes as an empty text, as the reference sends it."""
    head: tuple[Any, ...] = ()
    if chunk.status is not None:
        head = ({"status": chunk.status, "headers": chunk.headers},)
    return (chunk.streaming_id, chunk.data or "", chunk.finished, *head)


def read_cancel(args: Sequence[Any]) -> tuple[str, int | None]:
    """Return the streamingID and the number of the event to which no answer is wanted any more; ("", None) for junk."""
    said = args[0] if args else None
    if type(said) is not dict:
        return "", None
    stream, number = said.get("streamingID"), said.get("id")
    return stream if type(stream) is str else "", number if type(number) is int else None


def write_cancel(streaming_id: str, number: int | None) -> tuple[Any, ...]:
    """Return the event's argument that says that nobody waits for an answer. Clients that do not know it ignore it."""
    return ({"streamingID": streaming_id} if streaming_id else {"id": number},)


def _status(value: Any) -> int:
    if type(value) is not int or not 200 <= value <= 599:
        raise RemoteProtocolError("tunnel-protocol", "expected a status of 200 to 599 in a response")
    return value


def _headers(value: Any) -> dict[str, str | list[str]]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise RemoteProtocolError("tunnel-protocol", "expected an object as headers")
    headers: dict[str, str | list[str]] = {}
    for name, said in value.items():
        if type(said) in (int, float):
            said = str(said)
        listed = type(said) is list and all(type(item) is str for item in said)
        if type(said) is not str and not listed:
            raise RemoteProtocolError("tunnel-protocol", "expected texts as header values")
        headers[name.lower()] = said
    return headers


def _texts(values: Sequence[Any]) -> tuple[str, ...]:
    return tuple(value for value in values[:64] if type(value) is str and len(value) <= 128)


def _short(value: Any) -> str | None:
    return value if type(value) is str and len(value) <= 128 else None


def notification(level: str, message: str) -> Mapping[str, str]:
    """Return the argument of a notification event."""
    return {"level": level, "message": message}
