"""A regular expression of a rule beside Python's own: what both can read they match alike.

Lines: the pattern, the text. Python's goes back and forth, so the text is short.
"""

from __future__ import annotations

import re
import warnings

from fuzz.harness import BrokenPromise, refused_or_taken
from towline.core.broker.filter._regex import compile_regex

LONGEST_PATTERN, LONGEST_TEXT = 24, 8
# What the two languages write alike and mean alike; classes and escapes are compared where they are plain.
COMMON = re.compile(r"[a-z0-9 .|()?*+^$-]*|\[\^?[a-z0-9]+\][a-z0-9.?*+]*", re.ASCII)


def run(data: bytes) -> None:
    pattern, _, text = data.decode("latin-1").partition("\n")
    ours = refused_or_taken(lambda: compile_regex(pattern))
    if ours is None:
        return
    found = ours.matches([ord(character) for character in text[:256]])
    if len(pattern) > LONGEST_PATTERN or not COMMON.fullmatch(pattern):
        return
    text = text[:LONGEST_TEXT]
    if "\n" in text or "\r" in text or not text.isascii():
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            theirs = re.compile(pattern, re.ASCII)
    except (re.error, FutureWarning, DeprecationWarning, OverflowError):
        return
    found = ours.matches([ord(character) for character in text])
    if found != bool(theirs.fullmatch(text)):
        raise BrokenPromise(f"{pattern!r} and {text!r}: we say {found}")
