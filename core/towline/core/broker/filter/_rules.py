"""Accept files: which requests may pass, in which direction, and where they go (broker-protocol.md §3.1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._secret import Secret
from towline.core.broker.filter._dotted import parse_dotted
from towline.core.broker.filter._pattern import compile_glob, compile_path
from towline.core.broker.filter._regex import compile_regex

T = TypeVar("T")

Scheme = Literal["token", "bearer", "basic", "raw"]


class BodyValue(Record, frozen=True):
    """Some value at the path equals `value`; without one, some value there is truthy."""

    path: tuple[str, ...]
    value: Any = None
    has_value: bool = False


class BodyPattern(Record, frozen=True):
    """Some text at the path matches the expression."""

    path: tuple[str, ...]
    regex: str


class QueryGlobs(Record, frozen=True):
    """The parameter comes exactly once and matches one of the globs."""

    parameter: str
    globs: tuple[str, ...]


class HeaderValues(Record, frozen=True):
    """The header comes once and is exactly one of the values."""

    name: str
    values: tuple[str, ...]


Condition: TypeAlias = BodyValue | BodyPattern | QueryGlobs | HeaderValues


class Auth(Record, frozen=True):
    """Credentials that a rule adds; every text may hold `${VAR}`."""

    scheme: Scheme
    username: str = ""
    password: Secret = Secret("")
    token: Secret | None = None


class Rule(Record, frozen=True):
    """One row of an accept file. `method` is upper case, `ANY` for all."""

    method: str
    path: str = "/"
    origin: str | None = None
    auth: Auth | None = None
    conditions: tuple[Condition, ...] = ()


class AcceptRules(Record, frozen=True):
    """Both directions of an accept file. `warnings` name rules that can never let anything through."""

    public: tuple[Rule, ...]
    private: tuple[Rule, ...]
    warnings: tuple[str, ...] = ()

    @classmethod
    def load(cls, source: bytes | str | dict[str, Any]) -> AcceptRules:
        """Read an accept file.

        Raises:  RemoteProtocolError of kind invalid-configuration that says where
        """
        if not isinstance(source, dict):
            try:
                source = json.loads(source)
            except (ValueError, RecursionError) as error:
                raise _wrong("accept file", "a JSON document", str(error)[:200]) from None
        if not isinstance(source, dict):
            raise _wrong("accept file", 'an object with "public" and "private"', type(source).__name__)
        warnings: list[str] = []
        public, private = (_rules(source.get(side, []), side, warnings) for side in ("public", "private"))
        if not public and not private:
            raise _wrong("accept file", "at least one rule", "none")
        return cls(public, private, tuple(warnings))

    def shown(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rules as JSON for a status page, without credentials."""
        return {"public": [_shown(rule) for rule in self.public], "private": [_shown(rule) for rule in self.private]}


def _wrong(where: str, expected: str, got: str) -> RemoteProtocolError:
    return RemoteProtocolError("invalid-configuration", f"{where}: expected {expected}, got {got}")


def _at(where: str, read: Callable[[str], T], text: str) -> T:
    """Read a text of a rule; an error says where it stands."""
    try:
        return read(text)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(error.kind, f"{where}: {error.message}", hint=error.hint) from None


def _text(member: Any, where: str) -> str:
    if not isinstance(member, str):
        raise _wrong(where, "a text", type(member).__name__)
    return member


def _texts(member: Any, where: str) -> tuple[str, ...]:
    if not isinstance(member, list):
        raise _wrong(where, "a list of texts", type(member).__name__)
    return tuple(_text(value, f"{where}[{at}]") for at, value in enumerate(member))


def _rules(listed: Any, side: str, warnings: list[str]) -> tuple[Rule, ...]:
    if not isinstance(listed, list):
        raise _wrong(side, "a list of rules", type(listed).__name__)
    return tuple(_rule(member, f"{side}[{at}]", warnings) for at, member in enumerate(listed))


def _rule(member: Any, where: str, warnings: list[str]) -> Rule:
    if not isinstance(member, dict):
        raise _wrong(where, "an object", type(member).__name__)
    path = _text(member.get("path", "/"), f"{where}.path")
    _at(f"{where}.path", compile_path, path)
    origin = member.get("origin")
    auth = member.get("auth")
    valid = member.get("valid", [])
    if not isinstance(valid, list):
        raise _wrong(f"{where}.valid", "a list of conditions", type(valid).__name__)
    return Rule(
        method=_text(member.get("method", "get"), f"{where}.method").upper(),
        path=path,
        origin=None if origin is None else _text(origin, f"{where}.origin"),
        auth=None if auth is None else _auth(auth, f"{where}.auth"),
        conditions=tuple(_condition(entry, f"{where}.valid[{at}]", warnings) for at, entry in enumerate(valid)),
    )


