"""How fast a registry is asked: as many a second as is allowed, and slower when it asks for a wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_tools import BASIC, asks, gives, play, registry

from towline.core.registry import Pace, list_tags

TAGS = "/v2/a/b/tags/list?n=100"


def test_a_seconds_worth_at_once_and_then_one_by_one() -> None:
    pace = Pace(4.0)
    assert [pace.turn(10.0) for _ in range(4)] == [10.0] * 4
    assert [pace.turn(10.0) for _ in range(3)] == [10.25, 10.5, 10.75]
    assert pace.turn(11.0) == 11.0
    # An idle hour saves up no more than a second's worth.
    assert [pace.turn(4000.0) for _ in range(5)] == [4000.0] * 4 + [4000.25]


def test_less_than_one_a_second() -> None:
    pace = Pace(0.5)
    assert [pace.turn(0.0), pace.turn(0.0), pace.turn(0.0)] == [0.0, 2.0, 4.0]


def test_a_wait_that_is_asked_for_holds_everybody_and_halves_the_pace() -> None:
    pace = Pace(4.0)
    pace.slow_down(0.0, 30.0)
    assert pace.turn(1.0) == 30.0
    # After a minute all is forgotten.
    assert [pace.turn(100.0) for _ in range(5)] == [100.0] * 4 + [100.25]
    for _ in range(100):
        pace.slow_down(100.0, 0.0)
    assert pace.turn(100.0) <= 100.0 + 64


@given(st.floats(0.1, 100.0), st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200))
def test_never_faster_than_allowed(most: float, pauses: list[float]) -> None:
    pace, now, turns = Pace(most), 0.0, []
    for pause in pauses:
        now += pause
        turns.append(pace.turn(now))
        assert turns[-1] >= now
    for first in range(len(turns)):
        for last in range(first + 1, len(turns)):
            assert last - first + 1 <= max(1.0, most) + most * (turns[last] - turns[first]) + 1.0001


def test_requests_wait_for_their_turn() -> None:
    of = registry(pace=Pace(1.0))
    done = play(
        list_tags(of, "a/b"),
        asks(TAGS),                                gives(401, {"www-authenticate": 'Basic realm="r"'}),
        asks(TAGS, BASIC),                         gives(json={"tags": ["1"]}),
    )  # fmt: skip
    assert done.value.items == ("1",)
    assert done.sleeps == [1.0]


def test_a_429_slows_the_next_conversation_too() -> None:
    pace = Pace(1000.0)
    first = play(
        list_tags(registry(pace=pace), "a/b"),
        asks(TAGS),                                gives(429, {"retry-after": "7"}),
        asks(TAGS),                                gives(json={"tags": ["1"]}),
    )  # fmt: skip
    assert first.sleeps == [7.0]
    other = play(list_tags(registry(pace=pace), "a/b"), asks(TAGS), gives(json={"tags": ["1"]}), start=1003.0)
    assert other.sleeps == [pytest.approx(4.0)]


def test_without_a_pace_nothing_waits() -> None:
    done = play(list_tags(registry(), "a/b"), asks(TAGS), gives(json={"tags": ["1"]}))
    assert done.sleeps == []
