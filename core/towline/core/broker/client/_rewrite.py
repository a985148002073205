"""RES_BODY_URL_SUB: the upstream's own address in JSON answers becomes one that the server's side can ask.

Source:  broker-protocol.md §3.7
"""

from __future__ import annotations

import re
from typing import Final

from towline.core._contract import Data

NEXT_SERVER: Final = "http://internal-broker-server-next/broker/"

_SCHEME: Final = re.compile(rb"^\w+://|^//")
# The longest scheme that is looked for: what is held back while the rest of an address may still come.
_LONGEST_SCHEME: Final = 32
_WORD: Final = re.compile(rb"[A-Za-z0-9_]*\Z")


class UrlRewriter:
    """Replaces `SCHEME://address` for every scheme. Split-blind; holds back at most one such address."""

    def __init__(self, address: str, replacement: str) -> None:
        self._tail = b"://" + _SCHEME.sub(b"", address.encode())
        self._replacement = replacement.encode()
        self._held = b""

    def feed(self, data: Data) -> bytes:
        """Return what is settled with these bytes."""
        out, rest = self._replaced(self._held + bytes(data))
        cut = self._open_end(rest)
        self._held = rest[cut:]
        return out + rest[:cut]

    def end(self) -> bytes:
        """Return the last bytes."""
        held, self._held = self._held, b""
        return held

    def _replaced(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the bytes up to the last whole address, replaced, and those after it."""
        out: list[bytes] = []
        at = 0
        while (found := data.find(self._tail, at)) >= 0:
            start = self._scheme_before(data, at, found)
            end = found + len(self._tail)
            out += [data[at:start], self._replacement] if start < found else [data[at:end]]
            at = end
        return b"".join(out), data[at:]

    def _open_end(self, data: bytes) -> int:
        """Return where an address may have begun whose end is still to come."""
        part = next(
            (size for size in range(min(len(self._tail) - 1, len(data)), 0, -1) if data.endswith(self._tail[:size])), 0
        )
        return self._scheme_before(data, 0, len(data) - part)

    def _scheme_before(self, data: bytes, least: int, end: int) -> int:
        """Return where the word that ends here begins."""
        least = max(least, end - _LONGEST_SCHEME)
        found = _WORD.search(data[least:end])
        return end if found is None else least + found.start()
