"""A shared link is never held; its machine hears from the other links instead when all it sent has left."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from drivers.loops import LOOPS, Loop

from towline.core import Accepted, Drained, Received, Share, Transmit
from towline.drivers import Listener, testing


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


class Fanning(testing.Small):
    """Passes what comes on its first link on to its second; the first is shared if `shares`."""

    def __init__(self, shares: Any) -> None:
        super().__init__()
        self.shares = shares
        self.links: list[Any] = []
        self.drained: list[Any] = []

    def take(self, fact: Any, now: float) -> None:
        if isinstance(fact, Accepted):
            self.links.append(fact.link)
            if len(self.links) == 1 and self.shares:
                self.wish(Share(fact.link))
        elif isinstance(fact, Received) and fact.link == self.links[0]:
            self.wish(Transmit(self.links[1], fact.data))
        elif isinstance(fact, Drained):
            self.drained.append(fact.link)


@pytest.mark.parametrize("shares", [True, False])
def test_what_left_at_once_is_told_after_a_shared_turn_only(loop: Loop, shares: Any) -> None:
    machine = Fanning(shares)

    async def main() -> None:
        async with loop.open_pump(machine, listeners={"in": Listener()}) as pump:
            async with await anyio.connect_tcp("127.0.0.1", pump.ports["in"]) as one:
                while len(machine.links) < 1:
                    await anyio.sleep(0.01)
                async with await anyio.connect_tcp("127.0.0.1", pump.ports["in"]) as two:
                    while len(machine.links) < 2:
                        await anyio.sleep(0.01)
                    for _ in range(3):
                        await one.send(b"hello")
                        assert await two.receive() == b"hello"

    loop.run(main)
    assert machine.drained == ([machine.links[1]] * 3 if shares else [])
