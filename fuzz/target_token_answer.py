"""A token server's answer: two bytes of status, then the body."""

from __future__ import annotations

from fuzz.harness import Bytes
from towline.core import KINDS, LIMITS
from towline.core.registry import TokenRefused, parse_token_answer


def run(data: bytes) -> None:
    script = Bytes(data)
    status = script.pick((200, 200, 200, 401, 403, 404, 429, 500))
    answer = parse_token_answer(status, script.rest())
    if isinstance(answer, TokenRefused):
        assert answer.kind in KINDS
        return
    assert status == 200
    assert 60.0 <= answer.lifetime <= 7 * 24 * 3600.0
    token = answer.token.reveal()
    assert 0 < len(token) <= LIMITS.registry_token
    assert all("!" <= char <= "~" for char in token)
