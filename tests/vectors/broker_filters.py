"""filters.json: requests, the rule that the established matcher chose for each, and where ours chooses another.

`DEVIATIONS` lists every case of the known file that our filter decides otherwise, with the rule of security.md §5 that
says so: another difference fails, and one that does not occur fails. Cases of other files are held to the same rules:
a difference is allowed only where the request itself, read here without the filter, breaks one of them.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from towline.core.broker import AcceptRules, Allowed, Denied, Filter

Key = tuple[str, str, str, str | None]

VARIABLES = {"CR_AGENT_URL": "http://127.0.0.1:17350"}
# The file whose deviations are listed.
KNOWN = "dda4d5d47b40095e835f46e3334ef91f56d4f70c9376d2182656a62a09c22c7a"

# (ruleset, method, url, body) -> (its verdict, ours, rule)
DEVIATIONS: dict[Key, tuple[int, int, str]] = {
    ("cra-private", "GET", "/healthcheck/", None): (0, -1, "2: no empty segment, so no optional final slash"),
    ("cra-private", "GET", "/list/", None): (3, -1, "2"),
    ("cra-private", "GET", "/list/?x", None): (3, -1, "2"),
    ("cra-private", "GET", "/list-paginated/", None): (5, -1, "2"),
    ("cra-public", "POST", "/v2/import/done/", None): (4, -1, "2"),
    ("paths", "GET", "/opt/", None): (1, -1, "2"),
    ("rootstar", "GET", "/a/", None): (0, -1, "2"),
    ("cra-private", "GET", "/list/a;b", None): (4, -1, "2: no path parameters"),
    ("cra-private", "GET", "/HEALTHCHECK", None): (0, -1, "3: the fixed part is compared with case"),
    ("cra-public", "POST", "/V2/IMPORT/DONE", None): (4, -1, "3"),
    ("cra-private", "GET", "/healthcheck#f", None): (0, -1, "1: no fragment"),
    ("query", "GET", "/q?path=a.json#frag", None): (0, -1, "1"),
    ("cra-private", "GET", "/list/é", None): (4, -1, "1: printable ASCII"),
    ("cra-private", "GET", "/list/a\\..\\b", None): (4, -1, "1: no backslash"),
    ("cra-private", "GET", "/list/ a", None): (4, -1, "1: no space"),
    ("cra-private", "GET", "/list/a\0b", None): (4, -1, "1: no control byte"),
    ("cra-private", "GET", "/list/%2e%2e/secret", None): (4, -1, "4: decoded once, no dot segment (Q1)"),
    ("cra-private", "GET", "/list/..%2fsecret", None): (4, -1, "4"),
    ("cra-private", "GET", "/list/%C3%A9", None): (4, -1, "4: the tail's alphabet"),
    ("cra-private", "GET", "/list/*", None): (4, -1, "4"),
    ("cra-private", "GET", "/list/(x)", None): (4, -1, "4"),
    ("paths", "GET", "/repos/a%2Fc/b/x", None): (0, -1, "4: a named segment holds no %2F"),
    ("cra-private", "GET", "/list", None): (3, -1, "9: asked as `get`; the method comes in capitals"),
    ("body", "POST", "/d", '{"x":1}'): (2, -1, "7: the value counts, and its type (§12, against Q5)"),
    ("body", "POST", "/d?k=w", '{"x":"2"}'): (2, -1, "7"),
    ("body", "POST", "/n", '{"a":{"b":1}}'): (5, -1, "7"),
    ("body", "POST", "/re", "{}"): (3, -1, "7: patterns are tested on texts only"),
    ("body", "POST", "/re", ""): (3, -1, "7"),
    ("body", "POST", "/re", '{"query":["abc"]}'): (3, -1, "7"),
    ("header", "GET", "/h", None): (-1, 0, "8: names without case"),
    ("header", "GET", "/h3", None): (-1, 2, "8"),
}


class Filtered(msgspec.Struct):
    """What came of a file: cases, those of them that are decided otherwise by a rule, and the problems."""

    cases: int
    deviations: int
    problems: list[str]

    def __str__(self) -> str:
        return f"{self.cases} compared, {self.deviations} deviations, {len(self.problems)} differences"


def is_filters(document: dict[str, Any]) -> bool:
    return isinstance(document.get("rulesets"), dict) and isinstance(document.get("cases"), list)


def run(document: dict[str, Any]) -> Filtered:
    """Decide every case of a file as our filter does."""
    filters = {
        name: Filter(AcceptRules.load({"private": rules}).private, VARIABLES)
        for name, rules in document["rulesets"].items()
    }
    known = digest(document) == KNOWN
    missing = dict(DEVIATIONS) if known else {}
    deviations, problems = 0, []
    for case in document["cases"]:
        asked = case["request"]
        verdict = filters[case["ruleset"]].decide(asked["method"], asked["url"], asked["headers"], asked.get("body"))
        ours = rule_of(verdict)
        if ours == case["match"]:
            continue
        key = (case["ruleset"], asked["method"].upper(), asked["url"], asked.get("body"))
        listed = DEVIATIONS.get(key)
        missing.pop(key, None)
        if (listed is not None and listed[:2] == (case["match"], ours)) or (
            not known and reason(case, document["rulesets"][case["ruleset"]], ours) is not None
        ):
            deviations += 1
        else:
            problems.append(f"{key}: expected rule {case['match']}, got {ours}")
    problems += [
        f"{key}: expected the listed deviation {said}, got the established verdict" for key, said in missing.items()
    ]
    return Filtered(len(document["cases"]), deviations, problems)


def rule_of(verdict: Allowed | Denied) -> int:
    return verdict.rule if isinstance(verdict, Allowed) else -1


def digest(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


_CONTROL = re.compile(r"[^\x21-\x7e]|[\\#]")
_TAIL = re.compile(r"[A-Za-z0-9._\-/:@+=~]*")


def target_reason(url: str) -> str | None:
    """Return the rule by which no request for this target gets through, whatever the accept file says."""
    path = url.partition("?")[0]
    if not url.startswith("/") or _CONTROL.search(url):
        return "1"
    if path != "/" and any(segment in ("", ".", "..") for segment in path[1:].split("/")):
        return "2"
    if ";" in path or re.search(r"%(?![0-9A-Fa-f]{2})", url):
        return "2"
    return None


def reason(case: dict[str, Any], rules: list[dict[str, Any]], ours: int) -> str | None:
    """Return the rule of security.md §5 by which a request may be decided otherwise, or None if there is none."""
    asked, theirs = case["request"], case["match"]
    if ours >= 0:
        named = [entry["header"] for entry in rules[ours].get("valid", []) if "header" in entry]
        return "8: names without case" if theirs == -1 and named else None
    url: str = asked["url"]
    path, _, query = url.partition("?")
    rule = rules[theirs]
    conditions = rule.get("valid", [])
    fixed = re.split(r"[:*(]", rule.get("path", "/"))[0]
    if (found := target_reason(url)) is not None:
        return found
    if not asked["method"].isupper():
        return "9"
    if not path.startswith(fixed) and path.lower().startswith(fixed.lower()):
        return "3"
    if "%" in path[: len(fixed)]:
        return "3"
    if bad_tail(path[len(fixed) :], named=":" in rule.get("path", "/")):
        return "4"
    if any(segment in ("", ".", "..") for segment in query.split("/")[1:]):
        return "6"
    if any("queryParam" in entry for entry in conditions) and len(parse_qsl(query)) != len(dict(parse_qsl(query))):
        return "6"
    return "7" if any("path" in entry for entry in conditions) else None


def bad_tail(tail: str, *, named: bool = False) -> bool:
    """Whether what follows the fixed part, decoded once, holds what may not be in it."""
    decoded = unquote(tail, "latin-1")
    if not _TAIL.fullmatch(decoded) or (named and "%2f" in tail.lower()):
        return True
    return any(segment in ("", ".", "..") for segment in decoded.split("/")) and decoded != ""
