"""Globs on absolute paths, by minimatch's rules, matched in time linear in the path.

`*`, `?` and `[...]` stay inside one segment and do not match a dot at its start; `**` as a whole segment matches any
number of segments that do not begin with a dot; `{a,b}` is expanded. Extended globs (`+(…)`) are plain text.

No pattern becomes a regular expression: patterns come with requests, and two stars in one would be enough for a
backtracking engine to spend the square of a name's length. Segments are walked as a set of positions instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Final, TypeAlias

from towline.core._errors import RemoteProtocolError

_PATTERNS_MOST: Final = 1000
_PATTERN_LONGEST: Final = 1024
_STAR: Final = "**"

# One piece of a segment: None is `*`; the rest match one character: a text of one, or a set and whether it is negated.
_Piece: TypeAlias = tuple[str, frozenset[str], tuple[tuple[str, str], ...], bool] | None
_Segment: TypeAlias = str | list[_Piece]
_ANY: Final[_Piece] = ("", frozenset(), (), True)


class Globs:
    """Patterns to include, less patterns to exclude."""

    def __init__(self, include: Iterable[str], exclude: Iterable[str] = ()) -> None:
        self._include = _Patterns(include)
        self._exclude = _Patterns(exclude)

    def __bool__(self) -> bool:
        return bool(self._include)

    def match(self, path: str) -> bool:
        """Whether a path (normal, without its leading `/`) is included and not excluded."""
        if not self._include.match(path):
            return False
        return not (self._exclude and self._exclude.match(path))


class _Patterns:
    """A list of patterns, filed by their last segment where that is plain text, as it nearly always is."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self._by_name: dict[str, list[list[_Segment]]] = {}
        self._others: list[tuple[str, list[_Segment]]] = []
        count = 0
        for pattern in patterns:
            for plain in _braces(pattern):
                count += 1
                if count > _PATTERNS_MOST:
                    raise RemoteProtocolError("bad-request", f"expected at most {_PATTERNS_MOST} globs, got more")
                segments = [_segment(text) for text in plain.split("/")]
                last = segments[-1]
                if isinstance(last, str) and last != _STAR:
                    self._by_name.setdefault(last, []).append(segments)
                else:
                    self._others.append((_ending(last), segments))

    def __bool__(self) -> bool:
        return bool(self._by_name or self._others)

    def match(self, path: str) -> bool:
        likely = self._by_name.get(path[path.rfind("/") + 1 :], [])
        if self._others:
            likely = likely + [segments for ending, segments in self._others if path.endswith(ending)]
        if not likely:
            return False
        parts = ["", *path.split("/")]
        return any(_match(segments, parts) for segments in likely)


def _ending(segment: _Segment) -> str:
    """The plain text at a segment's end: nearly all paths fail by it, before anything is walked."""
    text = ""
    if not isinstance(segment, str):
        for piece in reversed(segment):
            if piece is None or not piece[0]:
                break
            text = piece[0] + text
    return text


def _match(segments: list[_Segment], parts: list[str]) -> bool:
    """Walk the path once with the set of segments that may come next."""
    last = len(segments)
    at = _past_stars({0}, segments)
    for index, part in enumerate(parts):
        following: set[int] = set()
        for position in at:
            if position == last:
                continue
            segment = segments[position]
            if segment == _STAR:
                # The text before a leading `/` is empty, and `**` may stand for it.
                if not part.startswith("."):
                    following.add(position)
                    if position == last - 1 and index == len(parts) - 1:
                        return True
            elif _segment_matches(segment, part):
                following.add(position + 1)
        at = _past_stars(following, segments)
        if not at:
            return False
    return last in at and segments[-1] != _STAR


def _past_stars(positions: set[int], segments: list[_Segment]) -> set[int]:
    """Add the positions behind each `**`, which may match nothing; at a pattern's end it must match something."""
    for position in sorted(positions):
        while position < len(segments) - 1 and segments[position] == _STAR:
            position += 1
            positions.add(position)
    return positions


