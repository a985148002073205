"""How a request says which registry it means and with whose login (agent.md §3).

The classic way is one base64 text of a JSON object, `CR_CREDENTIALS`, which a broker client fills into a
header or the body. It can come in four places; a fifth, `registryId`, names an entry of the agent's own
file, so that no secret leaves the agent. Nothing here puts a value into an error text.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, cast

import msgspec

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._json import broken_at, canonical, strict_json
from towline.core._limits import KIB, LIMITS, Limits
from towline.core._secret import Secret
from towline.core.registry import ALIASES, TYPES, Credentials, Role

# A Google service-account key is 2.3 KiB, and base64 adds a third; more than this is no login.
CREDENTIAL_BYTES: Final = 64 * KIB

_HINT: Final = (
    "build it with a JSON encoder: base64 of an object with type, username, password, registryBase; "
    "text pasted together breaks on '\"' and '\\' in a password"
)
_KEY_HINT: Final = (
    "this key file must be given whole: build CR_CREDENTIALS with a JSON encoder, which escapes its quotes, or give "
    "its base64 as the password of the user _json_key_base64"
)
# The members that a broker client pastes texts into.
_MEMBER: Final = re.compile(r'"(type|username|password|registryBase|roleArn|region|externalId)"\s*:')
_KEY_TYPES: Final = frozenset({"gcr", "google-artifact-cr"})
CHECK_PATHS: Final = frozenset({"/systemcheck", "/validate-credentials"})


NO_SECRET: Final = Secret("")


class RegistryLogin(Record, frozen=True):
    """One registry and how to log in to it. Without user and secret it is used anonymously.

    An empty scheme leaves the choice to the agent's list of hosts that may be reached in clear text. `api` is where
    the vendor's API is, if not at the usual place, `namespaces` are what its lists go through.
    """

    type: str
    base: str = ""
    username: str = ""
    secret: Secret = NO_SECRET
    scheme: Literal["https", "http", ""] = ""
    registry_id: str | None = None
    role_arn: str = ""
    region: str = ""
    external_id: Secret = NO_SECRET
    identity_token: Secret = NO_SECRET
    api: str = ""
    namespaces: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def credentials(self) -> Credentials | None:
        """User, secret and identity token; None without any."""
        if not (self.username or self.secret or self.identity_token):
            return None
        return Credentials(self.username, self.secret, self.identity_token or None)

    @property
    def role(self) -> Role | None:
        """The role to take, if it is one."""
        return Role(self.role_arn, self.region, self.external_id) if self.role_arn else None

    @property
    def anonymous(self) -> bool:
        return not (self.username or self.secret or self.identity_token or self.role_arn)

    @property
    def same_place(self) -> tuple[str, str, str]:
        """What two logins share when they are for the same registry: type, scheme, base."""
        return self.type, self.scheme, self.base


class CredentialSource(Record, frozen=True):
    """What a request brought: a login, the id of one of the agent's own, or neither."""

    login: RegistryLogin | None = None
    registry_id: str | None = None


def canonical_type(name: str) -> str:
    """Return the type's name as the tables spell it.

    Raises:  RemoteProtocolError("unsupported-type")
    """
    lowered = name.strip().lower()
    found = ALIASES.get(lowered, lowered)
    if found not in TYPES:
        raise RemoteProtocolError(
            "unsupported-type",
            "the registry type is none that is known",
            hint="one of " + ", ".join(TYPES),
        )
    return found


def normal_base(text: str | None) -> tuple[str, tuple[str, ...]]:
    """Return a registry base as host[:port][/path], and what was wrong with its spelling.

    A universal broker client writes the text `undefined` for a missing base; it counts as absent.
    """
    base = (text or "").strip()
    if base in ("undefined", "null"):
        return "", ()
    warnings: list[str] = []
    for scheme in ("https://", "http://"):
        if base.lower().startswith(scheme):
            base = base[len(scheme) :]
            warnings.append("the registry base came with a scheme; it is a host, a port and a path")
    stripped = base.rstrip("/")
    if stripped.endswith("/v2"):
        stripped = stripped[:-3].rstrip("/")
        warnings.append("the registry base came with /v2; it is added where it belongs")
    return stripped, tuple(warnings)


