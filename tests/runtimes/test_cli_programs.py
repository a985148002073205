"""The command itself: its help, what it imports, its programs' needs, and the demo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from command_tools import COMMAND, environment, on_terminal, towline
from needed import CLONE, find_peer

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = ("server", "client", "agent", "up", "demo", "check", "repos", "tags", "inspect", "pull", "scan", "version")

# What no command needs before there is something to show.
HEAVY = {"rich", "asyncio", "asyncssh", "coredis", "opentelemetry", "importlib.metadata"}

# Runs the command and tells on stderr each address that it opened, bound or looked up.
WATCHED = """
import sys
def told(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto"):
        print("ADDRESS", arguments[1], file=sys.stderr)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        print("ADDRESS", arguments[:1], file=sys.stderr)
sys.addaudithook(told)
from towline.runtimes.cli import main
sys.exit(main(sys.argv[1:]))
"""


# ── help ────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, tmp_path: Path) -> None:
    """Each help text is the one kept in golden/. `WRITE_GOLDEN=1 pytest -k test_help` keeps the present ones."""
    told = towline(*[command][: bool(command)], "--help", home=tmp_path)
    assert (told.code, told.err) == (0, "")
    file = GOLDEN / f"help{'-' * bool(command)}{command}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(told.out)
    # Where argparse breaks a usage line differs from one Python to the next.
    assert told.out.split() == file.read_text().split()
    assert max(map(len, told.out.splitlines())) <= 100


def test_every_command_has_its_help_kept() -> None:
    assert {path.stem for path in GOLDEN.glob("help*.txt")} == {"help", *(f"help-{name}" for name in COMMANDS)}


def test_no_command(tmp_path: Path) -> None:
    told = towline(home=tmp_path)
    assert (told.code, told.out) == (2, "")
    assert told.err == ("towline: BAD_REQUEST: the following arguments are required: COMMAND\nhint: towline --help\n")


# ── version, imports ────────────────────────────────────────────────────────────
def test_the_version_is_in_one_place(tmp_path: Path) -> None:
    from towline._version import VERSION
    from towline.core.http import USER_AGENT

    assert towline("version", home=tmp_path).out == f"towline {VERSION}\n"
    assert json.loads(towline("version", "-o", "json", home=tmp_path).out) == {"version": VERSION}
    assert f"towline/{VERSION}" == USER_AGENT
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    assert project["dynamic"] == ["version"]


@pytest.mark.parametrize(
    ("arguments", "code", "unwanted"),
    [
        (["version"], 0, {*HEAVY, "trio", "msgspec", "towline.core", "ssl", "json"}),
        (["--help"], 0, {*HEAVY, "trio", "msgspec", "towline.core", "ssl", "json"}),
        (["tags", "127.0.0.1:1/a", "--retries", "0"], 3, {*HEAVY, "sqlite3"}),
        (["client"], 2, HEAVY),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_command_imports_what_it_needs(arguments: list[str], code: int, unwanted: set[str], tmp_path: Path) -> None:
    script = (
        "import sys\nfrom towline.runtimes.cli import main\ncode = main(sys.argv[1:])\n"
        "print('MODULES', *sys.modules, file=sys.stderr)\nsys.exit(code)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60,
        env=environment(tmp_path), cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == code, told.stderr
    loaded = set(told.stderr.splitlines()[-1].split()[1:])
    assert "towline.runtimes.cli" in loaded
    assert loaded & unwanted == set()


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    script = (
        "import sys\nsys.modules['trio'] = None\nfrom towline.runtimes.cli import main\nsys.exit(main(['tags', 'h/a']))"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env=environment(tmp_path)
    )
    assert told.returncode == 2
    assert told.stderr == (
        'towline: INVALID_CONFIGURATION: this command needs trio\nhint: pip install "towline[agent]"\n'
    )


# ── programs ────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("program", ["client", "up"])
def test_everything_that_is_missing_is_named(program: str, tmp_path: Path) -> None:
    told = towline(program, home=tmp_path)
    assert (told.code, told.out) == (2, "")
    lines = told.err.splitlines()
    assert [line.split(" ")[0] for line in lines[:3]] == ["client.token", "client.server_url", "client.agent_url"]
    assert lines[3] == "3 errors"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "given", "said"),
    [
        ("server", {"ACCEPT": "absent.json"}, "accept file absent.json cannot be read (No such file or directory)"),
        ("server", {"HTTPS_KEY": "k.pem"}, "server.https_cert and server.https_key are set together or not at all"),
        ("agent", {"SNYK_PORT": "many"}, 'SNYK_PORT agent.port: expected a whole number, got "many"'),
    ],
)
def test_a_program_that_cannot_start_says_why(program: str, given: dict[str, str], said: str, tmp_path: Path) -> None:
    told = towline(program, home=tmp_path, **given)
    assert (told.code, told.out, told.err) == (2, "", f"{said}\n1 error\n")


# ── demo ────────────────────────────────────────────────────────────────────────
def test_the_demo_as_json_is_one_document_and_stays_on_loopback(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", WATCHED, "demo", "-o", "json"], capture_output=True, text=True, timeout=90,
        env=environment(tmp_path), cwd=tmp_path,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert (document["state"], document["done"]["kind"]) == ("done", "done")
    assert document["scanResults"]
    lines = told.stderr.splitlines()
    addresses = [line for line in lines if line.startswith("ADDRESS ")]
    assert [line for line in lines if line not in addresses] == []
    assert len(addresses) > 10
    assert [line for line in addresses if "'127.0.0.1'" not in line] == []
    assert list(tmp_path.iterdir()) == []


def test_the_demo_without_a_network(tmp_path: Path) -> None:
    """With loopback and nothing else, each hop is told as it happens, and the inventory comes at the end."""
    ip = find_peer("ip")
    alone = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", f'{ip} link set lo up && exec "$@"', "sh"]
    if ip is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare --net is not permitted here")
    told = subprocess.run(
        [*alone, *COMMAND, "demo"], capture_output=True, text=True, timeout=90, env=environment(tmp_path), cwd=tmp_path
    )
    assert (told.returncode, told.stderr) == (0, "")
    for hop in ("registry  holds", "client ", "agent ", "backend   POST /broker/", "PACKAGE", " packages"):
        assert hop in told.stdout
    assert " packages" in told.stdout.splitlines()[-1]


def test_the_demo_on_a_terminal(tmp_path: Path) -> None:
    told = on_terminal("demo", home=tmp_path, out_too=True)
    assert told.code == 0
    assert told.err.splitlines()[-1].endswith(" packages")
