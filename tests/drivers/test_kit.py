"""The kit finds the faults it is for: a driver broken on purpose fails the check of the promise it breaks."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import trio

from towline.core import WAKE, Refused, Share
from towline.drivers import _kit_machines, _kit_peers, _turns, _worker, on_trio, testing


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (testing, _kit_machines, _kit_peers):
        monkeypatch.setattr(module, "PATIENCE", 1.0)


def fails(check: Any) -> Any:
    """Whether a check ends with a fault instead of its end."""

    async def main() -> None:
        with anyio.fail_after(10):
            await check(on_trio.open_pump)

    try:
        trio.run(main)
    except (Exception, BaseExceptionGroup):
        return True
    return False


def forgets_back_pressure(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = on_trio.Pump._turn
    monkeypatch.setattr(on_trio.Pump, "_turn", lambda self, fact, source=None: turn(self, fact))


def stops_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_trio.Pump, "_let_go", lambda self, link: self._release(link, reset=False))


def pauses_tunnels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_trio.Pump, "_share", lambda self, wish: None)
    monkeypatch.setitem(_turns.DO, Share, lambda self, wish: None)


def hides_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_trio.Pump, "_judge", lambda self, wish, addresses: None)


def wakes_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def rearm(self: Any) -> None:
        at = self._machine.deadline()
        if at is not None:
            self._nursery.start_soon(self._wake)

    async def wake(self: Any) -> None:
        await trio.sleep(0.01)
        self._turn(WAKE)

    monkeypatch.setattr(on_trio.Pump, "_wake", wake, raising=False)
    monkeypatch.setattr(on_trio.Pump, "_rearm", rearm)


def keeps_what_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, error: Any) -> Any:
        if self._sink is not None:
            self._sink.commit()
        self._over = True
        return Refused(self._number, error)

    monkeypatch.setattr(_worker._Work, "_refuse", refuse)


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        (forgets_back_pressure, testing.check_held),
        (forgets_back_pressure, testing.check_stream_holds),
        (stops_at_the_end, testing.check_tail),
        (pauses_tunnels, testing.check_shared),
        (hides_the_guard, testing.check_dialling),
        (wakes_too_early, testing.check_deadlines),
        (keeps_what_is_not_proved, testing.check_streams),
    ],
    ids=lambda value: value.__name__,
)
def test_a_broken_promise_is_found(monkeypatch: pytest.MonkeyPatch, fault: Any, check: Any) -> None:
    with monkeypatch.context() as broken:
        fault(broken)
        assert fails(check)
