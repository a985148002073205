"""Canaries: a password that goes in comes out nowhere, in no form, whatever goes wrong."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from agent_tools import CANARY, REPOSITORY, USER, SmallRegistry, make_image
from command_tools import COMMAND, Ran, environment, towline

FORMS = (
    CANARY,
    json.dumps(CANARY)[1:-1],
    quote(CANARY),
    quote(CANARY, safe=""),
    base64.b64encode(CANARY.encode()).decode().rstrip("="),
    base64.b64encode(f"{USER}:{CANARY}".encode()).decode().rstrip("="),
)


@pytest.fixture(scope="module")
def registry() -> Iterator[SmallRegistry]:
    one = SmallRegistry({"1.0": make_image(filler=400_000)})
    yield one
    one.close()


def commands(registry: SmallRegistry) -> list[list[str]]:
    image = f"{registry.host}/{REPOSITORY}:1.0"
    return [
        ["check", registry.host],
        ["repos", registry.host],
        ["tags", f"{registry.host}/{REPOSITORY}"],
        ["inspect", image, "-o", "json"],
        ["pull", image, "image"],
        ["scan", image, "-o", "json"],
        ["tags", f"{registry.host}/none"],
        # Without TLS there, with a login in hand.
        ["tags", f"{registry.host}/none", "--retries", "0"],
    ]


def hits(told: Ran, folder: Path) -> list[str]:
    """Return what holds the canary: the output, or a file that was written."""
    texts = {"stdout": told.out, "stderr": told.err}
    texts |= {str(path): path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()}
    return [f"{place}: {form}" for place, text in texts.items() for form in FORMS if form in text]


def test_on_standard_input(registry: SmallRegistry, tmp_path: Path) -> None:
    for at, command in enumerate(commands(registry)):
        plain = [] if at == 7 else ["--plain-http"]
        told = towline(*command, *plain, "--creds-stdin", home=tmp_path, given=f"{USER}:{CANARY}\n")
        assert told.code == (0 if at < 6 else 1 if at == 6 else 3), told
        assert hits(told, tmp_path) == []


def test_with_the_trace_of_an_error(registry: SmallRegistry, tmp_path: Path) -> None:
    image = f"{registry.host}/{REPOSITORY}:none"
    told = subprocess.run(
        [*COMMAND, "scan", image, "--plain-http", "--creds-stdin", "--debug", "-v"], input=f"{USER}:{CANARY}\n",
        capture_output=True, text=True, timeout=60, env=environment(tmp_path), cwd=tmp_path,
    )  # fmt: skip
    assert "Traceback" in told.stderr
    assert hits(Ran(told.returncode, told.stdout, told.stderr), tmp_path) == []


def test_a_malformed_login_is_not_quoted(registry: SmallRegistry, tmp_path: Path) -> None:
    for given in ("c4n4ry-with-no-user", ":c4n4ry-with-no-user", ""):
        told = towline("repos", registry.host, "--creds-stdin", home=tmp_path, given=given)
        assert told == Ran(
            2, "", "towline: MALFORMED_CREDENTIALS: standard input: expected user:password, got something else\n"
        )


def test_nothing_in_the_process_list(registry: SmallRegistry, tmp_path: Path) -> None:
    registry.stall = threading.Event()
    registry.stalled.clear()
    image = f"{registry.host}/{REPOSITORY}:1.0"
    try:
        with subprocess.Popen(
            [*COMMAND, "scan", image, "--plain-http", "--creds-stdin"], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(tmp_path), cwd=tmp_path,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            process.stdin.write(f"{USER}:{CANARY}\n")
            process.stdin.flush()
            assert registry.stalled.wait(30)
            seen = Path(f"/proc/{process.pid}/cmdline").read_bytes() + Path(f"/proc/{process.pid}/environ").read_bytes()
            registry.stall.set()
            out, err = process.communicate(timeout=30)
    finally:
        registry.stall.set()
        registry.stall = None
    assert process.returncode == 0, err
    assert [form for form in FORMS if os.fsencode(form) in seen] == []
    assert hits(Ran(0, out, err), tmp_path) == []
