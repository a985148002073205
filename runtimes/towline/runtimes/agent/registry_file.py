"""The agent's own registry file: registries with an id, and where the login of each is kept (agent.md §8.3).

TOML, or JSON when its name ends in `.json`: `[registries.ID]` tables, or a list `registries` whose entries have an
`id`. Keys are written `password_file` or `passwordFile`. Everything that is wrong is said at once, each with its place.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from towline.core import Record, RemoteProtocolError, Secret
from towline.core.agent import RegistryLogin, canonical_type, normal_base
from towline.core.http import Url
from towline.core.layer import Globs
from towline.core.registry import find_dialect
from towline.runtimes.agent.config import RegistryEntry
from towline.runtimes.agent.sources import (
    FromDockerFile,
    FromFiles,
    FromOneFile,
    FromProgram,
    LoginSource,
    check_private,
    read_secret,
)
from towline.runtimes.values import number, switch, text, words

_LARGEST: Final = 1024 * 1024
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Keys as they are compared: without `_`, in small letters.
_ENTRY: Final = (
    "id", "type", "base", "scheme", "auth", "api", "namespaces", "realm_hosts", "tls", "repositories",
    "fallback_repositories", "limits",
)  # fmt: skip
_AUTH: Final = (
    "username", "password", "password_file", "password_env", "token_file", "identity_token_file", "docker_config",
    "program", "cloud", "role_arn", "region", "external_id", "external_id_file",
)  # fmt: skip
_TLS: Final = ("ca_file", "insecure_skip_verify", "server_name")
_CLOUDS: Final = ("aws", "gcp", "azure")
# The ways to a secret, of which an entry has one at most.
_WAYS: Final = ("password", "password_file", "password_env", "token_file", "docker_config", "program")


class RegistryFile(Record, frozen=True):
    """What the file says: logins by id, without those secrets that are kept elsewhere, and the rest by the same ids."""

    logins: dict[str, RegistryLogin]
    entries: dict[str, RegistryEntry]


class _Table:
    """One table of the file; faults name the place of a key, and never show a value that may be secret."""

    def __init__(self, path: str, lines: list[str], start: int, name: str, table: Any, faults: list[str]) -> None:
        """`lines` are those of the file down to where the next registry begins, `start` is where this table does."""
        self._path, self._lines, self._start, self._name, self._faults = path, lines, start, name, faults
        self._written: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        if not isinstance(table, dict):
            self.fault("", f"expected a table, got a {type(table).__name__}")
            return
        for key, value in table.items():
            self._written[_folded(key)] = key
            self._values[_folded(key)] = value

    def known(self, keys: tuple[str, ...]) -> None:
        """Say which keys have no meaning here."""
        by_folded = {_folded(key): key for key in keys}
        for folded, written in self._written.items():
            if folded not in by_folded:
                near = difflib.get_close_matches(folded, by_folded, 1)
                self.fault(written, "unknown key" + (f'; did you mean "{by_folded[near[0]]}"?' if near else ""))

    def has(self, key: str) -> bool:
        return self._values.get(_folded(key)) is not None

    def get(self, key: str, read: Callable[[Any], Any], default: Any = None) -> Any:
        """Return a key's value; the default where it is absent or wrong."""
        if not self.has(key):
            return default
        try:
            return read(self._values[_folded(key)])
        except ValueError as error:
            self.fault(key, str(error))
        except RemoteProtocolError as error:
            self.fault(key, error.message + (f" ({error.hint})" if error.hint else ""))
        return default

    def table(self, key: str) -> _Table:
        value = self._values.get(_folded(key))
        written = self._written.get(_folded(key), key)
        return _Table(
            self._path, self._lines, self._line(written), f"{self._name}.{written}",
            {} if value is None else value, self._faults,
        )  # fmt: skip

    def fault(self, key: str, said: str) -> None:
        written = self._written.get(_folded(key), key)
        name = f"{self._name}.{written}" if written else self._name
        self._faults.append(f"{self._path}:{self._line(written) + 1} {name}: {said}")

    def _line(self, key: str) -> int:
        """Find the line of a key: TOML's and JSON's readers do not tell it. Without one, that of the table."""
        stands = re.compile(rf'.*(?:^|[\s{{,."\[]){re.escape(key)}"?\s*[:=\]]')
        for at in range(self._start, len(self._lines)) if key else ():
            if stands.match(self._lines[at]):
                return at
        return self._start


