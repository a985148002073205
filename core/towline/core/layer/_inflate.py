"""A layer's compression undone in pieces: gzip of many members, zstd of many frames, or nothing to undo.

What it is, is read from the first bytes and not from a media type, which is often wrong. Members and frames
follow each other until the input ends; skippable zstd frames may stand anywhere, also first. This is the one
place where a small input becomes a large output, so each step's output, the ratio, the total, the number of
members and the decoder's memory are bounded.

Source:  RFC 1952 §2.2 (members), RFC 8878 §3.1 (frames, skippable frames)
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from towline.core._contract import Data
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import LIMITS, Limits

igzip_lib: Any
zstd: Any
try:
    from isal import igzip_lib
except ImportError:  # the zlib of the standard library takes three times as long
    igzip_lib = None
try:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
except ImportError:
    zstd = None

Sink = Callable[[Data], None]

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a first byte of 0x50 to 0x5f

# What a fresh decoder is given first. Its rest is copied out when the member ends, so a run of tiny members
# cut from large pieces would cost the square of its length.
_FIRST: Final = 1024
_LARGEST: Final = 64 * 1024
# The longest head of a zstd frame (RFC 8878 §3.1.1.1). It is handed over as one piece and alone: a decoder that has
# seen half a head may take what follows for a frame of its own, and one that sees a whole frame is stricter than one
# that does not, so that where the input happens to be cut would decide what it means.
_ZSTD_HEAD: Final = 18


class _Decoder(Protocol):
    """One member's or frame's decoder, in the manner of the standard library's `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: Data, max_length: int) -> bytes: ...


class _ZlibMember:
    """`zlib.decompressobj` in the shape of the other decoders."""

    __slots__ = ("_inner",)

    def __init__(self) -> None:
        self._inner: Any = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)

    def decompress(self, data: Data, max_length: int) -> bytes:
        return bytes(self._inner.decompress(data or self._inner.unconsumed_tail, max_length))


class Inflater:
    """Takes a layer's bytes and hands what they uncompress to, in bounded pieces, to a sink.

    Shape:   any length, also empty; pieces may be cut anywhere
    Bounds:  `unpack_piece` bytes a call of the sink, `unpack_layer` in all, `unpack_ratio` for each input byte past
             the first `unpack_ratio_from`, `unpack_members`, `unpack_window`; plain input passes as it came
    Raises:  "bomb" past a bound, "bad-archive" for damaged, cut or trailing bytes, "unsupported-media-type" for zstd
             where no decoder for it is installed
    """

    def __init__(self, sink: Sink, limits: Limits = LIMITS) -> None:
        self._sink = sink
        self._limits = limits
        self._start = b""
        self._make: Callable[[], _Decoder] | None = None
        self._decoder: _Decoder | None = None
        self._slice = _FIRST
        self._decided = False
        self.form = "plain"
        self.bytes_in = 0
        self.bytes_out = 0
        self.members = 0

    def feed(self, data: Data) -> None:
        self.bytes_in += len(data)
        if self._start:
            data = self._start + bytes(data)
            self._start = b""
        if not self._decided:
            if len(data) < 4:
                self._start = bytes(data)
                return
            self._decide(bytes(data[:4]))
        if self._make is None:
            self._emit(data)
        else:
            self._run(memoryview(data), last=False)

    def end(self) -> None:
        start, self._start = self._start, b""
        if not self._decided:
            self._decided = True
            if start[:2] == GZIP:
                raise RemoteProtocolError("bad-archive", "expected a gzip member, got its first bytes only")
            if start:
                self._emit(start)
        elif start:
            self._run(memoryview(start), last=True)
        if self._decoder is not None:
            raise RemoteProtocolError(
                "bad-archive", f"expected the end of the {self.form} data, got the end of the blob in the middle of it"
            )

    def _decide(self, start: bytes) -> None:
        self._decided = True
        if start[:2] == GZIP:
            self.form = "gzip"
            self._make = _gzip_member
        elif start[:4] == ZSTD or (start[0] & 0xF0 == 0x50 and start[1:4] == ZSTD_SKIPPABLE):
            if zstd is None:
                raise RemoteProtocolError(
                    "unsupported-media-type",
                    "expected a gzip or plain layer, got zstd, for which no decoder is installed",
                    hint="install towline[agent], which brings backports.zstd",
                )
            self.form = "zstd"
            self._make = self._zstd_frame

    def _zstd_frame(self) -> _Decoder:
        window = self._limits.unpack_window.bit_length() - 1
        decoder: _Decoder = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: window})
        return decoder

    def _run(self, data: memoryview, *, last: bool) -> None:
        at = 0
        while at < len(data):
            if self._decoder is None:
                if self.form == "zstd" and len(data) - at < _ZSTD_HEAD and not last:
                    self._start = bytes(data[at:])
                    return
                self._begin()
            assert self._decoder is not None
            piece = data[at : at + self._slice]
            at += len(piece)
            self._slice = min(max(self._slice * 2, _FIRST), _LARGEST)
            self._step(piece)
            if self._decoder.eof:
                at -= len(self._decoder.unused_data)
                self._decoder = None

    def _begin(self) -> None:
        self.members += 1
        if self.members > self._limits.unpack_members:
            raise RemoteProtocolError(
                "bomb", f"expected at most {self._limits.unpack_members} {self.form} members, got more"
            )
        assert self._make is not None
        self._decoder = self._make()
        self._slice = _ZSTD_HEAD if self.form == "zstd" else _FIRST

    def _step(self, piece: Data) -> None:
        decoder = self._decoder
        assert decoder is not None
        most = self._limits.unpack_piece
        try:
            while True:
                out = decoder.decompress(piece, most)
                if out:
                    self._emit(out)
                if decoder.eof or (decoder.needs_input and len(out) < most):
                    return
                if decoder.needs_input and not out:
                    return
                piece = b""
        except TowlineError:
            raise
        except Exception as error:  # each codec has its own class, and isal's is not public
            raise self._damaged(error) from None

    def _emit(self, data: Data) -> None:
        self.bytes_out += len(data)
        limits = self._limits
        if self.bytes_out > limits.unpack_layer:
            raise RemoteProtocolError("bomb", f"expected a layer of at most {limits.unpack_layer} bytes, got more")
        if self.bytes_out > limits.unpack_ratio_from + limits.unpack_ratio * self.bytes_in:
            raise RemoteProtocolError(
                "bomb",
                f"expected at most {limits.unpack_ratio} bytes for each compressed one, "
                f"got {self.bytes_out} for {self.bytes_in}",
            )
        self._sink(data)

    def _damaged(self, error: Exception) -> RemoteProtocolError:
        text = str(error)
        if "too much memory" in text:
            return RemoteProtocolError("bomb", f"expected a zstd window of at most {self._limits.unpack_window} bytes")
        return RemoteProtocolError("bad-archive", f"{self.form} member {self.members} cannot be read: {text[:200]}")


def _gzip_member() -> _Decoder:
    if igzip_lib is None:
        return _ZlibMember()
    member: _Decoder = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_GZIP)
    return member
