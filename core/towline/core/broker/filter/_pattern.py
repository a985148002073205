"""Path patterns and globs of accept rules, compiled once to automata.

Path patterns are those of broker-protocol.md §3.3 read as security.md §5 wants: literal parts are compared
with case and never decoded, what a parameter or `*` takes is decoded exactly once, and both ends are true
ends (no optional slash). A request path becomes one symbol for each plain character and one for each
`%XX`, so that a literal can never match an encoded byte.
"""

from __future__ import annotations

import re
from typing import Final

from towline.core._errors import RemoteProtocolError
from towline.core.broker.filter._automaton import (
    Automaton,
    Edge,
    Either,
    Join,
    One,
    Ranges,
    Repeat,
    Tree,
    inverse,
    ranges_of,
    text,
)
from towline.core.broker.filter._regex import NotARegex, parse_regex

# An encoded byte's symbol: past the last code point.
ENCODED: Final = 0x110000
# What a parameter or wildcard may take, plain or encoded once (security.md §5.4).
ALPHABET: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/:@+=~")

_DIGITS: Final = "0123456789abcdefABCDEF"
_TRIPLETS: Final = {high + low: ENCODED + int(high + low, 16) for high in _DIGITS for low in _DIGITS}

_MOST_BRACES: Final = 100

# broker-protocol.md §3.3 (path-to-regexp 1.9): escape, parameter with its prefix and group, bare group, star.
_TOKEN: Final = re.compile(
    r"(?P<escaped>\\.)"
    r"|(?P<prefix>[/.])?(?:(?::(?P<name>\w+)(?:\((?P<group>(?:\\.|[^\\()])+)\))?"
    r"|\((?P<bare>(?:\\.|[^\\()])+)\))(?P<times>[+*?])?|(?P<star>\*))",
    re.ASCII | re.DOTALL,
)


def _both_spellings(allowed: frozenset[int]) -> Ranges:
    return ranges_of([(byte, byte) for byte in allowed] + [(ENCODED + byte, ENCODED + byte) for byte in allowed])


_ANYTHING: Final = One(_both_spellings(ALPHABET))
_SEGMENT: Final = One(_both_spellings(ALPHABET - frozenset(b"/")))
_SEGMENT_WITHOUT_DOT: Final = One(_both_spellings(ALPHABET - frozenset(b"/.")))


def path_symbols(path: str) -> list[int]:
    """Return a path's symbols. Every `%` must start a valid triplet."""
    if "%" not in path:
        return [*map(ord, path)]
    first, *rest = path.split("%")
    symbols = [*map(ord, first)]
    for piece in rest:
        if len(piece) == 2:
            symbols.append(_TRIPLETS[piece])
        else:
            symbols.append(_TRIPLETS[piece[:2]])
            symbols += map(ord, piece[2:])
    return symbols


def compile_path(pattern: str) -> Automaton:
    """Return a rule's `path` made ready to match the symbols of a request path.

    Raises:  RemoteProtocolError of kind invalid-configuration
    """
    if not pattern.startswith("/"):
        pattern = "/" + pattern
    parts: list[Tree] = []
    at = 0
    for token in _TOKEN.finditer(pattern):
        parts.append(_literal(pattern, pattern[at : token.start()]))
        at = token.end()
        if token["escaped"]:
            parts.append(text(token["escaped"][1:]))
            continue
        prefix = token["prefix"] or ""
        if token["star"]:
            parts += [text(prefix), Repeat(_ANYTHING, 0, None)]
            continue
        partial = bool(prefix) and at < len(pattern) and pattern[at] != prefix
        parts.append(_parameter(token, prefix, partial))
    parts.append(_literal(pattern, pattern[at:]))
    return Automaton(Join(tuple(parts)))


def literal_start(pattern: str) -> str:
    """Return the text that every path begins with which a rule's `path` matches, character for character."""
    if not pattern.startswith("/"):
        pattern = "/" + pattern
    first = _TOKEN.search(pattern)
    return pattern if first is None else pattern[: first.start()]


def _literal(pattern: str, literal: str) -> Tree:
    if "(" in literal or ")" in literal:
        raise RemoteProtocolError("invalid-configuration", f"expected balanced groups in the path {pattern[:200]!r}")
    return text(literal)


def _parameter(token: re.Match[str], prefix: str, partial: bool) -> Tree:
    group = token["group"] or token["bare"]
    if group:
        value = _one_decoding(_parse_group(group))
    else:
        value = Repeat(_SEGMENT_WITHOUT_DOT if prefix == "." else _SEGMENT, 1, None)
    times = token["times"]
    if times in ("+", "*"):
        value = Join((value, Repeat(Join((text(prefix or "/"), value)), 0, None)))
    if times in ("?", "*"):
        if partial:
            return Join((text(prefix), Repeat(value, 0, 1)))
        return Repeat(Join((text(prefix), value)), 0, 1)
    return Join((text(prefix), value))


