"""HTTP messages and websocket frames as the player reads and writes them: by itself, without what it tests."""

from __future__ import annotations

import base64
import hashlib
import re
import struct
from typing import Literal

import msgspec


class Http(msgspec.Struct):
    """One HTTP message. `framing` is how its body's end was told."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    framing: Literal["none", "length", "chunked", "close"] = "none"

    @property
    def switches(self) -> bool:
        return self.start.startswith("HTTP/1.1 101")

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name]


class HttpReader:
    """HTTP messages out of bytes that may be cut anywhere; what follows a 101 is left in `rest`."""

    def __init__(self, kind: Literal["request", "response"]) -> None:
        self._kind = kind
        self._buffer = bytearray()
        self._open: Http | None = None
        self.rest: bytearray | None = None
        # Whether the answers that come are to HEAD, in order.
        self.heads: list[bool] = []

    def feed(self, data: bytes) -> list[Http]:
        self._buffer += data
        done = []
        while self.rest is None and (one := self._next()) is not None:
            done.append(one)
            if one.switches:
                self.rest = self._buffer
        return done

    @property
    def begun(self) -> Http | None:
        """The message whose head came, and not yet the whole of its body."""
        return self._open

    def end(self) -> list[Http]:
        """The peer ended: a body without a told length ends with it."""
        if self._open is not None and self._open.framing == "close":
            self._open.body = bytes(self._buffer)
            self._buffer.clear()
            return [self._open]
        return []

    def _next(self) -> Http | None:
        one = self._open
        if one is None:
            at = self._buffer.find(b"\r\n\r\n")
            if at < 0:
                return None
            start, *lines = bytes(self._buffer[:at]).decode("latin-1").split("\r\n")
            pairs = [line.partition(":") for line in lines]
            one = Http(start, [(name, value.strip()) for name, _, value in pairs])
            one.framing = self._framing(one)
            del self._buffer[: at + 4]
            self._open = one
        body = self._take(one)
        if body is None:
            return None
        one.body = body
        self._open = None
        return one

    def _framing(self, one: Http) -> Literal["none", "length", "chunked", "close"]:
        response = self._kind == "response"
        bodiless = response and self.heads.pop(0) if self.heads else False
        if bodiless or (response and re.match(r"HTTP/1\.\d (1\d\d|204|304)", one.start)):
            return "none"
        if "chunked" in ",".join(one.all("transfer-encoding")).lower():
            return "chunked"
        if one.all("content-length"):
            return "length"
        return "close" if response else "none"

    def _take(self, one: Http) -> bytes | None:
        if one.framing == "none":
            return b""
        if one.framing == "length":
            length = int(one.all("content-length")[0])
            if len(self._buffer) < length:
                return None
            body = bytes(self._buffer[:length])
            del self._buffer[:length]
            return body
        return self._chunks() if one.framing == "chunked" else None

    def _chunks(self) -> bytes | None:
        at, body = 0, bytearray()
        while True:
            line = self._buffer.find(b"\r\n", at)
            if line < 0:
                return None
            size = int(bytes(self._buffer[at:line]).partition(b";")[0], 16)
            if len(self._buffer) < line + 2 + size + 2:
                return None
            body += self._buffer[line + 2 : line + 2 + size]
            at = line + 2 + size + 2
            if size == 0:
                del self._buffer[:at]
                return bytes(body)


class Frame(msgspec.Struct):
    fin: bool
    opcode: int
    payload: bytes
    masked: bool


class FrameReader:
    """Websocket frames out of bytes that may be cut anywhere."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        size, at = buffer[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if len(buffer) < 2 + width:
                return None
            size, at = int.from_bytes(buffer[2 : 2 + width], "big"), 2 + width
        masked = bool(buffer[1] & 0x80)
        mask = bytes(buffer[at : at + 4]) if masked else b""
        at += len(mask)
        if len(buffer) < at + size or (masked and len(mask) < 4):
            return None
        frame = Frame(bool(buffer[0] & 0x80), buffer[0] & 0x0F, _masked(bytes(buffer[at : at + size]), mask), masked)
        del buffer[: at + size]
        return frame


def write_frame(opcode: int, payload: bytes, *, masked: bool, fin: bool = True) -> bytes:
    """Return one frame; a client's is masked, here with a fixed key."""
    mask = b"\x37\xfa\x21\x3d" if masked else b""
    bit = 0x80 if masked else 0
    head = bytes([(0x80 if fin else 0) | opcode])
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 1 << 16:
        head += struct.pack("!BH", bit | 126, len(payload))
    else:
        head += struct.pack("!BQ", bit | 127, len(payload))
    return head + mask + _masked(payload, mask)


def with_body(raw: bytes, body: bytes) -> bytes:
    """Return an HTTP message with another body, and the length of that."""
    head, _, _ = raw.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"content-length:", b"transfer-enc"))]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body


def accept_of(key: str) -> str:
    """Return what proves that a websocket key was read (RFC 6455 §4.2.2)."""
    digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode(), usedforsecurity=False)
    return base64.b64encode(digest.digest()).decode()


def _masked(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")
