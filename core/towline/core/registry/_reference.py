"""Image references: `[host/]path[:tag][@digest]`, with Docker's normalisation, read by hand in one pass.

The grammar is that of distribution/reference. No regular expressions: the text comes from users and from
the far side of a tunnel, and a scan by character cannot be made to backtrack.
"""

from __future__ import annotations

from typing import Final, Literal

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core.registry._digest import HEX_LENGTH, is_digest, shown

Fault = Literal["empty", "format", "uppercase", "identifier", "too-long", "digest-format", "digest-algorithm"]

LONGEST_PATH: Final = 255
LONGEST_TAG: Final = 128
# A host name has at most 253 characters, a port 5, a digest about 140: more is no reference.
LONGEST_TEXT: Final = 1024

DOCKER_DOMAIN: Final = "docker.io"
DOCKER_API_HOST: Final = "registry-1.docker.io"
OFFICIAL: Final = "library/"

_LOWER: Final = frozenset("abcdefghijklmnopqrstuvwxyz")
_UPPER: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGIT: Final = frozenset("0123456789")
_ALNUM: Final = _LOWER | _DIGIT
_LETTER_DIGIT: Final = _ALNUM | _UPPER
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_WORD: Final = _LETTER_DIGIT | {"_"}
_TAG: Final = _WORD | {".", "-"}


class InvalidReference(RemoteProtocolError):
    """Not an image reference. `fault` names the rule it breaks."""

    def __init__(self, fault: Fault, message: str, *, hint: str | None = None) -> None:
        super().__init__("invalid-reference", message, hint=hint)
        self.fault: Fault = fault


class ImageReference(Record, frozen=True):
    """Where an image is and which: host, repository path, tag and digest. The digest wins for fetching."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> ImageReference:
        """Read a reference as `docker pull` would.

        Raises:  InvalidReference
        Source:  distribution/reference, ParseNormalizedNamed
        """
        if not text:
            raise InvalidReference("empty", "expected an image reference, got nothing")
        if len(text) > LONGEST_TEXT:
            raise InvalidReference("too-long", f"expected at most {LONGEST_TEXT} characters, got {len(text)}")
        if len(text) == HEX_LENGTH["sha256"] and _HEX.issuperset(text) and text == text.lower():
            raise InvalidReference(
                "identifier", f"expected a name, got 64 hexadecimal digits: {shown(text)}", hint="write name@sha256:…"
            )
        authority, slash, _ = text.partition("/")
        if slash and "@" in authority:
            # What stands before the host is a login, and is not repeated.
            raise InvalidReference("format", "expected [host/]path[:tag][@digest], got a login before the host")
        domain, rest = _split_domain(text)
        path = rest.partition(":")[0].partition("@")[0]
        if _UPPER.intersection(path):
            raise InvalidReference("uppercase", f"expected a repository name in lower case, got {shown(text)}")
        name, tag, digest = _split_name(rest, text)
        if not is_domain(domain) or not is_path(name):
            raise InvalidReference("format", f"expected [host/]path[:tag][@digest], got {shown(text)}")
        if len(name) > LONGEST_PATH:
            raise InvalidReference(
                "too-long", f"expected a repository name of at most {LONGEST_PATH} characters, got {len(name)}"
            )
        if digest is not None:
            _check_digest(digest)
        return cls(domain, name, tag, digest)

    @classmethod
    def from_user(cls, text: str) -> ImageReference:
        """Read a reference as people paste it: with blanks around it, or with `docker://` before it."""
        return cls.parse(text.strip().removeprefix("docker://"))

    @property
    def name(self) -> str:
        """The full name: domain and path."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The name as people write it: without docker.io, and without `library/` there."""
        if self.domain != DOCKER_DOMAIN:
            return self.name
        short = self.path.removeprefix(OFFICIAL)
        return short if "/" not in short else self.path

    @property
    def api_host(self) -> str:
        """The host (and port) that serves the API; docker.io is a name, not a server."""
        return DOCKER_API_HOST if self.domain == DOCKER_DOMAIN else self.domain

    @property
    def default_tag_applies(self) -> bool:
        """True when neither tag nor digest was written, so that `latest` is meant."""
        return self.tag is None and self.digest is None

    @property
    def reference(self) -> str:
        """What to ask the manifests endpoint for."""
        return self.digest or self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def is_path(text: str) -> bool:
    """Tell whether a text is a repository path: components of lower-case letters and digits, joined by `/`."""
    return all(_is_component(component) for component in text.split("/"))


