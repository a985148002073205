"""The filter: which brokered request may pass, and exactly what then goes where (security.md §5).

One engine for both sides and both directions. A decision is a pure function of the rules, the variables and
the request; the first rule that matches wins; whatever is odd is denied; what was matched is what is sent.
"""

from __future__ import annotations

import base64
import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._secret import Secret
from towline.core.broker._headers import end_to_end, fault
from towline.core.broker.filter._conditions import Conditions, RequestView
from towline.core.broker.filter._expand import Variables, expand
from towline.core.broker.filter._pattern import compile_path, literal_start, path_symbols
from towline.core.broker.filter._rules import Auth, Rule
from towline.core.http._url import Url


class Upstream(Record, frozen=True):
    """Where a rule sends its requests. `prefix` is what the origin has of a path, without a final slash."""

    url: Url
    prefix: str = ""


class Allowed(Record, frozen=True):
    """A request may pass. `target` is the request's own, byte for byte.

    `headers` are the request's without those of one hop, framing, forwarding and overriding, and without
    `authorization` where the rule has one of its own.
    """

    rule: int
    target: str
    headers: dict[str, str]
    upstream: Upstream | None = None
    authorization: Secret | None = None


class Denied(Record, frozen=True):
    """A request may not pass. `reason` is for our own log, never for the far side."""

    reason: str


Verdict: TypeAlias = Allowed | Denied

_METHOD: Final = re.compile(r"[A-Z]+(?:-[A-Z]+)*")
# A target that nothing below can find fault with but its size: whole segments that begin with no dot, a plain query.
_ORDINARY: Final = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9_.~-]*)+(?:\?[A-Za-z0-9_.~=&-]*)?")
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]*")
_BAD_TRIPLET: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ORDINARY_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_FORBIDDEN_METHODS: Final = frozenset({"CONNECT", "TRACE"})