def _auth(member: Any, where: str) -> Auth:
    if not isinstance(member, dict):
        raise _wrong(where, "an object", type(member).__name__)
    scheme = _text(member.get("scheme"), f"{where}.scheme")
    if scheme not in ("token", "bearer", "basic", "raw"):
        raise _wrong(f"{where}.scheme", "token, bearer, basic or raw", repr(scheme[:40]))
    token = member.get("token")
    if token is None and scheme != "basic":
        raise _wrong(f"{where}.token", "a text", "nothing")
    return Auth(
        scheme=cast(Scheme, scheme),
        username=_text(member.get("username", ""), f"{where}.username"),
        password=Secret(_text(member.get("password", ""), f"{where}.password")),
        token=None if token is None else Secret(_text(token, f"{where}.token")),
    )


def _condition(entry: Any, where: str, warnings: list[str]) -> Condition:
    if not isinstance(entry, dict):
        raise _wrong(where, "an object", type(entry).__name__)
    if "header" in entry:
        return HeaderValues(
            _text(entry["header"], f"{where}.header").lower(), _texts(entry.get("values"), f"{where}.values")
        )
    if "queryParam" in entry:
        globs = _texts(entry.get("values"), f"{where}.values")
        for at, glob in enumerate(globs):
            _at(f"{where}.values[{at}]", compile_glob, glob)
        return QueryGlobs(_text(entry["queryParam"], f"{where}.queryParam"), globs)
    if "path" not in entry:
        raise _wrong(where, '"path", "queryParam" or "header"', ", ".join(sorted(entry)) or "nothing")
    path = _at(f"{where}.path", parse_dotted, _text(entry["path"], f"{where}.path"))
    if "regex" in entry:
        regex = _text(entry["regex"], f"{where}.regex")
        if _at(f"{where}.regex", compile_regex, regex) is None:
            warnings.append(f"{where}.regex: {regex[:80]!r} is no regular expression and never matches")
        return BodyPattern(path, regex)
    return BodyValue(path, entry.get("value"), "value" in entry)


def _shown(rule: Rule) -> dict[str, Any]:
    shown: dict[str, Any] = {"method": "any" if rule.method == "ANY" else rule.method, "path": rule.path}
    if rule.origin is not None:
        shown["origin"] = rule.origin if "@" not in rule.origin else "***@" + rule.origin.rpartition("@")[2]
    if rule.auth is not None:
        shown["auth"] = {"scheme": rule.auth.scheme}
    if rule.conditions:
        shown["valid"] = [_shown_condition(condition) for condition in rule.conditions]
    return shown


def _shown_condition(condition: Condition) -> dict[str, Any]:
    if isinstance(condition, HeaderValues):
        return {"header": condition.name, "values": list(condition.values)}
    if isinstance(condition, QueryGlobs):
        return {"queryParam": condition.parameter, "values": list(condition.globs)}
    path = ".".join(condition.path)
    if isinstance(condition, BodyPattern):
        return {"path": path, "regex": condition.regex}
    return {"path": path, "value": condition.value} if condition.has_value else {"path": path}


# ── the container registry agent's own rules ──────────────────────────────────
_TO_AGENT: Final = (
    # broker-protocol.md §3.8
    ("GET", "/healthcheck"),
    ("GET", "/validate-credentials"),
    ("GET", "/get-state-identifier"),
    ("GET", "/list"),
    ("GET", "/list/*"),
    ("GET", "/list-paginated/*"),
    ("GET", "/list-with-metadata/*"),
    ("GET", "/image-metadata/*"),
    ("POST", "/discover"),
    ("POST", "/scan"),
    # agent.md §4.3
    ("GET", "/capabilities"),
    ("GET", "/jobs"),
    ("GET", "/jobs/:id"),
    ("DELETE", "/jobs/:id"),
    ("POST", "/jobs/:id/redeliver"),
    ("POST", "/scan-batch"),
    ("GET", "/events"),
)
_FROM_AGENT: Final = (
    # broker-protocol.md §3.8
    "/api/v2/import/done",
    "/api/v2/import/result",
    "/api/v1/recurring-tests/dependencies",
    "/v1/import/app",
    "/v1/recurring-tests/dependencies",
    "/v2/import/done",
    "/v2/import/result",
    "/rest/scan/result",
    # agent.md §4.3
    "/cra/v1/result",
    "/cra/v1/done",
    "/cra/v1/progress",
    "/cra/v1/push-event",
)


def _callbacks(origin: str | None) -> tuple[Rule, ...]:
    return tuple(Rule("POST", path, origin) for path in _FROM_AGENT)


DEFAULT_AGENT_RULES: Final = AcceptRules(
    public=_callbacks(None), private=tuple(Rule(method, path, "${CR_AGENT_URL}") for method, path in _TO_AGENT)
)
"""A client's rules when no accept file is given."""


def default_server_rules(callback_origin: str | None = None) -> AcceptRules:
    """Return a server's rules when no accept file is given: every request, and the agent's callbacks."""
    return AcceptRules(public=(Rule("ANY", "/*"),), private=_callbacks(callback_origin))
