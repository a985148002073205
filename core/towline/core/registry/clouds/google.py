"""Google identities: a service account's key, an access token, the machine's metadata, a federated token.

Source:  RFC 7523; Google Cloud documentation; registries-b.md §2, §7
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec

from towline.core._contract import Instant, Record
from towline.core._errors import RemoteProtocolError
from towline.core._json import broken_at, strict_json, typed_json
from towline.core._script import Request, Step, clock
from towline.core._secret import Secret
from towline.core.http import Url
from towline.core.registry._alone import once_for_all
from towline.core.registry._call import FORM, call, form, metadata, read
from towline.core.registry._session import Registry
from towline.core.registry.clouds.aws import wall

# Users under which Google's registries take an access token.
TOKEN_USERS: Final = frozenset({"oauth2accesstoken", "_token"})
SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"
_TOKEN_URI: Final = "https://oauth2.googleapis.com/token"
_METADATA: Final = "metadata.google.internal"
_EXCHANGE: Final = "https://sts.googleapis.com/v1/token"
_HELD: Final = "google"
# The longest that an assertion may live; the token it gets lives as long.
_LIFETIME: Final = 3600
_EARLY: Final = 300.0
_KEY_HINT: Final = (
    "this key file must be given whole: give the whole key file as the password of _json_key, or its base64 as that of"
    " _json_key_base64"
)


class ServiceAccountKey(msgspec.Struct):
    """What of a key file is needed."""

    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = _TOKEN_URI


class AccessToken(Record, frozen=True):
    """An OAuth access token, and the instant from which it is not to be used."""

    value: Secret
    until: float


class _Answer(msgspec.Struct):
    access_token: str
    # The service writes a number, some of its proxies a text.
    expires_in: int | str | None = None


class _Source(msgspec.Struct):
    file: str = ""


class _Federation(msgspec.Struct):
    type: str
    audience: str = ""
    subject_token_type: str = ""
    token_url: str = _EXCHANGE
    credential_source: _Source = msgspec.field(default_factory=_Source)
    service_account_impersonation_url: str | None = None


class _Impersonated(msgspec.Struct, rename="camel"):
    access_token: str


def read_key(text: Secret, *, encoded: bool) -> ServiceAccountKey:
    """Read a service account's key file.

    Raises:  malformed-credentials, which says where it breaks and never shows the text
    """
    raw = text.reveal().encode()
    try:
        if encoded:
            raw = base64.b64decode(raw, validate=True)
        # Strict first: its errors carry the place.
        strict_json(raw, "the key file", kind="malformed-credentials")
        return typed_json(raw, ServiceAccountKey, "the key file", kind="malformed-credentials")
    except binascii.Error:
        raise RemoteProtocolError(
            "malformed-credentials", "expected base64 of a key file, got something else", hint=_KEY_HINT
        ) from None
    except RemoteProtocolError as error:
        at = broken_at(raw)
        place = "" if at is None else f"; it breaks at character {at} of {len(raw)}"
        raise RemoteProtocolError("malformed-credentials", error.message + place, hint=_KEY_HINT) from None


def signing_input(key: ServiceAccountKey, scope: str, issued_at: int) -> bytes:
    """Return what of an assertion is signed: header and claims. `issued_at` is seconds since 1970."""
    header = {"typ": "JWT", "alg": "RS256", "kid": key.private_key_id}
    claims = {
        "iat": issued_at,
        "exp": issued_at + _LIFETIME,
        "iss": key.client_email,
        "aud": key.token_uri,
        "scope": scope,
    }
    return b".".join(_unpadded(msgspec.json.encode(part)) for part in (header, claims))


def has_identity(registry: Registry) -> bool:
    """Tell whether an access token can be had: by a key, as the password, or from the surroundings."""
    who, around = registry.credentials, registry.surroundings
    if who is not None:
        return who.username in TOKEN_USERS or who.username.startswith("_json_key")
    return bool(around.variable("GOOGLE_APPLICATION_CREDENTIALS") or around.variable("GCE_METADATA_HOST"))


def access_token(registry: Registry) -> Step[AccessToken]:
    """Return an access token for Google's APIs, from the cache while it is good.

    Raises:  registry-unauthorized with the service's code, malformed-credentials, invalid-configuration
    """
    who = registry.credentials
    now = yield from clock()
    if who is not None and who.username in TOKEN_USERS:
        return AccessToken(who.secret, now + _LIFETIME)

    def held(now: Instant) -> AccessToken | None:
        found = registry.recall(_HELD, now)
        return found if isinstance(found, AccessToken) else None

    return (yield from once_for_all(registry, _HELD, held, lambda: _new_access_token(registry)))


def _new_access_token(registry: Registry) -> Step[AccessToken]:
    who, around = registry.credentials, registry.surroundings
    if who is not None:
        key = read_key(who.secret, encoded=who.username == "_json_key_base64")
        answer = yield from _by_key(registry, key)
    elif path := around.variable("GOOGLE_APPLICATION_CREDENTIALS"):
        answer = yield from _by_file(registry, path)
    else:
        answer = yield from _by_metadata(registry)
    now = yield from clock()
    token = AccessToken(Secret(answer.access_token), now + _seconds(answer.expires_in) - _EARLY)
    registry.remember(_HELD, token, token.until, now)
    return token


def _by_key(registry: Registry, key: ServiceAccountKey) -> Step[_Answer]:
    url = Url.parse(key.token_uri, "malformed-credentials")
    if url.scheme != "https" or not (url.host.endswith(".googleapis.com") or url.host in registry.allowed_realm_hosts):
        raise RemoteProtocolError(
            "malformed-credentials",
            f"expected a token_uri on googleapis.com in the key file, got {url.host}",
            hint="list the host among the allowed realm hosts, if it is meant",
        )
    issued_at = int((yield from wall(registry)))
    signed = signing_input(key, SCOPE, issued_at)
    signature = registry.surroundings.sign(Secret(key.private_key), signed)
    assertion = Secret((signed + b"." + _unpadded(signature)).decode())
    fields: dict[str, str | Secret] = {
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": assertion,
    }
    reply = yield from call(registry, Request("POST", str(url), (FORM,), form(fields)))
    return read(reply, _Answer, "an access token")


def _by_file(registry: Registry, path: str) -> Step[_Answer]:
    raw = registry.surroundings.read_file(path)
    kind = typed_json(raw, _Federation, path, kind="invalid-configuration")
    if kind.type == "service_account":
        return (yield from _by_key(registry, read_key(Secret(raw.decode("utf-8", "replace")), encoded=False)))
    if kind.type != "external_account" or not kind.credential_source.file:
        raise RemoteProtocolError(
            "invalid-configuration",
            f"expected a service account's key or a federation by a token's file in {path}, got another kind",
        )
    return (yield from _by_federation(registry, kind))


def _by_federation(registry: Registry, kind: _Federation) -> Step[_Answer]:
    for text in (kind.token_url, kind.service_account_impersonation_url or kind.token_url):
        url = Url.parse(text, "invalid-configuration")
        if url.scheme != "https" or not url.host.endswith(".googleapis.com"):
            raise RemoteProtocolError("invalid-configuration", f"expected an address on googleapis.com, got {url.host}")
    subject = registry.surroundings.read_file(kind.credential_source.file).decode("utf-8", "replace").strip()
    fields: dict[str, str | Secret] = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "audience": kind.audience,
        "scope": SCOPE,
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "subject_token_type": kind.subject_token_type,
        "subject_token": Secret(subject),
    }
    reply = yield from call(registry, Request("POST", kind.token_url, (FORM,), form(fields)))
    answer = read(reply, _Answer, "a federated token")
    if kind.service_account_impersonation_url is None:
        return answer
    headers = (
        ("content-type", "application/json"),
        ("authorization", Secret(f"Bearer {answer.access_token}")),
    )
    body = msgspec.json.encode({"scope": [SCOPE], "lifetime": f"{_LIFETIME}s"})
    asked = Request("POST", kind.service_account_impersonation_url, headers, body)
    said = read((yield from call(registry, asked)), _Impersonated, "the service account's token")
    return _Answer(said.access_token, _LIFETIME)


def _by_metadata(registry: Registry) -> Step[_Answer]:
    host = registry.surroundings.variable("GCE_METADATA_HOST") or _METADATA
    url = Url.parse(
        f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token", "invalid-configuration"
    )
    reply = yield from metadata(registry, "GET", str(url), (("metadata-flavor", "Google"),))
    if reply.head.get("metadata-flavor") != "Google":
        raise RemoteProtocolError("protocol-error", f"expected Google's metadata service at {host}, got another server")
    return read(reply, _Answer, "the machine's token")


def _seconds(value: Any) -> float:
    text = str(value)
    return float(text) if text.isascii() and text.isdigit() and len(text) <= 9 else float(_LIFETIME)


def _unpadded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")
