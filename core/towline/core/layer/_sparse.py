"""A sparse file's stored stretches, given back with the zeros between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from towline.core._contract import Data
from towline.core.layer._pax import bad

_ZEROS: Final = bytes(64 * 1024)


class Expander:
    """Takes the stored bytes of a sparse file and hands on those of the file itself.

    Whoever takes them has agreed to the file's real size, so the zeros are bounded by it.
    """

    def __init__(self, stretches: list[tuple[int, int]], real_size: int, sink: Callable[[Data], None]) -> None:
        self._stretches = [stretch for stretch in stretches if stretch[1]]
        self._real_size = real_size
        self._sink = sink
        self._next = 0
        self._at = 0  # position in the file, not in the archive

    def feed(self, data: memoryview) -> None:
        while len(data):
            if self._next == len(self._stretches):
                # The stored size may be rounded up to a block; what is over has no place in the file.
                if len(data.tobytes().strip(b"\0")):
                    raise bad("expected the end of a sparse file, got more data than its map has room for")
                return
            offset, length = self._stretches[self._next]
            self._zeros_to(offset)
            take = min(offset + length - self._at, len(data))
            self._sink(data[:take])
            self._at += take
            data = data[take:]
            if self._at == offset + length:
                self._next += 1

    def end(self) -> None:
        if self._next < len(self._stretches):
            raise bad("expected more data of a sparse file, got the end of it")
        self._zeros_to(self._real_size)

    def _zeros_to(self, position: int) -> None:
        while self._at < position:
            count = min(position - self._at, len(_ZEROS))
            self._sink(_ZEROS[:count])
            self._at += count
