"""A registry's answer as an error of ours: the status decides the kind, the codes refine it."""

from __future__ import annotations

from typing import Final, Literal

from towline.core._errors import RemoteProtocolError
from towline.core._script import Head
from towline.core.http import Url, redacted
from towline.core.registry._diagnostics import parse_error_body
from towline.core.registry._session import Registry

What = Literal["ping", "catalogue", "tags", "manifest", "blob", "token", "api"]

_MISSING: Final[dict[What, str]] = {
    "ping": "not-found",
    "catalogue": "catalog-unsupported",
    "tags": "repository-not-found",
    "manifest": "image-not-found",
    "blob": "image-not-found",
    "token": "protocol-error",
    "api": "repository-not-found",
}

_MISSING_HINTS: Final[dict[What, str]] = {
    "ping": "there is no registry at this address: check host, port and path",
    "tags": "check the repository's name, and whether the login may see it",
    "manifest": "check the repository's name and the tag or digest",
    "blob": "the registry does not have what its manifest names: push the image again",
}


def failure(registry: Registry, what: What, method: str, head: Head, url: Url, body: bytes) -> RemoteProtocolError:
    """Return the error that an answer means: what was expected, what came, from where."""
    report = parse_error_body(head.status, head.get("content-type"), body, registry.limits)
    status, code = head.status, report.code
    said = registry.strike_out(report.message)
    words = " ".join(part for part in (str(status), code or "", f"({said})" if said else "") if part)
    kind, hint = _kind(registry, what, status, code)
    return RemoteProtocolError(
        kind,
        f"expected an answer to {method} {redacted(url)}, got {words}",
        hint=hint,
        registry_status=status,
        registry_code=code,
    )


def _kind(registry: Registry, what: What, status: int, code: str | None) -> tuple[str, str | None]:
    dialect = registry.dialect
    if what == "catalogue" and (status in (404, 405, 501) or code == "UNSUPPORTED"):
        return "catalog-unsupported", dialect.catalogue_hint
    if status == 401:
        return "registry-unauthorized", dialect.login_hint
    if status == 403:
        return "registry-forbidden", dialect.catalogue_hint if what == "catalogue" else dialect.denial_hint
    if status == 404:
        if code == "NAME_UNKNOWN":
            return "repository-not-found", _MISSING_HINTS["tags"]
        return _MISSING[what], _MISSING_HINTS.get(what)
    if status in (301, 302, 303, 307, 308):
        return "redirect-blocked", None
    if status == 408:
        return "timeout", None
    if status >= 500:
        return "registry-error", None
    if code == "NAME_INVALID":
        return "invalid-name", None
    return "protocol-error", None
