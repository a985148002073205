"""The agent's paths as one table, and the parts of a request that come before its body (agent.md §5.1, §5.2)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core.registry import is_digest, is_path, is_tag


class Route(Record, frozen=True):
    """What is asked for: the row's name, and the rest of the path where the row takes one."""

    name: str
    rest: str = ""
    deep: bool = False


# (method, path) → name; a path that ends in `/*` takes a rest with slashes in it.
ROUTES: Final[dict[tuple[str, str], str]] = {
    ("GET", "/healthcheck"): "health",
    ("GET", "/ready"): "ready",
    ("GET", "/capabilities"): "capabilities",
    ("GET", "/systemcheck"): "systemcheck",
    ("GET", "/validate-credentials"): "validate",
    ("GET", "/list"): "list-repositories",
    ("GET", "/list/*"): "list-tags",
    ("GET", "/list-paginated"): "page-repositories",
    ("GET", "/list-paginated/*"): "page-tags",
    ("GET", "/list-with-metadata/*"): "list-details",
    ("GET", "/image-metadata/*"): "image-metadata",
    ("GET", "/get-state-identifier"): "state-identifier",
    ("POST", "/scan"): "scan",
    ("POST", "/discover"): "discover",
    ("GET", "/jobs"): "list-jobs",
    ("GET", "/jobs/*"): "show-job",
    ("DELETE", "/jobs/*"): "cancel-job",
    ("POST", "/jobs/*"): "redeliver-job",
}
# No registry, no secret and no caller's proof is needed for these.
OPEN_ROUTES: Final = frozenset({"health", "ready"})

# Characters of a path segment that need no reading, and `%`, which must begin a triplet.
_PATH: Final = re.compile(r"/(?:[A-Za-z0-9._~:@!$&'()*+,;=/-]|%[0-9A-Fa-f]{2})*")
_NAME_LENGTH: Final = 255
_PLATFORM: Final = re.compile(r"[a-z0-9._-]{1,64}/[a-z0-9._-]{1,64}(?:/[a-z0-9._-]{1,64})?")


def find_route(method: str, path: str) -> Route:
    """Return the row for a request.

    HEAD finds GET's row. A trailing slash is not significant.
    Raises:  RemoteProtocolError("not-found" | "method-not-allowed" | "bad-request")
    """
    if not _PATH.fullmatch(path):
        raise RemoteProtocolError("bad-request", "expected a path of printable characters and %-triplets")
    asked = "GET" if method == "HEAD" else method
    bare = path.rstrip("/") or "/"
    head, slash, rest = bare[1:].partition("/")
    pattern = f"/{head}/*" if slash else bare
    if name := ROUTES.get((asked, pattern)):
        return Route(name, rest)
    allowed = sorted(verb for verb, known in ROUTES if known == pattern)
    if allowed:
        raise RemoteProtocolError("method-not-allowed", f"this path takes {', '.join(allowed)}")
    raise RemoteProtocolError(
        "not-found", "the agent has nothing at this path", hint="GET /capabilities lists the paths"
    )


def repository_name(text: str, *, encoded: bool = False) -> str:
    """Return a repository's name, checked. `encoded` undoes the percent encoding of a path once (`%2F` is a slash).

    Raises:  RemoteProtocolError("invalid-name")
    """
    name = _decoded(text, "invalid-name") if encoded else text
    if not name:
        raise RemoteProtocolError("invalid-name", "expected a repository name, got nothing")
    if len(name) > _NAME_LENGTH:
        raise RemoteProtocolError("invalid-name", f"expected at most {_NAME_LENGTH} characters, got {len(name)}")
    if not is_path(name):
        raise RemoteProtocolError(
            "invalid-name",
            "expected components of a-z, 0-9 and single separators (. _ __ -) between slashes",
            hint="repository names are lower case, without tag, host or spaces",
        )
    return name


def image_reference(text: str) -> str:
    """Return a tag or digest, checked.

    Raises:  RemoteProtocolError("invalid-reference")
    """
    if ":" in text:
        if is_digest(text):
            return text
        raise RemoteProtocolError("invalid-reference", "expected sha256: or sha512: and lower-case hex digits")
    if not is_tag(text):
        raise RemoteProtocolError("invalid-reference", "expected a tag of 1 to 128 of A-Z a-z 0-9 . _ -, or a digest")
    return text


