"""WWW-Authenticate lines, one a line, and the realm that is chosen: never a failure, never a realm elsewhere."""

from __future__ import annotations

from towline.core import LIMITS
from towline.core.registry import parse_challenges, realm_allowed, select

BASE = "https://registry.example"


def run(data: bytes) -> None:
    lines = data.decode("latin-1").split("\n")
    found = parse_challenges(lines)
    assert len(found.items) <= LIMITS.challenge_count
    for challenge in found.items:
        assert len(challenge.params) <= LIMITS.challenge_params
        assert not any(char in "\r\n\0\x7f" for value in challenge.params.values() for char in value)
    chosen = select(found)
    if chosen is not None:
        verdict = realm_allowed(BASE, chosen.get("realm"))
        if verdict.send_credentials:
            host = chosen.get("realm").lower().removeprefix("https://").partition("/")[0].partition("?")[0]
            host = host.partition("#")[0].partition(":")[0].rstrip(".")
            assert host == "registry.example" or host.endswith(".registry.example")
    # Each line is read on its own: what one holds does not depend on its neighbours.
    if len(lines) > 1:
        apart = [challenge for line in lines for challenge in parse_challenges([line]).items]
        assert tuple(apart[: LIMITS.challenge_count]) == found.items
