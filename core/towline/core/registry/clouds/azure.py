"""Azure identities: a registry's refresh token, got for a token of Entra ID or of the machine.

Source:  Azure/acr, docs/AAD-OAuth.md; registries-b.md §4
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final
from urllib.parse import quote

import msgspec

from towline.core._contract import Instant
from towline.core._errors import RemoteProtocolError
from towline.core._script import Request, Step, clock
from towline.core._secret import Secret
from towline.core.http import Url
from towline.core.registry._alone import once_for_all
from towline.core.registry._call import FORM, call, form, metadata, read, refused
from towline.core.registry._session import Registry, Shown, TokenKey
from towline.core.registry._token import TokenAnswer

# The user name under which a refresh token is given as the password.
NULL_USER: Final = "00000000-0000-0000-0000-000000000000"
_RESOURCE: Final = "https://containerregistry.azure.net"
_AUTHORITY: Final = "https://login.microsoftonline.com"
_INSTANCE: Final = "http://169.254.169.254/metadata/identity/oauth2/token"
_HELD: Final = "azure"
_EARLY: Final = 300.0
# How long tokens are used whose end cannot be read: until they are refused, or so long.
_UNREADABLE: Final = 3 * 3600.0
_TENANT: Final = re.compile(r"[A-Za-z0-9.-]{1,128}")


class _Access(msgspec.Struct):
    access_token: str


class _Refresh(msgspec.Struct):
    refresh_token: str


class _Claims(msgspec.Struct):
    exp: float | None = None


def exchange(registry: Registry, key: TokenKey) -> Step[TokenAnswer | None]:
    """Get an access token for a challenge with a refresh token; None where name and password do it as usual.

    Raises:  registry-unauthorized with the service's code, realm-blocked, invalid-configuration
    """
    who, around = registry.credentials, registry.surroundings
    if who is not None and who.username != NULL_USER and who.identity_token is None:
        return None
    if who is None and not (around.variable("AZURE_TENANT_ID") or _managed(registry)):
        return None
    realm = Url.parse(key.realm)
    if realm.origin != registry.base.origin:
        raise RemoteProtocolError(
            "realm-blocked", f"expected a token server at {registry.base.origin}, got {realm.origin}"
        )
    now = yield from clock()
    was_held = registry.recall(_HELD, now) is not None
    while True:
        if who is not None:
            # A login helper keeps a refresh token as an identity token, people give it as the password.
            refresh = who.identity_token or who.secret
        else:
            refresh = yield from _refresh_token(registry, realm, key.service)
        fields: dict[str, str | Secret] = {
            "grant_type": "refresh_token",
            "service": key.service,
            # The grant wants a scope, and `/v2/` demands none.
            "scope": " ".join(key.scopes) or "registry:catalog:*",
            "refresh_token": refresh,
        }
        reply = yield from call(registry, Request("POST", str(realm), (FORM,), form(fields)))
        if reply.status != 401:
            break
        registry.forget(Shown(refresh))
        if not was_held:
            raise registry.refuse(refused(reply, "an access token"))
        # It was good once and has ended, or was revoked: another is asked for, once.
        was_held = False
    token = read(reply, _Access, "an access token").access_token
    return TokenAnswer(Secret(token), (yield from _lifetime(registry, token)))


def _refresh_token(registry: Registry, realm: Url, service: str) -> Step[Secret]:
    """Return what identifies us to this registry, from the cache while it is good."""

    def held(now: Instant) -> Secret | None:
        found = registry.recall(_HELD, now)
        return found if isinstance(found, Secret) else None

    return (yield from once_for_all(registry, _HELD, held, lambda: _new_refresh_token(registry, realm, service)))


def _new_refresh_token(registry: Registry, realm: Url, service: str) -> Step[Secret]:
    try:
        access = yield from (_of_machine(registry) if _managed(registry) else _of_client(registry))
    except RemoteProtocolError as error:
        raise (registry.refuse(error) if error.kind == "registry-unauthorized" else error) from None
    fields: dict[str, str | Secret] = {"grant_type": "access_token", "service": service, "access_token": access}
    url = Url(realm.scheme, realm.host, realm.port, "/oauth2/exchange")
    reply = yield from call(registry, Request("POST", str(url), (FORM,), form(fields)))
    token = read(reply, _Refresh, "a refresh token").refresh_token
    lifetime = yield from _lifetime(registry, token)
    now = yield from clock()
    registry.remember(_HELD, Secret(token), now + lifetime - _EARLY, now)
    return Secret(token)


def _of_client(registry: Registry) -> Step[Secret]:
    """Ask Entra ID as an application, by its secret or by a token of the cluster."""
    around = registry.surroundings
    tenant = around.variable("AZURE_TENANT_ID")
    if not _TENANT.fullmatch(tenant):
        raise RemoteProtocolError("invalid-configuration", "expected a tenant's id in AZURE_TENANT_ID")
    fields: dict[str, str | Secret] = {
        "grant_type": "client_credentials",
        "client_id": around.variable("AZURE_CLIENT_ID"),
        "scope": f"{_RESOURCE}/.default",
    }
    secret = around.secret("AZURE_CLIENT_SECRET")
    if secret is not None:
        fields["client_secret"] = secret
    elif path := around.variable("AZURE_FEDERATED_TOKEN_FILE"):
        fields["client_assertion_type"] = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        fields["client_assertion"] = Secret(around.read_file(path).decode("ascii", "replace").strip())
    else:
        raise RemoteProtocolError(
            "invalid-configuration", "expected AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE, got neither"
        )
    authority = (around.variable("AZURE_AUTHORITY_HOST") or _AUTHORITY).rstrip("/")
    url = Url.parse(f"{authority}/{tenant}/oauth2/v2.0/token", "invalid-configuration")
    if url.scheme != "https":
        raise RemoteProtocolError("invalid-configuration", "expected an https address in AZURE_AUTHORITY_HOST")
    reply = yield from call(registry, Request("POST", str(url), (FORM,), form(fields)))
    return Secret(read(reply, _Access, "a token of Entra ID").access_token)


def _of_machine(registry: Registry) -> Step[Secret]:
    query = f"api-version=2018-02-01&resource={quote(_RESOURCE, safe='')}"
    client = registry.surroundings.variable("AZURE_CLIENT_ID")
    if client:
        query += f"&client_id={quote(client, safe='')}"
    reply = yield from metadata(registry, "GET", f"{_INSTANCE}?{query}", (("metadata", "true"),))
    return Secret(read(reply, _Access, "the machine's token").access_token)


def _managed(registry: Registry) -> bool:
    return registry.surroundings.variable("AZURE_USE_MANAGED_IDENTITY").lower() in ("1", "true", "yes")


def _lifetime(registry: Registry, token: str) -> Step[float]:
    """Return the seconds a token has left by its own claim, which is read and not verified."""
    now = yield from clock()
    part = token.split(".")[1:2]
    try:
        raw = base64.urlsafe_b64decode(part[0] + "=" * (-len(part[0]) % 4)) if part else b"{}"
        ends = msgspec.json.decode(raw, type=_Claims).exp
    except (binascii.Error, ValueError, msgspec.DecodeError):
        ends = None
    if ends is None or registry.epoch is None:
        return _UNREADABLE
    return max(0.0, ends - (now + registry.epoch))
