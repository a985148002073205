"""The only chance there is: bytes drawn from a seed that the caller brings."""

from __future__ import annotations

import base64
import hashlib
from typing import Final

# Blocks that are drawn at once: two random identifiers to each, and a request takes one or two.
_AHEAD: Final = 4
# The first digit of a UUID's fourth group: its two lowest bits are random, the others say "RFC 9562".
_VARIANT: Final = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class Entropy:
    """A deterministic source of unpredictable bytes.

    `seed` is 16 bytes or more from the operating system in a program, a constant in a test. The stream is
    SHA-256 in counter mode over the seed, so that one seed gives one stream on every platform.
    """

    __slots__ = ("_at", "_block", "_counter", "_seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) < 16:
            raise ValueError(f"expected a seed of 16 bytes or more, got {len(seed)}")
        self._seed = hashlib.sha256(b"towline entropy\0" + seed).digest()
        self._counter = 0
        # Drawn ahead, and how much of it was given out.
        self._block = b""
        self._at = 0

    def __repr__(self) -> str:
        return "Entropy(***)"

    def bytes(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        at, end = self._at, self._at + count
        if end > len(self._block):
            at, end = 0, count
            self._refill(count)
        self._at = end
        return self._block[at:end]

    def _refill(self, count: int) -> None:
        pieces = [self._block[self._at :]]
        for counter in range(self._counter, self._counter + max(_AHEAD, count // 32 + 1)):
            pieces.append(hashlib.sha256(self._seed + counter.to_bytes(8, "big")).digest())
        self._counter += len(pieces) - 1
        self._block = b"".join(pieces)

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return int.from_bytes(self.bytes(6), "big") / (1 << 48)

    def uuid4(self) -> str:
        """Return a version 4 UUID, lower case with hyphens (RFC 9562 §5.4)."""
        h = self.bytes(16).hex()
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}"

    def token(self, count: int) -> str:
        """Return `count` bytes as unpadded URL-safe base64."""
        return base64.urlsafe_b64encode(self.bytes(count)).rstrip(b"=").decode("ascii")

    def fork(self) -> Entropy:
        """Return an independent source, so that a part's draws do not depend on its neighbours'."""
        return Entropy(self.bytes(32))
