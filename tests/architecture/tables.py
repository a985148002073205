"""The pictures of every transition table. `python tests/architecture/tables.py --write` draws docs/tables.md anew."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import towline.core
from towline.core import Table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tables.md"


def all_tables() -> list[Table]:
    """Return every table of the core, by name."""
    found: dict[str, Table] = {}
    for module in pkgutil.walk_packages(towline.core.__path__, "towline.core."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Table):
                found[value.name] = value
    return [found[name] for name in sorted(found)]


def page() -> str:
    """Return docs/tables.md."""
    parts = [
        "# Transition tables\n",
        "Which input is legal in which state, drawn from the tables in the code; a test compares. Everything else is\n"
        "refused with the table's error kind. Draw it anew: `python tests/architecture/tables.py --write`.\n",
    ]
    for table in all_tables():
        ends = ", ".join(sorted(table.ends)) or "nowhere"
        parts.append(f"## {table.name}\n")
        parts.append(f"Begins in `{table.start}`, ends in {ends}; an illegal step is `{table.kind}`.\n")
        parts.append(table.picture() + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        print(page())
