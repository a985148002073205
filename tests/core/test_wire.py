"""The wire vocabulary: values, and numbers that are never used twice."""

from __future__ import annotations

import pytest

from towline.core import WAKE, Filled, LinkNumbers, Received, Transmit, Wake


def test_links_opened_by_a_machine_are_odd_and_new() -> None:
    numbers = LinkNumbers()
    assert [numbers.take() for _ in range(4)] == [1, 3, 5, 7]


def test_records_are_values() -> None:
    assert Received(1, b"a") == Received(1, b"a")
    assert Received(1, b"a") == Received(1, memoryview(b"a"))
    transmit: object = Transmit(1, b"a")
    assert Received(1, b"a") != transmit
    assert Wake() == WAKE
    assert Filled(1, memoryview(b"a")) == Filled(1, memoryview(b"a"))
    assert Filled(1, memoryview(b"a")) != Filled(1, memoryview(b"b"))
    with pytest.raises(AttributeError):
        Received(1, b"a").link = 2  # type: ignore[misc]
