"""Playbooks for conversations with registries, in two columns: what is asked, what is given.

    play(
        list_tags(registry(), "a/b"),
        asks("/v2/a/b/tags/list?n=100"),                    gives(401, bearer()),
        asks("https://auth.example/token?scope=…"),         gives(json={"token": "t"}),
        asks("/v2/a/b/tags/list?n=100", "Bearer t"),        gives(json={"tags": ["1"]}),
    )

Reads are answered with the pieces of the answer, sleeps with the time they ask for, streams by the plans' own.
"""

from __future__ import annotations

import base64
import hashlib
import json as jsonlib
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from towline.core import (
    WAKE,
    Begin,
    Body,
    Broken,
    End,
    Entropy,
    Failed,
    Feed,
    Fetch,
    Finished,
    Head,
    Proved,
    Read,
    Record,
    Refused,
    Request,
    Script,
    Secret,
    Sleep,
    Step,
    Store,
    Tail,
    TowlineError,
)
from towline.core.layer import build
from towline.core.registry import Credentials, Registry

BASE = "https://registry.example"
USER, PASSWORD = "user", "pass-word-canary"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
REALM = "https://registry.example/token"
ANY = "any"


def registry(base: str = BASE, *, anonymous: bool = False, **options: Any) -> Registry:
    """Return a registry with a constant seed and a login."""
    who = None if anonymous else Credentials(USER, Secret(PASSWORD))
    return Registry(base, entropy=Entropy(b"a playbook's seed"), credentials=who, **options)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def bearer(scope: str = "", realm: str = REALM, error: str = "") -> dict[str, str]:
    """Return the header of a Bearer challenge."""
    scoped = f',scope="{scope}"' if scope else ""
    wrong = f',error="{error}"' if error else ""
    return {"www-authenticate": f'Bearer realm="{realm}",service="s"{scoped}{wrong}'}


def token_url(scope: str = "", realm: str = REALM) -> str:
    asked = "&scope=" + scope.replace(":", "%3A").replace("/", "%2F").replace("*", "%2A") if scope else ""
    return f"{realm}?service=s{asked}"


@dataclass
class Asks:
    """What must be asked: an address (a path stands on BASE), the Authorization, some headers, a form's fields."""

    url: str
    authorization: str | None = None
    method: str = "GET"
    headers: dict[str, str | None] = field(default_factory=dict)
    purpose: str | None = None
    form: dict[str, str] | None = None

    def compare(self, request: Request) -> None:
        got = {name: value.reveal() if isinstance(value, Secret) else value for name, value in request.headers}
        url = BASE + self.url if self.url.startswith("/") else self.url
        assert (request.method, request.url) == (self.method, url)
        if self.authorization != ANY:
            assert got.get("authorization") == self.authorization, request
        assert {name: got.get(name) for name in self.headers} == self.headers
        assert self.purpose in (None, request.purpose)
        if self.form is not None:
            assert got["content-type"] == "application/x-www-form-urlencoded"
            assert dict(parse_qsl(request.body.decode(), keep_blank_values=True)) == self.form
        assert PASSWORD not in repr(request)


def asks(
    url: str,
    authorization: str | None = None,
    *,
    method: str = "GET",
    purpose: str | None = None,
    form: dict[str, str] | None = None,
    **headers: str | None,
) -> Asks:
    """`form` is the whole of a POST's body; other names are headers, with `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Asks(url, authorization, method if form is None else "POST", named, purpose, form)


@dataclass
class Gives:
    """An answer: its head, and the pieces of its body with how it ends."""

    head: Head | Broken
    pieces: list[Body | Tail | Broken]


def gives(
    status: int = 200,
    headers: dict[str, str] | list[tuple[str, str]] | None = None,
    *pieces: bytes,
    json: Any = None,
    cut: str | None = None,
) -> Gives:
    """Give an answer; `cut` breaks it after the pieces."""
    body = [jsonlib.dumps(json).encode()] if json is not None else list(pieces)
    pairs = list(headers.items()) if isinstance(headers, dict) else headers or []
    end: Tail | Broken = Tail() if cut is None else Broken(cut)
    return Gives(Head(status, tuple(pairs)), [*map(Body, body), end])


def breaks(why: str = "reset", kind: str = "registry-unreachable") -> Gives:
    """Give nothing: the exchange breaks before its head."""
    return Gives(Broken(why, kind), [])


E = TypeVar("E", bound=Record)


@dataclass
class Outcome:
    """What came of a script, and what it said and waited for on the way."""

    value: Any = None
    error: TowlineError | None = None
    sleeps: list[float] = field(default_factory=list)
    events: list[Record] = field(default_factory=list)
    stored: dict[int, bytes] = field(default_factory=dict)
    began: list[int] = field(default_factory=list)
    now: float = 0.0

    @property
    def kind(self) -> str | None:
        return self.error.kind if self.error else None

    def all_of(self, kind: type[E]) -> list[E]:
        """Return what was said, every record of which must be of this kind."""
        said = [event for event in self.events if isinstance(event, kind)]
        assert len(said) == len(self.events), self.events
        return said


def play(steps: Step[Any], *columns: Asks | Gives, start: float = 1000.0) -> Outcome:
    """Run a script against the columns, to their end; fail where it asks for something else."""
    left = list(columns)
    script = Script(steps)
    out = Outcome(now=start)
    body: list[Body | Tail | Broken] = []
    streams: dict[int, Any] = {}
    script.handle(WAKE, out.now)
    while (wish := script.poll()) is not None:
        match wish:
            case Finished(value):
                out.value = value
            case Failed(error):
                out.error = error
                assert PASSWORD not in f"{error} {error!r} {error.hint}"
            case Fetch(request):
                assert left, f"expected nothing more to be asked, got {request.method} {request.url}"
                asked, given = left.pop(0), left.pop(0)
                assert isinstance(asked, Asks)
                assert isinstance(given, Gives)
                asked.compare(request)
                body = list(given.pieces)
                script.handle(given.head, out.now)
            case Read():
                script.handle(body.pop(0), out.now)
            case Sleep(until):
                out.sleeps.append(until - out.now)
                out.now = until
                script.handle(WAKE, out.now)
            case Begin(stream, plan):
                out.began.append(stream)
                streams[stream] = build(plan)
            case Feed(stream, data):
                try:
                    streams[stream].feed(data)
                except TowlineError as error:
                    script.fail(error, out.now)
            case Store(stream, data):
                out.stored[stream] = out.stored.get(stream, b"") + bytes(data)
            case End(stream):
                try:
                    verdict: Proved | Refused = Proved(stream, streams[stream].end())
                except TowlineError as error:
                    verdict = Refused(stream, error)
                script.handle(verdict, out.now)
            case _:
                out.events.append(wish)
    assert left == [], f"never asked: {left[::2]}"
    return out
