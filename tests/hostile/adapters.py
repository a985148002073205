"""What the checkers of the hostile kit call: `filter_check.py FILE --py adapters:filter_verdict`."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from towline.core.broker import AcceptRules, Allowed, Filter

VARIABLES = {"CR_AGENT_URL": "http://127.0.0.1:17350"}


@lru_cache(maxsize=8)
def _filter(rules: str) -> Filter:
    return Filter(AcceptRules.load({"private": json.loads(rules)}).private, VARIABLES)


def filter_verdict(
    rules: list[dict[str, Any]], method: str, target: str, headers: dict[str, Any], body: str | None
) -> dict[str, Any]:
    """Return the filter's verdict in the form of filter_check.py."""
    verdict = _filter(json.dumps(rules)).decide(method, target, headers, body)
    if isinstance(verdict, Allowed):
        return {"allow": True, "forward": verdict.target, "headers": dict(verdict.headers)}
    return {"allow": False}