def encode_credentials(
    type_name: str,
    *,
    username: str = "",
    password: Secret = NO_SECRET,
    base: str | None = None,
    token: Secret = NO_SECRET,
    role_arn: str = "",
    region: str = "",
    external_id: Secret = NO_SECRET,
) -> Secret:
    """Return the classic credential text from the CR_* values, made by a JSON encoder.

    Shape:   standard base64, padded, of one JSON object and a newline (agent.md §3.1)
    """
    kind = canonical_type(type_name)
    members: dict[str, Any] = {"type": kind}
    if kind == "ecr":
        members |= {"roleArn": role_arn, "extra": {"region": region, "externalId": external_id.reveal()}}
    elif kind == "digitalocean-cr":
        members |= {"username": token.reveal(), "password": token.reveal(), "registryBase": base or ""}
    else:
        members |= {"username": username, "password": password.reveal(), "registryBase": base or ""}
    return Secret(base64.b64encode(msgspec.json.encode(members) + b"\n").decode("ascii"))


def decode_credentials(text: str, *, where: str = "the credentials", limits: Limits = LIMITS) -> RegistryLogin:
    """Read the classic credential text: base64, standard or URL-safe, padded or not, of a JSON object.

    Raises:  RemoteProtocolError("malformed-credentials" | "unsupported-type"); no value is in the text
    """
    bare = text.strip()
    if "${" in bare:
        raise _malformed(where, "is a placeholder that was not filled in", "set CR_CREDENTIALS at the broker client")
    if len(bare) > CREDENTIAL_BYTES:
        raise _malformed(where, f"is longer than {CREDENTIAL_BYTES} bytes")
    try:
        folded = bare.encode("ascii").translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
        raw = base64.b64decode(folded + b"=" * (-len(folded) % 4), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise _malformed(where, "is not base64") from None
    try:
        value = strict_json(raw, where, kind="malformed-credentials", limits=limits)
    except RemoteProtocolError:
        raise _broken(where, raw) from None
    return login_from_object(value, where=where)


def login_from_object(value: object, *, where: str = "the credentials") -> RegistryLogin:
    """Read the members of a credential object. Unknown members are ignored and named in `warnings`."""
    if not isinstance(value, dict):
        raise _malformed(where, "is not a JSON object")
    members = _Members(value, where)
    type_name = members.text("type")
    if not type_name:
        raise _malformed(where, "has no member type")
    kind = canonical_type(type_name)
    base, warnings = normal_base(members.text("registryBase"))
    scheme = members.text("scheme")
    if scheme not in ("https", "http", ""):
        raise _malformed(where, "has a scheme that is neither https nor http")
    extra = _Members(members.object("extra"), where)
    unknown = sorted(name for name in value if name not in _KNOWN and name.isprintable())[:16]
    if unknown:
        warnings += ("members of the credentials that are not known: " + ", ".join(name[:64] for name in unknown),)
    username, password, mended = _mended(kind, members.text("username"), members.text("password"), where)
    warnings += mended
    return RegistryLogin(
        type=kind,
        base=base,
        username=username,
        secret=Secret(password),
        scheme=cast('Literal["https", "http", ""]', scheme),
        registry_id=members.text("registryId") or None,
        role_arn=members.text("roleArn"),
        region=extra.text("region"),
        external_id=Secret(extra.text("externalId")),
        identity_token=Secret(members.text("identityToken")),
        api=members.text("api"),
        namespaces=members.texts("namespaces"),
        warnings=warnings,
    )


def find_credentials(
    path: str,
    headers: Sequence[tuple[str, str]],
    query: Sequence[tuple[str, str]] = (),
    body: Mapping[str, object] | None = None,
    *,
    limits: Limits = LIMITS,
) -> CredentialSource:
    """Return what a request says about its registry: the first of the five places that has something.

    Shape:   header names in lower case; `body` is the decoded object of a POST
    Raises:  RemoteProtocolError("ambiguous-credentials") if two places differ, "malformed-credentials",
             "unsupported-type"
    Source:  agent.md §3.4, in its order
    """
    found: list[tuple[str, RegistryLogin]] = []
    check = path in CHECK_PATHS
    for text in _values(headers, "x-registry-credentials"):
        found.append(_place("header X-Registry-Credentials", text, limits))
    if body is not None and body.get("credentials") is not None:
        member = body["credentials"]
        if isinstance(member, str):
            found.append(_place("body member credentials", member, limits))
        else:
            found.append(("body member credentials", login_from_object(member, where="body member credentials")))
    for text in _values(headers, "authorization"):
        scheme, _, rest = text.strip().partition(" ")
        if scheme.lower() == "cra":
            found.append(_place("header Authorization", rest, limits))
        elif check and not rest and scheme:
            # The stock client sends the bare text here, without a scheme (agent.md §3.2).
            found.append(_place("header Authorization", scheme, limits))
    if path == "/systemcheck":
        for text in _values(headers, "x-systemcheck-credentials"):
            found.append(_place("header X-Systemcheck-Credentials", text, limits))
    ids = [value for name, value in query if name == "registryId" and value]
    ids += [value for value in _values(headers, "x-registry-id") if value]
    if body is not None and isinstance(body.get("registryId"), str) and body["registryId"]:
        ids.append(str(body["registryId"]))
    for name, login in found[1:]:
        if not _same(found[0][1], login):
            raise RemoteProtocolError("ambiguous-credentials", f"{found[0][0]} and {name} differ", hint="send one")
    if len(set(ids)) > 1:
        raise RemoteProtocolError("ambiguous-credentials", "registryId came twice with different values")
    login_or_none = found[0][1] if found else None
    if login_or_none is not None and ids and login_or_none.registry_id not in (None, ids[0]):
        raise RemoteProtocolError("ambiguous-credentials", "registryId and the credentials' registryId differ")
    if login_or_none is not None and ids and login_or_none.registry_id is None:
        raise RemoteProtocolError(
            "ambiguous-credentials", f"{found[0][0]} and registryId came together", hint="send one of the two"
        )
    return CredentialSource(login_or_none, ids[0] if ids else None)


# What is read, and what agent.md §3.4 lists for later rows of the table of types.
_KNOWN: Final = frozenset(
    {"type", "username", "password", "registryBase", "roleArn", "extra", "registryId", "tls", "scheme", "proxy"}
    | {"identityToken", "auth", "api", "namespaces"}
)


class _Members:
    """The members of a credential object, by type; an error names the member, never its value."""

    def __init__(self, value: dict[str, object], where: str) -> None:
        self._value = value
        self._where = where

    def text(self, name: str) -> str:
        value = self._value.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise _malformed(self._where, f"has a member {name} that is not a text")
        if "\0" in value:
            raise _malformed(self._where, f"has a member {name} with a NUL in it")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._value.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise _malformed(self._where, f"has a member {name} that is not a list of texts")
        return tuple(value)

    def object(self, name: str) -> dict[str, object]:
        value = self._value.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise _malformed(self._where, f"has a member {name} that is not an object")
        return value


def _broken(where: str, raw: bytes) -> RemoteProtocolError:
    """Return the error for a text that is no JSON: where it breaks, in which member, and never the text."""
    at = broken_at(raw)
    if at is None:
        return _malformed(where, "is not base64 of a JSON object")
    named = _MEMBER.findall(raw.decode("utf-8", "replace")[:at])
    inside = f", after the member {named[-1]} began" if named else ""
    key_file = b"private_key" in raw or b"_json_key" in raw
    return _malformed(
        where, f"is not base64 of a JSON object: it breaks at character {at}{inside}", _KEY_HINT if key_file else _HINT
    )


def _mended(kind: str, username: str, password: str, where: str) -> tuple[str, str, tuple[str, ...]]:
    """Return user and password as the type takes them, and what looks wrong with them.

    Source:  registries-a.md §1, §6; registries-b.md §4
    """
    if ":" in username:
        raise _malformed(where, "has a user name with ':' in it", "was user:password given as the user name?")
    if kind == "digitalocean-cr" and bool(username) != bool(password):
        # One token is both.
        username = password = username or password
    if kind == "acr" and password.endswith("\n"):
        return username, password.rstrip("\r\n"), ("the password ended in a line end, which was left out",)
    if kind == "docker-hub" and "@" in username:
        return username, password, ("the user looks like an e-mail address; Docker Hub wants the Docker ID",)
    if kind in _KEY_TYPES and username == "_json_key" and password and not password.lstrip().startswith("{"):
        return username, password, ("the password of _json_key does not begin like a key file, which must be whole",)
    return username, password, ()


def _place(where: str, text: str, limits: Limits) -> tuple[str, RegistryLogin]:
    return where, decode_credentials(text, where=where, limits=limits)


def _same(one: RegistryLogin, other: RegistryLogin) -> bool:
    def essence(login: RegistryLogin) -> Secret:
        # As one Secret, so that the comparison takes the same time wherever they differ.
        parts = [*login.same_place, login.username, login.secret.reveal(), login.registry_id, login.role_arn]
        parts += [login.region, login.external_id.reveal(), login.identity_token.reveal()]
        parts += [login.api, *login.namespaces]
        return Secret(canonical(parts).decode())

    return essence(one) == essence(other)


def _values(headers: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in headers if key == name]


def _malformed(where: str, what: str, hint: str = _HINT) -> RemoteProtocolError:
    return RemoteProtocolError("malformed-credentials", f"{where} {what}", hint=hint)
