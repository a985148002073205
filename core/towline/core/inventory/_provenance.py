"""How an image was built, from the statements that its builder attests beside it (scan.md §1.5).

Source:  in-toto Statement; SLSA provenance v0.2 and v1; BuildKit's own metadata within them
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any, Final

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import strict_json
from towline.core._limits import LIMITS, Limits
from towline.core.inventory._redact import STRUCK, looks_secret, strike_command

_V02: Final = "https://slsa.dev/provenance/v0.2"
_V1: Final = "https://slsa.dev/provenance/v1"
PROVENANCE_TYPES: Final = frozenset((_V02, _V1))
"""The predicate types that are read."""

_BUILDKIT_V02: Final = "https://mobyproject.org/buildkit@v1#metadata"
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
# No address and no name is longer; a Dockerfile of that length would be the largest part of a result.
_LONGEST: Final = 4 * 1024
_LONGEST_FILE: Final = 256 * 1024
# A variable or label with a blank instead of `=`: the rest of the line, and of those it goes on to, is its value.
_WITH_A_BLANK: Final = re.compile(
    r"(?im)^([ \t]*(?:ENV|LABEL)[ \t]+)([\w.-]{1,256})([ \t]+)([^\s=][^\n]*(?:(?:(?<=\\)|(?<=\\\r))\n[^\n]*)*)"
)


class DockerfileMetadata(msgspec.Struct, frozen=True):
    """The file the image was built from; `contents` in base64."""

    name: str | None
    contents: str | None


class Provenance(msgspec.Struct, frozen=True, rename="camel"):
    """What one statement says of an image's build; None where it says nothing that can be used."""

    build_timestamp: str | None
    build_config_digest: str | None
    build_config_digest_source: str | None
    attested_manifest_digest: str
    attestation_manifest_digest: str
    build_config_source_uri: str | None
    builder_id: str | None
    build_type: str | None
    dockerfile_metadata: DockerfileMetadata


def parse_provenance(
    raw: bytes, attested: str, attestation: str, *, named: bool = True, limits: Limits = LIMITS
) -> Provenance | None:
    """Read a statement about the manifest `attested`, found in the manifest `attestation`.

    None for a statement of another kind; and where nothing outside it has `named` the manifest, for one whose
    subjects are others.

    Bounds:  LIMITS.provenance_document
    Raises:  protocol-error for what is no statement
    """
    what = "statement of provenance"
    if len(raw) > limits.provenance_document:
        raise RemoteProtocolError(
            "protocol-error", f"{what}: expected at most {limits.provenance_document} bytes, got {len(raw)}"
        )
    statement = strict_json(raw, what, limits=limits)
    kind = _at(statement, "predicateType")
    predicate = _at(statement, "predicate")
    if not isinstance(kind, str):
        raise RemoteProtocolError("protocol-error", f"{what}: expected a predicateType")
    if kind not in PROVENANCE_TYPES or not (named or _is_about(statement, attested)):
        return None
    if not isinstance(predicate, dict):
        raise RemoteProtocolError("protocol-error", f"{what}: expected an object as predicate")
    if kind == _V02:
        source = _at(predicate, "invocation", "configSource")
        builder, build_type, entry = _at(predicate, "builder", "id"), _at(predicate, "buildType"), "entryPoint"
        started = _at(predicate, "metadata", "buildStartedOn")
        buildkit = _at(predicate, "metadata", _BUILDKIT_V02)
    else:
        source = _at(predicate, "buildDefinition", "externalParameters", "configSource")
        builder, build_type = (
            _at(predicate, "runDetails", "builder", "id"),
            _at(predicate, "buildDefinition", "buildType"),
        )
        entry = "path"
        started = _at(predicate, "runDetails", "metadata", "startedOn")
        buildkit = _at(predicate, "runDetails", "metadata", "buildkit_metadata")
    digest, digest_source = _config_digest(source, buildkit)
    return Provenance(
        build_timestamp=_text(started),
        build_config_digest=digest,
        build_config_digest_source=digest_source,
        attested_manifest_digest=attested,
        attestation_manifest_digest=attestation,
        build_config_source_uri=_text(_at(source, "uri")) or _text(_at(buildkit, "vcs", "source")),
        builder_id=_text(builder),
        build_type=_text(build_type),
        dockerfile_metadata=_dockerfile(_text(_at(source, entry)), _at(buildkit, "source", "infos")),
    )


def strike_provenance(entry: Provenance) -> Provenance:
    """Return the entry with what looks like a secret struck out of its addresses and its Dockerfile."""
    file = entry.dockerfile_metadata
    if file.contents is not None:
        text = base64.b64decode(file.contents).decode("utf-8", "surrogateescape")
        struck = strike_command(_WITH_A_BLANK.sub(_strike_old_form, text)).encode("utf-8", "surrogateescape")
        file = msgspec.structs.replace(file, contents=base64.b64encode(struck).decode("ascii"))
    return msgspec.structs.replace(
        entry,
        build_config_source_uri=_struck(entry.build_config_source_uri),
        builder_id=_struck(entry.builder_id),
        dockerfile_metadata=file,
    )


def _config_digest(source: Any, buildkit: Any) -> tuple[str | None, str | None]:
    """The commit that the build was told to fetch, else the one the builder's own folder was at.

    A builder marks a folder with changes by a suffix; what was built there is no commit's.
    """
    for commit, where in ((_at(source, "digest", "sha1"), "remote"), (_at(buildkit, "vcs", "revision"), "local")):
        if isinstance(commit, str) and _COMMIT.fullmatch(commit):
            return f"sha1:{commit}", where
    return None, None


def _dockerfile(name: str | None, infos: Any) -> DockerfileMetadata:
    """The file of this name among the builder's sources, by its last part if need be; without a name the first."""
    files: dict[str, str | None] = {}
    for info in infos if isinstance(infos, list) else ():
        filename = _text(_at(info, "filename"))
        if filename:
            files.setdefault(filename, _base64(_at(info, "data")))
    name = name or next(iter(files), None)
    if name is None:
        return DockerfileMetadata(None, None)
    return DockerfileMetadata(name, files.get(name) or files.get(name.rpartition("/")[2]))


def _is_about(statement: Any, manifest: str) -> bool:
    algorithm, _, encoded = manifest.partition(":")
    subjects = _at(statement, "subject")
    digests = [_at(one, "digest", algorithm) for one in subjects] if isinstance(subjects, list) else []
    return not any(digests) or encoded in digests


def _at(value: Any, *path: str) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str | None:
    """Return a text that JSON can carry, of a length that an address or a name has."""
    if not isinstance(value, str) or len(value) > _LONGEST:
        return None
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _base64(value: Any) -> str | None:
    if not isinstance(value, str) or len(value) > _LONGEST_FILE:
        return None
    try:
        return base64.b64encode(base64.b64decode(value, validate=True)).decode("ascii")
    except (binascii.Error, ValueError):
        return None


def _strike_old_form(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]}{found[3]}{STRUCK}" if looks_secret(found[2]) else found[0]


def _struck(text: str | None) -> str | None:
    return None if text is None else strike_command(text)
