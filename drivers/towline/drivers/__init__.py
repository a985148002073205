"""Drivers: they own sockets, clocks, entropy and files, and nothing that has a name in an RFC.

`on_trio` and `on_asyncio` run any machine on their loop, through the same two functions (`open_pump`,
`perform`); `testing.check_driver` holds any driver, also an embedder's, to what these promise. This face
imports no loop.

What a driver promises
1. It owns sockets, clock, entropy and files. One fact, then drain: within a turn nothing is awaited.
2. A buffer handed to a machine is given away: it will not be written again. So a machine may keep a view. Only the
   buffer of `Filled`, which a `Window` wished for, is used again: once every link that the turn transmitted to has sent
   all of it, and every stream and store has taken it; also where a link or stream is lost, dropped or abandoned. Until
   then its link is read no further, but for a fourth window at most while only streams in workers have them.
3. Wishes for one link are executed in order. Wishes for different links may overlap.
4. Back-pressure is the driver's: after a turn that filled another link's outbox or a stream's ring, it reads no
   further from the link the turn came from until there is room. It never awaits a write while it holds the turn.
   A link under `Share` is never paused, and pauses none.
5. After `Finished` or `Failed` it still empties the outboxes, for a bounded linger, before it closes the links.
   Until then it reads on and throws away, because a peer may write before it reads.
6. Links are integers never used twice; odd ones are the machine's, even ones were accepted. No fact of a link
   follows its Lost, or the machine's own Close or Drop.
7. Wishes that it does not know are events for the application, handed on unchanged, in order.
8. A stream is touched by one thread. Its bytes are kept (committed) only when it was Proved.
9. Leaving or cancelling it at any point closes every socket, task and thread it opened.
"""

from __future__ import annotations

from towline.drivers._config import BlobStore, Dialer, Driver, Listener, Sink, TlsSettings
from towline.drivers._guard import Guard

__all__ = ["BlobStore", "Dialer", "Driver", "Guard", "Listener", "Sink", "TlsSettings"]
