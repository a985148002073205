"""Secrets struck out of what an image says of itself: environment, labels, and the commands of its history.

Judged by name (`TOKEN=…`, `--password …`) and by the value's own form (cloud keys, tokens of known services, private
keys, a password in a URL). It is a net and not a promise; it is on unless turned off. Linear in the text: the regular
expressions have no two ways to match, and words are walked once.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

STRUCK: Final = "***"

_WORDS: Final = frozenset(
    (
        *("token", "accesstoken", "authtoken", "jwt", "bearer", "pat"),
        *("password", "passwd", "passphrase", "pass", "pwd"),
        *("secret", "secrets", "credential", "credentials", "creds"),
        *("apikey", "accesskey", "secretkey", "privatekey", "authkey"),
    )
)
_KINDS_OF_KEY: Final = ("api", "access", "secret", "private", "auth", "encryption", "signing", "master", "account")
_PAIRS: Final = frozenset((kind, key) for kind in _KINDS_OF_KEY for key in ("key", "keys"))
# A file, a folder or an address that holds or gives a secret is none; nor is a shell's own PWD.
_PLACES: Final = frozenset(
    ("file", "path", "dir", "url", "uri", "host", "name", "id", "type", "length", "ttl", "expiry", "timeout")
)
_SHELL: Final = frozenset(("PWD", "OLDPWD"))

_SPLIT: Final = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])")
_FORMS: Final = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{30,255}"
    r"|\bgithub_pat_[A-Za-z0-9_]{22,255}"
    r"|\bglpat-[A-Za-z0-9_-]{20,64}"
    r"|\bxox[abeoprs]-[A-Za-z0-9-]{10,250}"
    r"|\bsk_live_[A-Za-z0-9]{16,128}"
    r"|\bAIza[A-Za-z0-9_-]{35}"
    r"|\bnpm_[A-Za-z0-9]{36}\b"
    r"|\bdckr_pat_[A-Za-z0-9_-]{20,64}"
    r"|\beyJ[A-Za-z0-9_-]{8,256}\.eyJ[A-Za-z0-9_.-]*"
    r"|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----"
)
_PRIVATE_KEY: Final = "PRIVATE KEY-----"
_USERINFO: Final = re.compile(r"(?<=://)([^\s/@:\"']{0,256}):([^\s/@\"']{1,1024})@")
_NAME: Final = re.compile(r"(?<![\w.-])([\w.-]{1,256})(=|[ \t]+)")
_BARE: Final = re.compile(r"[^\s;&|]*")


def looks_secret(name: str) -> bool:
    """Whether a variable, label or flag of this name holds a secret."""
    if name in _SHELL:
        return False
    words = [word.lower() for word in _SPLIT.split(name) if word]
    if not words or words[-1] in _PLACES:
        return False
    return not _WORDS.isdisjoint(words) or any(pair in _PAIRS for pair in pairwise(words))


def strike_value(name: str, value: str) -> str:
    """Return a named value, or `***` where the name says that it is a secret."""
    return STRUCK if value and looks_secret(name) else strike_forms(value)


def strike_variable(text: str) -> str:
    """Return `NAME=value` with the value struck out if it is a secret."""
    name, equals, value = text.partition("=")
    return f"{name}={strike_value(name, value)}" if equals else strike_forms(text)


def strike_forms(text: str) -> str:
    """Strike out what has the form of a secret, whatever its name."""
    if _PRIVATE_KEY in text:
        # Its body goes on to an end mark that may have been cut: nothing of it is worth keeping.
        at = text.find("-----BEGIN ")
        text = text[: max(at, 0)] + STRUCK
    return _USERINFO.sub(rf"\1:{STRUCK}@", _FORMS.sub(STRUCK, text))


def strike_command(text: str) -> str:
    """Strike secrets out of a build instruction: values of variables and flags whose names say so, and known forms."""
    out: list[str] = []
    at = 0
    open_quotes: dict[str, bool] = {}
    while (found := _NAME.search(text, at)) is not None:
        out.append(text[at : found.end()])
        at = found.end()
        is_flag = found[1].startswith("-")
        if (found[2] != "=" and not is_flag) or not looks_secret(found[1].strip("-.")):
            # A name may itself follow a blank: `--user x TOKEN=y`. Only what was matched is passed over.
            continue
        end = _value_end(text, at, open_quotes)
        if end > at:
            out.append(STRUCK)
            at = end
    out.append(text[at:])
    return strike_forms("".join(out))


def _value_end(text: str, at: int, open_quotes: dict[str, bool]) -> int:
    """Find where a value ends: at its closing quote, or where the word does."""
    quote = text[at : at + 1]
    if quote in ('"', "'") and not open_quotes.get(quote):
        close = text.find(quote, at + 1)
        if close >= 0:
            return close + 1
        open_quotes[quote] = True  # there is no closing one further on, either
    bare = _BARE.match(text, at)
    return bare.end() if bare is not None else at
