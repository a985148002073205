"""Transition tables: every pair of state and input is legal by a row or refused by name."""

from __future__ import annotations

import pytest

from towline.core import RemoteProtocolError, Table

DOOR = Table(
    "door",
    "shut",
    {
        ("shut", "open"): "ajar",
        ("ajar", "close"): "shut",
        ("ajar", "break"): "broken",
    },
    ends=frozenset({"broken"}),
    kind="tunnel-protocol",
)


def test_every_pair() -> None:
    for state in DOOR.states:
        for fed in DOOR.inputs:
            if (state, fed) in DOOR.steps:
                assert DOOR.next(state, fed) == DOOR.steps[state, fed]
            else:
                with pytest.raises(RemoteProtocolError) as caught:
                    DOOR.next(state, fed)
                assert caught.value.kind == "tunnel-protocol"
                assert f"in state {state}, got {fed}" in str(caught.value)


def test_a_refusal_names_what_is_legal() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^door: expected break, close in state ajar, got open$"):
        DOOR.next("ajar", "open")
    with pytest.raises(RemoteProtocolError, match=r"^door: expected nothing in state broken, got open$"):
        DOOR.next("broken", "open")


def test_names_come_in_the_order_of_the_table() -> None:
    assert DOOR.states == ["shut", "ajar", "broken"]
    assert DOOR.inputs == ["open", "close", "break"]


def test_picture() -> None:
    assert DOOR.picture() == (
        "| state | input | next |\n| --- | --- | --- |\n"
        "| shut | open | ajar |\n| ajar | close | shut |\n| ajar | break | broken |"
    )


def test_the_kind_of_an_illegal_step_is_a_protocol_error_unless_said() -> None:
    assert Table("one", "a", {("a", "go"): "a"}, ends=frozenset()).kind == "protocol-error"