def _segment_matches(segment: _Segment, part: str) -> bool:
    if isinstance(segment, str):
        return segment == part
    if part.startswith(".") and not (segment[0] is not None and segment[0][0] == "."):
        return False
    if not part:
        return False
    # Greedy, going back to the last star only: at worst the length of the name times that of the pattern.
    at = piece = 0
    star = -1
    mark = 0
    while at < len(part):
        if piece < len(segment) and segment[piece] is None:
            star, mark = piece, at
            piece += 1
        elif piece < len(segment) and _piece_matches(segment[piece], part[at]):
            piece += 1
            at += 1
        elif star >= 0:
            mark += 1
            piece, at = star + 1, mark
        else:
            return False
    return all(left is None for left in segment[piece:])


def _piece_matches(piece: _Piece, char: str) -> bool:
    assert piece is not None
    text, chars, ranges, negated = piece
    if text:
        return char == text
    return (char in chars or any(low <= char <= high for low, high in ranges)) != negated


def _segment(text: str) -> _Segment:
    if text == _STAR or not any(char in text for char in "*?[\\"):
        return text
    pieces: list[_Piece] = []
    at = 0
    while at < len(text):
        char = text[at]
        at += 1
        if char == "*":
            if not pieces or pieces[-1] is not None:
                pieces.append(None)
        elif char == "?":
            pieces.append(_ANY)
        elif char == "[" and (found := _class(text, at)) is not None:
            piece, at = found
            pieces.append(piece)
        else:
            if char == "\\" and at < len(text):
                char = text[at]
                at += 1
            pieces.append((char, frozenset(), (), False))
    if all(piece is not None and piece[0] for piece in pieces):
        return "".join(piece[0] for piece in pieces if piece is not None)
    return pieces


def _class(text: str, at: int) -> tuple[_Piece, int] | None:
    """Read `[...]` from behind its bracket; None when it is not closed and the bracket is plain text."""
    negated = text[at : at + 1] in ("!", "^")
    if negated:
        at += 1
    close = text.find("]", at + 1)
    if close < 0:
        return None
    body = text[at:close]
    chars: set[str] = set()
    ranges: list[tuple[str, str]] = []
    index = 0
    while index < len(body):
        if index + 2 < len(body) and body[index + 1] == "-":
            ranges.append((body[index], body[index + 2]))
            index += 3
        else:
            chars.add(body[index])
            index += 1
    return ("", frozenset(chars), tuple(ranges), negated), close + 1


def _braces(pattern: str) -> list[str]:
    """Expand `{a,b}` and what is nested in it."""
    if len(pattern) > _PATTERN_LONGEST:
        raise RemoteProtocolError("bad-request", f"expected a glob of at most {_PATTERN_LONGEST} characters, got more")
    done: list[str] = []
    todo = [pattern]
    while todo:
        if len(todo) + len(done) > _PATTERNS_MOST:
            raise RemoteProtocolError("bad-request", f"expected at most {_PATTERNS_MOST} globs, got more")
        text = todo.pop()
        group = _first_group(text)
        if group is None:
            done.append(text)
        else:
            before, choices, after = group
            todo += [before + choice + after for choice in reversed(choices)]
    return done


def _first_group(text: str) -> tuple[str, list[str], str] | None:
    """Find the first `{…}` that has a comma of its own."""
    opened: list[tuple[int, list[int]]] = []
    first: tuple[int, list[int], int] | None = None
    for at, char in enumerate(text):
        if char == "{":
            opened.append((at, []))
        elif char == "," and opened:
            opened[-1][1].append(at)
        elif char == "}" and opened:
            start, commas = opened.pop()
            if commas and (first is None or start < first[0]):
                first = (start, commas, at)
    if first is None:
        return None
    start, commas, close = first
    edges = [start, *commas, close]
    choices = [text[left + 1 : right] for left, right in pairwise(edges)]
    return text[:start], choices, text[close + 1 :]
