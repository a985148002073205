"""What a token server answers, and what is asked of it."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, Final, Literal
from urllib.parse import quote

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._json import strict_json
from towline.core._limits import LIMITS, Limits
from towline.core._secret import Secret
from towline.core.http import Url
from towline.core.registry._diagnostics import parse_error_body

LEAST_LIFETIME: Final = 60.0
# Cached no longer than this, whatever the server claims: a token of a year is asked for again once a week.
LONGEST_LIFETIME: Final = 7 * 24 * 3600.0

Refusal = Literal["registry-unauthorized", "registry-rate-limited", "registry-error", "protocol-error"]


class Credentials(Record, frozen=True):
    """Who we are at a registry. An identity token stands for both, at the token server and nowhere else."""

    username: str
    secret: Secret
    identity_token: Secret | None = None

    def basic(self) -> Secret:
        """Return the value of a Basic Authorization header.

        Raises:  malformed-credentials, for a user name with a colon: RFC 7617 cannot carry one; registry-unauthorized
                 for an identity token without a password
        """
        if self.identity_token is not None and not self.secret:
            raise RemoteProtocolError(
                "registry-unauthorized",
                "expected a registry that takes identity tokens, got one that wants a user name and a password",
                hint="log in with a user name and a password or access token",
            )
        if ":" in self.username:
            raise RemoteProtocolError(
                "malformed-credentials",
                "expected a user name without ':', got one with",
                hint="Basic cannot carry it; was user:password given as the user name?",
            )
        return Secret("Basic " + self.pair())

    def pair(self) -> str:
        """Return user and password as Basic carries them: a secret in other clothes."""
        return base64.b64encode(f"{self.username}:{self.secret.reveal()}".encode()).decode("ascii")


class TokenAnswer(Record, frozen=True):
    """A token, and how many seconds it lives from its reception on."""

    token: Secret
    lifetime: float
    refresh_token: Secret | None = None


class TokenRefused(Record, frozen=True):
    """No token: the kind of error it is, and what the server said."""

    kind: Refusal
    said: str | None


def parse_token_answer(status: int, body: bytes, limits: Limits = LIMITS) -> TokenAnswer | TokenRefused:
    """Read the token endpoint's answer.

    Units:   lifetime in seconds; 60 when it is not said, never below 60
    Source:  distribution docs, spec/auth/token; an empty `access_token` beside a `token` is Harbor's
    """
    if status != 200:
        return TokenRefused(_refusal(status), parse_error_body(status, None, body, limits).message)
    try:
        document = strict_json(body, "token answer", limits=limits)
    except RemoteProtocolError as error:
        return TokenRefused("protocol-error", error.message)
    if not isinstance(document, dict):
        return TokenRefused("protocol-error", "expected a JSON object")
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not token:
        return TokenRefused("protocol-error", "expected a token in the answer, got none")
    if len(token) > limits.registry_token or not all("!" <= char <= "~" for char in token):
        return TokenRefused("protocol-error", f"expected a token of at most {limits.registry_token} visible characters")
    refresh = document.get("refresh_token")
    return TokenAnswer(
        Secret(token),
        _lifetime(document.get("expires_in")),
        Secret(refresh) if isinstance(refresh, str) and refresh else None,
    )


def token_url(realm: Url, service: str, scopes: Iterable[str]) -> Url:
    """Return the address to ask for a token: the realm with `service` and one `scope` for each scope added."""
    pairs = [("service", service)] if service else []
    pairs += [("scope", scope) for scope in scopes]
    added = "&".join(f"{name}={quote(value, safe='')}" for name, value in pairs)
    query = "&".join(part for part in (realm.query, added) if part)
    return Url(realm.scheme, realm.host, realm.port, realm.path, query or None)


def wanted_scopes(offered: str, needed: str | None, trust: Literal["own", "suffix", "all"] = "own") -> tuple[str, ...]:
    """Return the scopes to ask for: the challenge's, without what a pull does not need; else our own.

    `needed` is the scope of the request (`repository:NAME:pull`, `registry:catalog:*`), or None for a login
    check, which has none: some registries put a placeholder there. `trust` lets a repository's name lack the
    leading components that the registry has for itself, or takes what is offered for a login check as well.

    Source:  security.md §4.2; registries-common.md §4
    """
    if needed is None and trust != "all":
        return ()
    own = _name_of(needed or "")
    kept = [scope for scope in (_harmless(text, own, trust) for text in offered.split()) if scope]
    return tuple(dict.fromkeys(kept)) or (() if needed is None else (needed,))


def _harmless(scope: str, own: str, trust: str) -> str | None:
    kind, colon, rest = scope.partition(":")
    name, last, actions = rest.rpartition(":")
    if not colon or not last:
        # `*` alone is what codeberg.org asks for; anything else without actions is left out.
        return scope if scope == "*" else None
    known = name in (own, "*") or (trust == "suffix" and own.endswith(f"/{name}"))
    if kind.partition("(")[0] == "repository" and not known:
        return None
    kept = [action for action in actions.split(",") if action not in ("push", "delete") and action]
    if kind.partition("(")[0] == "repository":
        kept = ["pull" if action == "*" else action for action in kept]
    return f"{kind}:{name}:{','.join(dict.fromkeys(kept))}" if kept else None


def _name_of(scope: str) -> str:
    return scope.partition(":")[2].rpartition(":")[0]


def _refusal(status: int) -> Refusal:
    if status in (401, 403):
        return "registry-unauthorized"
    if status == 429:
        return "registry-rate-limited"
    return "registry-error" if status >= 500 or status == 408 else "protocol-error"


def _lifetime(value: Any) -> float:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return LEAST_LIFETIME
    return min(max(float(value), LEAST_LIFETIME), LONGEST_LIFETIME)
