"""One direction of the filter, and the log of what it decided."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

from towline.core._wire import Note
from towline.core.broker._filter import Allowed, Filter, Verdict

Flow = Literal["inbound-request", "outbound-request"]


class Gate:
    """Decides with `rules`, which a reload replaces, and notes each verdict.

    A denial is worth a line to an operator, a passage only where every hop is asked for. The query is left out of
    both: it may hold what nobody should read. The reason stays on this side (security.md §5.10).
    """

    def __init__(self, wishes: deque[Any], flow: Flow, rules: Filter, connection: str = "") -> None:
        self._wishes = wishes
        self._told = {"flow": flow, "connection": connection} if connection else {"flow": flow}
        self.rules = rules

    def decide(
        self, method: str, url: str, headers: Mapping[str, Any], body: bytes | None, *, rules: Filter | None = None
    ) -> Verdict:
        """Return the verdict on a request, by other rules than its own where they are given."""
        verdict = (rules or self.rules).decide(method, url, headers, body)
        told: dict[str, Any] = {**self._told, "method": method, "path": url.partition("?")[0]}
        if isinstance(verdict, Allowed):
            self._wishes.append(Note("debug", "filter.passed", told | {"rule": verdict.rule}))
        else:
            self._wishes.append(Note("info", "filter.denied", told | {"reason": verdict.reason}))
        return verdict
