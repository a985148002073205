"""Writes docs/wire.md's tables from the tests' own: `PYTHONPATH=tests python tests/vectors/wire_page.py --write`.

`--places` first writes down where each deviation occurs in the known recordings (broker_player/places.json); look at
the difference before it is kept.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vectors import broker_filters
from vectors.broker_player import deviations
from vectors.broker_player.play import places

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "wire.md"
PLACES = HERE / "broker_player" / "places.json"
BEGIN, END = "<!-- written by tests/vectors/wire_page.py -->", "<!-- end -->"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _where(name: str) -> str:
    """Return the recordings in which a row occurs, by hop, with how often."""
    out = []
    for session, said in sorted(deviations.PLACES.items()):
        counts = [
            f"{role} {hop} ×{rows[name]}"
            for role in ("server", "client")
            for hop, rows in sorted(said.get(role, {}).items())
            if name in rows
        ]
        if counts:
            out.append(f"{session[:2]}: {', '.join(counts)}")
    return "; ".join(out) or "none of the known ones"


def tables() -> str:
    """Return the page's generated part."""
    lines = [
        BEGIN,
        "",
        "### Messages",
        "",
        "| deviation | the stock pair | Towline | why | where in the recordings |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in (*deviations.DEVIATIONS, *deviations.WHOLE):
        cells = (f"`{row.name}`", row.stock, row.ours, row.why, _where(row.name))
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    lines += [
        "",
        "### Filter",
        "",
        "Rules are those of the strict filter: 1 bytes of a target, 2 canonical path, 3 fixed parts, 4 wildcard tail,",
        "7 body conditions, 8 header conditions, 9 methods.",
        "",
        "| rule set | request | stock | Towline | rule |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (ruleset, method, url, body), (theirs, ours, rule) in broker_filters.DEVIATIONS.items():
        asked = f"{method} {json.dumps(url)[1:-1]}" + ("" if body is None else f" with {json.dumps(body)}")
        verdicts = ("denied" if index < 0 else f"rule {index}" for index in (theirs, ours))
        lines.append("| " + " | ".join(map(_cell, (ruleset, f"`{asked}`", *verdicts, rule))) + " |")
    return "\n".join([*lines, "", END])


def page(text: str) -> str:
    """Return a page's text with its generated part renewed."""
    before, _, rest = text.partition(BEGIN)
    return before + tables() + rest.partition(END)[2]


if __name__ == "__main__":
    if "--places" in sys.argv:
        found = places(HERE / "broker") | places(HERE / "broker_more")
        PLACES.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        deviations.PLACES.clear()
        deviations.PLACES.update(found)
    if "--write" in sys.argv:
        PAGE.write_text(page(PAGE.read_text("utf-8")), "utf-8")
