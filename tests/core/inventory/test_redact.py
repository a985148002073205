"""What looks like a secret is struck out, and what does not is left."""

from __future__ import annotations

import time

import pytest

from towline.core.inventory import looks_secret, strike_command, strike_value, strike_variable

AWS = "AKIA" + "IOSFODNN7EXAMPLE"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "name",
    [
        "TOKEN",
        "NPM_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "DB_PASSWORD",
        "MYSQL_ROOT_PASSWORD",
        "apiKey",
        "api-key",
        "secret",
        "client.secret",
        "GITHUB_PAT",
        "REGISTRY_PASS",
        "SIGNING_KEY",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert looks_secret(name)
    assert strike_variable(f"{name}=x y") == f"{name}=***"


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "PWD",
        "OLDPWD",
        "HOME",
        "GPG_KEY",
        "LANG",
        "TOKEN_FILE",
        "SECRET_PATH",
        "PASSWORD_LENGTH",
        "TOKEN_URL",
        "COMPASS",
        "KEYBOARD",
        "TOKENIZER",
        "AUTHOR",
        "NODE_VERSION",
    ],
)
def test_names_of_other_things(name: str) -> None:
    assert not looks_secret(name)
    assert strike_variable(f"{name}=x y") == f"{name}=x y"


@pytest.mark.parametrize(
    ("value", "struck"),
    [
        (AWS, "***"),
        ("x " + AWS + " y", "x *** y"),
        ("ghp_" + "a" * 36, "***"),
        ("glpat-" + "a" * 20, "***"),
        ("xoxb-" + "1234567890-abc", "***"),
        (JWT, "***"),
        ("https://user:pass@host/x", "https://user:***@host/x"),
        ("https://host/x:y@z", "https://host/x:y@z"),
        ("-----BEGIN RSA PRIVATE " + "KEY-----\nabc", "***"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_forms_of_secrets(value: str, struck: str) -> None:
    assert strike_value("ANY", value) == struck


@pytest.mark.parametrize(
    ("command", "struck"),
    [
        ("RUN apt-get install -y curl", "RUN apt-get install -y curl"),
        ("ENV TOKEN=abc A=b", "ENV TOKEN=*** A=b"),
        ("RUN X=1 API_KEY='a b' rest", "RUN X=1 API_KEY=*** rest"),
        ('RUN API_KEY="a b"; next', "RUN API_KEY=***; next"),
        ('ENV PASSWORD="never closed', "ENV PASSWORD=*** closed"),
        ("curl --password hunter2 -o x", "curl --password *** -o x"),
        ("curl --api-key=hunter2", "curl --api-key=***"),
        ("|1 NPM_TOKEN=zzz /bin/sh -c npm i", "|1 NPM_TOKEN=*** /bin/sh -c npm i"),
        ("git clone https://me:secret@host/x", "git clone https://me:***@host/x"),
        ("echo the password is here", "echo the password is here"),
    ],
)
def test_commands(command: str, struck: str) -> None:
    assert strike_command(command) == struck


@pytest.mark.parametrize("piece", ["a", "a=", 'TOKEN="', "--token ", "://a:", "eyJ-", "-----BEGIN ", "a b "])
def test_a_hostile_text_costs_little(piece: str) -> None:
    begun = time.perf_counter()
    strike_command(piece * (200_000 // len(piece)))
    assert time.perf_counter() - begun < 3
