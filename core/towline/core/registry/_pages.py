"""What a listing has gathered so far, and whether it is whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import Limits
from towline.core._script import Step
from towline.core.http import Url, redacted
from towline.core.registry._session import Registry

# Pages in a row that bring nothing new: one may be chance while the list changes, three are a circle.
_STALE_PAGES = 3


class Wanted(Record, frozen=True):
    """How a list is asked for.

    `page_size` is None for the dialect's own, 0 to send none. `limit` stops the walk at so many items. With
    `partial`, a walk that has a good page ends with what it has. `via` chooses a source where there is more than
    one: the registry's own protocol, or the vendor's API; empty is the dialect's choice.
    """

    page_size: int | None = None
    limit: int | None = None
    partial: bool = False
    via: Literal["", "registry", "api"] = ""


class Listing(Record, frozen=True):
    """A list that knows whether it is complete; if not, `warnings` say why."""

    items: tuple[str, ...]
    complete: bool
    warnings: tuple[str, ...] = ()


class TagDetail(Record, frozen=True):
    """A tag and what is known of it without a pull; None is not known.

    Units:   `pushed_at` in seconds since 1970, `size` in compressed bytes as the registry counts them
    """

    tag: str
    digest: str | None = None
    pushed_at: float | None = None
    size: int | None = None
    media_type: str | None = None


class Details(Record, frozen=True):
    """A list of tags with what is known of each, which knows whether it is complete."""

    items: tuple[TagDetail, ...]
    complete: bool
    warnings: tuple[str, ...] = ()


class Collected:
    """The items of the pages read, without repeats, within the limits."""

    def __init__(self, what: str, is_item: Callable[[object], bool], limit: int | None, limits: Limits) -> None:
        self.what = what
        self.is_item = is_item
        self.limit = limit
        self.limits = limits
        self.items: dict[str, TagDetail | None] = {}
        self.pages = 0
        self.full = False
        self.complete = True
        self.warnings: list[str] = []
        self._seen: set[Url] = set()
        self._dropped = 0
        self._stale = 0

    def add(self, page: list[Any], url: Url) -> int:
        """Take a page's items, names or details of tags, and return how many are new.

        Raises:  list-limit, list-loop
        """
        self._seen.add(url)
        self.pages += 1
        before = len(self.items)
        for found in page:
            if self.limit is not None and len(self.items) >= self.limit:
                self.full = True
                break
            item, detail = (found.tag, found) if isinstance(found, TagDetail) else (found, None)
            if not self.is_item(item):
                self._dropped += 1
            elif item not in self.items:
                if len(self.items) >= self.limits.list_items:
                    raise RemoteProtocolError(
                        "list-limit", f"expected at most {self.limits.list_items} items, got more, from {redacted(url)}"
                    )
                self.items[item] = detail
        fresh = len(self.items) - before
        self._stale = 0 if fresh or not page else self._stale + 1
        return fresh

    def check_next(self, url: Url | None) -> None:
        """Judge the address of the next page.

        Raises:  list-limit, list-loop
        """
        if url is None:
            return
        if url in self._seen or self._stale >= _STALE_PAGES:
            raise RemoteProtocolError("list-loop", f"expected a page that was not read yet, got {redacted(url)}")
        if self.pages >= self.limits.list_pages:
            raise RemoteProtocolError(
                "list-limit", f"expected at most {self.limits.list_pages} pages, got a next one: {redacted(url)}"
            )
        if self.limit is not None and len(self.items) >= self.limit:
            self.full = True

    def stop(self, error: TowlineError) -> None:
        """The walk ends here, although the list does not."""
        self.complete = False
        self.warnings.append(f"incomplete: {error.code}: {error.message}")

    def listing(self) -> Listing:
        """Return the list as far as it was wanted, or came."""
        return Listing(tuple(self.items), self.complete and not self.full, self._all_warnings())

    def details(self) -> Details:
        """Return the same with what the pages told of each tag."""
        items = tuple(detail or TagDetail(tag) for tag, detail in self.items.items())
        return Details(items, self.complete and not self.full, self._all_warnings())

    def _all_warnings(self) -> tuple[str, ...]:
        dropped = (
            [f"{self._dropped} entries of the {self.what} that are no names were left out"] if self._dropped else []
        )
        full = [f"stopped at {self.limit} items, as asked"] if self.full else []
        return (*dropped, *full, *self.warnings)


def gather(
    registry: Registry,
    what: str,
    is_item: Callable[[object], bool],
    wanted: Wanted,
    walk: Callable[[Collected], Step[None]],
) -> Step[Collected]:
    """Run a walk over pages; with `partial`, one that has a good page ends with what it has.

    Raises:  what the walk raises
    """
    collected = Collected(what, is_item, wanted.limit, registry.limits)
    try:
        yield from walk(collected)
    except TowlineError as error:
        if not wanted.partial or not collected.pages:
            raise
        collected.stop(error)
    return collected
