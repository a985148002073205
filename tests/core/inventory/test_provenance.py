"""Statements of provenance: the entry that is made of each form, and what is refused or passed over."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from towline.core import LIMITS, Limits, RemoteProtocolError
from towline.core.inventory import ImageFacts, ScanOptions, parse_provenance, take_inventory
from towline.core.inventory._provenance import strike_provenance
from towline.core.layer import merge

MANIFEST = "sha256:" + "1" * 64
ATTESTATION = "sha256:" + "2" * 64
COMMIT = "0123456789abcdef0123456789abcdef01234567"
V02 = "https://slsa.dev/provenance/v0.2"
V1 = "https://slsa.dev/provenance/v1"
DOCKERFILE = base64.b64encode(b"FROM alpine:3.18\n").decode()


def v02(source: Any = None, buildkit: Any = None, **more: Any) -> dict[str, Any]:
    metadata = {"buildStartedOn": "2024-01-01T00:00:00Z", "https://mobyproject.org/buildkit@v1#metadata": buildkit}
    return {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": V02,
        "predicate": {
            "builder": {"id": "https://ci.example/7"},
            "buildType": "https://mobyproject.org/buildkit@v1",
            "invocation": {"configSource": source},
            "metadata": metadata,
        },
        **more,
    }


def v1(source: Any = None, buildkit: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": V1,
        "predicate": {
            "buildDefinition": {
                "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
                "externalParameters": {"configSource": source},
            },
            "runDetails": {
                "builder": {"id": "https://ci.example/8"},
                "metadata": {"startedOn": "2025-01-01T00:00:00Z", "buildkit_metadata": buildkit},
            },
        },
        **more,
    }


def wire(statement: Any, *, named: bool = True, limits: Limits = LIMITS) -> Any:
    raw = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    return msgspec.to_builtins(parse_provenance(raw, MANIFEST, ATTESTATION, named=named, limits=limits))


def infos(*files: tuple[str, str | None]) -> dict[str, Any]:
    return {"source": {"infos": [{"filename": name, "data": data} for name, data in files]}}


def test_slsa_v02() -> None:
    source = {"uri": "https://git.example/a.git#main", "digest": {"sha1": COMMIT}, "entryPoint": "Dockerfile"}
    entry = wire(v02(source, infos(("Dockerfile", DOCKERFILE))))
    assert list(entry.items()) == [
        ("buildTimestamp", "2024-01-01T00:00:00Z"),
        ("buildConfigDigest", f"sha1:{COMMIT}"),
        ("buildConfigDigestSource", "remote"),
        ("attestedManifestDigest", MANIFEST),
        ("attestationManifestDigest", ATTESTATION),
        ("buildConfigSourceUri", "https://git.example/a.git#main"),
        ("builderId", "https://ci.example/7"),
        ("buildType", "https://mobyproject.org/buildkit@v1"),
        ("dockerfileMetadata", {"name": "Dockerfile", "contents": DOCKERFILE}),
    ]


def test_slsa_v1() -> None:
    source = {"uri": "https://git.example/a.git#main", "digest": {"sha1": COMMIT}, "path": "deploy/Dockerfile"}
    entry = wire(v1(source, infos(("Dockerfile", DOCKERFILE))))
    assert entry == {
        "buildTimestamp": "2025-01-01T00:00:00Z",
        "buildConfigDigest": f"sha1:{COMMIT}",
        "buildConfigDigestSource": "remote",
        "attestedManifestDigest": MANIFEST,
        "attestationManifestDigest": ATTESTATION,
        "buildConfigSourceUri": "https://git.example/a.git#main",
        "builderId": "https://ci.example/8",
        "buildType": "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md",
        "dockerfileMetadata": {"name": "deploy/Dockerfile", "contents": DOCKERFILE},
    }


@pytest.mark.parametrize("form", [v02, v1])
def test_a_folder_under_version_control(form: Any) -> None:
    vcs = {"vcs": {"source": "https://git.example/a", "revision": COMMIT}}
    entry = wire(form({"entryPoint": "Dockerfile", "path": "Dockerfile"}, vcs))
    assert entry["buildConfigDigest"] == f"sha1:{COMMIT}"
    assert entry["buildConfigDigestSource"] == "local"
    assert entry["buildConfigSourceUri"] == "https://git.example/a"
    assert entry["dockerfileMetadata"] == {"name": "Dockerfile", "contents": None}
    vcs["vcs"]["revision"] += "-dirty"
    entry = wire(form(None, vcs))
    assert entry["buildConfigDigest"] is None
    assert entry["buildConfigDigestSource"] is None


@pytest.mark.parametrize("form", [V02, V1])
@pytest.mark.parametrize("predicate", [{}, {"builder": [], "runDetails": 1, "metadata": "x", "invocation": None}])
def test_what_a_statement_does_not_say_is_null(form: str, predicate: Any) -> None:
    entry = wire({"predicateType": form, "predicate": predicate})
    assert entry.pop("attestedManifestDigest") == MANIFEST
    assert entry.pop("attestationManifestDigest") == ATTESTATION
    assert entry.pop("dockerfileMetadata") == {"name": None, "contents": None}
    assert set(entry.values()) == {None}


def test_which_file_is_the_dockerfile() -> None:
    other, mine = ("base.Dockerfile", "b3RoZXI="), ("Dockerfile", DOCKERFILE)

    def told(name: str | None, *files: Any) -> tuple[Any, Any]:
        file = wire(v02({"entryPoint": name}, infos(*files)))["dockerfileMetadata"]
        return file["name"], file["contents"]

    assert told("Dockerfile", other, mine) == ("Dockerfile", DOCKERFILE)
    assert told(None, other, mine) == ("base.Dockerfile", "b3RoZXI=")
    assert told("else", other, mine) == ("else", None)
    assert told("Dockerfile", ("Dockerfile", "not base64!")) == ("Dockerfile", None)
    assert told("Dockerfile", ("Dockerfile", "A" * (256 * 1024 + 4))) == ("Dockerfile", None)
    assert told("Dockerfile", ("Dockerfile", None)) == ("Dockerfile", None)


def test_texts_are_bounded_and_can_be_sent() -> None:
    entry = wire(v02({"uri": "x" * 5000, "entryPoint": "\ud800"}))
    assert entry["buildConfigSourceUri"] is None
    assert entry["dockerfileMetadata"]["name"] == "\ufffd"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff",
        b"{}",
        b'{"predicateType": 1}',
        json.dumps({"predicateType": V1}).encode(),
        json.dumps({"predicateType": V02, "predicate": []}).encode(),
        b'{"predicateType": "a", "predicateType": "b"}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_statement_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        wire(raw)
    assert raised.value.kind == "protocol-error"


def test_a_statement_too_long_is_not_read() -> None:
    raw = json.dumps(v02()).encode()
    assert wire(raw, limits=Limits(provenance_document=len(raw))) is not None
    with pytest.raises(RemoteProtocolError, match="at most"):
        wire(raw, limits=Limits(provenance_document=len(raw) - 1))


def test_statements_of_other_kinds_are_passed_over() -> None:
    assert wire({"predicateType": "https://spdx.dev/Document", "predicate": {}}) is None
    assert wire({"predicateType": "https://slsa.dev/provenance/v0.1"}) is None


def test_whose_statement_it_is() -> None:
    other = v02(subject=[{"name": "_", "digest": {"sha256": "3" * 64}}])
    ours = v02(subject=[{"digest": {"sha256": "3" * 64}}, {"digest": {"sha256": MANIFEST[7:]}}])
    assert wire(other, named=False) is None
    assert wire(other) is not None  # the index says whose it is
    assert wire(ours, named=False) is not None
    assert wire(v02(), named=False) is not None


SECRETS = b"""FROM a
ENV API_KEY zz
LABEL secret.token  canary-1 \\
  canary-2