def read_registries(path: str, environment: Mapping[str, str], clean: Mapping[str, str]) -> RegistryFile:
    """Read the file. `clean` is the environment that credential programs get.

    Raises:  RegistryFileError, with all that is wrong
    """
    faults: list[str] = []
    logins: dict[str, RegistryLogin] = {}
    entries: dict[str, RegistryEntry] = {}
    content, tree = _load(path, faults)
    lines = content.splitlines()
    listed = tree.get("registries")
    for key in sorted(tree):
        if key != "registries":
            faults.append(f"{path}:{_first(lines, key) + 1} {key}: unknown key; expected registries")
    pairs: list[tuple[Any, Any]] = []
    if isinstance(listed, dict):
        pairs = list(listed.items())
    elif isinstance(listed, list):
        pairs = [(one.get("id") if isinstance(one, dict) else None, one) for one in listed]
    elif not faults:
        faults.append(f"{path}:1 registries: expected a table or a list of registries")
    starts = [_entry_line(lines, name, at, as_list=isinstance(listed, list)) for at, (name, _) in enumerate(pairs)]
    for at, (name, raw) in enumerate(pairs):
        shown = f"registries.{name}" if isinstance(name, str) and _ID.fullmatch(name) else f"registries[{at}]"
        end = min((other for other in starts if other > starts[at]), default=len(lines))
        table = _Table(path, lines[:end], starts[at], shown, raw, faults)
        if not isinstance(name, str) or not _ID.fullmatch(name):
            table.fault("id", "expected an id of letters, digits, '.', '_' and '-'")
        elif name in logins:
            table.fault("id", "is there twice")
        else:
            logins[name], entries[name] = _entry(table, path, environment, clean)
    if faults:
        raise RegistryFileError(faults)
    return RegistryFile(logins, entries)


class RegistryFileError(RemoteProtocolError):
    """Everything that is wrong with a registry file; `faults` has one line for each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("invalid-configuration", "; ".join(faults))
        self.faults = faults


def _load(path: str, faults: list[str]) -> tuple[str, dict[str, Any]]:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise ValueError(f"expected at most {_LARGEST} bytes, got more")
        content = raw.decode()
        tree = json.loads(content) if path.endswith(".json") else tomllib.loads(content)
    except json.JSONDecodeError as error:
        faults.append(f"{path}:{error.lineno}: not JSON at column {error.colno}")
    except (OSError, ValueError, RecursionError) as error:
        # TOML's reader says where it stopped, and may quote one character of what is there.
        faults.append(f"{path}: {error.strerror if isinstance(error, OSError) else str(error)[:200]}")
    else:
        if isinstance(tree, dict):
            return content, tree
        faults.append(f"{path}:1: expected a table, got a {type(tree).__name__}")
    return "", {}


def _entry(
    table: _Table, path: str, environment: Mapping[str, str], clean: Mapping[str, str]
) -> tuple[RegistryLogin, RegistryEntry]:
    table.known(_ENTRY)
    kind = table.get("type", lambda value: canonical_type(text(value)), "")
    if not kind and not table.has("type"):
        table.fault("type", "is not set")
    base = table.get("base", _base, "")
    scheme = table.get("scheme", _one_of("https", "http"), "")
    auth = table.table("auth")
    login, source, cloud = _auth(auth, path, environment, clean)
    if kind and not base and not login.role_arn and find_dialect(kind).default_base is None:
        table.fault("base", f"is not set, and the type {kind} has no address of its own")
    tls, repositories, limits = table.table("tls"), table.table("repositories"), table.table("limits")
    tls.known(_TLS)
    repositories.known(("include", "exclude"))
    limits.known(("concurrency", "requests_per_second"))
    entry = RegistryEntry(
        source=source,
        ambient=cloud,
        ca_file=tls.get("ca_file", _readable),
        insecure=tls.get("insecure_skip_verify", switch, False),
        server_name=tls.get("server_name", _server_name),
        include=repositories.get("include", _globs, ()),
        exclude=repositories.get("exclude", _globs, ()),
        fallback=table.get("fallback_repositories", words, ()),
        concurrency=limits.get("concurrency", _at_least_one),
        rate=limits.get("requests_per_second", _rate),
        realm_hosts=table.get("realm_hosts", words, ()),
    )
    login = msgspec.structs.replace(
        login,
        type=kind,
        base=base,
        scheme=scheme,
        api=table.get("api", text, ""),
        namespaces=table.get("namespaces", words, ()),
    )
    return login, entry


def _auth(
    auth: _Table, path: str, environment: Mapping[str, str], clean: Mapping[str, str]
) -> tuple[RegistryLogin, LoginSource | None, Literal["aws", "gcp", "azure"] | None]:
    """Return what of the login is in the file, where the rest of it is, and whose machine's identity is used."""
    auth.known(_AUTH)
    ways = [way for way in _WAYS if auth.has(way)]
    if len(ways) > 1:
        auth.fault(ways[1], f"expected one way to the secret, got {' and '.join(ways)}")
    username = auth.get("username", text, "")
    nothing = Secret("")
    secret = nothing
    source: LoginSource | None = None
    token_file = auth.get("identity_token_file", _secret_file)
    if auth.has("password"):
        # The file itself is a secret's then.
        secret = auth.get("password", lambda value: _own_secret(value, path), nothing)
    elif auth.has("password_env"):
        secret = auth.get("password_env", lambda value: _from_environment(value, environment), nothing)
    elif auth.has("password_file") or token_file:
        source = FromFiles(username, auth.get("password_file", _secret_file), token_file)
    elif auth.has("token_file"):
        source = FromOneFile(auth.get("token_file", _secret_file, ""))
    elif auth.has("docker_config"):
        source = FromDockerFile(auth.get("docker_config", _secret_file, ""), clean)
    elif auth.has("program"):
        source = FromProgram(auth.get("program", _command, ("",)), clean)
    elif username:
        auth.fault("username", "has no password: set password_file, password_env, or another way to it")
    cloud = auth.get("cloud", _one_of(*_CLOUDS))
    external = auth.get("external_id", lambda value: _own_secret(value, path), nothing)
    if auth.has("external_id_file"):
        external = auth.get("external_id_file", _now, nothing)
    role, region = auth.get("role_arn", text, ""), auth.get("region", text, "")
    if role and not region:
        auth.fault("role_arn", "needs a region beside it")
    login = RegistryLogin(type="", username=username, secret=secret, role_arn=role, region=region, external_id=external)
    return login, source, cloud


