"""The hand tools over TLS: what is proved, what is refused and why, and what is said aloud."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_tools import make_image, sha256
from command_tools import repository, serving, towline
from drivers.loops import make_certificate

from towline.core import Secret
from towline.drivers import Listener
from towline.runtimes.demo.registry import Token

IMAGE = make_image()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def port(certificate: tuple[str, str]) -> Iterator[str]:
    listener = Listener(tls_cert=certificate[0], tls_key=certificate[1])
    auth = Token("robot", Secret("c4n4ry"))
    with serving({"team/app": repository({"1.0": IMAGE})}, auth, listener, scheme="https") as address:
        yield address.partition(":")[2]


def test_a_trusted_authority(port: str, certificate: tuple[str, str], tmp_path: Path) -> None:
    trusting = ("--ca-file", certificate[0], "--creds-stdin")
    told = towline("check", f"https://localhost:{port}", *trusting, home=tmp_path, given="robot:c4n4ry")
    assert (told.code, told.err) == (0, "")
    assert [line.split()[0] for line in told.out.splitlines()] == [
        "resolve", "tcp", "tls", "v2", "token", "list", "pull",
    ]  # fmt: skip
    told = towline(
        "inspect", f"localhost:{port}/team/app:1.0", "-o", "json", *trusting, home=tmp_path, given="robot:c4n4ry"
    )
    assert json.loads(told.out)["digest"] == sha256(IMAGE["manifest"])


def test_an_unknown_authority(port: str, tmp_path: Path) -> None:
    told = towline("check", f"localhost:{port}", home=tmp_path)
    last = told.out.splitlines()[-1]
    assert told.code == 1
    assert last.split()[:2] == ["tls", "FAIL"]
    assert "the certificate of localhost was refused: self-signed certificate" in last
    assert told.err.startswith("hint: --ca-file FILE ")
    told = towline("tags", f"localhost:{port}/team/app", home=tmp_path)
    assert (told.code, told.out) == (3, "")
    assert told.err.startswith("towline: TLS_ERROR: GET https://localhost:")
    assert "the certificate of localhost was refused" in told.err


def test_no_proof_is_said_aloud(port: str, tmp_path: Path) -> None:
    told = towline(
        "tags", f"localhost:{port}/team/app", "--tls-verify", "false", "--creds-stdin", home=tmp_path,
        given="robot:c4n4ry",
    )  # fmt: skip
    assert (told.code, told.out) == (0, "1.0\n")
    assert told.err == f"towline: warning: the certificate of localhost:{port} is not verified\n"


def test_another_name_is_brought_to_an_address(port: str, certificate: tuple[str, str], tmp_path: Path) -> None:
    """The certificate must still be that of the name."""
    resolve = ("--resolve", f"registry.example:443:127.0.0.1:{port}", "--ca-file", certificate[0])
    told = towline("check", "registry.example", *resolve, home=tmp_path)
    rows = [line.split(None, 4) for line in told.out.splitlines()]
    assert told.code == 1
    assert rows[0][:2] == ["resolve", "ok"]
    assert rows[0][4] == "127.0.0.1"
    assert [rows[-1][0], rows[-1][1]] == ["tls", "FAIL"]
    assert "mismatch" in told.out.lower()


def test_a_peer_that_says_nothing(tmp_path: Path) -> None:
    """Silence is a peer out of reach, and the time it may take is the caller's."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        # The system takes the connection; nobody ever answers on it.
        told = towline(
            "tags", f"127.0.0.1:{silent.getsockname()[1]}/a", "--plain-http", "--timeout", "500ms", home=tmp_path
        )
    assert (told.code, told.out) == (3, "")
    assert told.err.startswith("towline: TIMEOUT: ")
