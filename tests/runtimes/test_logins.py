"""Logins that other tools wrote: where they are looked for, whose wins, and that a fault shows no secret."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from command_tools import repository, serving, towline

from towline.core import RemoteProtocolError, Secret
from towline.core.registry import Credentials
from towline.runtimes.demo.registry import Basic
from towline.runtimes.logins import find, places

CANARY = "c4n4ry-in-a-file"


def pair(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def write(path: Path, auths: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths, **more}))
    return path


def user(found: Credentials | None) -> str | None:
    return found.username if found else None


# ── where ───────────────────────────────────────────────────────────────────────
def test_places_in_order(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "run" / "containers" / "auth.json", {}),
        write(tmp_path / "home" / ".config" / "containers" / "auth.json", {}),
        write(tmp_path / "home" / ".docker" / "config.json", {}),
    ]
    known = {"XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path / "home")}
    assert places(known) == files
    assert places({"HOME": str(tmp_path / "home")}) == files[1:]
    assert places({}) == []
    files[1].unlink()
    assert places(known) == [files[0], files[2]]
    moved = write(tmp_path / "elsewhere" / "config.json", {})
    assert places({**known, "DOCKER_CONFIG": str(moved.parent)}) == [files[0], moved]
    xdg = write(tmp_path / "xdg" / "containers" / "auth.json", {})
    assert places({**known, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}) == [files[0], xdg, files[2]]


def test_a_file_that_is_named_is_the_only_one(tmp_path: Path) -> None:
    known = {"REGISTRY_AUTH_FILE": "/named", "HOME": str(tmp_path)}
    assert places(known) == [Path("/named")]
    assert places(known, "/flag") == [Path("/flag")]


# ── whose ───────────────────────────────────────────────────────────────────────
def test_the_longest_path_wins(tmp_path: Path) -> None:
    file = write(
        tmp_path / "auth.json",
        {"host": pair("host", "p"), "host/team": pair("team", "p"), "host/team/app": pair("app", "p")},
    )
    for repository_name, wins in [
        ("team/app", "app"), ("team/app/deep", "app"), ("team/application", "team"), ("team", "team"), ("te", "host"),
        ("", "host"),
    ]:  # fmt: skip
        assert user(find([file], "host", repository_name)) == wins
    assert find([file], "host:5000", "team/app") is None


def test_the_first_file_with_a_login_wins(tmp_path: Path) -> None:
    first = write(tmp_path / "1", {"host": {}, "other": pair("first", "p")}, credsStore="desktop")
    second = write(tmp_path / "2", {"host": pair("second", "p"), "other": pair("second", "p")})
    assert user(find([first, second], "other")) == "first"
    assert user(find([first, second], "host")) == "second"


@pytest.mark.parametrize("key", ["host:5000", "https://host:5000", "https://host:5000/v1/", "http://host:5000/v2/"])
def test_both_forms_of_a_key(key: str, tmp_path: Path) -> None:
    assert user(find([write(tmp_path / "f", {key: pair("me", "p")})], "host:5000", "team/app")) == "me"


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_many_names(host: str, tmp_path: Path) -> None:
    file = write(tmp_path / "f", {"https://index.docker.io/v1/": pair("me", "p")})
    assert user(find([file], host, "library/debian")) == "me"


def test_a_password_may_hold_anything(tmp_path: Path) -> None:
    file = write(tmp_path / "f", {"a": pair("u", 'p:w"ö d'), "b": {"username": "v", "password": "plain"}})
    assert find([file], "a") == Credentials("u", Secret('p:w"ö d'))
    assert find([file], "b") == Credentials("v", Secret("plain"))


# ── faults ──────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", "5", '{"auths": []}', "[" * 100_000, "\x00", '{"auths": {"host": {"auth": "%%%c4n4ry"}}}',
        json.dumps({"auths": {"host": {"auth": base64.b64encode(b"c4n4ry-without-colon").decode()}}}),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_text(content)
    with pytest.raises(RemoteProtocolError) as caught:
        find([file], "host")
    assert caught.value.kind == "malformed-credentials"
    assert str(file) in caught.value.message
    assert "c4n4ry" not in caught.value.message
    assert base64.b64encode(b"c4n4ry").decode()[:6] not in caught.value.message


def test_an_entry_that_is_none_is_passed_over(tmp_path: Path) -> None:
    entries: tuple[object, ...] = (
        [],
        None,
        "text",
        {},
        {"auth": ""},
        {"auth": 5},
        {"username": "only"},
        {"identitytoken": "t"},
    )
    for entry in entries:
        assert find([write(tmp_path / "f", {"host": entry})], "host") is None


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    file.write_bytes(b" " * (1024 * 1024 + 1))
    with pytest.raises(RemoteProtocolError, match="login file"):
        find([file], "host")


# ── with the command ────────────────────────────────────────────────────────────
def test_the_command_reads_them_and_shows_none(tmp_path: Path) -> None:
    with serving({"team/app": repository()}, Basic("robot", Secret(CANARY))) as address:
        ask = ("tags", f"{address}/team/app", "--plain-http")
        assert towline(*ask, home=tmp_path).code == 1
        write(tmp_path / ".docker" / "config.json", {address: pair("robot", CANARY)})
        assert towline(*ask, home=tmp_path).out == "1.0\n"
        # The file before it wins, and flags win over files.
        wrong = write(tmp_path / "run" / "containers" / "auth.json", {f"{address}/team": pair("robot", "wr0ng-canary")})
        refused = towline(*ask, home=tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run"))
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith("towline: REGISTRY_UNAUTHORIZED: ")
        right = write(tmp_path / "right.json", {address: pair("robot", CANARY)})
        named = towline(*ask, "--authfile", str(right), home=tmp_path, XDG_RUNTIME_DIR=str(tmp_path / "run"))
        assert named.out == "1.0\n"
        assert towline(*ask, home=tmp_path, REGISTRY_AUTH_FILE=str(right)).out == "1.0\n"
        assert towline(*ask, "--anonymous", home=tmp_path).code == 1
        missing = towline(*ask, "--authfile", "absent.json", home=tmp_path)
        assert (missing.code, missing.err.count("\n")) == (2, 1)
        for told in (refused, named, missing):
            assert CANARY not in told.out + told.err
            assert "wr0ng-canary" not in told.out + told.err
        assert wrong.exists()