def platform_name(text: str) -> str:
    """Return os/architecture[/variant], checked.

    Raises:  RemoteProtocolError("bad-request")
    """
    if not _PLATFORM.fullmatch(text):
        raise RemoteProtocolError("bad-request", "expected a platform as os/architecture[/variant]")
    return text


def one(query: Sequence[tuple[str, str]], name: str) -> str | None:
    """Return a query parameter that may come once, or None.

    Raises:  RemoteProtocolError("bad-request") when it came twice
    """
    values = [value for key, value in query if key == name]
    if len(values) > 1:
        raise RemoteProtocolError("bad-request", f"the parameter {name} came {len(values)} times")
    return values[0] if values else None


def number(query: Sequence[tuple[str, str]], name: str, least: int, most: int) -> int | None:
    """Return a query parameter that is a whole number in a range, or None.

    Raises:  RemoteProtocolError("bad-request")
    """
    text = one(query, name)
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise RemoteProtocolError("bad-request", f"expected {name} to be a whole number from {least} to {most}")
    return int(text)


def switch(query: Sequence[tuple[str, str]], name: str) -> bool:
    """Return whether a query parameter is `true` (or `1`).

    Raises:  RemoteProtocolError("bad-request") for anything but true, false, 1, 0
    """
    text = (one(query, name) or "false").lower()
    if text not in ("true", "false", "1", "0"):
        raise RemoteProtocolError("bad-request", f"expected {name} to be true or false")
    return text in ("true", "1")


class ListQuery(Record, frozen=True):
    """How much of a list is wanted: `after` is the last item that the asker has."""

    limit: int | None = None
    after: str | None = None
    prefix: str = ""
    strict: bool = False
    by_version: bool = False


def list_query(query: Sequence[tuple[str, str]], *, default_limit: int | None = None) -> ListQuery:
    """Read what `/list` and `/list-paginated` take.

    A cursor is the last item's name in hex. It is compared, never followed, so it needs no signature.
    Raises:  RemoteProtocolError("bad-request")
    """
    cursor = one(query, "cursor")
    after = None
    if cursor:
        try:
            after = bytes.fromhex(cursor).decode()
        except ValueError:
            raise RemoteProtocolError("bad-request", "expected the nextCursor of an earlier answer as cursor") from None
    sort = one(query, "sort")
    if sort not in (None, "", "name", "version"):
        raise RemoteProtocolError("bad-request", "expected sort to be name or version")
    limit = number(query, "limit", 1, 1000)
    return ListQuery(
        limit=default_limit if limit is None else limit,
        after=after,
        prefix=one(query, "prefix") or "",
        strict=switch(query, "strict"),
        by_version=sort == "version",
    )


class StateQuery(Record, frozen=True):
    repository: str
    reference: str
    platform: str | None = None


def state_query(query: Sequence[tuple[str, str]]) -> StateQuery:
    """Read what `/get-state-identifier` takes.

    Raises:  RemoteProtocolError("invalid-name" | "invalid-reference" | "bad-request")
    """
    platform = one(query, "platform")
    return StateQuery(
        repository_name(one(query, "repository") or ""),
        image_reference(one(query, "reference") or ""),
        platform_name(platform) if platform else None,
    )


def image_query(rest: str, query: Sequence[tuple[str, str]]) -> StateQuery:
    """Read what `/image-metadata/REPOSITORY/REFERENCE` takes.

    Raises:  RemoteProtocolError("invalid-name" | "invalid-reference" | "bad-request")
    """
    repository, _, reference = rest.rpartition("/")
    platform = one(query, "platform")
    return StateQuery(
        repository_name(repository, encoded=True),
        image_reference(_decoded(reference, "invalid-reference")),
        platform_name(platform) if platform else None,
    )


def job_query(query: Sequence[tuple[str, str]], states: Sequence[str]) -> tuple[str | None, int, int]:
    """Read what `/jobs` takes: a state or None, a limit, and the number after which to go on.

    Raises:  RemoteProtocolError("bad-request")
    """
    state = one(query, "state") or None
    if state is not None and state not in states:
        raise RemoteProtocolError("bad-request", "expected state to be one of " + ", ".join(states))
    return state, number(query, "limit", 1, 1000) or 100, number(query, "cursor", 0, 999_999_999) or 0


def _decoded(text: str, kind: str) -> str:
    try:
        return unquote_to_bytes(text).decode("ascii")
    except UnicodeDecodeError:
        raise RemoteProtocolError(kind, "expected ASCII characters in the path") from None