def _parse_group(group: str) -> Tree:
    try:
        return parse_regex(group)
    except NotARegex as error:
        raise RemoteProtocolError(
            "invalid-configuration", f"expected a regular expression in the path group ({group[:80]}): {error}"
        ) from None


def _one_decoding(tree: Tree) -> Tree:
    """Let a group's characters be taken plain or encoded once, and only those of the alphabet."""
    if isinstance(tree, One):
        allowed = frozenset(byte for byte in ALPHABET if any(low <= byte <= high for low, high in tree.ranges))
        return One(_both_spellings(allowed))
    if isinstance(tree, Join):
        return Join(tuple(map(_one_decoding, tree.parts)))
    if isinstance(tree, Either):
        return Either(tuple(map(_one_decoding, tree.options)))
    if isinstance(tree, Repeat):
        return Repeat(_one_decoding(tree.part), tree.least, tree.most)
    # The group stands in the middle of a path; its edges are the group's own, which hold by construction.
    return Join(()) if isinstance(tree, Edge) else tree


# ── globs of query conditions ─────────────────────────────────────────────────
_NOT_SLASH: Final = One(inverse(((0x2F, 0x2F),)))
_SLASH: Final = text("/")
_WHOLE_SEGMENTS: Final = Repeat(Join((Repeat(_NOT_SLASH, 0, None), _SLASH)), 0, None)


def compile_glob(pattern: str) -> Automaton:
    """Return a glob (`*`, `**`, `?`, `[...]`, `{a,b}`) made ready to match a text's code points.

    Raises:  RemoteProtocolError of kind invalid-configuration, also for `!x`, `#x` and `@(x)`, which are refused
    Source:  broker-protocol.md §3.3 (minimatch 3, dot files included)
    """
    if pattern[:1] in ("!", "#"):
        raise _bad_glob(pattern, f"a leading {pattern[0]}")
    if re.search(r"(?<!\\)[?*+@!]\(", pattern):
        raise _bad_glob(pattern, "an extended glob")
    return Automaton(Either(tuple(_glob_segments(option, pattern) for option in _braces(pattern, pattern))))


def _bad_glob(pattern: str, what: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        "invalid-configuration", f"expected a glob of *, **, ?, [...] and {{a,b}}, got {what} in {pattern[:200]!r}"
    )


def _braces(pattern: str, whole: str) -> list[str]:
    """Return the texts that a pattern's `{a,b}` stand for; braces without a comma are plain characters."""
    out, left = [], [pattern]
    while left:
        option = left.pop()
        found = re.search(r"(?<!\\)\{([^{}]*,[^{}]*)\}", option)
        if found is None:
            out.append(option)
        else:
            left += [option[: found.start()] + piece + option[found.end() :] for piece in found[1].split(",")]
        if len(out) + len(left) > _MOST_BRACES:
            raise _bad_glob(whole, f"more than {_MOST_BRACES} alternatives")
    return out


def _glob_segments(option: str, whole: str) -> Tree:
    segments = option.split("/")
    last = segments.pop()
    after: Tree = Repeat(One(((0, 0x10FFFF),)), 0, None) if last == "**" else _glob_segment(last, whole)
    for segment in reversed(segments):
        if segment == "**":
            after = Join((_WHOLE_SEGMENTS, after))
        else:
            after = Join((_glob_segment(segment, whole), _SLASH, after))
    return after


def _glob_segment(segment: str, whole: str) -> Tree:
    if segment == "*":
        return Repeat(_NOT_SLASH, 1, None)
    parts: list[Tree] = []
    at = 0
    while at < len(segment):
        char = segment[at]
        if char == "*":
            parts.append(Repeat(_NOT_SLASH, 0, None))
        elif char == "?":
            parts.append(_NOT_SLASH)
        elif char == "[" and (end := segment.find("]", at + 2)) > 0:
            inner = segment[at + 1 : end]
            negated = "^" if inner[0] in "!^" else ""
            try:
                parts.append(parse_regex(f"[{negated}{inner[1:] if negated else inner}]"))
            except NotARegex:
                raise _bad_glob(whole, "an unreadable class") from None
            at = end
        elif char == "\\" and at + 1 < len(segment):
            at += 1
            parts.append(text(segment[at]))
        else:
            parts.append(text(char))
        at += 1
    return Join(tuple(parts))
