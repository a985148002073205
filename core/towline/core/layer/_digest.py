"""The running size and digest of a blob: refused at the first byte too many, proven at the last."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from towline.core._contract import Data
from towline.core._errors import RemoteProtocolError

_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}")


def algorithm(digest: str) -> str:
    """Return the hash's name in a digest `sha256:<hex>`; raise "invalid-manifest" for any other form."""
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise RemoteProtocolError("invalid-manifest", f"expected a SHA-256, 384 or 512 digest, got {digest[:100]!r}")
    return digest.partition(":")[0]


class Proof:
    """Counts and hashes bytes against what a descriptor promised.

    Raises:  "size-mismatch" at the first byte too many and at an early end, then "digest-mismatch"
    """

    __slots__ = ("_digest", "_hash", "_what", "seen", "size")

    def __init__(self, digest: str, size: int, what: str = "blob") -> None:
        if size < 0:
            raise RemoteProtocolError("invalid-manifest", f"expected a size of 0 or more, got {size} for {digest}")
        self._hash = hashlib.new(algorithm(digest), usedforsecurity=False)
        self._digest = digest
        self._what = what
        self.size = size
        self.seen = 0

    def feed(self, data: Data) -> None:
        self.seen += len(data)
        if self.seen > self.size:
            raise RemoteProtocolError(
                "size-mismatch", f"expected {self.size} bytes of {self._what} {self._digest}, got {self.seen} and more"
            )
        self._hash.update(data)

    def end(self) -> None:
        if self.seen != self.size:
            raise RemoteProtocolError(
                "size-mismatch", f"expected {self.size} bytes of {self._what} {self._digest}, got {self.seen}"
            )
        expected = self._digest.partition(":")[2]
        if self._hash.hexdigest() != expected:
            raise RemoteProtocolError(
                "digest-mismatch",
                f"expected {self._what} {self._digest}, got bytes with {self._hash.name}:{self._hash.hexdigest()}",
            )
