"""Getting a login once, however many conversations find at the same moment that they need one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, TypeVar

from towline.core._contract import Instant
from towline.core._script import Step, clock, sleep
from towline.core.registry._session import Registry

T = TypeVar("T")

# A token server takes longer to answer than this, so whoever waits for its token loses little by looking again.
_LOOK_AGAIN: Final = 0.02


def once_for_all(
    registry: Registry, name: Hashable, held: Callable[[Instant], T | None], get: Callable[[], Step[T]]
) -> Step[T]:
    """Return what is held, else get it; a conversation that finds another one getting it waits for that.

    When the other one fails, the next tries, unless it was the login that was refused.

    Raises:  what `get` raises, and the refusal of a login that somebody else met
    """
    while True:
        now = yield from clock()
        found = held(now)
        if found is not None:
            return found
        if name not in registry.getting:
            break
        yield from sleep(now + _LOOK_AGAIN)
        registry.check_not_refused()
    registry.getting.add(name)
    try:
        return (yield from get())
    finally:
        registry.getting.discard(name)
