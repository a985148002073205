"""Several connections in one client: `[connections.NAME]` in our file, and the stock universal client's own file.

In our file a connection's keys are in small letters, and what is in capitals is a variable of that connection:
`CR_USERNAME`, `CR_PASSWORD` and whatever its rules name. `${VAR}` in any value is taken from the environment, or from
the file that `VAR_FILE` names, so that the file itself needs to hold no secret.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from towline.core import Record, RemoteProtocolError, Secret
from towline.runtimes.values import secret, text, words

# The stock client's largest known file is a few KiB for each of at most 25 connections.
_LARGEST: Final = 1024 * 1024
_VARIABLE: Final = re.compile(r"[A-Z_][A-Z0-9_]*")
_BRACED: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_BARE: Final = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")

_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "token": secret,
    "type": text,
    "server_url": text,
    "server_urls": words,
    "agent_url": text,
    "client_url": text,
    "accept": text,
    "substitute": words,
    "validation_url": text,
    "validation_method": text,
    "validation_authorization": secret,
    "validation_basic": secret,
}
# What our keys are called in the stock file.
_STOCK: Final[Mapping[str, str]] = {
    "identifier": "token",
    "type": "type",
    "BROKER_SERVER_URL": "server_url",
    "CR_AGENT_URL": "agent_url",
    "BROKER_CLIENT_URL": "client_url",
    "ACCEPT": "accept",
    "BROKER_CLIENT_VALIDATION_URL": "validation_url",
    "BROKER_CLIENT_VALIDATION_METHOD": "validation_method",
    "BROKER_CLIENT_VALIDATION_AUTHORIZATION_HEADER": "validation_authorization",
    "BROKER_CLIENT_VALIDATION_BASIC_AUTH": "validation_basic",
}
# Known to the stock file, and without a meaning here.
_WITHOUT_EFFECT: Final = frozenset({"id", "name", "friendlyName", "isDisabled", "contexts"})
_PARTS: Final = (
    "CR_TYPE", "CR_BASE", "CR_USERNAME", "CR_PASSWORD", "CR_TOKEN", "CR_ROLE_ARN", "CR_REGION", "CR_EXTERNAL_ID",
)  # fmt: skip


class ConnectionSettings(Record, frozen=True):
    """One connection as it is configured. `values` are by the keys of our file; `place` says where it stands."""

    name: str
    place: str
    values: dict[str, Any]
    variables: dict[str, Secret]
    contexts: dict[str, dict[str, Secret]]

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def secrets(self) -> list[Secret]:
        """Return everything of it that may be secret: only the operator knows which variables are."""
        texts = [value for value in self.values.values() if isinstance(value, Secret)]
        return [*texts, *self.variables.values(), *(one for own in self.contexts.values() for one in own.values())]


class Universal(Record, frozen=True):
    """The stock universal file: its connections, what it says for all as an environment, and what has no effect."""

    connections: tuple[ConnectionSettings, ...] = ()
    environment: dict[str, str] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class _Reader:
    """Collects what is wrong while it reads."""

    def __init__(self, path: str, content: str, environment: Mapping[str, str], faults: list[str], stock: bool) -> None:
        self._path = path
        self._lines = content.splitlines()
        self._environment = environment
        self._faults = faults
        self._stock = stock

    def place(self, *keys: str) -> str:
        """Return where a key stands that is found below others, for a message to a person."""
        names = [rf'"?{re.escape(key)}"?' for key in keys]
        at, inside = 0, 0
        for depth in range(len(keys), 0, -1):
            dotted = r"\s*\.\s*".join(names[:depth])
            header = re.compile(rf"\[\s*{dotted}\s*\]")
            found = self._find(header, 0)
            if found is not None:
                at, inside = found, depth
                break
        for name in names[inside:]:
            at = self._find(re.compile(rf"[{{,\s]*{name}\s*[:=]"), at) or at
        return f"{self._path}:{at + 1}"

    def _find(self, stands: re.Pattern[str], start: int) -> int | None:
        return next((at for at in range(start, len(self._lines)) if stands.match(self._lines[at].strip())), None)

    def fault(self, said: str, *keys: str) -> None:
        self._faults.append(f"{self.place(*keys)} {'.'.join(keys)}: {said}")

    def filled(self, value: Any, *keys: str) -> Any:
        """Return a text with its `${VAR}` filled in; the stock file's `$VAR`, too, where there is such a variable."""
        if isinstance(value, list):
            return [self.filled(one, *keys) for one in value]
        if not isinstance(value, str):
            return value

        def braced(found: re.Match[str]) -> str:
            known = self._variable(found[1])
            if known is None:
                self.fault(f"{found[1]} is not set in the environment", *keys)
            return known or ""

        out = _BRACED.sub(braced, value)
        return _BARE.sub(lambda found: self._variable(found[1]) or found[0], out) if self._stock else out

    def _variable(self, name: str) -> str | None:
        if name in self._environment:
            return self._environment[name]
        held = self._environment.get(f"{name}_FILE")
        if held is None:
            return None
        try:
            with Path(held).open(encoding="utf-8") as file:
                return file.read(_LARGEST).rstrip("\r\n")
        except (OSError, UnicodeDecodeError):
            self._faults.append(f"{name}_FILE: {held} cannot be read")
            return ""

    def value(self, read: Callable[[Any], Any], raw: Any, *keys: str) -> Any:
        try:
            return read(self.filled(raw, *keys))
        except ValueError as error:
            self.fault(str(error), *keys)
            return None

    def variables(self, table: Mapping[str, Any], *keys: str) -> dict[str, Secret]:
        found = {}
        for name, raw in table.items():
            if isinstance(raw, list) and name.endswith("_POOL"):
                raw = ",".join(str(entry) for entry in raw)
            value = self.value(secret, raw, *keys, name)
            if value is not None:
                found[name] = value
        return found

    def contexts(self, table: Any, *keys: str) -> dict[str, dict[str, Secret]]:
        if table is None:
            return {}
        if not isinstance(table, dict):
            self.fault(f"expected a table of contexts, got a {type(table).__name__}", *keys)
            return {}
        found = {}
        for name, overlay in table.items():
            if not isinstance(overlay, dict):
                self.fault(f"expected a table of variables, got a {type(overlay).__name__}", *keys, name)
            elif overlay.get("isDisabled") is not True:
                odd = [key for key in overlay if not _VARIABLE.fullmatch(key) and key not in _WITHOUT_EFFECT]
                for key in odd:
                    self.fault("expected a variable in capitals", *keys, name, key)
                known = {key: raw for key, raw in overlay.items() if _VARIABLE.fullmatch(key)}
                found[name] = self.variables(known, *keys, name)
        return found


