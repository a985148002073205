"""The search for secrets finds them, or its silence would mean nothing."""

from __future__ import annotations

import base64

import pytest
from interop.canaries import Canaries, hits


@pytest.mark.parametrize("before", range(7))
def test_a_secret_is_found_wherever_it_begins_in_base64(before: int) -> None:
    canaries = Canaries(issued=["a.registry.token"])
    for name, secret in canaries.all().items():
        text = ("x" * before + secret + ":and more").encode()
        for data in (text, base64.b64encode(text), base64.b64encode(text).rstrip(b"=")):
            assert f"{name} in a log" in hits(canaries, {"a log": b"line\n" + data + b"\n"})


def test_the_login_holds_the_canary() -> None:
    canaries = Canaries()
    assert canaries.core in canaries.login.password
    assert hits(canaries, {"a log": b"nothing of it", "ps": b""}) == []
