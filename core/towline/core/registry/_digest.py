"""Digests: `algorithm:encoded`, checked before they come near a path, a URL or a file name."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from towline.core._contract import Data, Record
from towline.core._errors import RemoteProtocolError

HEX_LENGTH: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
"""The algorithms that can be verified, with the length of their lower-case hexadecimal form."""

_HEX: Final = frozenset("0123456789abcdef")


class Digest(Record, frozen=True):
    """A digest that can be verified: a known algorithm, and as many hexadecimal digits as it has.

    Source:  OCI image-spec, descriptor.md, "Digests"; CVE-2024-3727 (a digest is checked before it is used)
    """

    algorithm: str
    encoded: str

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"

    @classmethod
    def parse(cls, text: str, *, kind: str = "invalid-reference") -> Digest:
        """Read `sha256:…`; raise an error of `kind` if it is not a digest that can be verified."""
        algorithm, colon, encoded = text.partition(":")
        length = HEX_LENGTH.get(algorithm)
        if not colon or length is None:
            raise RemoteProtocolError(kind, f"expected a digest ({', '.join(HEX_LENGTH)}), got {shown(text)}")
        if len(encoded) != length or not _HEX.issuperset(encoded):
            raise RemoteProtocolError(
                kind, f"expected {length} lower-case hexadecimal digits after {algorithm}:, got {shown(text)}"
            )
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: Data, algorithm: str = "sha256") -> Digest:
        """Compute the digest of some bytes."""
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> Any:
        """Return a fresh running hash of this digest's algorithm."""
        return hashlib.new(self.algorithm)


def is_digest(text: str) -> bool:
    """Tell whether a text is a digest that can be verified."""
    algorithm, _, encoded = text.partition(":")
    return len(encoded) == HEX_LENGTH.get(algorithm, -1) and _HEX.issuperset(encoded)


def shown(text: str, longest: int = 80) -> str:
    """Return a peer's or a caller's text as it may stand in an error: quoted, escaped, cut."""
    cut = text if len(text) <= longest else text[:longest] + "…"
    return ascii(cut) if not cut.isascii() else repr(cut)