ENV PLAIN value
env DB_PASSWORD=canary-3 OTHER=1
RUN curl -H x https://u:canary-4@h/
"""


def test_secrets_do_not_leave() -> None:
    source = {"uri": "https://u:canary-5@git.example/a.git", "entryPoint": "Dockerfile"}
    statement = v02(source, infos(("Dockerfile", base64.b64encode(SECRETS).decode())))
    statement["predicate"]["builder"]["id"] = "https://ci.example/7?token=canary-6"
    entry = parse_provenance(json.dumps(statement).encode(), MANIFEST, ATTESTATION)
    assert entry is not None
    struck = strike_provenance(entry)
    assert struck.build_config_source_uri == "https://u:***@git.example/a.git"
    assert struck.builder_id == "https://ci.example/7?token=***"
    assert base64.b64decode(struck.dockerfile_metadata.contents or "") == (
        b"FROM a\nENV API_KEY ***\nLABEL secret.token  ***\nENV PLAIN value\nenv DB_PASSWORD=*** OTHER=1\n"
        b"RUN curl -H x https://u:***@h/\n"
    )
    image = ImageFacts("h/r:t", b"{}", "sha256:0", (), (), provenance=(entry,))
    (result,) = take_inventory(merge([]), image, ScanOptions()).results
    assert result.fact("provenanceMetadata") == [struck]
    (result,) = take_inventory(merge([]), image, ScanOptions(redact=False)).results
    assert result.fact("provenanceMetadata") == [entry]


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    contents = base64.b64encode(b"FROM a\n# \xff\xfe\n").decode()
    entry = parse_provenance(json.dumps(v02(None, infos(("D", contents)))).encode(), MANIFEST, ATTESTATION)
    assert entry is not None
    assert strike_provenance(entry) == entry
