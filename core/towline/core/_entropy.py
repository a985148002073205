"""The only chance there is: bytes drawn from a seed that the caller brings."""

from __future__ import annotations

import base64
import hashlib


class Entropy:
    """A deterministic source of unpredictable bytes.

    `seed` is 16 bytes or more from the operating system in a program, a constant in a test. The stream is
    SHA-256 in counter mode over the seed, so that one seed gives one stream on every platform.
    """

    __slots__ = ("_block", "_counter", "_seed")

    def __init__(self, seed: bytes) -> None:
        if len(seed) < 16:
            raise ValueError(f"expected a seed of 16 bytes or more, got {len(seed)}")
        self._seed = hashlib.sha256(b"towline entropy\0" + seed).digest()
        self._counter = 0
        self._block = b""

    def __repr__(self) -> str:
        return "Entropy(***)"

    def bytes(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        while len(self._block) < count:
            self._block += hashlib.sha256(self._seed + self._counter.to_bytes(8, "big")).digest()
            self._counter += 1
        out, self._block = self._block[:count], self._block[count:]
        return out

    def fraction(self) -> float:
        """Return a number in [0, 1)."""
        return int.from_bytes(self.bytes(6), "big") / (1 << 48)

    def uuid4(self) -> str:
        """Return a version 4 UUID, lower case with hyphens (RFC 9562 §5.4)."""
        raw = bytearray(self.bytes(16))
        raw[6] = (raw[6] & 0x0F) | 0x40
        raw[8] = (raw[8] & 0x3F) | 0x80
        h = raw.hex()
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

    def token(self, count: int) -> str:
        """Return `count` bytes as unpadded URL-safe base64."""
        return base64.urlsafe_b64encode(self.bytes(count)).rstrip(b"=").decode("ascii")

    def fork(self) -> Entropy:
        """Return an independent source, so that a part's draws do not depend on its neighbours'."""
        return Entropy(self.bytes(32))
