"""One seed, one stream: on every platform, however it is drawn."""

from __future__ import annotations

import hashlib
import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import Entropy

SEED = bytes(range(16))


def test_the_stream_is_what_its_description_says() -> None:
    key = hashlib.sha256(b"towline entropy\0" + SEED).digest()
    expected = b"".join(hashlib.sha256(key + counter.to_bytes(8, "big")).digest() for counter in range(3))
    assert Entropy(SEED).bytes(96) == expected


@given(st.lists(st.integers(0, 70), max_size=8))
def test_cutting_the_draws_changes_nothing(sizes: list[int]) -> None:
    entropy = Entropy(SEED)
    assert b"".join(entropy.bytes(size) for size in sizes) == Entropy(SEED).bytes(sum(sizes))


def test_seeds_differ() -> None:
    assert Entropy(SEED).bytes(32) != Entropy(SEED + b"\0").bytes(32)


def test_a_short_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes or more, got 15"):
        Entropy(bytes(15))


def test_shapes() -> None:
    entropy = Entropy(SEED)
    assert all(0.0 <= entropy.fraction() < 1.0 for _ in range(200))
    drawn = entropy.uuid4()
    assert uuid.UUID(drawn).version == 4
    assert uuid.UUID(drawn).variant == uuid.RFC_4122
    assert str(uuid.UUID(drawn)) == drawn
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", entropy.token(16))


def test_a_fork_is_independent() -> None:
    one, other = Entropy(SEED), Entropy(SEED)
    fork = one.fork()
    other.bytes(32)
    fork.bytes(1000)
    assert one.bytes(16) == other.bytes(16)
    assert fork.bytes(16) != one.bytes(16)


def test_it_does_not_show() -> None:
    assert repr(Entropy(SEED)) == "Entropy(***)"
