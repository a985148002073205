"""The kit finds the faults it is for: a driver broken on purpose fails the check of the promise it breaks."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
import trio

from towline.core import KIB, WAKE, Refused, Share, Window
from towline.drivers import _kit_machines, _kit_peers, _turns, _worker, on_trio, testing
from towline.drivers._kit_windows import check_window_relay, check_window_stream
from towline.drivers._links import Link


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
    turn = on_trio.EpollPump._turn
    monkeypatch.setattr(on_trio.EpollPump, "_turn", lambda self, fact, source=None: turn(self, fact))


def stops_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_trio.EpollPump, "_let_go", lambda self, link: self._release(link, reset=False))


def pauses_tunnels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_trio.EpollPump, "_share", lambda self, wish: None)
    monkeypatch.setitem(_turns.DO, Share, lambda self, wish: None)


def hides_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_trio.EpollPump, "_judge", lambda self, wish, addresses: None)


def wakes_too_early(monkeypatch: pytest.MonkeyPatch) -> None:
    def rearm(self: Any) -> None:
        at = self._machine.deadline()
        if at is not None:
            self._nursery.start_soon(self._wake)

    async def wake(self: Any) -> None:
        await trio.sleep(0.01)
        self._turn(WAKE)

    monkeypatch.setattr(on_trio.EpollPump, "_wake", wake, raising=False)
    monkeypatch.setattr(on_trio.EpollPump, "_rearm", rearm)


def keeps_what_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, error: Any) -> Any:
        if self._sink is not None:
            self._sink.commit()
        self._over = True
        return Refused(self._number, error)

    monkeypatch.setattr(_worker._Work, "_refuse", refuse)


def returns_windows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The law of windows, broken outright."""
    monkeypatch.setattr(on_trio.EpollPump, "_lend", lambda self, lease: self._pool.give(lease.buffer))


def takes_opening_for_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a link to open is taken for sent: wrong in the first request of a fresh client only."""
    has_sent = Link.has_sent
    monkeypatch.setattr(Link, "has_sent", lambda self, mark: not self.open or has_sent(self, mark))


def takes_backlog_for_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in an outbox is taken for sent: wrong for slow readers only."""
    has_sent = Link.has_sent
    monkeypatch.setattr(Link, "has_sent", lambda self, mark: self.open or has_sent(self, mark))


def forgets_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window goes back while a worker still hashes or writes it."""

    lend = on_trio.EpollPump._lend

    def without(self: Any, lease: Any) -> None:
        lease.threads.clear()
        lend(self, lease)

    monkeypatch.setattr(on_trio.EpollPump, "_lend", without)


def reads_past_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    window = on_trio.EpollPump._window
    monkeypatch.setitem(_turns.DO, Window, lambda self, wish: window(self, Window(wish.link, wish.limit + KIB)))


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
        (returns_windows_at_once, check_window_relay),
        (returns_windows_at_once, check_window_stream),
        (takes_opening_for_sent, check_window_relay),
        (takes_backlog_for_sent, check_window_relay),
        (forgets_workers, check_window_stream),
        (reads_past_the_body, check_window_relay),
    ],
    ids=lambda value: value.__name__,
)
def test_a_broken_promise_is_found(monkeypatch: pytest.MonkeyPatch, fault: Any, check: Any) -> None:
    with monkeypatch.context() as broken:
        fault(broken)
        assert fails(check)


@pytest.mark.parametrize("check", [check_window_relay, check_window_stream])
def test_and_a_kept_one_is_not(check: Any) -> None:
    """What the patience above is enough for."""
    assert not fails(check)
