"""How answers look: tables for people, lines for pipes, JSON for programs. stdout holds nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final, TextIO

import msgspec

from towline.core import TowlineError
from towline.runtimes.logs import plain

# What a failure means to a script that called us: see the README's table of exit codes.
_USAGE: Final = frozenset(
    {
        "bad-request", "invalid-name", "invalid-reference", "unsupported-type", "ambiguous-credentials",
        "missing-credentials", "malformed-credentials", "invalid-configuration",
    }
)  # fmt: skip
_UNREACHABLE: Final = frozenset({"registry-unreachable", "timeout", "tls-error", "proxy-error", "tunnel-refused"})


def exit_code(error: TowlineError) -> int:
    """1 what was asked is not so, 2 usage or configuration, 3 a peer is unreachable."""
    return 2 if error.kind in _USAGE else 3 if error.kind in _UNREACHABLE else 1


def first(group: BaseExceptionGroup[TowlineError]) -> TowlineError:
    """Return the first error of a group: tasks side by side fail as one, and a person is told one reason."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, TowlineError)
    return error


def error_lines(error: TowlineError, about: str = "") -> list[str]:
    """Return the lines that tell a person what went wrong, and with what where that is not plain."""
    faults = getattr(error, "faults", None)
    if faults:
        return [plain(fault, 500) for fault in faults]
    lines = [f"towline: {error.code}: {plain(about) + ': ' if about else ''}{plain(error.message)}"]
    if error.hint:
        lines.append(f"hint: {plain(error.hint)}")
    return lines


def say(*lines: str) -> None:
    """Write lines for a person to stderr. What a peer said in them has been made plain."""
    for line in lines:
        sys.stderr.write(line + "\n")


def write_json(value: Any, stream: TextIO | None = None) -> None:
    """Write one JSON document and a line end."""
    (stream or sys.stdout).write(msgspec.json.encode(value).decode() + "\n")


def write_lines(lines: Sequence[str], stream: TextIO | None = None) -> None:
    """Write foreign names one a line."""
    out = stream or sys.stdout
    for line in lines:
        out.write(plain(line, 4096) + "\n")


def write_table(rows: Sequence[Sequence[str]], stream: TextIO | None = None) -> None:
    """Write columns padded to their widest cell; the last is not padded."""
    if not rows:
        return
    shown = [[plain(cell, 4096) for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in shown if at < len(row)) for at in range(max(map(len, shown)))]
    out = stream or sys.stdout
    for row in shown:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        out.write("  ".join([*cells, row[-1]]).rstrip() + "\n")


def size(count: int) -> str:
    """Return a size for people: `742 KiB`."""
    amount, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < 1024 or unit == "TiB":
            break
        amount /= 1024
    return f"{count} B" if unit == "B" else f"{amount:.0f} {unit}" if amount >= 10 else f"{amount:.1f} {unit}"
