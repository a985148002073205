"""What was expected against what came: each thing that was said is compared once, and what is left over is told."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import msgspec
from vectors.broker_player.meaning import ABSENT, Item, Names, Where, differences, joined_chunks

# An answer may come sooner than it did, and this much later; what a clock drives comes when it came.
LATE = 0.25
CLOCKED = frozenset({("packet", "2"), ("primus", "ping")})


class Difference(msgspec.Struct):
    """One field in which our peer was not as the recorded one."""

    session: str
    role: str
    hop: str
    line: int
    what: str
    field: str
    expected: Any
    came: Any
    # The row of the deviations that the whole request comes under.
    excuse: str | None = None

    def __str__(self) -> str:
        place = f"{self.session}, line {self.line}" if self.line else self.session
        return (
            f"{place}: {self.role}, {self.hop}, {self.what}: {self.field}: "
            f"expected {_short(self.expected)}, got {_short(self.came)}"
        )


class Ledger:
    """All that a recorded peer said, and what ours says in its place."""

    def __init__(self, session: str, role: str) -> None:
        self.names = Names()
        self.compared = 0
        self.differences: list[Difference] = []
        self._session = session
        self._role = role
        self._expected: dict[tuple[Where, Where], deque[Item]] = defaultdict(deque)
        self._last: dict[tuple[Where, Where], Item] = {}
        self._chunks: list[Item] = []
        self._came_chunks: list[Item] = []
        self._free: set[Where] = set()
        # Requests that are treated otherwise from end to end, and by which row of the deviations.
        self.excused: dict[str, str] = {}
        # How late ours is by right: it came back later than the recorded one.
        self.slack = 0.0

    def expect(self, item: Item) -> None:
        """The recorded peer said this."""
        if item.key[0] == "chunk":
            self._chunks.append(item)
        else:
            self._expected[item.where, item.key].append(item)

    def any_number(self, key: Where) -> None:
        """How often things of this name are said is a matter of pace."""
        self._free.add(key)

    def skip(self, where: Where, key: Where) -> None:
        """What was to be said next will not be: nothing was said that it could answer."""
        queue = self._expected.get((where, key))
        if queue:
            item = queue.popleft()
            self._tell(item, "said", _shown(item), ABSENT)

    def came(self, item: Item, shift: float = 0.0) -> Item | None:
        """Our peer said this; return what the recorded one said in its place. `shift` is how late ours is by right."""
        if item.key[0] == "chunk":
            self._came_chunks.append(item)
            return None
        queue = self._expected.get((item.where, item.key))
        expected = queue.popleft() if queue else None
        again = self._last.get((item.where, item.key)) if item.key in self._free else None
        if expected is None and again is not None:
            # One more than the recorded peer said: it is like the last, and has its own names and time.
            self._compare(msgspec.structs.replace(again, t=item.t), item, 0.0, Names())
            return again
        if expected is None:
            self._tell(item, "said", ABSENT, _shown(item))
            return None
        self._last[item.where, item.key] = expected
        self._compare(expected, item, shift, self.names)
        return expected

    def problem(self, item: Item, field: str, expected: Any, came: Any) -> None:
        """Note a difference that is found elsewhere."""
        self._tell(item, field, expected, came)

    def settle(self) -> None:
        """All was said: compare what came in pieces, and tell what did not come."""
        for item in joined_chunks(self._chunks):
            self._expected[item.where, _stream(item)].append(msgspec.structs.replace(item, key=_stream(item)))
        for item in joined_chunks(self._came_chunks):
            self.came(msgspec.structs.replace(item, key=_stream(item)))
        for (_, key), queue in self._expected.items():
            if key not in self._free:
                for item in queue:
                    self._tell(item, "said", _shown(item), ABSENT)

    def _compare(self, expected: Item, item: Item, shift: float, names: Names) -> None:
        self.compared += 1
        for field, theirs, ours in differences(expected.fields, item.fields, names):
            self._tell(expected, field, theirs, ours, _request_id(item))
        late = item.t - expected.t
        if late > LATE + max(shift, self.slack) or (late < shift - LATE and expected.key in CLOCKED):
            self._tell(expected, "time", f"{expected.t:.2f} s", f"{item.t - shift:.2f} s")

    def _tell(self, item: Item, field: str, expected: Any, came: Any, also: str = "") -> None:
        what = " ".join(part for part in (*item.where[1:], *item.key))
        hop = item.where[0]
        excuse = self.excused.get(_request_id(item)) or self.excused.get(also)
        self.differences.append(
            Difference(self._session, self._role, hop, item.line, what, field, expected, came, excuse)
        )


def _request_id(item: Item) -> str:
    """Return the id of the request that a thing belongs to, as far as it says it."""
    said = item.fields.get("header:snyk-request-id")
    if isinstance(said, list) and said:
        return str(said[0])
    args = item.fields.get("args")
    first = args[0] if isinstance(args, list) and args and isinstance(args[0], dict) else {}
    event = first.get("event")
    inner = event if isinstance(event, dict) else first
    headers = first.get("headers")
    named = headers.get("snyk-request-id", "") if isinstance(headers, dict) else ""
    return str(inner.get("requestId") or named)


def _stream(item: Item) -> Where:
    return ("stream", *item.key[1:])


def _shown(item: Item) -> Any:
    return item.fields if item.fields else " ".join(item.key)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:150]}… ({len(text)})"
