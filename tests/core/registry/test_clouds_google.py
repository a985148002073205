"""Google identities: keys, tokens, federation, the machine; what is wrong with each, and that no key is shown."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from registry_tools import Asks, Gives, Outcome, asks, gives, play, registry

from towline.core import RemoteProtocolError, Secret
from towline.core.registry import Credentials, Registry, Surroundings, find_dialect, list_tags
from towline.core.registry.clouds.google import access_token, has_identity, read_key, signing_input

CANARY = "c4n4ry-private-key"
TOKEN = "https://oauth2.googleapis.com/token"
META = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
STS = "https://sts.googleapis.com/v1/token"
KEY = {
    "type": "service_account", "client_email": "scan@p.iam.gserviceaccount.com", "private_key_id": "kid",
    "private_key": f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n", "token_uri": TOKEN,
}  # fmt: skip
FEDERATION = {
    "type": "external_account", "audience": "//iam.googleapis.com/pool", "token_url": STS,
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "credential_source": {"file": "/subject"},
}  # fmt: skip
JWT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def sign(key: Secret, data: bytes) -> bytes:
    assert CANARY in key.reveal()
    return b"signed:" + data[:3]


def of(user: str | None = None, secret: str = "", files: dict[str, bytes] | None = None, **variables: str) -> Registry:
    around = Surroundings(
        {name: Secret(value) for name, value in variables.items()}, lambda path: (files or {})[path], sign
    )
    made = registry(
        "https://eu-docker.pkg.dev/p/r", anonymous=True, dialect=find_dialect("google-artifact-cr"),
        surroundings=around, retries=0, epoch=0.0,
    )  # fmt: skip
    made.credentials = None if user is None else Credentials(user, Secret(secret))
    return made


def got(made: Registry, *columns: Asks | Gives, start: float = 1000.0) -> Outcome:
    done = play(access_token(made), *columns, start=start)
    assert CANARY not in f"{done.error!r} {done.error and done.error.hint} {done.value!r}"
    return done


def assertion() -> str:
    made = read_key(Secret(json.dumps(KEY)), encoded=False)
    signed = signing_input(made, "https://www.googleapis.com/auth/cloud-platform", 1000)
    return (signed + b"." + base64.urlsafe_b64encode(b"signed:" + signed[:3]).rstrip(b"=")).decode()


GIVEN = asks(TOKEN, form={"grant_type": JWT, "assertion": assertion()})


# ── a key ──────────────────────────────────────────────────────────────────────
def test_a_key_becomes_an_assertion_and_that_a_token_which_is_kept() -> None:
    made = of("_json_key", json.dumps(KEY))
    done = got(made, GIVEN, gives(json={"access_token": "ya29", "expires_in": "3599"}))
    assert (done.value.value, done.value.until) == (Secret("ya29"), 1000 + 3599 - 300)
    assert got(made, start=4000.0).value == done.value
    claims = json.loads(base64.urlsafe_b64decode(assertion().split(".")[1] + "=="))
    assert (claims["iat"], claims["exp"], claims["aud"], claims["iss"]) == (1000, 4600, TOKEN, KEY["client_email"])


@pytest.mark.parametrize("lasts", [None, "soon", -5, 3600.5, True])
def test_a_token_whose_end_is_not_said_is_good_for_an_hour(lasts: object) -> None:
    done = got(of("_json_key", json.dumps(KEY)), GIVEN, gives(json={"access_token": "t", "expires_in": lasts}))
    assert done.kind == "protocol-error" or done.value.until == 1000 + 3600 - 300


def test_a_key_in_base64() -> None:
    whole = base64.b64encode(json.dumps(KEY).encode()).decode()
    assert got(of("_json_key_base64", whole), GIVEN, gives(json={"access_token": "t"})).value.value == Secret("t")


BROKEN = json.dumps(KEY).replace('"client_email": "', '"client_email": ')


@pytest.mark.parametrize(
    ("user", "text", "where"),
    [
        ("_json_key", "", "the key file"),
        ("_json_key", BROKEN, "the key file"),
        ("_json_key", json.dumps(KEY)[:-40], "the key file"),
        ("_json_key", json.dumps(KEY).replace("\\n", "\n"), "the key file"),
        ("_json_key", json.dumps(KEY).replace('"', '\\"'), "the key file"),
        ("_json_key", json.dumps({"client_email": "x"}), "the key file"),
        ("_json_key", json.dumps([CANARY]), "the key file"),
        ("_json_key", json.dumps(KEY | {"private_key": 5}), "the key file"),
        ("_json_key", CANARY, "the key file"),
        ("_json_key_base64", json.dumps(KEY), "base64"),
        ("_json_key_base64", "%%%", "base64"),
        ("_json_key_base64", base64.b64encode(BROKEN.encode()).decode(), "the key file"),
        ("_json_key_base64", "é", "base64"),
    ],
)
def test_a_key_that_is_broken_must_be_given_whole(user: str, text: str, where: str) -> None:
    done = got(of(user, text))
    assert done.kind == "malformed-credentials"
    assert done.error is not None
    assert where in done.error.message
    assert "the whole key file" in str(done.error.hint)


def test_where_a_key_file_breaks_is_said_by_position() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        read_key(Secret(BROKEN), encoded=False)
    assert f"it breaks at character {BROKEN.index('scan@') + 1} of {len(BROKEN)}" in caught.value.message


@pytest.mark.parametrize(
    "uri", ["http://oauth2.googleapis.com/token", "https://evil.example/t", "https://xgoogleapis.com/t"]
)
def test_a_key_is_shown_to_google_alone(uri: str) -> None:
    assert got(of("_json_key", json.dumps(KEY | {"token_uri": uri}))).kind == "malformed-credentials"


def test_unless_another_host_is_listed() -> None:
    made = of("_json_key", json.dumps(KEY | {"token_uri": "https://token.example/t"}))
    made.allowed_realm_hosts = ("token.example",)
    done = got(made, asks("https://token.example/t", method="POST"), gives(json={"access_token": "t"}))
    assert done.value.value == Secret("t")


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (
            gives(400, json={"error": "invalid_grant", "error_description": CANARY}),
            "registry-unauthorized",
            "invalid_grant",
        ),
        (gives(401, json={"error": {"status": "UNAUTHENTICATED"}}), "registry-unauthorized", None),
        (gives(403, None, b"<html>"), "registry-unauthorized", None),
        (gives(429), "registry-rate-limited", None),
        (gives(503), "registry-error", None),
        (gives(200, None, b"<html>"), "protocol-error", None),
        (gives(200, json={"token": "x"}), "protocol-error", None),
        (gives(302, {"location": "https://evil.example/"}), "redirect-blocked", None),
    ],
)
def test_a_key_that_google_refuses(answer: Gives, kind: str, code: str | None) -> None:
    done = got(of("_json_key", json.dumps(KEY)), asks(TOKEN, method="POST"), answer)
    assert (done.kind, done.error and done.error.registry_code) == (kind, code)


# ── other identities ───────────────────────────────────────────────────────────
@pytest.mark.parametrize("user", ["oauth2accesstoken", "_token"])
def test_an_access_token_is_taken_as_it_is(user: str) -> None:
    assert got(of(user, "ya29")).value.value == Secret("ya29")


def test_the_machines_own() -> None:
    made = of(GCE_METADATA_HOST="metadata.google.internal")
    asked = asks(META, purpose="metadata", metadata_flavor="Google")
    done = got(made, asked, gives(200, {"metadata-flavor": "Google"}, json={"access_token": "t", "expires_in": 3000}))
    assert done.value.until == 1000 + 3000 - 300
    assert got(of(GCE_METADATA_HOST="m"), asks(META.replace("metadata.google.internal", "m")), gives(json={})).kind == (
        "protocol-error"
    )
    for status, kind in ((404, "registry-unauthorized"), (500, "registry-error")):
        assert got(made_anew(), asked, gives(status, {"metadata-flavor": "Google"})).kind == kind
    assert got(of(GCE_METADATA_HOST="a b")).kind == "invalid-configuration"


def made_anew() -> Registry:
    return of(GCE_METADATA_HOST="metadata.google.internal")


def test_a_key_file_of_the_environment() -> None:
    made = of(files={"/key": json.dumps(KEY).encode()}, GOOGLE_APPLICATION_CREDENTIALS="/key")
    assert got(made, GIVEN, gives(json={"access_token": "t"})).value.value == Secret("t")


def test_a_federated_token_and_a_service_accounts() -> None:
    files = {"/f": json.dumps(FEDERATION).encode(), "/subject": b"jwt\n"}
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "audience": str(FEDERATION["audience"]),
        "scope": "https://www.googleapis.com/auth/cloud-platform", "subject_token": "jwt",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "subject_token_type": str(FEDERATION["subject_token_type"]),
    }  # fmt: skip
    asked = asks(STS, form=form)
    answer = gives(json={"access_token": "federated", "expires_in": 3599})
    assert got(of(files=files, GOOGLE_APPLICATION_CREDENTIALS="/f"), asked, answer).value.value == Secret("federated")
    url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/x:generateAccessToken"
    files["/f"] = json.dumps(FEDERATION | {"service_account_impersonation_url": url}).encode()
    done = got(
        of(files=files, GOOGLE_APPLICATION_CREDENTIALS="/f"),
        asked, answer, asks(url, "Bearer federated", method="POST"), gives(json={"accessToken": "own"}),
    )  # fmt: skip
    assert done.value.value == Secret("own")
    refused = got(
        of(files=files, GOOGLE_APPLICATION_CREDENTIALS="/f"),
        asked, answer, asks(url, "Bearer federated", method="POST"), gives(403, json={"error": {"code": 403}}),
    )  # fmt: skip
    assert refused.kind == "registry-unauthorized"


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "authorized_user"},
        {"credential_source": {"url": "https://evil.example/"}},
        {"credential_source": {}},
        {"token_url": "https://evil.example/"},
        {"token_url": "http://sts.googleapis.com/"},
        {"token_url": 5},
        {"service_account_impersonation_url": "https://evil.example/"},
        {"type": None},
    ],
)
def test_a_file_of_the_environment_that_is_none(changes: dict[str, Any]) -> None:
    files = {"/f": json.dumps(FEDERATION | changes).encode(), "/subject": b"jwt"}
    assert got(of(files=files, GOOGLE_APPLICATION_CREDENTIALS="/f")).kind == "invalid-configuration"


def test_a_file_that_is_no_json() -> None:
    files = {"/f": CANARY.encode()}
    assert got(of(files=files, GOOGLE_APPLICATION_CREDENTIALS="/f")).kind == "invalid-configuration"


def test_who_has_an_identity() -> None:
    assert has_identity(of("_json_key", "x"))
    assert has_identity(of("oauth2accesstoken", "x"))
    assert not has_identity(of("user", "x"))
    assert not has_identity(of())
    assert has_identity(of(GCE_METADATA_HOST="m"))
    assert has_identity(of(GOOGLE_APPLICATION_CREDENTIALS="/f"))


def test_the_registry_is_shown_a_password_as_it_came() -> None:
    key = json.dumps(KEY)
    made = of("_json_key", key)
    basic = "Basic " + base64.b64encode(f"_json_key:{key}".encode()).decode()
    realm = 'Bearer realm="https://eu-docker.pkg.dev/v2/token"'
    tags = "https://eu-docker.pkg.dev/v2/p/r/a/tags/list?n=10000"
    done = play(
        list_tags(made, "p/r/a"),
        asks(tags), gives(401, {"www-authenticate": realm}),
        asks("https://eu-docker.pkg.dev/v2/token?scope=repository%3Ap%2Fr%2Fa%3Apull", basic),
        gives(401, json={"errors": [{"code": "UNAUTHORIZED", "message": "authentication failed"}]}),
    )  # fmt: skip
    assert done.kind == "registry-unauthorized"
    assert done.error is not None
    assert "_json_key_base64" in str(done.error.hint)
