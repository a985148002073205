"""Headers of the requests that a broker sends to the upstream, or to the platform (broker-protocol.md §2.8, §2.9.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import HeaderList
from towline.core._secret import Secret
from towline.core.broker._ids import masked_token
from towline.core.broker.filter._filter import Allowed
from towline.core.broker.filter._json import body_json

# What speaks to brokers only. Lengths, hosts and forwarding were taken out by the filter already.
_BROKER_ONLY: Final = frozenset(
    {
        "content-encoding",
        "snyk-acting-group-public-id",
        "snyk-acting-org-public-id",
        "snyk-acting-user-public-id",
        "snyk-flow-name",
        "snyk-product-line",
        "snyk-project-type",
        "snyk-integration-type",
        "x-snyk-broker-context-id",
    }
)
_FORM: Final = "application/x-www-form-urlencoded"
FORM_HEADER: Final = "x-broker-content-type"


def upstream_headers(
    allowed: Allowed,
    headers: Mapping[str, str | Secret],
    request_id: str,
    version: str,
    *,
    identity_only: bool = False,
    token: str | None = None,
) -> HeaderList:
    """Return the headers of a request that goes on.

    Shape:   `headers` are the allowed ones, filled in; `identity_only` asks for a body that can be a text (Q12);
             `token` is given on the way to the platform, which learns by it whose callback this is
    """
    assert allowed.upstream is not None
    kept: dict[str, str | Secret] = {name: value for name, value in headers.items() if name not in _BROKER_ONLY}
    agent = kept.pop("user-agent", f"Snyk Broker {version}")
    if allowed.authorization is not None:
        kept["authorization"] = allowed.authorization
    kept.setdefault("x-request-id", request_id)
    if identity_only:
        kept["accept-encoding"] = "identity"
    if FORM_HEADER in kept:
        kept["content-type"] = _FORM
    if token is not None:
        kept["X-Broker-Token"] = Secret(token)
        kept["x-snyk-broker"] = masked_token(token)
    kept["connection"] = "Keep-Alive"
    kept["Keep-Alive"] = "timeout=60, max=1000"
    kept["snyk-request-id"] = request_id
    kept["x-broker-origin-ua"] = agent
    kept["user-agent"] = f"Snyk Broker Client {version}"
    kept["Host"] = allowed.upstream.url.authority
    return tuple(kept.items())


def upstream_body(headers: Mapping[str, str | Secret], body: bytes | None, limits: Limits = LIMITS) -> bytes:
    """Return the body that goes on: form encoded from a JSON object if `x-broker-content-type` asks for that."""
    if not body or headers.get(FORM_HEADER) != _FORM:
        return body or b""
    try:
        document = body_json(body, limits)
    except RemoteProtocolError:
        return body
    if not isinstance(document, dict):
        return body
    return urlencode(
        [(name, value if isinstance(value, str) else str(value)) for name, value in document.items()]
    ).encode()
