"""Manifests: proven over their exact bytes, one platform chosen, nothing two-faced taken."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from registry_tools import Outcome, asks, gives, play, registry, sha256

from towline.core import Limits, RemoteProtocolError
from towline.core.registry import (
    Descriptor,
    Digest,
    ImageIndex,
    Platform,
    choose,
    get_manifest,
    head_manifest,
    parse_manifest,
    resolve_image,
    resolve_manifest,
    state_identifier,
)

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

CONFIG = json.dumps(
    {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [sha256(b"tar")]}}
).encode()


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def image(config: bytes = CONFIG, **more: Any) -> bytes:
    return json.dumps(
        {
            "schemaVersion": 2,
            "config": descriptor(config, OCI_CONFIG),
            "layers": [descriptor(b"layer", LAYER)],
            **more,
        }
    ).encode()


def index(*entries: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), **more}).encode()


def entry(data: bytes, platform: str | None, media_type: str = OCI_MANIFEST) -> dict[str, Any]:
    if platform is None:
        return descriptor(data, media_type)
    parts = platform.split("/")
    named = {"os": parts[0], "architecture": parts[1]} | ({"variant": parts[2]} if len(parts) == 3 else {})
    return descriptor(data, media_type, platform=named)


def manifest_at(reference: str) -> str:
    return f"/v2/a/b/manifests/{reference}"


def given(data: bytes, media_type: str = OCI_MANIFEST, **headers: str) -> Any:
    return gives(200, {"content-type": media_type, **headers}, data)


def get(reference: str, *columns: Any, **options: Any) -> Outcome:
    return play(get_manifest(registry(**options), "a/b", reference), *columns)


# ── getting one ────────────────────────────────────────────────────────────────
def test_by_tag() -> None:
    raw = image()
    accept = (
        "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
        "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
    )
    headers = {"docker-content-digest": sha256(raw)}
    done = get("1.0", asks(manifest_at("1.0"), accept=accept), given(raw, OCI_MANIFEST + "; charset=utf-8", **headers))
    assert (done.value.digest, done.value.media_type, done.value.raw) == (sha256(raw), OCI_MANIFEST, raw)


def test_by_digest_the_bytes_must_match() -> None:
    raw = image()
    assert get(sha256(raw), asks(manifest_at(sha256(raw))), given(raw)).value.digest == sha256(raw)
    other = sha256(b"other")
    claim = {"docker-content-digest": other}
    assert get(other, asks(manifest_at(other)), given(raw, **claim)).kind == "digest-mismatch"
    long = str(Digest.of(raw, "sha512"))
    assert get(long, asks(manifest_at(long)), given(raw)).value.digest == long


def test_by_tag_the_registrys_word_must_match() -> None:
    raw = image()
    claim = {"docker-content-digest": sha256(b"other")}
    assert get("1", asks(manifest_at("1")), given(raw, **claim)).kind == "digest-mismatch"
    # An algorithm nobody knows proves nothing and disproves nothing.
    claim = {"docker-content-digest": "blake9:00"}
    assert get("1", asks(manifest_at("1")), given(raw, **claim)).value.digest == sha256(raw)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (gives(404, json={"errors": [{"code": "MANIFEST_UNKNOWN"}]}), "image-not-found"),
        (gives(404, json={"errors": [{"code": "NAME_UNKNOWN"}]}), "repository-not-found"),
        (gives(200, {"content-length": str(1 << 30)}), "image-too-large"),
        (gives(200, None, b" " * ((4 << 20) + 1)), "image-too-large"),
        (gives(200, {"content-encoding": "gzip"}, b"x"), "protocol-error"),
        (gives(304), "redirect-blocked"),
    ],
)
def test_no_manifest(answer: Any, kind: str) -> None:
    if kind == "redirect-blocked":
        kind = "protocol-error"
    assert get("1", asks(manifest_at("1")), answer).kind == kind


@pytest.mark.parametrize("reference", ["", "a/b", "..", "-x", "sha256:zz", "latest?x=1", "a" * 129])
def test_references_are_checked_before_they_are_sent(reference: str) -> None:
    assert get(reference).kind == "invalid-reference"


def test_head() -> None:
    headers = {"content-type": OCI_MANIFEST, "content-length": "528", "docker-content-digest": sha256(b"m")}
    done = play(head_manifest(registry(), "a/b", "1"), asks(manifest_at("1"), method="HEAD"), gives(200, headers))
    assert (done.value.digest, done.value.size, done.value.media_type) == (sha256(b"m"), 528, OCI_MANIFEST)
    missing = play(
        head_manifest(registry(), "a/b", "1"),
        asks(manifest_at("1"), method="HEAD"),
        gives(404, {"content-length": "99"}),
    )
    assert missing.kind == "image-not-found"


# ── reading one ────────────────────────────────────────────────────────────────
def read(raw: bytes, media_type: str | None = OCI_MANIFEST, limits: Limits | None = None) -> str:
    try:
        return parse_manifest(raw, media_type, limits=limits or Limits())[0]
    except RemoteProtocolError as error:
        return error.kind


def test_the_content_decides_where_no_type_is_known() -> None:
    assert read(image(), None) == OCI_MANIFEST
    assert read(image(), "application/json") == OCI_MANIFEST
    assert read(index(entry(b"m", "linux/amd64")), "text/plain") == OCI_INDEX
    assert read(image(mediaType=DOCKER_MANIFEST), "application/octet-stream") == DOCKER_MANIFEST


@pytest.mark.parametrize(
    ("raw", "media_type", "kind"),
    [
        (image(manifests=[]), OCI_MANIFEST, "invalid-manifest"),
        (index(entry(b"m", None), layers=[]), OCI_INDEX, "invalid-manifest"),
        (image(mediaType=OCI_INDEX), OCI_MANIFEST, "invalid-manifest"),
        (image(), OCI_INDEX, "invalid-manifest"),
        (image(mediaType="application/x"), OCI_MANIFEST, "invalid-manifest"),
        (image(mediaType="application/x"), None, "unsupported-media-type"),
        (image(mediaType=7), None, "invalid-manifest"),
        (b"", OCI_MANIFEST, "invalid-manifest"),
        (b"<html>", OCI_MANIFEST, "invalid-manifest"),
        (b"[]", OCI_MANIFEST, "invalid-manifest"),
        (b"{}", OCI_MANIFEST, "invalid-manifest"),
        (b'{"config": null, "layers": null}', OCI_MANIFEST, "invalid-manifest"),
        (image() + b"{}", OCI_MANIFEST, "invalid-manifest"),
        (image()[:-1] + b', "layers": []}', OCI_MANIFEST, "invalid-manifest"),
        (b"[" * 1_000_000, OCI_MANIFEST, "invalid-manifest"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, OCI_MANIFEST, "invalid-manifest"),
        (b'{"schemaVersion": 2, "a": ' + b"1" * 65 + b"}", OCI_MANIFEST, "invalid-manifest"),
        (b'{"a": NaN}', OCI_MANIFEST, "invalid-manifest"),
        (b"\xff\xfe", OCI_MANIFEST, "invalid-manifest"),
        (image(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "unsupported-artifact"),
        (b'{"schemaVersion": 1, "fsLayers": []}', None, "unsupported-artifact"),
    ],
)
def test_what_is_refused(raw: bytes, media_type: str | None, kind: str) -> None:
    assert read(raw, media_type) == kind


@pytest.mark.parametrize(
    "layer",
    [
        {"size": -1},
        {"size": "5"},
        {"size": True},
        {"size": 1 << 63},
        {"digest": "sha256:" + "A" * 64},
        {"digest": "md5:" + "a" * 32},
        {"digest": "../etc"},
        {"digest": None},
    ],
)
def test_descriptors_are_checked(layer: dict[str, Any]) -> None:
    assert read(image(layers=[descriptor(b"layer", LAYER) | layer])) == "invalid-manifest"


def test_counts_are_bounded() -> None:
    assert read(image(layers=[descriptor(b"l", LAYER)] * 3), limits=Limits(image_layers=2)) == "invalid-manifest"
    assert read(index(*[entry(b"m", None)] * 3), OCI_INDEX, Limits(index_entries=2)) == "invalid-manifest"
    many = json.dumps({str(number): 1 for number in range(10_001)}).encode()
    assert read(many) == "invalid-manifest"


def test_embedded_content_is_taken_when_it_is_right() -> None:
    good = descriptor(CONFIG, OCI_CONFIG) | {"data": base64.b64encode(CONFIG).decode()}
    wrong = good | {"data": base64.b64encode(b"other").decode()}
    for config, found in ((good, CONFIG), (wrong, None), (good | {"data": "%%%"}, None)):
        raw = json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()
        parsed = parse_manifest(raw, OCI_MANIFEST)[1]
        assert not isinstance(parsed, ImageIndex)
        assert parsed.config.data == found


# ── choosing one ───────────────────────────────────────────────────────────────
def chosen(wanted: str | None, *platforms: str | None) -> str:
    entries = tuple(
        Descriptor(OCI_MANIFEST, sha256(str(at).encode()), 1, Platform.parse(name) if name else None)
        for at, name in enumerate(platforms)
    )
    try:
        found = choose(ImageIndex(entries, {}), Platform.parse(wanted) if wanted else None)
    except RemoteProtocolError as error:
        return error.kind
    return str(found.platform)


@pytest.mark.parametrize(
    ("wanted", "offers", "found"),
    [
        (None, ["linux/arm64", "linux/amd64"], "linux/amd64"),
        (None, ["linux/arm64"], "linux/arm64"),
        (None, ["linux/arm64", "windows/amd64"], "platform-not-found"),
        ("linux/arm64", ["linux/amd64", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/amd64", "linux/arm64"], "linux/arm64"),
        ("linux/aarch64", ["linux/arm64/v8", "linux/arm64"], "linux/arm64"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6"], "linux/arm/v6"),
        ("linux/arm/v6", ["linux/arm/v7", "linux/amd64"], "platform-not-found"),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/amd64", ["unknown/unknown", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["unknown/unknown", None], "None"),
        ("linux/arm64", ["linux/amd64"], "platform-not-found"),
        (None, ["unknown/unknown"], "invalid-manifest"),
        (None, [], "invalid-manifest"),
    ],
)
def test_choice(wanted: str | None, offers: list[str | None], found: str) -> None:
    assert chosen(wanted, *offers) == found


def test_what_there_is_is_named() -> None:
    entries = tuple(Descriptor(OCI_MANIFEST, sha256(b"m"), 1, Platform("linux", a)) for a in ("amd64", "s390x"))
    with pytest.raises(RemoteProtocolError, match="linux/amd64, linux/s390x"):
        choose(ImageIndex(entries, {}), Platform.parse("linux/arm64"))


@pytest.mark.parametrize("text", ["", "linux", "linux/", "a/b/c/d", "linux/am d64", "linux/ä", "x" * 200 + "/y"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        Platform.parse(text)
    assert caught.value.kind == "bad-request"


# ── resolving one ──────────────────────────────────────────────────────────────
def resolve(*columns: Any, platform: str | None = None, **options: Any) -> Outcome:
    wanted = Platform.parse(platform) if platform else None
    return play(resolve_image(registry(**options), "a/b", "1", wanted), *columns)


def blob_at(data: bytes) -> str:
    return f"/v2/a/b/blobs/{sha256(data)}"


def test_through_an_index_to_the_config() -> None:
    raw = image()
    top = index(entry(image(annotations={"x": "y"}), "linux/s390x"), entry(raw, "linux/amd64"))
    done = resolve(
        asks(manifest_at("1")),                     given(top, OCI_INDEX),
        asks(manifest_at(sha256(raw))),             given(raw),
        asks(blob_at(CONFIG)),                      gives(200, None, CONFIG),
        platform="linux/amd64",
    )  # fmt: skip
    assert done.value.index_digest == sha256(top)
    assert done.value.manifest.digest == sha256(raw)
    assert done.value.config.rootfs.diff_ids == (sha256(b"tar"),)
    assert [layer.digest for layer in done.value.layers] == [sha256(b"layer")]
    assert str(done.value.platform) == "linux/amd64"


def test_a_childs_size_must_match() -> None:
    raw = image()
    top = index(entry(raw, "linux/amd64") | {"size": len(raw) + 1})
    done = resolve(asks(manifest_at("1")), given(top, OCI_INDEX), asks(manifest_at(sha256(raw))), given(raw))
    assert done.kind == "size-mismatch"
    top = index(entry(raw, "linux/amd64") | {"size": 1 << 40})
    assert resolve(asks(manifest_at("1")), given(top, OCI_INDEX)).kind == "image-too-large"


def test_indexes_in_one_another() -> None:
    raw = image()
    nested = [raw]
    for _ in range(4):
        media_type = OCI_MANIFEST if len(nested) == 1 else OCI_INDEX
        nested.append(index(entry(nested[-1], "linux/amd64", media_type)))
    columns: list[Any] = [asks(manifest_at("1")), given(nested[3], OCI_INDEX)]
    for raw_index in (nested[2], nested[1]):
        columns += [asks(manifest_at(sha256(raw_index))), given(raw_index, OCI_INDEX)]
    columns += [asks(manifest_at(sha256(raw))), given(raw), asks(blob_at(CONFIG)), gives(200, None, CONFIG)]
    assert resolve(*columns).value.manifest.digest == sha256(raw)
    columns = [asks(manifest_at("1")), given(nested[4], OCI_INDEX)]
    for raw_index in (nested[3], nested[2], nested[1]):
        columns += [asks(manifest_at(sha256(raw_index))), given(raw_index, OCI_INDEX)]
    assert resolve(*columns).kind == "invalid-manifest"


def test_artefacts_are_no_images() -> None:
    chart = json.dumps(
        {"schemaVersion": 2, "config": descriptor(b"{}", "application/vnd.cncf.helm.config.v1+json"), "layers": []}
    ).encode()
    for raw in (chart, image(artifactType="application/x")):
        assert resolve(asks(manifest_at("1")), given(raw)).kind == "unsupported-artifact"


def test_layers_that_are_too_many_bytes() -> None:
    raw = image(layers=[descriptor(b"l", LAYER) | {"size": 20 << 30}] * 2)
    assert resolve(asks(manifest_at("1")), given(raw)).kind == "image-too-large"


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (b"not json", "invalid-manifest"),
        (b'{"rootfs": {"diff_ids": []}}', "invalid-manifest"),
        (b'{"rootfs": {"diff_ids": ["x"]}}', "invalid-manifest"),
    ],
)
def test_configs(config: bytes, kind: str) -> None:
    raw = image(config)
    done = resolve(asks(manifest_at("1")), given(raw), asks(blob_at(config)), gives(200, None, config))
    assert done.kind == kind


def test_a_configs_bytes_are_proven() -> None:
    raw = image()
    start = asks(manifest_at("1")), given(raw), asks(blob_at(CONFIG))
    assert resolve(*start, gives(200, None, b"x" * len(CONFIG))).kind == "digest-mismatch"
    assert resolve(*start, gives(200, None, CONFIG[:-1])).kind == "size-mismatch"
    assert resolve(*start, gives(200, None, CONFIG, b"x")).kind == "size-mismatch"
    assert resolve(*start, gives(404)).kind == "image-not-found"
    huge = json.dumps(
        {"schemaVersion": 2, "config": descriptor(CONFIG, OCI_CONFIG) | {"size": 1 << 40}, "layers": []}
    ).encode()
    assert resolve(asks(manifest_at("1")), given(huge)).kind == "image-too-large"


def test_a_single_image_of_another_platform() -> None:
    raw = image()
    columns = asks(manifest_at("1")), given(raw), asks(blob_at(CONFIG)), gives(200, None, CONFIG)
    assert resolve(*columns, platform="linux/arm64").kind == "platform-not-found"
    assert resolve(*columns, platform="linux/amd64").value.platform == Platform("linux", "amd64")


def test_foreign_layers_are_told() -> None:
    foreign = descriptor(b"layer", LAYER, urls=["https://evil.example/layer"])
    raw = image(layers=[foreign])
    done = resolve(asks(manifest_at("1")), given(raw), asks(blob_at(CONFIG)), gives(200, None, CONFIG))
    assert "1 layers" in done.value.warnings[0]


# ── state identifiers ──────────────────────────────────────────────────────────
def test_state_identifiers() -> None:
    raw = image()
    top = index(entry(raw, "linux/amd64"))
    digest = {"docker-content-digest": sha256(raw)}
    one_head = play(
        state_identifier(registry(), "a/b", "1"),
        asks(manifest_at("1"), method="HEAD"),      gives(200, {"content-type": OCI_MANIFEST, **digest}),
    )  # fmt: skip
    through_index = play(
        state_identifier(registry(), "a/b", "1"),
        asks(manifest_at("1"), method="HEAD"),      gives(200, {"content-type": OCI_INDEX}),
        asks(manifest_at("1")),                     given(top, OCI_INDEX),
    )  # fmt: skip
    without_a_digest = play(
        state_identifier(registry(), "a/b", "1"),
        asks(manifest_at("1"), method="HEAD"),      gives(200, {"content-type": OCI_MANIFEST}),
        asks(manifest_at("1")),                     given(raw),
    )  # fmt: skip
    assert one_head.value == through_index.value == without_a_digest.value == sha256(raw)


def test_resolve_manifest_stops_before_the_config() -> None:
    raw = image()
    done = play(resolve_manifest(registry(), "a/b", "1"), asks(manifest_at("1")), given(raw))
    assert (done.value.index_digest, done.value.manifest.digest) == (None, sha256(raw))


def test_an_index_without_a_platform_may_hold_it() -> None:
    raw = image()
    inner = index(entry(raw, "linux/arm64"))
    top = index(entry(image(annotations={"x": "y"}), "linux/amd64"), entry(inner, None, OCI_INDEX))
    done = play(
        resolve_manifest(registry(), "a/b", "1", Platform.parse("linux/arm64")),
        asks(manifest_at("1")),                     given(top, OCI_INDEX),
        asks(manifest_at(sha256(inner))),           given(inner, OCI_INDEX),
        asks(manifest_at(sha256(raw))),             given(raw),
    )  # fmt: skip
    assert done.value.manifest.digest == sha256(raw)


def test_the_state_of_an_image_deep_in_indexes() -> None:
    raw = image()
    inner = index(entry(raw, "linux/amd64"))
    top = index(entry(inner, None, OCI_INDEX))
    done = play(
        state_identifier(registry(), "a/b", "1"),
        asks(manifest_at("1"), method="HEAD"),      gives(200, {"content-type": OCI_INDEX}),
        asks(manifest_at("1")),                     given(top, OCI_INDEX),
        asks(manifest_at(sha256(inner))),           given(inner, OCI_INDEX),
        asks(manifest_at(sha256(raw))),             given(raw),
    )  # fmt: skip
    assert done.value == sha256(raw)


def test_versions_of_an_operating_system() -> None:
    old, new = Platform("windows", "amd64", None, "10.0.17763"), Platform("windows", "amd64", None, "10.0.20348")
    entries = tuple(Descriptor(OCI_MANIFEST, sha256(str(p).encode()), 1, p) for p in (old, new))
    assert choose(ImageIndex(entries, {}), new).platform == new
    assert choose(ImageIndex(entries, {}), Platform("windows", "amd64")).platform == old


def test_a_config_that_names_no_platform() -> None:
    config = json.dumps({"rootfs": {"diff_ids": [sha256(b"tar")]}}).encode()
    raw = image(config)
    done = resolve(asks(manifest_at("1")), given(raw), asks(blob_at(config)), gives(200, None, config))
    assert done.value.platform == Platform("linux", "amd64")
