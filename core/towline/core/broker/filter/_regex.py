"""Regular expressions of rule files, read once when the rules are loaded and run in linear time.

What the language shares with JavaScript's is understood. What cannot be run in linear time (look-around,
back-references) is refused at load with its place; what is no regular expression at all never matches, as in
the established broker, and is reported as a warning.
"""

from __future__ import annotations

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
)

LONGEST: Final = 4_096
DEEPEST: Final = 50
MOST_TIMES: Final = 1_000

_DIGITS: Final[Ranges] = ((0x30, 0x39),)
_WORD: Final[Ranges] = ranges_of([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_SPACE: Final[Ranges] = ranges_of(
    (ord(char), ord(char))
    for char in "\t\n\v\f\r \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000\ufeff"
)
_ANY: Final[Ranges] = inverse(ranges_of([(10, 10), (13, 13), (0x2028, 0x2029)]))
_CLASSES: Final[dict[str, Ranges]] = {
    "d": _DIGITS,
    "D": inverse(_DIGITS),
    "w": _WORD,
    "W": inverse(_WORD),
    "s": _SPACE,
    "S": inverse(_SPACE),
}
_CONTROLS: Final[dict[str, int]] = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13, "0": 0}


class NotARegex(Exception):
    """The text is no regular expression. The place is in the message."""


def compile_regex(pattern: str) -> Automaton | None:
    """Return the pattern made ready, or None if it is no regular expression.

    Raises:  RemoteProtocolError of kind invalid-configuration, where it is one that cannot run in linear time
    """
    try:
        return Automaton(parse_regex(pattern))
    except NotARegex:
        return None


def parse_regex(pattern: str) -> Tree:
    """Return the pattern's tree.

    Raises:  NotARegex; RemoteProtocolError of kind invalid-configuration for what linear time rules out
    """
    if len(pattern) > LONGEST:
        raise _unsupported(pattern, f"longer than {LONGEST} characters")
    reader = _Reader(pattern)
    tree = reader.alternatives(0)
    if reader.at < len(pattern):
        raise NotARegex(f"unmatched ) at {reader.at}")
    return tree


def _unsupported(pattern: str, what: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        "invalid-configuration",
        f"expected a regular expression that runs in linear time, got {what} in {pattern[:80]!r}",
        hint="write the condition without look-around and back-references",
    )


class _Reader:
    """A recursive descent over one pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def peek(self, count: int = 1) -> str:
        return self.pattern[self.at : self.at + count]

    def take(self) -> str:
        if self.at >= len(self.pattern):
            raise NotARegex(f"ends too early at {self.at}")
        self.at += 1
        return self.pattern[self.at - 1]

    def alternatives(self, depth: int) -> Tree:
        if depth > DEEPEST:
            raise _unsupported(self.pattern, f"groups nested deeper than {DEEPEST}")
        options = [self.sequence(depth)]
        while self.peek() == "|":
            self.take()
            options.append(self.sequence(depth))
        return options[0] if len(options) == 1 else Either(tuple(options))

    def sequence(self, depth: int) -> Tree:
        parts: list[Tree] = []
        while self.peek() not in ("", "|", ")"):
            parts.append(self.repeated(self.atom(depth)))
        return Join(tuple(parts))

    def repeated(self, atom: Tree) -> Tree:
        mark = self.peek()
        if mark == "{":
            times = self.braces()
            if times is None:
                return atom
            least, most = times
        elif mark and mark in "*+?":
            self.take()
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[mark]
        else:
            return atom
        if isinstance(atom, Edge):
            raise NotARegex(f"nothing to repeat at {self.at}")
        if self.peek() == "?":
            self.take()  # lazy or greedy: the set of texts is the same
        if self.peek() and self.peek() in "*+?":
            raise NotARegex(f"nothing to repeat at {self.at}")
        return Repeat(atom, least, most)

    def braces(self) -> tuple[int, int | None] | None:
        """Read `{2}`, `{2,}` or `{2,5}`; None, and nothing read, if the brace is a plain character."""
        end = self.pattern.find("}", self.at)
        low, comma, high = self.pattern[self.at + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not (low.isascii() and low.isdigit()) or not (high == "" or (high.isascii() and high.isdigit())):
            return None
        if len(low) > 4 or len(high) > 4 or int(low) > MOST_TIMES or int(high or 0) > MOST_TIMES:
            raise _unsupported(self.pattern, f"a repetition of more than {MOST_TIMES} times")
        least = int(low)
        most = least if not comma else (int(high) if high else None)
        if most is not None and most < least:
            raise NotARegex(f"numbers out of order at {self.at}")
        self.at = end + 1
        return least, most

    def atom(self, depth: int) -> Tree:
        char = self.take()
        if char == "(":
            return self.group(depth)
        if char == "[":
            return One(self.char_class())
        if char == ".":
            return One(_ANY)
        if char == "^":
            return Edge("start")
        if char == "$":
            return Edge("end")
        if char == "\\":
            return One(self.escape(in_class=False))
        if char in "*+?":
            raise NotARegex(f"nothing to repeat at {self.at - 1}")
        if char == "{":
            self.at -= 1
            if self.braces() is not None:
                raise NotARegex("nothing to repeat")
            self.at += 1
        return One(((ord(char), ord(char)),))

    def group(self, depth: int) -> Tree:
        if self.peek(2) == "?:":
            self.at += 2
        elif self.peek(2) == "?<" and self.peek(3) not in ("?<=", "?<!"):
            end = self.pattern.find(">", self.at)
            if not self.pattern[self.at + 2 : end].isidentifier():
                raise NotARegex(f"invalid group name at {self.at}")
            self.at = end + 1
        elif self.peek(2) in ("?=", "?!") or self.peek(3) in ("?<=", "?<!"):
            raise _unsupported(self.pattern, "look-around")
        elif self.peek() == "?":
            raise NotARegex(f"invalid group at {self.at}")
        tree = self.alternatives(depth + 1)
        if self.at >= len(self.pattern):
            raise NotARegex("unterminated group")
        self.take()
        return tree

    def escape(self, *, in_class: bool) -> Ranges:
        char = self.take()
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS and not (char == "0" and self.peek().isdigit()):
            return ((_CONTROLS[char], _CONTROLS[char]),)
        if char in "xu":
            width = 2 if char == "x" else 4
            digits = self.peek(width)
            if len(digits) == width and all(digit in "0123456789abcdefABCDEF" for digit in digits):
                self.at += width
                return ((int(digits, 16), int(digits, 16)),)
        elif char == "b" and in_class:
            return ((8, 8),)
        elif char.isdigit() or char in "kbBpPc":
            raise _unsupported(self.pattern, f"\\{char}")
        return ((ord(char), ord(char)),)

    def char_class(self) -> Ranges:
        negated = self.peek() == "^"
        if negated:
            self.take()
        pieces: list[tuple[int, int]] = []
        while self.peek() != "]":
            low = self.class_member()
            if self.peek() == "-" and self.peek(2) not in ("-]", "-"):
                self.take()
                high = self.class_member()
                if len(low) != 1 or low[0][0] != low[0][1] or len(high) != 1 or high[0][0] != high[0][1]:
                    pieces += [*low, *high, (0x2D, 0x2D)]
                    continue
                if high[0][0] < low[0][0]:
                    raise NotARegex(f"range out of order at {self.at}")
                pieces.append((low[0][0], high[0][0]))
            else:
                pieces += low
        self.take()
        ranges = ranges_of(pieces)
        return inverse(ranges) if negated else ranges

    def class_member(self) -> Ranges:
        char = self.take()
        return self.escape(in_class=True) if char == "\\" else ((ord(char), ord(char)),)
