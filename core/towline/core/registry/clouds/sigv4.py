"""AWS Signature Version 4: a request's hash, signed with a key derived from the secret key.

Source:  AWS, "Signature Version 4 signing process"
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import quote, unquote

from towline.core._contract import Record
from towline.core._script import HeaderList
from towline.core._secret import Secret
from towline.core.http import Url

_UNRESERVED = "-_.~"


class AwsKeys(Record, frozen=True):
    """An AWS identity. `expires_at` is wall-clock seconds since 1970; None for keys that do not expire."""

    key_id: str
    secret: Secret
    session_token: Secret | None = None
    expires_at: float | None = None


def signed_headers(
    method: str, url: Url, headers: HeaderList, body: bytes, keys: AwsKeys, *, service: str, region: str, stamp: str
) -> HeaderList:
    """Return the headers with what proves that the keys' owner sends them; every one of them is signed.

    Shape:   `stamp` is the moment as `20260115T120000Z`, by the wall clock
    """
    added: list[tuple[str, str | Secret]] = [("x-amz-date", stamp)]
    if keys.session_token is not None:
        added.append(("x-amz-security-token", keys.session_token))
    signed = {"host": url.authority}
    for name, value in (*headers, *added):
        text = value.reveal() if isinstance(value, Secret) else value
        signed[name.lower()] = " ".join(text.split())
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        (
            method,
            quote(unquote(url.path), safe=f"/{_UNRESERVED}") or "/",
            _query(url.query or ""),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = b"AWS4" + keys.secret.reveal().encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}".encode(), "sha256").hex()
    proof = f"AWS4-HMAC-SHA256 Credential={keys.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return (*headers, *added, ("authorization", Secret(proof)))


def _query(text: str) -> str:
    parts = (part.partition("=") for part in text.split("&") if part)
    # Sorted by name and then by value, not as the text they make: `=` comes after `-`.
    pairs = sorted((_escaped(name), _escaped(value)) for name, _, value in parts)
    return "&".join(f"{name}={value}" for name, value in pairs)


def _escaped(text: str) -> str:
    return quote(unquote(text), safe=_UNRESERVED)
