"""The five places of a login, both alphabets of base64, and what must never be in an error."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.harness import refused_or_taken
from towline.core import RemoteProtocolError, Secret
from towline.core.agent import (
    RegistryLogin,
    canonical_type,
    decode_credentials,
    encode_credentials,
    find_credentials,
    normal_base,
)
from towline.core.registry import TYPES

CANARY = "c4n4ry-s3cret"


def text(**members: object) -> str:
    return base64.b64encode(json.dumps(members).encode() + b"\n").decode()


HARBOR = text(type="harbor-cr", username="u", password=CANARY, registryBase="harbor.example")
OTHER = text(type="harbor-cr", username="u", password="other", registryBase="harbor.example")


@pytest.mark.parametrize(
    "password", ['a"b', "a\\b", "two  spaces", "*", "$HOME", "%41", "line\nbreak", "k" * 4096, "ünïcödé", "'", "`x`"]
)
@pytest.mark.parametrize("kind", [t for t in TYPES if t not in ("ecr", "digitalocean-cr")])
def test_what_is_encoded_is_decoded(kind: str, password: str) -> None:
    made = encode_credentials(kind, username="robot$scan", password=Secret(password), base="host:5000/path")
    login = decode_credentials(made.reveal())
    assert login.type == kind
    assert login.username == "robot$scan"
    assert login.secret.reveal() == password
    assert login.base == "host:5000/path"


def test_classic_forms_of_types_that_differ() -> None:
    ecr = decode_credentials(
        encode_credentials("ElasticCR", role_arn="arn:x", region="eu-west-1", external_id=Secret("e")).reveal()
    )
    assert (ecr.type, ecr.role_arn, ecr.region, ecr.external_id.reveal()) == ("ecr", "arn:x", "eu-west-1", "e")
    token = decode_credentials(encode_credentials("digitalocean-cr", token=Secret("t"), base="b").reveal())
    assert (token.username, token.secret.reveal(), token.base) == ("t", "t", "b")


@given(
    st.dictionaries(st.sampled_from(["username", "password", "registryBase"]), st.text(st.characters(codec="utf-8")))
)
def test_every_alphabet_and_padding(members: dict[str, str]) -> None:
    members = {name: value.replace("\0", "").replace(":", "") for name, value in members.items()}
    raw = json.dumps({"type": "oci", **members}).encode()
    forms = [base64.b64encode(raw), base64.urlsafe_b64encode(raw)]
    forms += [form.rstrip(b"=") for form in forms]
    logins = {decode_credentials(" " + form.decode() + "\r\n").secret.reveal() for form in forms}
    assert logins == {members.get("password", "")}


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "!!!",
        "aGk",
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b"\xff\xfe").decode(),
        base64.b64encode(b'{"type":"harbor-cr","password":"' + CANARY.encode() + b'"x"}').decode(),
        text(type=1),
        text(username=CANARY),
        text(type="oci", username=[CANARY]),
        text(type="oci", password={"x": CANARY}),
        text(type="oci", scheme=CANARY),
        text(type="oci", extra=CANARY),
        text(type="oci", password=CANARY + "\0"),
        "A" * 100_000,
        "${CR_CREDENTIALS}",
        base64.b64encode(b"[" * 100_00).decode(),
    ],
)
def test_malformed_is_said_without_the_value(bad: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_credentials(bad)
    assert caught.value.kind == "malformed-credentials"
    assert caught.value.hint
    assert CANARY not in repr(caught.value) + str(caught.value.hint)
    assert caught.value.__cause__ is None


def pasted(password: str, kind: str = "google-artifact-cr", user: str = "_json_key") -> str:
    """Make the text as a stock broker client does, by pasting."""
    made = f'{{"type":"{kind}","username":"{user}","password":"{password}","registryBase":"h"}}'
    return base64.b64encode(made.encode() + b"\n").decode()


def breaks(bad: str, after: str) -> str:
    """Say at which character the first text after `after` stands, counted from 1."""
    return f"at character {base64.b64decode(bad).decode().index(after) + len(after) + 1}, "


KEY_FILE = json.dumps({"type": "service_account", "private_key": f"-----BEGIN\n{CANARY}\n"})


@pytest.mark.parametrize(
    ("bad", "place", "hint"),
    [
        (
            pasted(KEY_FILE),
            breaks(pasted(KEY_FILE), '"password":"{"') + "after the member password",
            "this key file must be given whole",
        ),
        (pasted(f'{CANARY}"x', "harbor-cr", "u"), "after the member password began", "JSON encoder"),
        (pasted(f"{CANARY}\\x", "harbor-cr", "u"), "after the member password began", "JSON encoder"),
        (pasted(f"{CANARY}\nx", "harbor-cr", "u"), "after the member password began", "JSON encoder"),
        (pasted("p", "harbor-cr", f'{CANARY}"'), "after the member username began", "JSON encoder"),
        (base64.b64encode(CANARY.encode()).decode(), "at character 1", "JSON encoder"),
        (base64.b64encode(b"\xff" + CANARY.encode()).decode(), "is not base64 of a JSON object", "JSON encoder"),
    ],
)
def test_a_pasted_text_says_where_it_breaks(bad: str, place: str, hint: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_credentials(bad)
    assert caught.value.kind == "malformed-credentials"
    assert place in caught.value.message
    assert hint in str(caught.value.hint)
    assert CANARY not in caught.value.message + str(caught.value.hint)


def test_a_colon_in_a_user_name() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_credentials(text(type="oci", username=f"u:{CANARY}", password="p"))
    assert caught.value.kind == "malformed-credentials"
    assert "user:password" in str(caught.value.hint)
    assert CANARY not in caught.value.message


@pytest.mark.parametrize(
    ("members", "user", "password", "warned"),
    [
        ({"type": "docker-hub", "username": "a@b.example", "password": "p"}, "a@b.example", "p", "Docker ID"),
        ({"type": "digitalocean-cr", "username": "t"}, "t", "t", ""),
        ({"type": "digitalocean-cr", "password": "t"}, "t", "t", ""),
        ({"type": "digitalocean-cr", "username": "a@b.example", "password": "t"}, "a@b.example", "t", ""),
        ({"type": "acr", "username": "u", "password": "p\r\n"}, "u", "p", "line end"),
        ({"type": "oci", "username": "u", "password": "p\n"}, "u", "p\n", ""),
        ({"type": "gcr", "username": "_json_key", "password": "ZXh"}, "_json_key", "ZXh", "whole"),
        ({"type": "gcr", "username": "_json_key", "password": " {}"}, "_json_key", " {}", ""),
    ],
)
def test_what_looks_wrong_is_said(members: dict[str, str], user: str, password: str, warned: str) -> None:
    login = decode_credentials(text(**members))
    assert (login.username, login.secret.reveal()) == (user, password)
    assert warned in " ".join(login.warnings)
    assert bool(warned) == bool(login.warnings)


def test_unknown_types_and_aliases() -> None:
    assert canonical_type("DockerHub") == "docker-hub"
    assert canonical_type("GoogleCR") == "gcr"
    assert canonical_type("ArtifactoryCR") == "artifactory-cr"
    with pytest.raises(RemoteProtocolError) as caught:
        decode_credentials(text(type=CANARY))
    assert caught.value.kind == "unsupported-type"
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize(
    ("given_base", "base"),
    [
        ("undefined", ""),
        ("null", ""),
        (None, ""),
        ("", ""),
        ("https://host/", "host"),
        ("host:5000/v2/", "host:5000"),
        ("http://host/artifactory/api/docker/repo", "host/artifactory/api/docker/repo"),
    ],
)
def test_bases(given_base: str | None, base: str) -> None:
    assert normal_base(given_base)[0] == base


def test_order_of_the_places() -> None:
    headers = [("x-registry-credentials", HARBOR)]
    assert find_credentials("/list", headers).login == decode_credentials(HARBOR)
    assert find_credentials("/list", [("authorization", "Cra " + HARBOR)]).login is not None
    assert find_credentials("/list", [("authorization", HARBOR)]).login is None
    assert find_credentials("/list", [("authorization", "Basic " + HARBOR)]).login is None
    assert find_credentials("/systemcheck", [("authorization", HARBOR)]).login is not None
    assert find_credentials("/validate-credentials", [("authorization", HARBOR)]).login is not None
    assert find_credentials("/systemcheck", [("x-systemcheck-credentials", HARBOR)]).login is not None
    assert find_credentials("/list", [("x-systemcheck-credentials", HARBOR)]).login is None
    assert find_credentials("/scan", [], [], {"credentials": HARBOR}).login is not None
    assert find_credentials("/scan", [], [], {"credentials": {"type": "oci"}}).login == RegistryLogin("oci")
    assert find_credentials("/list", [], [("registryId", "a")]).registry_id == "a"
    assert find_credentials("/list", [("x-registry-id", "a")]).registry_id == "a"
    assert find_credentials("/scan", [], [], {"registryId": "a"}).registry_id == "a"
    assert find_credentials("/list", []) == find_credentials("/list", [("x", "y")])


def test_twice_the_same_is_once() -> None:
    bare = HARBOR.rstrip("=")
    found = find_credentials("/scan", [("x-registry-credentials", HARBOR)], [], {"credentials": bare})
    assert found.login == decode_credentials(HARBOR)


@pytest.mark.parametrize(
    ("headers", "query", "body"),
    [
        ([("x-registry-credentials", HARBOR), ("x-registry-credentials", OTHER)], [], None),
        ([("x-registry-credentials", HARBOR)], [], {"credentials": OTHER}),
        ([("x-registry-credentials", HARBOR), ("authorization", "Cra " + OTHER)], [], None),
        ([], [("registryId", "a")], {"registryId": "b"}),
        ([("x-registry-credentials", HARBOR)], [("registryId", "a")], None),
        ([("x-registry-credentials", text(type="oci", registryId="b"))], [("registryId", "a")], None),
    ],
)
def test_ambiguity(
    headers: list[tuple[str, str]], query: list[tuple[str, str]], body: dict[str, object] | None
) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        find_credentials("/scan", headers, query, body)
    assert caught.value.kind == "ambiguous-credentials"
    assert CANARY not in repr(caught.value)


def test_unknown_members_are_named_not_valued() -> None:
    login = decode_credentials(text(type="oci", colour=CANARY))
    assert "colour" in "".join(login.warnings)
    assert CANARY not in repr(login)


def test_who_is_anonymous() -> None:
    assert decode_credentials(text(type="oci", registryBase="h")).anonymous
    assert not decode_credentials(HARBOR).anonymous


def test_no_secret_is_printed() -> None:
    assert CANARY not in repr(decode_credentials(HARBOR))
    assert CANARY not in repr(find_credentials("/list", [("x-registry-credentials", HARBOR)]))


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_anything_ends_in_a_login_or_a_named_error(data: bytes) -> None:
    refused_or_taken(lambda: decode_credentials(data.decode("latin-1")))
