"""The lazy heap of deadlines, beside a plain dictionary of them."""

from __future__ import annotations

import gc
import weakref

from hypothesis import given
from hypothesis import strategies as st

from towline.core.broker._alarms import Alarms, Timed


class Thing(Timed):
    __slots__ = ("__weakref__",)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(1, 30)), st.integers(0, 3)),
        max_size=300,
    )
)
def test_what_is_due_is_what_was_set(steps: list[tuple[int, int | None, int]]) -> None:
    alarms: Alarms[Thing] = Alarms()
    things = [Thing() for _ in range(6)]
    wanted: dict[int, float] = {}
    now = 0.0
    for number, wait, passes in steps:
        until = None if wait is None else now + wait
        alarms.set(things[number], until)
        wanted.pop(number, None)
        if until is not None:
            wanted[number] = until
        now += passes
        due = {things.index(thing) for thing in alarms.due(now)}
        assert due == {number for number, at in wanted.items() if at <= now}
        wanted = {number: at for number, at in wanted.items() if at > now}
        at = alarms.deadline()
        if wanted:
            assert at is not None
            assert at <= min(wanted.values())
        # As many again as are wanted may be useless, and a few.
        assert len(alarms) <= 2 * len(wanted) + 66
    for _ in alarms.due(now + 100):
        pass
    assert (len(alarms), alarms.deadline()) == (0, None)


def test_what_is_over_is_let_go_before_its_time() -> None:
    """A server that answers thousands of requests within the time that each might have taken keeps none of them."""
    alarms: Alarms[Thing] = Alarms()
    kept = [Thing() for _ in range(3)]
    for thing in kept:
        alarms.set(thing, 600.0)
    gone: list[weakref.ref[Thing]] = []
    for at in range(10_000):
        thing = Thing()
        alarms.set(thing, 600.0 + at)
        alarms.set(thing, None)
        gone.append(weakref.ref(thing))
        del thing
    gc.collect()
    assert sum(ref() is not None for ref in gone) < 70
    assert list(alarms.due(600.0)) == kept


def test_a_thing_whose_entry_was_let_go_can_wait_again() -> None:
    alarms: Alarms[Thing] = Alarms()
    first, *others = (Thing() for _ in range(200))
    for thing in (first, *others):
        alarms.set(thing, 10.0)
        alarms.set(thing, None)
    alarms.set(first, 20.0)
    assert (list(alarms.due(10.0)), list(alarms.due(20.0))) == ([], [first])


def test_deadlines_that_come_nearer_do_not_pile_up() -> None:
    alarms: Alarms[Thing] = Alarms()
    thing = Thing()
    for at in range(10_000, 0, -1):
        alarms.set(thing, float(at))
        assert len(alarms) < 140
    assert list(alarms.due(1.0)) == [thing]
