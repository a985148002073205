"""Each promise test catches a machine that breaks that promise, and only there is its use."""

from __future__ import annotations

import socket
import sys
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st
from machines.case import MachineCase, load_cases, wire_facts
from machines.oracle import BrokenPromise, held, play, show
from machines.toys import Echo

from core import test_promises as promises
from towline.core import (
    WAKE,
    Failed,
    Finished,
    Lost,
    Note,
    Opened,
    Received,
    RemoteProtocolError,
    Script,
    Secret,
    Step,
    Transmit,
    sleep,
)

CHANCE = iter(range(1_000_000))


class Told:
    """A machine that does what `act` says at each Received, and nothing else."""

    def __init__(self, act: Callable[[Told, Received, float], None]) -> None:
        self.act = act
        self.wishes: deque[Any] = deque()
        self.until: float | None = None
        self.kept: list[Any] = []
        self.ended = False

    def handle(self, fact: Any, now: float) -> None:
        if isinstance(fact, Received) and not self.ended:
            self.act(self, fact, now)

    def poll(self) -> Any:
        return self.wishes.popleft() if self.wishes else None

    def deadline(self) -> float | None:
        return self.until

    def send(self, data: bytes) -> None:
        self.wishes.append(Transmit(1, data))


def case_of(act: Callable[[Told, Received, float], None], **more: Any) -> MachineCase:
    facts: st.SearchStrategy[Any] = wire_facts([1], st.sampled_from([b"one\n", b"two"]))
    return MachineCase(
        "liar", lambda: Told(act), [(0.0, WAKE), (0.1, Opened(1)), (0.2, Received(1, b"abc"))], facts, **more
    )


def impure(machine: Told, fact: Received, now: float) -> None:
    machine.send(str(next(CHANCE)).encode())


def raises(machine: Told, fact: Received, now: float) -> None:
    raise KeyError("a peer's bytes")


def counts_pieces(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"piece ")


def speaks_after_the_end(machine: Told, fact: Received, now: float) -> None:
    machine.wishes += [Finished(1), Note("info", "late")]


def wakes_after_the_end(machine: Told, fact: Received, now: float) -> None:
    machine.wishes.append(Finished(1))
    machine.ended = True
    machine.until = now + 1


def says_too_much(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"x" * 1_000_000)


def never_drains(machine: Told, fact: Received, now: float) -> None:
    machine.wishes += [Note("info", "again")] * 100_001


def keeps_all(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"ok")
    machine.kept.append(fact.data)


def prints(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"ok")
    print("hello")


def warns(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"ok")
    warnings.warn("odd", stacklevel=1)


def reads_a_file(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"ok")
    open(sys.executable, "rb").close()


def opens_a_socket(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"ok")
    socket.socket().close()


def sticks(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"ok")
    machine.until = now


def never_wakes(machine: Told, fact: Received, now: float) -> None:
    machine.send(b"ok")
    machine.until = float("nan")


@pytest.mark.parametrize(
    ("promise", "act"),
    [
        (promises.test_pure, impure),
        (promises.test_total, raises),
        (promises.test_split_blind, counts_pieces),
        (promises.test_final, speaks_after_the_end),
        (promises.test_final, wakes_after_the_end),
        (promises.test_bounded_wishes, says_too_much),
        (promises.test_bounded_wishes, never_drains),
        (promises.test_bounded_memory, keeps_all),
        (promises.test_monotone, sticks),
        (promises.test_monotone, never_wakes),
    ],
    ids=lambda one: one.__name__,
)
def test_a_liar_is_caught(promise: Callable[[MachineCase], None], act: Callable[..., None]) -> None:
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        promise(case_of(act))


@pytest.mark.parametrize("act", [prints, warns, reads_a_file, opens_a_socket], ids=lambda one: one.__name__)
def test_a_loud_machine_is_caught(
    act: Callable[..., None], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    # Outside the watch a warning is only a warning: what is tested is that the promise test sees it.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with pytest.raises((AssertionError, BaseExceptionGroup)):
            promises.test_quiet(case_of(act), capfd, caplog)


def test_a_machine_that_an_early_wake_moves_is_caught() -> None:
    class Nervous(Echo):
        def handle(self, fact: Any, now: float) -> None:
            super().handle(fact, now)
            if fact is WAKE and not self._over:
                self._wishes.append(Note("debug", "woken"))

    case = MachineCase("nervous", Nervous, [(0.0, WAKE), (0.1, Opened(1))], st.just([]))
    with pytest.raises(AssertionError, match="woken early"):
        promises.test_monotone(case)


def test_a_bad_conversation_is_caught() -> None:
    def breaks(machine: Told, fact: Received, now: float) -> None:
        machine.wishes.append(Failed(RemoteProtocolError("protocol-error", "expected more")))

    with pytest.raises(AssertionError):
        promises.test_the_good_conversation_is_good(case_of(breaks))
    with pytest.raises(AssertionError, match="shows nothing"):
        promises.test_the_good_conversation_is_good(case_of(lambda machine, fact, now: None))


def test_a_fact_after_the_end_is_ignored_not_refused() -> None:
    class Strict(Echo):
        def handle(self, fact: Any, now: float) -> None:
            if self._over:
                from towline.core import LocalProtocolError

                raise LocalProtocolError("it is over")
            super().handle(fact, now)

    with pytest.raises(BrokenPromise, match="not ignored"):
        play(Strict(), [(0.0, WAKE), (1.0, Lost(1, "reset")), (2.0, WAKE)])


def test_what_is_held_is_weighed_in_suspended_scripts_too() -> None:
    def hoard() -> Step[int]:
        mine = bytes(300_000)
        yield from sleep(100.0)
        return len(mine)

    script = Script(hoard())
    before = held(script)
    play(script, [(0.0, WAKE)])
    assert held(script) - before >= 300_000
    assert held(memoryview(bytes(1000))[:1]) >= 1000


def test_show_tells_everything() -> None:
    error = RemoteProtocolError("bad-request", "expected a name", hint="write one")
    assert show(Failed(error)) == (
        "Failed(error=RemoteProtocolError({'kind': 'bad-request', 'message': 'expected a name', 'hint': 'write one'}))"
    )
    assert show(Note("info", "x", {"who": Secret("canary"), "all": [1, (2,)], "set": {1}})) == (
        "Note(level='info', event='x', fields={'who': Secret('canary'), 'all': [1, (2,)], 'set': {1}})"
    )
    assert show(Received(1, memoryview(b"ab"))) == "Received(link=1, data=b'ab')"


def test_every_case_has_its_own_name() -> None:
    assert len({case.name for case in load_cases()}) == len(load_cases())
    assert {"toy-echo", "toy-script"} <= {case.name for case in load_cases()}
