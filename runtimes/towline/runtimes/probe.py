"""What stands between this machine and a registry, before any word of HTTP: a name, a socket, a certificate.

Each step is a link of its own through the same dialer that the operations use, so that what a probe may reach is
what they may reach. The time of `tls` therefore includes a second connection.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import trio

from towline.core import (
    Close,
    Failed,
    Finished,
    Lost,
    Open,
    Opened,
    RemoteProtocolError,
    Step,
    TowlineError,
    Wake,
    WireFact,
    clock,
)
from towline.core.registry import CheckStep, Registry, check, list_repositories, list_tags
from towline.drivers import Dialer, on_trio

_TLS_HINT: Final = "--ca-file FILE trusts the authority that signed it; --plain-http where the registry speaks no TLS"
_LINK: Final = 1
# How many repositories are looked at for one that has a tag.
_TRIED: Final = 5


@dataclass
class Knock:
    """A machine that opens one link and closes it: finished when it was open, failed when it could not be."""

    host: str
    port: int
    tls: bool
    _wishes: list[Open | Close | Finished[None] | Failed] = field(default_factory=list)
    _over: bool = False

    def handle(self, fact: WireFact, now: float) -> None:
        if isinstance(fact, Wake):
            if not self._wishes and not self._over:
                self._wishes.append(Open(_LINK, self.host, self.port, self.tls, "configured", "direct"))
        elif isinstance(fact, Opened) and not self._over:
            self._over = True
            self._wishes += [Close(_LINK), Finished(None)]
        elif isinstance(fact, Lost) and not self._over:
            self._over = True
            self._wishes.append(Failed(RemoteProtocolError(fact.kind, fact.why)))

    def poll(self) -> Open | Close | Finished[None] | Failed | None:
        return self._wishes.pop(0) if self._wishes else None

    def deadline(self) -> float | None:
        return None


async def probe(host: str, port: int, *, tls: bool, dialer: Dialer) -> list[CheckStep]:
    """Take the steps `resolve`, `tcp` and, where asked for, `tls`; the first that fails is the last.

    Raises:  nothing; a step that failed says so
    """
    steps: list[CheckStep] = []
    began = trio.current_time()
    try:
        with trio.fail_after(dialer.connect_seconds):
            steps.append(CheckStep("resolve", True, await _resolve(host, port, dialer), ms=_since(began)))
        for name, encrypted in (("tcp", False), ("tls", True)):
            if encrypted and not tls:
                continue
            began = trio.current_time()
            await on_trio.perform(Knock(host, port, encrypted), dialer=dialer)
            steps.append(CheckStep(name, True, f"{host}:{port}" if name == "tcp" else "", ms=_since(began)))
    except TowlineError as error:
        hint = _TLS_HINT if error.kind == "tls-error" else error.hint
        name = ("resolve", "tcp", "tls")[len(steps)]
        steps.append(CheckStep(name, False, error.message, hint, _since(began), error.code))
    except trio.TooSlowError:
        why = f"expected an address for {host} within {dialer.connect_seconds:g} s, got none"
        steps.append(CheckStep("resolve", False, why, None, _since(began), "TIMEOUT"))
    return steps


async def _resolve(host: str, port: int, dialer: Dialer) -> str:
    """Return the addresses that the dialer would try."""
    there, at = dialer.resolve.get((host, port), (host, port))
    try:
        found = await trio.socket.getaddrinfo(there, at, type=trio.socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "no such name"
        raise RemoteProtocolError("registry-unreachable", f"cannot resolve {there}: {why.lower()}") from None
    return ", ".join(dict.fromkeys(str(address[0]) for *_, address in found))


def _since(began: float) -> float:
    return (trio.current_time() - began) * 1000


def examine(registry: Registry) -> Step[list[CheckStep]]:
    """Take the steps after the probe's: `v2`, `token`, `list`, and `pull` of one image that the list leads to."""
    steps = yield from check(registry, listing=True)
    last = steps[-1]
    if last.code == "CATALOG_UNSUPPORTED":
        # Many registries have none, and pull all the same.
        return [*steps[:-1], CheckStep("list", True, "this registry offers no catalogue", last.hint, last.ms)]
    if not last.ok:
        return steps
    began = yield from clock()
    try:
        image = yield from _some_image(registry)
    except TowlineError as error:
        took = ((yield from clock()) - began) * 1000
        return [*steps, CheckStep("pull", False, error.message, error.hint, took, error.code)]
    if image is None:
        return [*steps, CheckStep("pull", True, "nothing to try: no tag found")]
    return steps + (yield from check(registry, image=image))[-1:]


def _some_image(registry: Registry) -> Step[tuple[str, str] | None]:
    listed = yield from list_repositories(registry, limit=_TRIED, partial=True)
    for repository in listed.items:
        tags = yield from list_tags(registry, repository, limit=1, partial=True)
        if tags.items:
            return repository, tags.items[0]
    return None