# ── values ─────────────────────────────────────────────────────────────────────
def _base(value: Any) -> str:
    base, _ = normal_base(text(value))
    if not base:
        raise ValueError("expected a host, got nothing that is one")
    Url.parse(f"https://{base}", "invalid-configuration")
    return base


def _one_of(*known: str) -> Callable[[Any], Any]:
    def read(value: Any) -> str:
        if value in known:
            return str(value)
        raise ValueError(f"expected one of {', '.join(known)}")

    return read


def _globs(value: Any) -> tuple[str, ...]:
    patterns = words(value)
    Globs(patterns)
    return patterns


def _at_least_one(value: Any) -> int:
    got = number(value)
    if not 1 <= got <= 1000:
        raise ValueError(f"expected 1 to 1000, got {got}")
    return got


def _rate(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 10_000:
        return float(value)
    raise ValueError("expected a number above 0, 10000 at most")


def _readable(value: Any) -> str:
    path = text(value)
    if not os.access(path, os.R_OK) or not os.path.isfile(path):
        raise ValueError(f"{path} is no file that can be read")
    return path


def _server_name(value: Any) -> str:
    name = text(value)
    if Url.parse(f"https://{name}/", "invalid-configuration").host != name:
        raise ValueError("expected a host's name")
    return name


def _secret_file(value: Any) -> str:
    path = text(value)
    check_private(path)
    return path


def _now(value: Any) -> Secret:
    return read_secret(text(value))


def _own_secret(value: Any, path: str) -> Secret:
    if not isinstance(value, str):
        raise ValueError("expected a text")
    check_private(path)
    return Secret(value)


def _from_environment(value: Any, environment: Mapping[str, str]) -> Secret:
    name = text(value)
    if not environment.get(name):
        raise ValueError(f"{name} is not set in the environment")
    return Secret(environment[name])


def _command(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(part, str) and part for part in value):
        return tuple(value)
    raise ValueError("expected a list of a program and its arguments")


# ── places ─────────────────────────────────────────────────────────────────────
def _folded(key: str) -> str:
    return key.replace("_", "").lower()


def _first(lines: list[str], key: str) -> int:
    return next((at for at, line in enumerate(lines) if key in line), 0)


def _entry_line(lines: list[str], name: Any, at: int, *, as_list: bool) -> int:
    if isinstance(name, str):
        opens = rf'\[\s*registries\s*\.\s*"?{re.escape(name)}"?\s*\]|"{re.escape(name)}"\s*:'
        named = rf'"?id"?\s*[=:]\s*"{re.escape(name)}"' if as_list else opens
        found = next((number for number, line in enumerate(lines) if re.search(named, line)), None)
        if found is not None:
            return found
    heads = [number for number, line in enumerate(lines) if line.strip().startswith("[[")]
    return heads[at] if at < len(heads) else 0
