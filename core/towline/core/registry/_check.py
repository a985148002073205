"""Is this registry usable with this login? Asked step by step, answered without raising."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._script import Step, clock
from towline.core.registry._access import Ask, ask
from towline.core.registry._failure import failure
from towline.core.registry._image import head_manifest
from towline.core.registry._listing import list_repositories
from towline.core.registry._send import Want
from towline.core.registry._session import Registry

T = TypeVar("T")

# What stands in the way before the registry has said a word.
_BEFORE_THE_WORD: Final = frozenset(
    {"registry-unreachable", "timeout", "tls-error", "proxy-error", "address-blocked", "not-found", "registry-error"}
)
# `/v2/` answers `{}`, `true` or nothing; whatever it says is not looked at.
_PING_BODY: Final = 64 * 1024


class CheckStep(Record, frozen=True):
    """One step of a check. `code` is the error's API code, None when the step passed."""

    name: str
    ok: bool
    detail: str
    hint: str | None = None
    ms: float = 0.0
    code: str | None = None


def ping(registry: Registry) -> Step[str]:
    """Ask for `/v2/` with the login; return how the registry let us in.

    Raises:  what a request raises
    """
    url = registry.url("")
    reply = yield from ask(registry, Ask("ping", url, None, Want(_PING_BODY)))
    if reply.status != 200:
        raise failure(registry, "ping", "GET", reply.head, reply.url, reply.body)
    if registry.way(None) is not None:
        return "with a token" if registry.credentials else "with a token for everybody"
    if registry.presents_basic(None):
        return "with Basic"
    return "without asking for a login"


def check(registry: Registry, *, listing: bool = False, image: tuple[str, str] | None = None) -> Step[list[CheckStep]]:
    """Check the registry: `v2`, `token`, and where asked for `list` and `pull` (a HEAD on repository, reference).

    Raises:  nothing; a step that failed says so and ends the check
    """
    steps: list[CheckStep] = []
    begun = yield from clock()
    try:
        how = yield from ping(registry)
    except TowlineError as error:
        took = ((yield from clock()) - begun) * 1000
        if error.kind in _BEFORE_THE_WORD:
            return [_failed("v2", error, took)]
        return [CheckStep("v2", True, f"{registry.base} answers", ms=took), _failed("token", error, took)]
    took = ((yield from clock()) - begun) * 1000
    steps.append(CheckStep("v2", True, f"{registry.base} answers", ms=took))
    steps.append(CheckStep("token", True, f"let in {how}", ms=took))
    if listing and not (yield from _step(steps, "list", lambda: _count(registry))):
        return steps
    if image is not None:
        repository, reference = image
        yield from _step(steps, "pull", lambda: _digest(registry, repository, reference))
    return steps


def _step(steps: list[CheckStep], name: str, run: Callable[[], Step[str]]) -> Step[bool]:
    begun = yield from clock()
    try:
        detail = yield from run()
    except TowlineError as error:
        steps.append(_failed(name, error, ((yield from clock()) - begun) * 1000))
        return False
    steps.append(CheckStep(name, True, detail, ms=((yield from clock()) - begun) * 1000))
    return True


def _count(registry: Registry) -> Step[str]:
    found = yield from list_repositories(registry, limit=registry.dialect.page_size)
    more = "" if found.complete else " or more"
    return f"{len(found.items)} repositories{more}"


def _digest(registry: Registry, repository: str, reference: str) -> Step[str]:
    head = yield from head_manifest(registry, repository, reference)
    if head.digest is None:
        raise RemoteProtocolError("protocol-error", "expected a digest in the answer to HEAD, got none")
    return head.digest


def _failed(name: str, error: TowlineError, took: float) -> CheckStep:
    return CheckStep(name, False, error.message, error.hint, took, error.code)
