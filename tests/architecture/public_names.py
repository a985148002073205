"""The public names of every room, one a line. `python tests/architecture/public_names.py --write` commits to them."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

LIST = Path(__file__).with_name("public_names.txt")
FLOORS = ("towline.core", "towline.drivers", "towline.runtimes")


def rooms() -> list[str]:
    """Return each floor and each room, by its module's name."""
    found = []
    for floor in FLOORS:
        found.append(floor)
        package = importlib.import_module(floor)
        found += [room.name for room in pkgutil.walk_packages(package.__path__, f"{floor}.") if room.ispkg]
    return sorted(found)


def public_names() -> list[str]:
    """Return every name of every room's `__all__`."""
    return [
        f"{room}.{name}" for room in rooms() for name in sorted(getattr(importlib.import_module(room), "__all__", []))
    ]


if __name__ == "__main__":
    if "--write" in sys.argv:
        LIST.write_text("".join(f"{name}\n" for name in public_names()))
    else:
        print(*public_names(), sep="\n")