class Filter:
    """The rules of one direction, made ready.

    `strict=False` takes the established broker's reading of one condition: a body path without `*` holds when
    something truthy is there, whatever `value` says (broker-protocol.md Q5). All else is the same. `insecure` is
    `where_to`'s.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        variables: Variables,
        *,
        strict: bool = True,
        insecure: bool = False,
        limits: Limits = LIMITS,
    ) -> None:
        self._limits = limits
        self.warnings: list[str] = []
        self._rules = [_Prepared(rule, variables, strict, insecure) for rule in rules]
        for at, prepared in enumerate(self._rules):
            if prepared.fault is not None:
                self.warnings.append(f"rule {at} ({prepared.rule.method} {prepared.rule.path}): {prepared.fault}")

    def decide(self, method: str, target: str, headers: Mapping[str, Any], body: bytes | str | None = None) -> Verdict:
        """Return whether the request may pass, by which rule, and what is then sent.

        Shape:   `headers` has one text a name; `body` is None without one
        Bounds:  LIMITS.filter_target bytes, filter_segments segments, http_headers headers; linear time
        Source:  security.md §5
        """
        try:
            return self._decide(method, target, headers, body)
        except Exception as error:
            # security.md §5.10: an exception means deny. The kind of it is all that a log may need.
            return Denied(f"the filter failed with {type(error).__name__}")

    def _decide(self, method: str, target: str, headers: Mapping[str, Any], body: bytes | str | None) -> Verdict:
        wrong = target_fault(target, self._limits) or fault(headers, self._limits)
        if wrong is not None:
            return Denied(wrong)
        if method not in _ORDINARY_METHODS and (
            len(method) > 32 or _METHOD.fullmatch(method) is None or method in _FORBIDDEN_METHODS
        ):
            return Denied("not an ordinary method in capitals")
        path, _, query = target.partition("?")
        symbols: list[int] | None = None
        view: RequestView | None = None
        for at, prepared in enumerate(self._rules):
            if prepared.method not in (method, "ANY") or not path.startswith(prepared.start):
                continue
            if symbols is None:
                symbols = path_symbols(path)
            if not prepared.path.matches(symbols):
                continue
            if prepared.conditions is not None:
                view = view or RequestView(query, headers, body, self._limits)
                if not prepared.conditions.hold(view):
                    continue
            if prepared.fault is not None:
                return Denied(f"rule {at} is broken: {prepared.fault}")
            kept = end_to_end(headers)
            if prepared.authorization is not None:
                kept = {name: value for name, value in kept.items() if name.lower() != "authorization"}
            return Allowed(at, target, kept, prepared.upstream, prepared.authorization)
        return Denied("no rule matches")


def target_fault(target: str, limits: Limits = LIMITS) -> str | None:
    """Return what keeps a target from being matched at all, or None (security.md §5.1, 2, 4, 6)."""
    if _ORDINARY.fullmatch(target) and len(target) <= limits.filter_target:
        many = target.count("/") > limits.filter_segments
        return f"a path of more than {limits.filter_segments} segments" if many else None
    if len(target) > limits.filter_target:
        return f"a target of more than {limits.filter_target} bytes"
    if _PRINTABLE.fullmatch(target) is None or "\\" in target or "#" in target:
        return "a byte that may not stand in a target"
    if not target.startswith("/"):
        return "a target that does not begin with /"
    if _BAD_TRIPLET.search(target) is not None:
        return "a per cent sign that starts no triplet"
    path = target.partition("?")[0]
    if ";" in path:
        return "a path parameter"
    if path.count("/") > limits.filter_segments:
        return f"a path of more than {limits.filter_segments} segments"
    if not _is_canonical(path.encode("ascii")) or not _is_canonical(unquote_to_bytes(path)):
        return "an empty or dot segment"
    # The established filter compares the whole target, query included, with its normalised self.
    if _normalised(target) != target:
        return "a target that path normalisation would change"
    return None


def _is_canonical(path: bytes) -> bool:
    return path == b"/" or not {b"", b".", b".."}.intersection(path[1:].split(b"/"))


def _normalised(target: str) -> str:
    """Return the target as POSIX path normalisation leaves it, one final slash kept."""
    normal = posixpath.normpath(target)
    return normal + "/" if target.endswith("/") and normal != "/" else normal


class _Prepared:
    """A rule with its pattern compiled, its conditions ready and its texts filled in."""

    __slots__ = ("authorization", "conditions", "fault", "method", "path", "rule", "start", "upstream")

    def __init__(self, rule: Rule, variables: Variables, strict: bool, insecure: bool) -> None:
        self.rule = rule
        self.method = rule.method
        self.path = compile_path(rule.path)
        # What spares most paths the automaton: the texts that may match at all begin with it.
        self.start = literal_start(rule.path)
        self.conditions = Conditions(rule.conditions, strict=strict) if rule.conditions else None
        self.upstream: Upstream | None = None
        self.authorization: Secret | None = None
        self.fault: str | None = None
        try:
            self.upstream, self.authorization = where_to(rule, variables, insecure=insecure)
        except RemoteProtocolError:
            self.fault = f"the origin {_masked(rule.origin or '')} leads nowhere"


def where_to(rule: Rule, variables: Variables, *, insecure: bool = False) -> tuple[Upstream | None, Secret | None]:
    """Return where a rule sends its requests, and the authorization they get.

    `insecure` is the established client's INSECURE_DOWNSTREAM: in clear text, but to hosts of its vendor.
    Raises:  RemoteProtocolError for an origin that leads nowhere, without its text
    """
    upstream = authorization = None
    if rule.origin is not None:
        upstream, authorization = parse_origin(expand(rule.origin, variables))
        if insecure:
            upstream = Upstream(in_clear_text(upstream.url), upstream.prefix)
    if rule.auth is not None:
        authorization = Secret(_authorization(rule.auth, variables))
    return upstream, authorization


def in_clear_text(url: Url) -> Url:
    """Return an address as INSECURE_DOWNSTREAM has it (broker-protocol.md §2.8)."""
    if url.scheme == "http" or url.host == "snyk.io" or url.host.endswith(".snyk.io"):
        return url
    return Url("http", url.host, 80 if url.port == 443 else url.port, url.path, url.query)


def _masked(origin: str) -> str:
    """Return a rule's origin for a log: the template, without anything literal before an @."""
    return origin[:200] if "@" not in origin else "***@" + origin.rpartition("@")[2][:200]


def parse_origin(text: str) -> tuple[Upstream, Secret | None]:
    """Return where an expanded origin leads, and the authorization its user information stands for.

    Raises:  RemoteProtocolError, without the text
    Source:  broker-protocol.md §2.8: no scheme means https; `user:pass@` is Basic, `tok@` is a token
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "https", text
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    authorization = None
    if at:
        name, colon, password = user.partition(":")
        if colon:
            plain = unquote_to_bytes(name) + b":" + unquote_to_bytes(password)
            authorization = Secret("Basic " + base64.b64encode(plain).decode("ascii"))
        else:
            authorization = Secret("token " + user)
    if "?" in rest or "#" in rest or not host:
        raise RemoteProtocolError(
            "invalid-configuration", "expected an origin, got a text without a host or with a query"
        )
    url = Url.parse(f"{scheme}://{host}{slash}{path}")
    return Upstream(url, url.path.rstrip("/")), authorization


def basic_authorization(pair: Secret) -> Secret:
    """Return the authorization of a `user:password`."""
    return Secret("Basic " + base64.b64encode(pair.reveal().encode()).decode("ascii"))


def _authorization(auth: Auth, variables: Variables) -> str:
    """Return the authorization header's value (broker-protocol.md §3.5)."""
    token = None if auth.token is None else expand(auth.token.reveal(), variables)
    if auth.scheme == "basic":
        if token is None:
            token = f"{expand(auth.username, variables)}:{expand(auth.password.reveal(), variables)}"
        return basic_authorization(Secret(token)).reveal()
    prefix = {"token": "Token ", "bearer": "Bearer ", "raw": ""}[auth.scheme]
    return prefix + (token or "")
