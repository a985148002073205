"""Globs on absolute paths, by minimatch's rules."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towline.core import RemoteProtocolError
from towline.core.layer import Globs

MATCHES = [
    ("**/package.json", "package.json", True),
    ("**/package.json", "a/b/c/package.json", True),
    ("**/package.json", "a/xpackage.json", False),
    ("**/package.json", "a/package.json/x", False),
    ("**/package.json", ".hidden/package.json", False),
    ("**/.hidden/package.json", "a/.hidden/package.json", True),
    ("**/*.json", "a/.x.json", False),
    ("**/.*", "a/.env", True),
    ("**/*", "a/b", True),
    ("**", "a/b", True),
    ("**", "a/.b", False),
    ("/**", "a", True),
    ("/a/**", "a/b/c", True),
    ("/a/**", "a", False),
    ("/a/**/z", "a/z", True),
    ("/a/**/z", "a/b/c/z", True),
    ("/a/**/z", "a/b/c/y", False),
    ("**/a/**/b/**/c", "x/a/y/b/z/c", True),
    ("**/a/**/b/**/c", "x/a/y/z/c", False),
    ("a/b", "a/b", False),
    ("/a/b", "a/b", True),
    ("/a/?", "a/b", True),
    ("/a/?", "a/.", False),
    ("/a/?", "a/bb", False),
    ("/[a-c]x", "bx", True),
    ("/[!a-c]x", "bx", False),
    ("/[^a-c]x", "dx", True),
    ("/[a", "[a", True),
    ("/[]a]", "]", True),
    ("/a/*.{json,txt}", "a/x.txt", True),
    ("/a/{b,c{d,e}}/f", "a/ce/f", True),
    ("/a/{b}/f", "a/{b}/f", True),
    ("/a/{b,/f", "a/{b,/f", True),
    ("/a**b", "aXXb", True),
    ("/a**b", "a/b", False),
    (r"/\*", "*", True),
    (r"/\*", "x", False),
    ("/*a*b*", "xxaxxbxx", True),
    ("/*a*b*", "xxbxxaxx", False),
    ("", "a", False),
]


@pytest.mark.parametrize(("pattern", "path", "matches"), MATCHES)
def test_one_pattern(pattern: str, path: str, matches: bool) -> None:
    assert Globs([pattern]).match(path) is matches


def test_excluded_is_excluded() -> None:
    globs = Globs(["**/package.json"], ["**/node_modules/**"])
    assert globs.match("srv/package.json")
    assert not globs.match("srv/node_modules/x/package.json")
    assert globs
    assert not Globs([], ["**"])


@settings(max_examples=200, deadline=None)
@given(
    pattern=st.text("ab*?.", min_size=1, max_size=8).filter(lambda text: "**" not in text),
    name=st.text("ab.", min_size=1, max_size=8),
)
def test_one_segment_against_a_regular_expression(pattern: str, name: str) -> None:
    body = "".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern)
    expected = re.fullmatch(body, name, re.DOTALL) is not None and (name[0] != "." or pattern[0] == ".")
    assert Globs(["/" + pattern]).match(name) is expected


def test_a_hostile_pattern_costs_little() -> None:
    globs = Globs(["**/" * 100 + "a*" * 200 + "b"])
    begun = time.perf_counter()
    assert not globs.match("/".join(["a" * 30] * 120) + "/" + "a" * 255 + "cb"[:1])
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize("pattern", ["x" * 2000, "{a,b}" * 12, "{" + "a," * 1100 + "}"])
def test_too_much_is_refused(pattern: str) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        Globs([pattern])
    assert raised.value.kind == "bad-request"


def test_too_many_are_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        Globs(["a"] * 1001)