def read_connections(
    table: Any, path: str, content: str, environment: Mapping[str, str], faults: list[str]
) -> tuple[ConnectionSettings, ...]:
    """Read the `[connections.NAME]` tables of our file. What is wrong is added to `faults`."""
    reader = _Reader(path, content, environment, faults, stock=False)
    if not isinstance(table, dict):
        reader.fault(f"expected a table for each connection, got a {type(table).__name__}", "connections")
        return ()
    found = []
    for name, own in table.items():
        if not isinstance(own, dict):
            reader.fault(f"expected a table, got a {type(own).__name__}", "connections", name)
            continue
        values = {}
        for key, raw in own.items():
            if key in _KEYS:
                values[key] = reader.value(_KEYS[key], raw, "connections", name, key)
            elif key != "contexts" and not _VARIABLE.fullmatch(key):
                near = difflib.get_close_matches(key, _KEYS, 1)
                reader.fault("unknown key" + (f'; did you mean "{near[0]}"?' if near else ""), "connections", name, key)
        variables = reader.variables(
            {key: raw for key, raw in own.items() if _VARIABLE.fullmatch(key)}, "connections", name
        )
        contexts = reader.contexts(own.get("contexts"), "connections", name, "contexts")
        found.append(ConnectionSettings(name, reader.place("connections", name), values, variables, contexts))
    return tuple(found)


def read_universal(
    path: Path, environment: Mapping[str, str], settings: Collection[str], faults: list[str]
) -> Universal:
    """Read the stock universal client's file (broker-protocol.md §4.4). What is wrong is added to `faults`.

    What it says for all is an environment for the `settings` of this client, and a variable of every connection else.
    """
    try:
        with path.open(encoding="utf-8") as file:
            content = file.read(_LARGEST)
        tree = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{path}: {getattr(error, 'strerror', None) or str(error)[:200]}")
        return Universal()
    reader = _Reader(str(path), content, environment, faults, stock=True)
    listed = tree.get("CONNECTIONS") if isinstance(tree, dict) else None
    if not isinstance(listed, dict) or not listed:
        faults.append(f"{path}: expected CONNECTIONS with at least one connection")
        return Universal()
    general, types, unmapped = _client_configuration(tree, reader)
    shared = {name: Secret(value) for name, value in general.items() if name not in settings}
    found = []
    for name, own in listed.items():
        if not isinstance(own, dict):
            reader.fault(f"expected an object, got a {type(own).__name__}", "CONNECTIONS", name)
            continue
        if own.get("isDisabled") is True:
            continue
        merged = {**types.get(str(own.get("type")), {}), **own}
        values, variables = {}, {}
        for key, raw in merged.items():
            if key in _STOCK:
                values[_STOCK[key]] = reader.value(_KEYS[_STOCK[key]], raw, "CONNECTIONS", name, key)
            elif _VARIABLE.fullmatch(key):
                variables[key] = raw
            elif key not in _WITHOUT_EFFECT:
                unmapped.append(f"CONNECTIONS.{name}.{key}")
        contexts = reader.contexts(own.get("contexts"), "CONNECTIONS", name, "contexts")
        place = reader.place("CONNECTIONS", name)
        mine = shared | reader.variables(variables, "CONNECTIONS", name)
        found.append(ConnectionSettings(name, place, values, mine, contexts))
    return Universal(tuple(found), general, tuple(unmapped))


