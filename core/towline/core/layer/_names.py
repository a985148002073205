"""Names of an archive: one normal form for each, and a compact keep for very many of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from towline.core._errors import RemoteProtocolError
from towline.core._limits import Limits

_CHUNK: Final = 64 * 1024


def normal(name: str) -> str:
    """Return a path as it stands below the image's root: no leading or trailing `/`, no `.`, `..` never above the root.

    The root itself is the empty string.
    """
    if name[:2] == "./":
        name = name[2:]
    name = name.strip("/")
    if "/." not in name and "//" not in name and name[:1] != ".":
        return name
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if parts:
                parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def parents(path: str) -> Iterator[str]:
    """Every folder above a path, the nearest first; the root is not among them."""
    at = path.rfind("/")
    while at > 0:
        path = path[:at]
        yield path
        at = path.rfind("/")


def encoded(path: str) -> bytes:
    """Return a path as the bytes it has in an archive."""
    return path.encode("utf-8", "surrogateescape")


class NameKeep:
    """Takes names one by one and keeps them compressed: some ten bytes for each instead of a hundred.

    Bounds:  `tar_names` bytes of names; "bomb" past it
    """

    __slots__ = ("_bytes", "_codec", "_limit", "_open", "_out", "_pending")

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.tar_names
        self._codec = zlib.compressobj(1)
        self._out: list[bytes] = []
        self._open: list[bytes] = []
        self._pending = 0
        self._bytes = 0

    def add(self, path: str) -> None:
        name = path.encode("utf-8", "surrogateescape")
        self._open.append(name)
        self._pending += len(name) + 1
        if self._pending > _CHUNK:
            self._flush()

    def freeze(self) -> bytes:
        """Return the kept names, for `common` to read; nothing is added after it."""
        self._flush()
        return b"".join([*self._out, self._codec.flush()])

    def _flush(self) -> None:
        if not self._open:
            return
        self._bytes += self._pending
        if self._bytes > self._limit:
            raise RemoteProtocolError("bomb", f"expected at most {self._limit} bytes of names in a layer, got more")
        self._open.append(b"")
        self._out.append(self._codec.compress(b"\0".join(self._open)))
        self._open = []
        self._pending = 0


def common(kept: bytes, wanted: AbstractSet[bytes]) -> set[bytes]:
    """Return those of `wanted` that a frozen NameKeep holds. The keep is unpacked in pieces and not kept."""
    found: set[bytes] = set()
    if not wanted:
        return found
    codec = zlib.decompressobj()
    rest = b""
    data = kept
    while data:
        names = (rest + codec.decompress(data, _CHUNK)).split(b"\0")
        data = codec.unconsumed_tail
        rest = names.pop()
        found.update(wanted & set(names))
    return found
