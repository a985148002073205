"""The programs as an operator meets them: how they stop, and what they say of a configuration that cannot work."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_tools import Receiver, SmallRegistry, call, scan_body
from interop.canaries import Canaries
from interop.chain import Program, towline, wait
from ports import free_port

pytestmark = pytest.mark.interop

PROGRAMS = ("server", "client", "agent", "up")
TOKEN = Canaries().broker_token


def variables(program: str, port: int) -> dict[str, str]:
    """What each program needs at least; the server that the client calls is not there."""
    client = {"PORT": str(port), "BROKER_TOKEN": TOKEN, "BROKER_SERVER_URL": "http://127.0.0.1:1"}
    client |= {"BROKER_CLIENT_URL": f"http://127.0.0.1:{port}", "CR_AGENT_URL": "http://127.0.0.1:1"}
    return {
        "server": {"PORT": str(port)},
        "client": client,
        "agent": {"SNYK_PORT": str(port)},
        "up": client | {"SNYK_PORT": str(free_port())},
    }[program]


def started(program: Program, port: int, path: str = "/healthcheck") -> Program:
    """Start a program and wait until it answers."""
    program.start()

    def answers() -> bool:
        assert program.running.poll() is None, program.said()
        try:
            return call(port, "GET", path).status > 0
        except OSError:
            return False

    wait(answers, what=program.said)
    return program


@pytest.fixture
def closing() -> Iterator[list[Program]]:
    programs: list[Program] = []
    yield programs
    for program in programs:
        program.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_signal_ends_a_program_cleanly(
    tmp_path: Path, closing: list[Program], name: str, number: signal.Signals
) -> None:
    port = free_port()
    program = towline(tmp_path, name, **variables(name, port))
    closing.append(program)
    started(program, port)
    program.send(number)
    assert program.running.wait(10) == 0, program.said()
    assert "Traceback" not in program.said()
    assert f'"signal":"{number.name}"' in program.said()


# ── what is under way ────────────────────────────────────────────────────────
class Working:
    """An agent that holds a half-pulled layer."""

    def __init__(self, folder: Path) -> None:
        self.registry, self.receiver = SmallRegistry(), Receiver()
        self.stall = self.registry.stall = threading.Event()
        self.port = free_port()
        own = {"SNYK_PORT": str(self.port), "BROKER_CLIENT_URL": self.receiver.url}
        own |= {"TOWLINE_ALLOW_HTTP": self.registry.host, "CR_CREDENTIALS": self.registry.credentials().reveal()}
        self.program = started(towline(folder, "agent", **own), self.port)
        accepted = call(self.port, "POST", "/scan", scan_body(self.receiver))
        assert accepted.status == 202, accepted.data
        self.job = accepted.body["jobId"]
        wait(self.registry.stalled.is_set, what=self.program.said)

    def close(self) -> None:
        self.program.close()
        self.stall.set()
        self.registry.close()
        self.receiver.close()


@pytest.fixture
def working(tmp_path: Path) -> Iterator[Working]:
    made = Working(tmp_path)
    yield made
    made.close()
    assert made.receiver.fault == []


def test_what_is_under_way_ends_before_the_agent_does(working: Working) -> None:
    program = working.program
    program.send(signal.SIGTERM)
    wait(lambda: call(working.port, "POST", "/scan", scan_body(working.receiver)).status == 503, what=program.said)
    assert program.running.poll() is None
    working.stall.set()
    assert program.running.wait(20) == 0, program.said()
    assert working.receiver.done(working.job)["state"] == "done"


def test_a_second_signal_cuts(working: Working) -> None:
    program = working.program
    program.send(signal.SIGTERM)
    wait(lambda: '"signal":"SIGTERM"' in program.said(), what=program.said)
    began = time.monotonic()
    program.send(signal.SIGTERM)
    assert program.running.wait(10) == 128 + signal.SIGTERM, program.said()
    assert time.monotonic() - began < 5
    assert "Traceback" not in program.said()
    working.stall.set()
    # What was cut is not lost: it is the next start's work.
    started(program, working.port)
    wait(lambda: working.receiver.done(working.job), what=program.said)
    assert working.receiver.done(working.job)["state"] == "done"
    assert program.stop() == 0


# ── configurations that cannot work ──────────────────────────────────────────
def refused(folder: Path, name: str, **given: str) -> str:
    """Start a program that cannot; return what it says: no trace, and every line one that a person reads."""
    program = towline(folder, name, **given).start()
    try:
        assert program.running.wait(15) == 2, program.said()
    finally:
        program.close()
    assert "Traceback" not in program.said()
    assert TOKEN not in program.said()
    return program.said()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_port_that_is_taken(tmp_path: Path, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(tmp_path, name, **variables(name, port))
    lines = [line for line in said.splitlines() if line.startswith("towline: ")]
    assert len(lines) == 1, said
    assert "INVALID_CONFIGURATION" in lines[0]
    assert str(port) in lines[0]


@pytest.mark.parametrize("name", ["client", "up"])
@pytest.mark.parametrize("missing", [("BROKER_TOKEN",), ("BROKER_SERVER_URL", "BROKER_TOKEN")])
def test_a_variable_that_is_missing(tmp_path: Path, name: str, missing: tuple[str, ...]) -> None:
    given = {key: value for key, value in variables(name, free_port()).items() if key not in missing}
    said = refused(tmp_path, name, **given)
    for variable in missing:
        assert sum(variable in line for line in said.splitlines()) == 1, said
    assert f"{len(missing)} error" in said


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("server", {"PORT": "http"}, "PORT"),
        ("server", {"ACCEPT": "/nowhere/accept.json"}, "/nowhere/accept.json"),
        ("server", {"TOWLINE_RESULTS": "/dev/null/box"}, "/dev/null"),
        ("server", {"TOWLINE_RESLUTS": "x"}, "did you mean TOWLINE_RESULTS"),
        ("server", {"HTTPS_CERT": "/nowhere/cert.pem"}, "https_key"),
        ("server", {"HTTPS_CERT": "/nowhere/cert.pem", "HTTPS_KEY": "/nowhere/key.pem"}, "/nowhere/"),
        ("client", {"BROKER_SERVER_URL": "ftp://broker"}, "broker server's URL"),
        ("client", {"CR_AGENT_URL": "agent:17500"}, "agent's URL"),
        ("client", {"ACCEPT": "/dev/null"}, "/dev/null"),
        ("agent", {"TOWLINE_WORKDIR": "/dev/null/work"}, "/dev/null"),
        ("agent", {"TOWLINE_CALLBACK_MAX_BYTES": "16384"}, "262144"),
        ("agent", {"CR_TYPE": "quay"}, "quay"),
        ("agent", {"CR_CREDENTIALS": "bm90IGEgbG9naW4gY2FuYXJ5"}, "CR_"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, given: dict[str, str], told: str) -> None:
    said = refused(tmp_path, name, **variables(name, free_port()) | given)
    assert any(told in line for line in said.splitlines()), said
    assert "canary" not in said
    assert len(said.splitlines()) <= 3, said


def test_a_server_that_is_not_there(tmp_path: Path, closing: list[Program]) -> None:
    """The client keeps trying, says so on its health check, and is there when the server comes."""
    port, server_port = free_port(), free_port()
    given = variables("client", port) | {"BROKER_SERVER_URL": f"http://127.0.0.1:{server_port}"}
    client = towline(tmp_path, "client", **given)
    closing.append(client)
    started(client, port)
    wait(lambda: client.said().count("tunnel.closed") >= 4, what=client.said)
    unhealthy = call(port, "GET", "/healthcheck")
    assert (unhealthy.status, [tunnel["ok"] for tunnel in unhealthy.body]) == (500, [False, False])
    posted = call(port, "POST", "/api/v2/import/done", b"{}")
    assert posted.status == 503
    assert posted.headers["retry-after"].isdecimal()
    server = towline(tmp_path, "server", PORT=str(server_port))
    closing.append(server)
    server.start()
    wait(lambda: call(port, "GET", "/healthcheck").status == 200, what=client.said)
    assert (client.stop(), server.stop()) == (0, 0)
