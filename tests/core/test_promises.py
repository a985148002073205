"""The seven promises of a machine (style.md §3), asked of every machine there is, and the law of windows.

A machine joins by a row in `tests/machines/<room>.py`. Each test here is one promise.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines.case import MachineCase, load_cases, mangled, timed
from machines.oracle import BrokenPromise, Turn, essence, play, recut, show, weight, wishes_of

from towline.core import WAKE, Failed, Filled, Finished, Note, Read, Received, Window

CASES = load_cases()
every_machine = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
some = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))

FLOOD_PIECE = 64 * 1024
FLOOD_PIECES = 48
STUCK_WAKES = 100


def troubles(case: MachineCase) -> st.SearchStrategy[list[tuple[float, Any]]]:
    """Everything a peer may cause: what the room says it may, and the good conversation gone wrong."""
    return st.one_of(
        case.facts.map(timed), case.facts.map(lambda facts: [(0.0, WAKE), *timed(facts)]), mangled(case.conversation())
    )


def shown(turns: list[Turn]) -> list[tuple[list[str], float | None, str | None]]:
    return [
        ([show(wish) for wish in turn.wishes], turn.deadline, str(turn.refusal) if turn.refusal else None)
        for turn in turns
    ]


@every_machine
def test_the_good_conversation_is_good(case: MachineCase) -> None:
    turns = play(case.make(), case.conversation())
    assert wishes_of(turns), "a conversation in which the machine wishes nothing shows nothing"
    assert not any(isinstance(wish, Failed) for wish in wishes_of(turns)), [show(wish) for wish in wishes_of(turns)]
    assert [show(turn.fact) for turn in turns if turn.refusal] == []


@every_machine
def test_pure(case: MachineCase) -> None:
    @some
    @given(troubles(case))
    def same_facts_same_wishes(facts: list[tuple[float, Any]]) -> None:
        assert shown(play(case.make(), facts)) == shown(play(case.make(), facts))

    same_facts_same_wishes()


@every_machine
def test_total(case: MachineCase) -> None:
    @some
    @given(troubles(case))
    def handle_returns(facts: list[tuple[float, Any]]) -> None:
        turns = play(case.make(), facts)
        # A refused fact leaves the machine unchanged: without it, everything else is the same.
        lawful = [(turn.now, turn.fact) for turn in turns if turn.refusal is None]
        if len(lawful) < len(turns):
            unrefused = [turn for turn in turns if turn.refusal is None]
            assert all(turn.wishes == [] for turn in turns if turn.refusal)
            assert shown(play(case.make(), lawful)) == shown(unrefused)

    handle_returns()


@pytest.mark.parametrize("case", [case for case in CASES if case.splits], ids=lambda case: case.name)
def test_split_blind(case: MachineCase) -> None:
    whole = essence(wishes_of(play(case.make(), case.conversation())), (*case.volatile, Note, Read))

    @some
    @given(st.lists(st.integers(1, 70_000) | st.integers(1, 12), min_size=1, max_size=12))
    def cut_anywhere(cuts: list[int]) -> None:
        pieces = essence(wishes_of(play(case.make(), recut(case.conversation(), cuts))), (*case.volatile, Note, Read))
        assert pieces == whole

    cut_anywhere()
    if sum(weight(fact) for _, fact in case.conversation()) < 100_000:
        bytewise = essence(wishes_of(play(case.make(), recut(case.conversation(), [1]))), (*case.volatile, Note, Read))
        assert bytewise == whole


@every_machine
def test_final(case: MachineCase) -> None:
    @some
    @given(troubles(case), case.facts)
    def nothing_after_the_end(facts: list[tuple[float, Any]], late: list[tuple[float, Any]]) -> None:
        last = facts[-1][0] if facts else 0.0
        turns = play(case.make(), [*facts, *timed(late, last)])
        ends = [at for at, turn in enumerate(turns) if any(isinstance(wish, Finished | Failed) for wish in turn.wishes)]
        assert len(ends) <= 1
        for turn in turns[ends[0] + 1 :] if ends else []:
            assert (turn.wishes, turn.deadline, turn.refusal) == ([], None, None)

    nothing_after_the_end()


@every_machine
def test_bounded_wishes(case: MachineCase) -> None:
    @some
    @given(troubles(case))
    def wishes_a_multiple_of_facts(facts: list[tuple[float, Any]]) -> None:
        turns = play(case.make(), facts)
        told, wished = weight([fact for _, fact in facts]), weight(wishes_of(turns))
        assert wished <= case.slack + case.growth * told

    wishes_a_multiple_of_facts()


@every_machine
def test_bounded_memory(case: MachineCase) -> None:
    """At several points of the good conversation a peer begins to send without end."""
    conversation = case.conversation()
    points = sorted({len(conversation) * part // 4 for part in range(1, 4)})
    for point in points:
        links = sorted({fact.link for _, fact in conversation[:point] if isinstance(getattr(fact, "link", None), int)})
        for link in links:
            for filler in case.floods:
                machine = case.make()
                turns = play(machine, conversation[:point])
                now = turns[-1].now if turns else 0.0
                for _ in range(FLOOD_PIECES):
                    play(machine, [(now, Received(link, filler * (FLOOD_PIECE // len(filler))))])
                kept = case.keeps(machine)
                assert kept <= case.holds, f"keeps {kept} bytes of {filler!r} on link {link} after fact {point}"


@every_machine
def test_windows(case: MachineCase) -> None:
    """What comes in a window instead says the same, and nothing is kept of a window after its turn."""

    def told(*, windows: bool) -> tuple[dict[str, bytes], list[str]]:
        machine = case.make()
        wishes: list[Any] = []
        limits: dict[int, int] = {}
        for now, fact in recut(case.conversation(), [40_000]):
            buffer = None
            if isinstance(fact, Received) and len(fact.data) <= limits.pop(fact.link, 0) and windows:
                buffer = bytearray(fact.data)
                fact = Filled(fact.link, memoryview(buffer))
            for wish in play(machine, [(now, fact)])[0].wishes:
                if isinstance(wish, Window):
                    limits[wish.link] = wish.limit
                elif (data := getattr(wish, "data", None)) is not None and isinstance(data, memoryview):
                    wishes.append(msgspec.structs.replace(wish, data=bytes(data)))
                else:
                    wishes.append(wish)
            if buffer is not None:
                buffer[:] = b"\xa5" * len(buffer)
        return essence(wishes, (*case.volatile, Note, Read))

    assert told(windows=True) == told(windows=False)


ARMED: list[str] | None = None
LOUD = ("open", "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "time.sleep")


def listen(event: str, arguments: tuple[Any, ...]) -> None:
    if ARMED is not None and (event.startswith(LOUD) or event == "_thread.start_new_thread"):
        ARMED.append(f"{event}{arguments!r}")


sys.addaudithook(listen)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Collect every file, socket, process, thread and pause that is asked for inside."""
    global ARMED
    ARMED = []
    try:
        yield ARMED
    finally:
        ARMED = None


