"""Transition tables: which input is legal in which state, as data (after h11's `_state.py`).

A table is a mapping of (state, input) to the next state. Tests walk it, the pictures in the documentation
are drawn from it, and an illegal step is one failed lookup that names input, state and machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from towline.core._errors import RemoteProtocolError


class Table:
    """The legal steps of one kind of machine.

    `ends` are the states without a way out. `kind` is the error kind of an illegal step.
    """

    def __init__(
        self,
        name: str,
        start: str,
        steps: Mapping[tuple[str, str], str],
        *,
        ends: frozenset[str],
        kind: str = "protocol-error",
    ) -> None:
        self.name: Final = name
        self.start: Final = start
        self.steps: Final = dict(steps)
        self.ends: Final = ends
        self.kind: Final = kind

    @property
    def states(self) -> list[str]:
        """Every state, in the order in which the table first names it."""
        seen: dict[str, None] = {self.start: None}
        for (state, _), after in self.steps.items():
            seen[state] = None
            seen[after] = None
        return list(seen)

    @property
    def inputs(self) -> list[str]:
        """Every input, in the order in which the table first names it."""
        return list(dict.fromkeys(fed for _, fed in self.steps))

    def next(self, state: str, fed: str) -> str:
        """Return the state after `fed`; raise a RemoteProtocolError if the table has no such step."""
        after = self.steps.get((state, fed))
        if after is None:
            legal = ", ".join(sorted(known for at, known in self.steps if at == state)) or "nothing"
            raise RemoteProtocolError(self.kind, f"{self.name}: expected {legal} in state {state}, got {fed}")
        return after

    def picture(self) -> str:
        """Return the table as a Markdown table: one row a step."""
        rows = [f"| {state} | {fed} | {after} |" for (state, fed), after in self.steps.items()]
        return "\n".join(["| state | input | next |", "| --- | --- | --- |", *rows])
