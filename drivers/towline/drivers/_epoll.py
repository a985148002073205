"""Which links are ready: on Linux, one epoll for all links of a pump, and one descriptor that the loop waits for.

A loop that waits for each link by itself has a task or a callback for each, and arms it again for each read. Here a
link is registered once and costs nothing while it is idle; what is ready is served in rounds. Level-triggered: what a
round leaves is ready in the next.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final

from towline.drivers._links import Link

# How many reads and writes are served before the loop's other tasks have their turn: a few milliseconds' worth.
ROUND: Final = 64

HAS_EPOLL: Final = hasattr(select, "epoll")


class Epoll:
    """The links of one pump that are read or written, kept in step with their `reading` and `writing`."""

    __slots__ = ("_epoll", "_links")

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def closed(self) -> bool:
        return self._epoll.closed

    def close(self) -> None:
        self._epoll.close()

    def watch(self, link: Link) -> None:
        """Wait for what the link reads and writes for. It must have its socket."""
        assert link.sock is not None
        fd = link.sock.fileno()
        events = (select.EPOLLIN if link.reading else 0) | (select.EPOLLOUT if link.writing else 0)
        if fd not in self._links:
            if events:
                self._links[fd] = link
                self._epoll.register(fd, events)
        elif events:
            self._epoll.modify(fd, events)
        else:
            # Not only silenced: an error on the link would be reported all the same, for ever.
            self.forget(link)

    def forget(self, link: Link) -> None:
        """Wait no more for a link; before its socket is closed."""
        assert link.sock is not None
        fd = link.sock.fileno()
        if self._links.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def serve(self, receive: Callable[[Link], bool], write: Callable[[Link], bool]) -> None:
        """Serve the links that are ready, and those that get ready meanwhile; not more than a round."""
        left, ready = ROUND, [(0, 0)] * 2
        # Where one link was ready, that another is already is rare, and asking costs as much as waiting.
        while left > 0 and len(ready) > 1:
            ready = self._epoll.poll(0, left)
            left -= len(ready)
            for fd, events in ready:
                link = self._links.get(fd)
                if link is None:
                    continue
                # An error or a hang-up is found by whoever waits.
                step = False
                if link.reading and events & ~select.EPOLLOUT:
                    step = not receive(link)
                if link.writing and events & ~select.EPOLLIN:
                    step |= not write(link)
                if step and link.sock is not None:
                    self.watch(link)
