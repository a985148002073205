"""The table of the broker bench: what each row is, what it is held against, and whether that is met."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

Samples = dict[str, dict[str, list[float]]]
"""Row, then way, then what each round gave."""

LAST_SMALL: Final = "small.64.rps"


class Goal(NamedTuple):
    """Ours as a multiple of the yardstick's median, or as it is when there is no yardstick."""

    most: bool
    bound: float
    yardstick: str | None = "stock"

    def __str__(self) -> str:
        return f"{'<=' if self.most else '>='} {self.bound:g}{'x' if self.yardstick else ''}"

    def met(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound


class Row(NamedTuple):
    """A line: `row` and `way` say which samples are ours, `against` which row's are the yardstick's."""

    name: str
    row: str
    goal: Goal
    way: str = "ours"
    digits: int = 2


def _rows() -> Iterator[Row]:
    for level, least in ((1, 3.0), (16, 5.0), (64, 5.0)):
        yield Row(f"small GET, concurrency {level}: requests/s", f"small.{level}.rps", Goal(False, least), digits=0)
    yield Row("p50 at concurrency 1, ms", "small.1.p50_ms", Goal(True, 0.3))
    yield Row("p99 at concurrency 64, ms", "small.64.p99_ms", Goal(True, 0.3))
    yield Row("CPU a request, server + client (c16), ms", "cpu.16.both", Goal(True, 0.2), digits=3)
    yield Row("CPU a request, our server with the stock client, ms", "cpu.16.server", Goal(True, 0.5), "our server", 3)
    yield Row("CPU a request, our client with the stock server, ms", "cpu.16.client", Goal(True, 0.5), "our client", 3)
    yield Row("one answer of 256 MiB: MiB/s", "stream.mib_s", Goal(False, 1.8), digits=0)
    yield Row(
        "one answer of 256 MiB: MiB/s, beside one nginx proxy", "stream.mib_s", Goal(False, 0.8, "nginx"), digits=0
    )
    yield Row("one answer of 256 MiB: CPU of both, s", "stream.cpu_s", Goal(True, 0.5))
    for state, what in (("idle", "at rest"), ("64", "at concurrency 64"), ("stream", "streaming")):
        for role in ("server", "client"):
            yield Row(f"RSS of the {role} {what}, MiB", f"rss.{state}.{role}", Goal(True, 0.5), digits=0)
    yield Row("start of the client to connected, s", "start.connected", Goal(True, 0.4))
    for kind, named, most in (("idle", "plain", 24.0), ("idle-tls", "TLS", 48.0)):
        yield Row(f"1,000 idle tunnels, {named}: KiB each", f"{kind}.kib", Goal(True, most, None), digits=1)
        yield Row(f"2,000 requests/s over them, {named}: p99, ms", f"{kind}.p99_ms", Goal(True, 20.0, None), digits=1)


ROWS: Final = tuple(_rows())


def lines(kept: Samples) -> list[dict[str, Any]]:
    """Return a line for each row that was measured."""
    out = []
    for row in ROWS:
        ours = kept.get(row.row, {}).get(row.way)
        if ours is None:
            continue
        others = kept[row.row].get(row.goal.yardstick) if row.goal.yardstick else None
        value: float | None = statistics.median(ours)
        if row.goal.yardstick:
            value = value / statistics.median(others) if others and value is not None else None
        out.append(
            {
                "name": row.name,
                "yardstick": None if others is None else _spread(others, row.digits),
                "ours": _spread(ours, row.digits),
                "ratio": value if row.goal.yardstick else None,
                "goal": str(row.goal),
                "met": None if value is None else row.goal.met(value),
            }
        )
    return out


def unmet(kept: Samples) -> list[str]:
    """Return the names of the rows whose goal is not met."""
    return [line["name"] for line in lines(kept) if line["met"] is False]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the lines as a Markdown table: medians, with least and most."""
    out = ["| what | stock pair, or nginx | ours | ratio | goal | met |", "| --- " * 6 + "|"]
    for line in rows:
        met = {True: "yes", False: "**no**", None: "missing"}[line["met"]]
        ratio = "" if line["ratio"] is None else f"{line['ratio']:.2f}x"
        out.append(
            f"| {line['name']} | {line['yardstick'] or ''} | {line['ours']} | {ratio} | {line['goal']} | {met} |"
        )
    return "\n".join(out)


def _spread(values: list[float], digits: int) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"
