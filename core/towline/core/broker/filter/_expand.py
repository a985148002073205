"""`${VAR}` in rules and in the texts that the far side asks to have filled in (broker-protocol.md §3.4)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from towline.core._secret import Secret

Variables: TypeAlias = Mapping[str, str | Secret]

POOL: Final = "_POOL"

_PLACEHOLDER: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def reveal(value: str | Secret) -> str:
    """Return a variable's text. Only for what goes on the wire."""
    return value.reveal() if isinstance(value, Secret) else value


def entries_of(name: str, variables: Variables) -> tuple[Secret, ...]:
    """Return what a variable may stand for: the entries of `NAME_POOL` where there are some, else its one value."""
    pool = reveal(variables.get(name + POOL, ""))
    entries = tuple(Secret(entry) for part in pool.split(",") if (entry := part.strip()))
    value = reveal(variables.get(name, ""))
    return entries or ((Secret(value),) if value else ())


def names_in(text: str) -> list[str]:
    """Return the variables that a text names, in order."""
    return _PLACEHOLDER.findall(text)


def expand(text: str, variables: Variables) -> str:
    """Return an operator's text with its variables filled in; unknown ones are empty."""
    return _PLACEHOLDER.sub(lambda found: reveal(variables.get(found[1], "")), text)


def expand_listed(text: str, variables: Variables) -> str:
    """Return a far side's text with the given variables filled in, and every other placeholder as it stands."""
    return _PLACEHOLDER.sub(lambda found: reveal(variables.get(found[1], found[0])), text)
