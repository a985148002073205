"""A secret does not come out by accident."""

from __future__ import annotations

import copy
import pickle

import msgspec
import pytest

from towline.core import Note, Secret

CANARY = "canary-c0ffee"


def test_only_reveal_shows_it() -> None:
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret:>20}", "%s %r" % (secret, secret), repr([secret])):  # noqa: UP031
        assert CANARY not in shown
        assert "***" in shown
    assert CANARY not in repr(Note("info", "login", {"secret": secret}))


def test_it_is_not_encoded_or_pickled() -> None:
    for encode in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not pickled"):
            encode(Secret(CANARY))
    with pytest.raises(TypeError):
        msgspec.json.encode({"secret": Secret(CANARY)})


def test_equal_by_text_and_never_to_a_plain_text() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("ключ") == Secret("ключ")
    assert Secret("a") != "a"
    assert hash(Secret("a")) == hash(Secret("a"))


def test_empty_is_false() -> None:
    assert not Secret("")
    assert Secret(" ")
