"""Logins that other tools wrote: where they are looked for, whose wins, and that a fault shows no secret."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
from command_tools import repository, serving, towline

from towline.core import RemoteProtocolError, Secret
from towline.core.registry import Credentials
from towline.runtimes import credential_programs, logins
from towline.runtimes.demo.registry import Basic
from towline.runtimes.logins import places

CANARY = "c4n4ry-in-a-file"


def pair(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def write(path: Path, auths: Any, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"auths": auths, **more}))
    return path


def user(found: Credentials | None) -> str | None:
    return found.username if found else None


def find(files: list[Path], host: str, repository_name: str = "", **around: str) -> Credentials | None:
    return anyio.run(logins.find, files, host, repository_name, around, backend="trio")


def helper(folder: Path, name: str, script: str) -> dict[str, str]:
    """Write a credential helper of a few shell lines; return the environment in which it is found."""
    folder.mkdir(exist_ok=True)
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


KEEPS = """read server
case "$1 $server" in
"get host") echo '{"ServerURL":"host","Username":"kept","Secret":"'c4n4ry'-in-a-file"}';;
"get https://index.docker.io/v1/") echo '{"Username":"hub","Secret":"s"}';;
"get token.example") echo '{"Username":"<token>","Secret":"'c4n4ry'-in-a-file"}';;
*) echo "credentials not found in native keychain"; exit 1;;
esac"""


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
    first = write(tmp_path / "1", {"host": {}, "other": pair("first", "p")})
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


def test_an_identity_token_is_a_login(tmp_path: Path) -> None:
    azure = {**pair("00000000-0000-0000-0000-000000000000", ""), "identitytoken": CANARY}
    file = write(tmp_path / "f", {"a": {"identitytoken": CANARY}, "b": azure})
    assert find([file], "a") == Credentials("", Secret(""), Secret(CANARY))
    assert find([file], "b") == Credentials("00000000-0000-0000-0000-000000000000", Secret(""), Secret(CANARY))


# ── helpers ─────────────────────────────────────────────────────────────────────
def test_a_helper_of_the_host_then_entries_then_the_store(tmp_path: Path) -> None:
    around = helper(tmp_path / "bin", "keeps", KEEPS)
    both = write(tmp_path / "1", {"host": pair("entry", "p")}, credHelpers={"host": "keeps"})
    assert find([both], "host", "team/app", **around) == Credentials("kept", Secret(CANARY))
    store = write(tmp_path / "2", {"host/team": pair("entry", "p"), "host": {}}, credsStore="keeps")
    assert user(find([store], "host", "team/app", **around)) == "entry"
    assert user(find([store], "host", "other", **around)) == "kept"
    none = write(tmp_path / "3", {"other": pair("entry", "p")}, credHelpers={"other": "keeps"})
    assert user(find([none], "other", **around)) == "entry"
    assert find([store], "nowhere", **around) is None
    last = write(tmp_path / "4", {"nowhere": pair("last", "p")})
    assert user(find([store, last], "nowhere", **around)) == "last"


@pytest.mark.parametrize("host", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_one_name_for_helpers(host: str, tmp_path: Path) -> None:
    around = helper(tmp_path / "bin", "keeps", KEEPS)
    assert user(find([write(tmp_path / "1", {}, credsStore="keeps")], host, "library/debian", **around)) == "hub"
    named = write(tmp_path / "2", {}, credHelpers={"https://index.docker.io/v1/": "keeps"})
    assert user(find([named], host, **around)) == "hub"


def test_a_helper_may_keep_an_identity_token(tmp_path: Path) -> None:
    around = helper(tmp_path / "bin", "keeps", KEEPS)
    file = write(tmp_path / "1", {}, credHelpers={"token.example": "keeps"})
    assert find([file], "token.example", **around) == Credentials("", Secret(""), Secret(CANARY))


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("echo c4n4ry >&2; echo c4n4ry; exit 3", "missing-credentials"),
        ("echo c4n4ry", "malformed-credentials"),
        ('echo \'{"Username":"u","Secret":5}\'', "malformed-credentials"),
        ("echo '[]'", "malformed-credentials"),
        ("printf '\\377'", "malformed-credentials"),
        ("cat /dev/zero", "malformed-credentials"),
        ('exec 0<&-; echo \'{"Username":"u","Secret":"s"}\'; exit 9', "missing-credentials"),
    ],
)
def test_what_a_helper_may_do_wrong(script: str, kind: str, tmp_path: Path) -> None:
    around = helper(tmp_path / "bin", "bad", script)
    with pytest.raises(RemoteProtocolError) as caught:
        find([write(tmp_path / "1", {}, credHelpers={"host": "bad"})], "host", **around)
    assert caught.value.kind == kind
    assert "docker-credential-bad" in caught.value.message
    assert "c4n4ry" not in caught.value.message + str(caught.value.hint)


def test_a_helper_that_says_nothing_has_nothing(tmp_path: Path) -> None:
    around = helper(tmp_path / "bin", "empty", "echo '{}'")
    assert find([write(tmp_path / "1", {}, credHelpers={"host": "empty"})], "host", **around) is None


def test_a_helper_that_hangs_is_stopped_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credential_programs, "SECONDS", 0.3)
    around = helper(tmp_path / "bin", "hangs", f"sleep 600 & echo $! > {tmp_path}/child; wait")
    began = time.monotonic()
    with pytest.raises(RemoteProtocolError) as caught:
        find([write(tmp_path / "1", {}, credHelpers={"host": "hangs"})], "host", **around)
    assert caught.value.kind == "timeout"
    assert time.monotonic() - began < 5
    child = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("name", ["../evil", "a b", "-x", "a;b", "a" * 65, ".x"])
def test_a_helpers_name_is_checked(name: str, tmp_path: Path) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        find([write(tmp_path / "1", {}, credHelpers={"host": name})], "host", PATH="/bin")
    assert caught.value.kind == "invalid-configuration"


def test_a_helper_that_is_not_there(tmp_path: Path) -> None:
    own = write(tmp_path / "1", {}, credHelpers={"host": "absent"})
    listed = write(tmp_path / "2", {"host": {}}, credsStore="absent")
    for file in (own, listed):
        with pytest.raises(RemoteProtocolError) as caught:
            find([file], "host", PATH=os.environ["PATH"])
        assert caught.value.kind == "invalid-configuration"
        assert "docker-credential-absent" in str(caught.value.hint)
    # Who has no login in the store does not need it.
    assert find([listed], "elsewhere", PATH=os.environ["PATH"]) is None


# ── faults ──────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "{", "5", '{"auths": []}', '{"credHelpers": []}',
        "[" * 100_000, "\x00", '{"auths": {"host": {"auth": "%%%c4n4ry"}}}',
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
        {"identitytoken": ""},
        {"identitytoken": 5},
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


def test_the_command_asks_a_helper_and_shows_nothing_of_it(tmp_path: Path) -> None:
    with serving({"team/app": repository()}, Basic("robot", Secret(CANARY))) as address:
        ask = ("tags", f"{address}/team/app", "--plain-http")
        around = helper(
            tmp_path / "bin", "demo",
            f'read server; echo asked >> {tmp_path}/asked; [ "$server" = "{address}" ] || exit 7\n'
            + "echo '{\"Username\":\"robot\",\"Secret\":\"'c4n4ry'-in-a-file\"}'",
        )  # fmt: skip
        write(tmp_path / ".docker" / "config.json", {}, credHelpers={address: "demo"})
        told = towline(*ask, home=tmp_path, **around)
        assert (told.code, told.out) == (0, "1.0\n"), told.err
        assert (tmp_path / "asked").read_text() == "asked\n"
        helper(tmp_path / "bin", "demo", f"echo {CANARY} >&2; echo {CANARY}; exit 1")
        failed = towline(*ask, home=tmp_path, **around)
        assert failed.code == 2
        assert failed.err.startswith("towline: MISSING_CREDENTIALS: ")
        assert CANARY not in told.out + told.err + failed.out + failed.err