def is_repository(item: object) -> bool:
    """Tell whether an item of a list is a repository's name."""
    return isinstance(item, str) and 0 < len(item) <= LONGEST_PATH and is_path(item)


def is_tag(text: str) -> bool:
    """Tell whether a text is a tag."""
    return 0 < len(text) <= LONGEST_TAG and text[0] in _WORD and _TAG.issuperset(text)


def is_domain(text: str) -> bool:
    """Tell whether a text is a host with an optional port, in the reference grammar."""
    if text.startswith("["):
        address, bracket, port = text[1:].partition("]")
        if not bracket or not address or not (_HEX | {":"}).issuperset(address):
            return False
        return not port or (port[0] == ":" and _is_port(port[1:]))
    host, colon, port = text.partition(":")
    if colon and not _is_port(port):
        return False
    return all(
        label and label[0] != "-" and label[-1] != "-" and (_LETTER_DIGIT | {"-"}).issuperset(label)
        for label in host.split(".")
    )


def check_repository(name: str) -> str:
    """Return a repository name that may stand in a URL; raise `invalid-name` otherwise."""
    if not name or len(name) > LONGEST_PATH or not is_path(name):
        raise RemoteProtocolError("invalid-name", f"expected a repository name in lower case, got {shown(name)}")
    return name


def check_reference(reference: str) -> str:
    """Return a tag or digest that may stand in a URL; raise `invalid-reference` otherwise."""
    if not is_tag(reference) and not is_digest(reference):
        raise RemoteProtocolError("invalid-reference", f"expected a tag or a digest, got {shown(reference)}")
    return reference


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost" or first != first.lower()):
        first, rest = DOCKER_DOMAIN, text
    if first == "index.docker.io":
        first = DOCKER_DOMAIN
    if first == DOCKER_DOMAIN and "/" not in rest:
        rest = OFFICIAL + rest
    return first, rest


def _split_name(rest: str, text: str) -> tuple[str, str | None, str | None]:
    rest, at, digest = rest.partition("@")
    name, colon, tag = rest.partition(":")
    if colon and not is_tag(tag):
        raise InvalidReference(
            "format", f"expected a tag of letters, digits, '_', '.' and '-' (at most {LONGEST_TAG}), got {shown(text)}"
        )
    if at and not _looks_like_digest(digest):
        raise InvalidReference("format", f"expected algorithm:hex after '@', got {shown(text)}")
    return name, tag if colon else None, digest if at else None


def _is_component(text: str) -> bool:
    # alnum+ (separator alnum+)*, where a separator is '.', '_', '__' or any number of '-'.
    at, size = 0, len(text)
    while True:
        start = at
        while at < size and text[at] in _ALNUM:
            at += 1
        if at == start:
            return False
        if at == size:
            return True
        if text[at] == ".":
            at += 1
        elif text[at] == "_":
            at += 2 if text.startswith("__", at) else 1
        elif text[at] == "-":
            while at < size and text[at] == "-":
                at += 1
        else:
            return False


def _is_port(text: str) -> bool:
    return bool(text) and _DIGIT.issuperset(text)


def _looks_like_digest(text: str) -> bool:
    # The reference grammar asks less than a digest must hold: any algorithm, 32 or more digits of either case.
    algorithm, colon, encoded = text.partition(":")
    if not colon or len(encoded) < 32 or not _HEX.issuperset(encoded):
        return False
    for separator in "+.-_":
        algorithm = algorithm.replace(separator, " ")
    return all(part and part[0] in _LOWER | _UPPER and _LETTER_DIGIT.issuperset(part) for part in algorithm.split(" "))


def _check_digest(digest: str) -> None:
    algorithm = digest.partition(":")[0]
    if algorithm not in HEX_LENGTH:
        raise InvalidReference("digest-algorithm", f"expected {' or '.join(HEX_LENGTH)}, got {shown(algorithm)}")
    if not is_digest(digest):
        raise InvalidReference(
            "digest-format", f"expected {HEX_LENGTH[algorithm]} lower-case hexadecimal digits, got {shown(digest)}"
        )
