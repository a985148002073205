"""What a listing has gathered so far, and whether it is whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import Limits
from towline.core.http import Url, redacted

# Pages in a row that bring nothing new: one may be chance while the list changes, three are a circle.
_STALE_PAGES = 3


class Listing(Record, frozen=True):
    """A list that knows whether it is complete; if not, `warnings` say why."""

    items: tuple[str, ...]
    complete: bool
    warnings: tuple[str, ...] = ()


class Collected:
    """The items of the pages read, without repeats, within the limits."""

    def __init__(self, what: str, is_item: Callable[[object], bool], limit: int | None, limits: Limits) -> None:
        self.what = what
        self.is_item = is_item
        self.limit = limit
        self.limits = limits
        self.items: dict[str, None] = {}
        self.pages = 0
        self.full = False
        self.warnings: list[str] = []
        self._seen: set[Url] = set()
        self._dropped = 0
        self._stale = 0

    def add(self, page: list[Any], url: Url) -> int:
        """Take a page's items and return how many are new.

        Raises:  list-limit, list-loop
        """
        self._seen.add(url)
        self.pages += 1
        before = len(self.items)
        for item in page:
            if self.limit is not None and len(self.items) >= self.limit:
                self.full = True
                break
            if not self.is_item(item):
                self._dropped += 1
            elif item not in self.items:
                if len(self.items) >= self.limits.list_items:
                    raise RemoteProtocolError(
                        "list-limit", f"expected at most {self.limits.list_items} items, got more, from {redacted(url)}"
                    )
                self.items[item] = None
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

    def listing(self) -> Listing:
        """Return the list as far as it was wanted."""
        return Listing(tuple(self.items), not self.full, self._all_warnings())

    def cut_short(self, error: TowlineError) -> Listing:
        """Return what there is, and why it is not all."""
        self.warnings.append(f"incomplete: {error.code}: {error.message}")
        return Listing(tuple(self.items), False, self._all_warnings())

    def _all_warnings(self) -> tuple[str, ...]:
        dropped = (
            [f"{self._dropped} entries of the {self.what} that are no names were left out"] if self._dropped else []
        )
        full = [f"stopped at {self.limit} items, as asked"] if self.full else []
        return (*dropped, *full, *self.warnings)
