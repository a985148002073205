"""Headers of the POST that brings an answer to the server (broker-protocol.md §2.3)."""

from __future__ import annotations

from collections.abc import Mapping

from towline.core._script import HeaderList

UPLOAD_TYPE = "application/vnd.broker.stream+octet-stream"

# Copied from the request that is answered; the established client writes `undefined` for what did not come.
_COPIED = (
    ("Snyk-acting-org-public-id", "snyk-acting-org-public-id"),
    ("Snyk-acting-group-public-id", "snyk-acting-group-public-id"),
    ("Snyk-product-line", "snyk-product-line"),
    ("Snyk-flow-name", "snyk-flow-name"),
)


def upload_headers(asked: Mapping[str, str], request_id: str, version: str, authority: str) -> HeaderList:
    """Return the upload's headers but for its framing and its count of tries."""
    return (
        ("Snyk-Request-Id", request_id),
        *((name, asked.get(lower, "undefined")) for name, lower in _COPIED),
        ("Content-Type", UPLOAD_TYPE),
        ("user-agent", f"Snyk Broker client {version}"),
        ("x-broker-client-version", version),
        ("Host", authority),
        ("Connection", "keep-alive"),
    )
