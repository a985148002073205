"""A request and a rule, one part a line: what passes is canonical, and is what would be sent.

Lines: path pattern, condition as JSON (or empty), method, target, body.
"""

from __future__ import annotations

import json
from urllib.parse import unquote

from fuzz.harness import BrokenPromise, refused_or_taken
from towline.core.broker import DEFAULT_AGENT_RULES, AcceptRules, Allowed, Filter

VARIABLES = {"CR_AGENT_URL": "http://agent:8081"}
AGENT = Filter(DEFAULT_AGENT_RULES.private, VARIABLES)


def run(data: bytes) -> None:
    lines = [*data.decode("latin-1").split("\n", 4), "", "", "", "", ""]
    pattern, condition, method, target, body = lines[:5]
    for rules in (AGENT, refused_or_taken(lambda: written(pattern, condition))):
        if rules is None:
            continue
        verdict = rules.decide(method, target, {"host": "a", "x": condition[:40].strip()}, body.encode("latin-1"))
        if not isinstance(verdict, Allowed):
            continue
        path = verdict.target.partition("?")[0]
        segments = unquote(path)[1:].split("/")
        if verdict.target != target or (path != "/" and {"", ".", ".."} & set(segments)) or "host" in verdict.headers:
            raise BrokenPromise(f"allowed {target!r}, and would send {verdict.target!r}")


def written(pattern: str, condition: str) -> Filter:
    rule: dict[str, object] = {"method": "any", "path": pattern, "origin": "http://agent"}
    try:
        rule["valid"] = [json.loads(condition)] if condition else []
    except (ValueError, RecursionError):
        rule["valid"] = [{"path": "a", "regex": condition}]
    return Filter(AcceptRules.load({"private": [rule]}).private, VARIABLES)