def _client_configuration(
    tree: dict[str, Any], reader: _Reader
) -> tuple[dict[str, str], dict[str, dict[str, Any]], list[str]]:
    """Return what holds for all, what holds for one type, and the keys that have no meaning here."""
    top = tree.get("BROKER_CLIENT_CONFIGURATION", {})
    unmapped = sorted(key for key in tree if key not in ("CONNECTIONS", "BROKER_CLIENT_CONFIGURATION"))
    general: dict[str, str] = {}
    types: dict[str, dict[str, Any]] = {}
    for section, members in top.items() if isinstance(top, dict) else ():
        for kind, table in members.items() if isinstance(members, dict) else ():
            where = ("BROKER_CLIENT_CONFIGURATION", section, kind)
            if kind == "default" and isinstance(table, dict):
                if section != "common":
                    types[section] = table
                    continue
                for name, raw in table.items():
                    filled = reader.filled(raw, *where, name)
                    general[name] = str(filled).lower() if isinstance(filled, bool) else str(filled)
            elif kind == "oauth" and isinstance(table, dict):
                for theirs, ours in (("clientId", "CLIENT_ID"), ("clientSecret", "CLIENT_SECRET")):
                    if theirs in table:
                        general[ours] = str(reader.filled(table[theirs], *where, theirs))
            elif kind != "required":
                unmapped.append(".".join(where))
    return general, types, unmapped


def credentials(variables: Mapping[str, Secret], kind: str | None) -> Secret | None:
    """Return `CR_CREDENTIALS` of these variables: the one among them, else the one that the parts make.

    Raises:  RemoteProtocolError("unsupported-type")
    """
    if "CR_CREDENTIALS" in variables or not any(part in variables for part in _PARTS):
        return variables.get("CR_CREDENTIALS")
    # The agent's room, of which most clients need nothing else.
    from towline.core.agent import encode_credentials

    none = Secret("")
    part = {name: variables.get(name, none) for name in _PARTS}
    return encode_credentials(
        part["CR_TYPE"].reveal() or kind or "",
        username=part["CR_USERNAME"].reveal(),
        password=part["CR_PASSWORD"],
        base=part["CR_BASE"].reveal(),
        token=part["CR_TOKEN"],
        role_arn=part["CR_ROLE_ARN"].reveal(),
        region=part["CR_REGION"].reveal(),
        external_id=part["CR_EXTERNAL_ID"],
    )


def overlay(base: Mapping[str, Secret], context: Mapping[str, Secret], kind: str | None) -> dict[str, Secret]:
    """Return a context's variables, with the `CR_CREDENTIALS` of the effective configuration (agent.md §3.3)."""
    found = dict(context)
    if "CR_CREDENTIALS" not in context and any(part in context for part in _PARTS):
        parts = {name: value for name, value in base.items() if name != "CR_CREDENTIALS"}
        made = credentials({**parts, **context}, kind)
        if made is not None:
            found["CR_CREDENTIALS"] = made
    return found


def required(kind: str | None, variables: Mapping[str, Secret]) -> list[str]:
    """Return the parts that a type needs and that are not there.

    One that has its `CR_CREDENTIALS` needs none, and one without a user and a password is used anonymously.
    """
    if "CR_CREDENTIALS" in variables or not any(part in variables for part in _PARTS):
        return []
    named = variables["CR_TYPE"].reveal() if "CR_TYPE" in variables else (kind or "")
    if not named:
        return ["CR_TYPE"]
    if named.lower() in ("ecr", "elasticcr"):
        needed: tuple[str, ...] = ("CR_ROLE_ARN", "CR_REGION")
    elif named.lower() == "digitalocean-cr":
        needed = ("CR_TOKEN",)
    else:
        needed = ("CR_USERNAME", "CR_PASSWORD")
        if not any(name in variables for name in needed):
            return []
    return [name for name in needed if name not in variables]


def type_fault(kind: str | None, variables: Mapping[str, Secret]) -> str | None:
    """Return what is wrong with the credentials' parts, or None."""
    missing = required(kind, variables)
    if missing:
        return f"{', '.join(missing)} of its credentials {'is' if len(missing) == 1 else 'are'} not set"
    try:
        credentials(variables, kind)
    except RemoteProtocolError as error:
        return f"{error.message}; {error.hint}"
    return None
