"""Live lines for a person who waits: one a layer, on stderr, only on a terminal."""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import Any, Self

from towline.core import Note
from towline.core.registry import Progress
from towline.runtimes.logs import plain


class ProgressLines:
    """Shows Progress events as bars, and warnings (with `verbose`, all notes) as lines.

    rich is imported only when there is a terminal to draw on; elsewhere, and with `quiet`, nothing is drawn.
    """

    def __init__(self, *, wanted: bool, quiet: bool, verbose: bool) -> None:
        terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._draws = wanted and not quiet and terminal
        self._shown = () if quiet else ("debug", "info", "warning", "error") if verbose else ("warning", "error")
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._draws:
            from rich import progress
            from rich.console import Console

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(binary_units=True),
                progress.TransferSpeedColumn(),
                console=Console(stderr=True, no_color="NO_COLOR" in os.environ),
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def take(self, event: object) -> None:
        """Take one event of an operation."""
        if isinstance(event, Progress) and self._bars is not None:
            if event.digest not in self._tasks:
                name = event.digest.partition(":")[2][:12]
                self._tasks[event.digest] = self._bars.add_task(name, total=event.total_bytes)
            self._bars.update(self._tasks[event.digest], completed=event.done_bytes)
        elif isinstance(event, Note) and event.level in self._shown:
            told = " ".join(f"{name}={plain(str(value))}" for name, value in event.fields.items())
            line = f"towline: {event.level}: {event.event} {told}".rstrip()
            if self._bars is not None:
                self._bars.console.print(line, markup=False, highlight=False)
            else:
                sys.stderr.write(line + "\n")
