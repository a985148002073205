"""One direction of the filter, and the log of what it decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from towline.core._wire import Note
from towline.core.broker.filter._filter import Allowed, Filter, Verdict

Flow = Literal["inbound-request", "outbound-request"]


class Gate:
    """Decides with `rules`, which a reload replaces, and notes each verdict.

    A denial is worth a line to an operator, a passage only where every hop is asked for (`passages`). The query is
    left out of both: it may hold what nobody should read. The reason stays on this side (security.md §5.10).
    """

    def __init__(
        self, wishes: deque[Any], flow: Flow, rules: Filter, connection: str = "", *, passages: bool = True
    ) -> None:
        self._wishes = wishes
        self._told = {"flow": flow, "connection": connection} if connection else {"flow": flow}
        self._passages = passages
        self.rules = rules

    def decide(
        self, method: str, url: str, headers: Mapping[str, Any], body: bytes | None, *, rules: Filter | None = None
    ) -> Verdict:
        """Return the verdict on a request, by other rules than its own where they are given."""
        verdict = (rules or self.rules).decide(method, url, headers, body)
        if isinstance(verdict, Allowed):
            if self._passages:
                self._note("debug", "filter.passed", method, url, {"rule": verdict.rule})
        else:
            self._note("info", "filter.denied", method, url, {"reason": verdict.reason})
        return verdict

    def _note(self, level: Literal["debug", "info"], event: str, method: str, url: str, why: dict[str, Any]) -> None:
        path = url.partition("?")[0]
        self._wishes.append(Note(level, event, {**self._told, "method": method, "path": path, **why}))
