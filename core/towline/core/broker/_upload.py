"""The head of an uploaded answer: four bytes of length, then JSON (broker-protocol.md §2.3).

    offset 0   uint32 little endian   N
    offset 4   N bytes                {"status":200,"headers":{…}[,"errorType":"…"]}
    offset 4+N the rest               the answer's body

Ours counts bytes of ASCII JSON, so that a peer that counts UTF-16 units counts the same (Q3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from towline.core._contract import Data, Record
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core.broker._headers import are_valid

_PREFIX: Final = 4


class UploadHead(Record, frozen=True):
    """Status and headers of an answer; names in lower case, repeats kept, valid on the wire.

    `has_headers` is False for an answer that the client made itself.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    error_type: str | None = None
    has_headers: bool = True


class _Wire(msgspec.Struct):
    status: int
    headers: dict[str, str | list[str] | int | float | bool | None] | None = None
    error_type: str | None = msgspec.field(default=None, name="errorType")


_DECODER: Final = msgspec.json.Decoder(_Wire)
# A text cut inside a character is a ValueError, all else that is no head a MsgspecError.
_NOT_JSON: Final = (msgspec.MsgspecError, ValueError, RecursionError)


def encode_upload_head(
    status: int, headers: Mapping[str, str | Sequence[str]] | None, error_type: str | None = None
) -> bytes:
    """Return the length and the JSON. Without `headers` the answer is one that the client made itself."""
    head: dict[str, object] = {"status": status}
    if headers is not None:
        head["headers"] = headers
    if error_type is not None:
        head["errorType"] = error_type
    document = json.dumps(head, separators=(",", ":")).encode("ascii")
    return len(document).to_bytes(_PREFIX, "little") + document


def parse_answer_head(document: object, limits: Limits = LIMITS) -> UploadHead:
    """Return the head given as the decoded JSON of a `chunk` event or an ack.

    Raises:  RemoteProtocolError of kind tunnel-protocol
    """
    try:
        wire = msgspec.convert(document, _Wire)
        return _checked(wire.status, wire.headers, wire.error_type, limits)
    except _NOT_JSON as error:
        raise _malformed(str(error)[:200]) from None


def answer_head(status: int | None, headers: Mapping[str, str | list[str]], limits: Limits = LIMITS) -> UploadHead:
    """Return the head that a `chunk` event carries, once that was read.

    Raises:  RemoteProtocolError of kind tunnel-protocol
    """
    if status is None:
        raise _malformed("no status")
    return _checked(status, headers, None, limits)


class UploadDecoder:
    """Takes an upload in pieces cut anywhere, and gives its head once and its body as it comes."""

    __slots__ = ("_buffer", "_depth", "_escaped", "_head", "_limits", "_quoted", "_scanned")

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._head: UploadHead | None = None
        # Where the first balanced object is looked for if the announced length is wrong, and what it is in there.
        self._scanned = _PREFIX
        self._depth = 0
        self._quoted = False
        self._escaped = False

    @property
    def head(self) -> UploadHead | None:
        """The head, once it is complete."""
        return self._head

    def feed(self, data: Data) -> Data:
        """Take the next piece and return what of it belongs to the body.

        Bounds:  LIMITS.upload_head
        Raises:  RemoteProtocolError of kind tunnel-protocol
        """
        if self._head is not None:
            return data
        self._buffer += data
        if len(self._buffer) < _PREFIX:
            return b""
        announced = int.from_bytes(self._buffer[:_PREFIX], "little")
        if announced > self._limits.upload_head:
            raise _malformed(f"a head of {announced} bytes, over the limit of {self._limits.upload_head}")
        end = _PREFIX + announced
        if len(self._buffer) < end:
            return b""
        if self._scanned == _PREFIX:
            try:
                return self._found(end)
            except _NOT_JSON:
                pass
        balanced = self._balanced()
        if balanced is None:
            if len(self._buffer) > _PREFIX + self._limits.upload_head:
                raise _malformed("no JSON object where the head should be")
            return b""
        try:
            return self._found(balanced)
        except _NOT_JSON as error:
            raise _malformed(str(error)[:200]) from None

    def end(self) -> None:
        """Say that there is no more.

        Raises:  RemoteProtocolError of kind tunnel-protocol, if the head is not complete
        """
        if self._head is None:
            raise _malformed(f"the end after {len(self._buffer)} bytes")

    def _found(self, end: int) -> Data:
        wire = _DECODER.decode(bytes(self._buffer[_PREFIX:end]))
        self._head = _checked(wire.status, wire.headers, wire.error_type, self._limits)
        body = bytes(self._buffer[end:])
        self._buffer = bytearray()
        return body

    def _balanced(self) -> int | None:
        """Return where the first balanced object ends, if it has come (Q3). Goes on where it stopped before."""
        buffer = self._buffer
        if buffer[_PREFIX : _PREFIX + 1] != b"{":
            raise _malformed("no JSON object where the head should be")
        last = min(len(buffer), _PREFIX + self._limits.upload_head)
        while self._scanned < last:
            byte = buffer[self._scanned]
            self._scanned += 1
            if self._quoted:
                if self._escaped:
                    self._escaped = False
                elif byte == 0x5C:
                    self._escaped = True
                elif byte == 0x22:
                    self._quoted = False
            elif byte == 0x22:
                self._quoted = True
            elif byte in b"{[":
                self._depth += 1
            elif byte in b"}]":
                self._depth -= 1
                if self._depth == 0:
                    return self._scanned
        return None


def _checked(status: int, given: Mapping[str, Any] | None, error_type: str | None, limits: Limits) -> UploadHead:
    if not 200 <= status <= 599:
        raise _malformed(f"the status {status}")
    headers: list[tuple[str, str]] = []
    for name, value in (given or {}).items():
        if type(value) is str:
            headers.append((name.lower(), value))
        else:
            headers += [(name.lower(), text) for text in (value if isinstance(value, list) else [_text(value)])]
    if not are_valid([name for name, _ in headers], [text for _, text in headers]):
        raise _malformed("a header that would not survive the wire")
    if len(headers) > limits.http_headers:
        raise _malformed(f"more than {limits.http_headers} headers")
    if sum(len(name) + len(text) + 4 for name, text in headers) > limits.http_head:
        raise _malformed(f"headers of more than {limits.http_head} bytes")
    error_type = error_type[:100] if error_type is not None else None
    return UploadHead(status, tuple(headers), error_type, given is not None)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _malformed(got: str) -> RemoteProtocolError:
    return RemoteProtocolError("tunnel-protocol", f"expected the head of an answer, got {got}")