@every_machine
def test_quiet(case: MachineCase, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    play(case.make(), case.conversation())  # what is imported late is imported by now

    @some
    @given(troubles(case))
    def says_only_wishes(facts: list[tuple[float, Any]]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with watched() as heard:
                play(case.make(), facts)
        assert heard == []

    capfd.readouterr()
    says_only_wishes()
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@every_machine
def test_monotone(case: MachineCase) -> None:
    """Time moves on: a deadline that was kept is replaced by a later one, and an early WAKE changes nothing."""

    @some
    @given(troubles(case))
    def deadlines_move_on(facts: list[tuple[float, Any]]) -> None:
        machine = case.make()
        turns = play(machine, facts)
        now, until = (turns[-1].now, turns[-1].deadline) if turns else (0.0, None)
        stuck = 0
        for _ in range(STUCK_WAKES * 3):
            if until is None:
                break
            stuck = stuck + 1 if until <= now else 0
            if stuck > STUCK_WAKES:
                raise BrokenPromise(f"monotone: woken {stuck} times at {now}, the deadline stays {until}")
            now = max(now, until)
            until = play(machine, [(now, WAKE)])[0].deadline

    deadlines_move_on()
    machine, nudged = case.make(), case.make()
    for now, fact in case.conversation():
        (told,) = play(machine, [(now, fact)])
        first, *more = play(nudged, [(now, fact), (now, WAKE), (now, WAKE)])
        if told.deadline is not None and told.deadline <= now:
            break  # the wake was due
        assert first.wishes == told.wishes
        assert [turn.wishes for turn in more] == [[], []], f"woken early after {show(fact)}"
        assert more[-1].deadline == told.deadline
