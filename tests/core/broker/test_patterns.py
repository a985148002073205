"""Patterns that answer in linear time, beside Python's own engine where the two languages agree."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from towline.core import RemoteProtocolError
from towline.core.broker.filter._automaton import Automaton
from towline.core.broker.filter._pattern import compile_glob, compile_path, literal_start, path_symbols
from towline.core.broker.filter._regex import NotARegex, compile_regex, parse_regex


def matches(automaton: Automaton | None, text: str) -> bool:
    assert automaton is not None
    return automaton.matches([ord(char) for char in text])


ATOMS = st.sampled_from(
    [
        "a",
        "b",
        "0",
        ".",
        "[ab]",
        "[^a]",
        "[a-c0-9]",
        r"\d",
        r"\w",
        r"[\d_-]",
        r"\.",
        "[]a]",
        r"\x61",
        r"\u0062",
        "é",
        r"\t",
    ]
)


def grouped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    one = st.one_of(
        inner.map(lambda part: f"({part})"),
        inner.map(lambda part: f"(?:{part})"),
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda parts: f"(?:{parts[0]}|{parts[1]})"),
    )
    mark = st.sampled_from(["", "*", "+", "?", "*?", "{2}", "{1,2}", "{0,}"])
    return st.tuples(one, mark).map(lambda parts: parts[0] + (parts[1] if parts[0].endswith(")") else ""))


@given(st.recursive(ATOMS, grouped, max_leaves=8), st.lists(st.text("ab0_.-é\t]", max_size=8), min_size=1, max_size=8))
def test_as_pythons_engine_anchored(pattern: str, texts: list[str]) -> None:
    assume("[]" not in pattern)  # an empty class in JavaScript, a literal bracket in Python
    theirs = re.compile(pattern, re.DOTALL | re.ASCII)
    ours = compile_regex(pattern)
    for text in texts:
        assert matches(ours, text) == (theirs.fullmatch(text) is not None)


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("^ab$", ["ab"], ["ab\n", "xab", "abx", ""]),
        ("a|", ["a", ""], ["b"]),
        ("^$", [""], ["a"]),
        ("a{,2}", ["a{,2}"], ["a", "aa"]),
        ("x{2", ["x{2"], ["xx"]),
        (r"\s\S\D\W", [" a\u00e9!", "\u00a0aa-"], ["aaaa"]),
        (r"[\b\0\n\r\f\v]+", ["\b\0\n\r\f\v"], ["b0"]),
        (r"[a-]", ["a", "-"], ["b"]),
        (r"[\d-x]", ["3", "-", "x"], ["y"]),
        (r"\xzz\u12", ["xzzu12"], ["z"]),
        ("(?<year>[0-9]{4})", ["2024"], ["24"]),
        ("a(?:b^|$)", ["a"], ["ab"]),
        (".", ["x", "\u00e9"], ["\n", "\r", "\u2028", ""]),
        ("[]", [], ["", "]"]),
        ("[^]", ["]", "\n"], [""]),
    ],
)
def test_what_javascript_says(pattern: str, yes: list[str], no: list[str]) -> None:
    ours = compile_regex(pattern)
    assert [text for text in yes if not matches(ours, text)] == []
    assert [text for text in no if matches(ours, text)] == []


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        ")",
        "(?",
        "(?x)",
        "(?<1>a)",
        "[a",
        "[b-a]",
        "*a",
        "a**",
        "^*",
        "{2}",
        "a{2,1}",
        "\\",
        "(a",
        "a)",
        "[\\",
        "+",
    ],
)
def test_what_is_no_regular_expression_never_matches(pattern: str) -> None:
    assert compile_regex(pattern) is None
    with pytest.raises(NotARegex):
        parse_regex(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *["(?=a)", "(?!a)", "(?<=a)", "(?<!a)", r"\1", r"\k<a>", r"\bx", r"\p{L}"],
        *["a{1001}", "a{99999}", "a" * 5000, "(" * 60 + ")" * 60, "((a{1000}){1000})"],
    ],
)
def test_what_linear_time_rules_out_is_refused(pattern: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        compile_regex(pattern)
    assert caught.value.kind == "invalid-configuration"


def test_memory_is_wiped_when_it_is_full() -> None:
    ours = compile_regex("(a|b)*a(a|b){12}")
    text = "abbabaabbbaababbababaaabbbabababbbaaabab" * 300
    assert matches(ours, text) == (text[-13] == "a")
    wide = compile_regex("[^x]*")
    assert matches(wide, "".join(map(chr, range(0x100, 0x1100))))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/a/:b", ["/a/x", "/a/%41"], ["/a/", "/a/x/y", "/a/x%2Fy", "/a/%25"]),
        ("/a/:b?", ["/a", "/a/x"], ["/a/x/y"]),
        ("/a/:b+", ["/a/x", "/a/x/y"], ["/a"]),
        ("/a/:b*", ["/a", "/a/x/y"], ["/ab"]),
        ("/a/:b(\\d+)", ["/a/12", "/a/%31"], ["/a/x"]),
        ("/a/:b(x|yz)c", ["/a/xc", "/a/yzc"], ["/a/c"]),
        ("/f.:ext", ["/f.txt"], ["/f.a.b", "/f.a/b", "/f"]),
        ("/f.:ext?", ["/f.txt", "/f"], ["/f."]),
        ("/a/:b?c", ["/a/c", "/a/xc"], ["/ac"]),
        ("/(a.*)/z", ["/ab/c/z"], ["/b/z"]),
        ("/x\\*y", ["/x*y"], ["/xay"]),
        ("/x(^a$)", ["/xa"], ["/x"]),
        ("a*b", ["/ab", "/axxb", "/a/b"], ["ab", "/a"]),
    ],
)
def test_paths(pattern: str, yes: list[str], no: list[str]) -> None:
    ours = compile_path(pattern)
    assert [path for path in yes if not ours.matches(path_symbols(path))] == []
    assert [path for path in no if ours.matches(path_symbols(path))] == []


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*", ["a", "a.b", ".a"], ["", "a/b"]),
        ("**", ["", "a", "a/b"], []),
        ("a/**", ["a/", "a/b", "a/b/c"], ["a", "b"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["az"]),
        ("?x", ["ax"], ["x", "/x"]),
        ("[!a]b", ["cb"], ["ab"]),
        ("[a-c]", ["b"], ["d"]),
        ("{a,b{c,d}}x", ["ax", "bcx", "bdx"], ["bx"]),
        ("{a}", ["{a}"], ["a"]),
        (r"\*", ["*"], ["a"]),
        ("a[", ["a["], ["a"]),
    ],
)
def test_globs(pattern: str, yes: list[str], no: list[str]) -> None:
    ours = compile_glob(pattern)
    assert [text for text in yes if not matches(ours, text)] == []
    assert [text for text in no if matches(ours, text)] == []


@pytest.mark.parametrize("pattern", ["!a", "#a", "+(a)", "a*(b)", "{a,b}" * 8, "[b-a]"])
def test_globs_that_are_refused(pattern: str) -> None:
    with pytest.raises(RemoteProtocolError):
        compile_glob(pattern)


def test_answers_are_the_same_whatever_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a" * size for size in range(1, 30)]
    pattern = "/(a{1,7}|a{20})"
    fresh = [compile_path(pattern).matches(path_symbols("/" + text)) for text in texts]
    monkeypatch.setattr("towline.core.broker.filter._automaton.MOST_REMEMBERED", 2)
    kept = compile_path(pattern)
    assert [kept.matches(path_symbols("/" + text)) for text in texts] == fresh
    assert fresh == [size <= 7 or size == 20 for size in range(1, 30)]


@pytest.mark.parametrize(
    ("pattern", "start"),
    [
        ("/list/*", "/list"),
        ("list", "/list"),
        ("/a/:b", "/a"),
        ("/a/:b?", "/a"),
        ("/a.:b", "/a"),
        ("/a(b)?", "/a"),
        ("/*", ""),
        ("/", "/"),
        ("/a\\:b", "/a"),
    ],
)
def test_every_path_that_matches_begins_with_the_literal_start(pattern: str, start: str) -> None:
    assert literal_start(pattern) == start
    automaton = compile_path(pattern)
    for path in ("/", "/list", "/list/x", "/a", "/a/b", "/a.b", "/ab", "/a:b", "/b", "/%61"):
        assert path.startswith(start) or not automaton.matches(path_symbols(path))
