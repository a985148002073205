"""Configuration: every fault at once with its place, who wins, and secrets that stay secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_tools import towline

from towline.core import Secret
from towline.runtimes.config import ConfigurationError, load
from towline.runtimes.settings import SETTINGS
from towline.runtimes.setup import metrics_listener, server_config, server_limits
from towline.runtimes.values import milliseconds, number, seconds, switch, words

CANARY = "c4n4ry-t0ken"

TWELVE = """\
# twelve faults, each on a line of its own
[log]
level = "loud"
format = 5

[server]
port = 70_000
https_key = 7
repositorys = 1

[client]
token = ["c4n4ry-t0ken"]
ping_interval = "5 parsecs"
polling_first = "maybe"
tokn = "x"

[agent]
max_image_bytes = -1
callback_urls = 7

[registri]
type = "oci"
"""


def faults(path: Path | None = None, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(environment, str(path) if path else None)
    assert caught.value.kind == "invalid-configuration"
    assert CANARY not in str(caught.value)
    return caught.value.faults


# ── faults ──────────────────────────────────────────────────────────────────────
def test_twelve_faults_are_twelve_lines(tmp_path: Path) -> None:
    file = tmp_path / "towline.toml"
    file.write_text(TWELVE)
    assert faults(file) == [
        f'{file}:3 log.level: expected one of debug, info, warn, warning, error, got "loud"',
        f"{file}:4 log.format: expected one of human, json, got 5",
        f"{file}:7 server.port: expected a port from 0 to 65535, got 70000",
        f"{file}:8 server.https_key: expected a text, got 7",
        f'{file}:9 unknown key "server.repositorys"; did you mean "server.results"?',
        f"{file}:12 client.token: expected a text, got a list",
        f'{file}:13 client.ping_interval: expected a duration such as 300ms, 30s or 5m, got "5 parsecs"',
        f'{file}:14 client.polling_first: expected true or false, got "maybe"',
        f'{file}:15 unknown key "client.tokn"; did you mean "client.token"?',
        f"{file}:18 agent.max_image_bytes: expected a whole number, got -1",
        f"{file}:19 agent.callback_urls: expected a list of texts, got 7",
        f'{file}:22 unknown key "registri.type"; did you mean "registry.type"?',
        "12 errors",
    ]


def test_the_command_tells_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "towline.toml").write_text(TWELVE)
    told = towline("up", home=tmp_path, TOWLINE_PROT="1", CR_PASSWORD=CANARY)
    lines = told.err.splitlines()
    assert (told.code, told.out, len(lines)) == (2, "", 14)
    assert lines[0].startswith("towline.toml:3 log.level: ")
    assert lines[-2:] == ["unknown variable TOWLINE_PROT; did you mean TOWLINE_PORT?", "13 errors"]
    assert CANARY not in told.err


def test_a_key_is_found_on_its_own_line(tmp_path: Path) -> None:
    for name, content, line in [
        ("a.toml", '[client]\ntoken_x = 1\ntoken = 5\n"server_url"=4\n', (2, 3, 4)),
        ("b.toml", 'client.token_x = 1\nclient.token = 5\n"client"."server_url" = 4\n', (1, 2, 3)),
        ("c.toml", "client = {token_x = 1, token = 5, server_url = 4}\n", (1, 1, 1)),
        ("d.json", '{\n "client": {\n  "token_x": 1,\n  "token": 5,\n  "server_url": 4}}', (3, 4, 5)),
    ]:
        file = tmp_path / name
        file.write_text(content)
        assert [fault.split(" ")[0] for fault in faults(file)[:-1]] == [f"{file}:{at}" for at in line]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.toml", b"[client\n", "at line 1"),
        ("t.toml", b"\xff", "utf-8"),
        ("t.json", b"[]", "expected a table of settings, got a list"),
        ("t.json", b"{", "line 1"),
        ("t.json", b"[" * 100_000, "recursion"),
        ("t.toml", b"port = 5\n", 't.toml:1 unknown key "port"'),
    ],
)
def test_a_file_that_cannot_be_read(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    told = faults(tmp_path / name)
    assert told[0].startswith(str(tmp_path / name))
    assert said in told[0]
    assert told[1:] == ["1 error"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert faults(tmp_path / "absent.toml") == [f"{tmp_path}/absent.toml: No such file or directory", "1 error"]
    assert faults(TOWLINE_CONFIG="/absent.toml")[0] == "/absent.toml: No such file or directory"


def test_variables_that_are_none() -> None:
    assert faults(TOWLINE_RESULT="x", TOWLINE_Q_FILE="y", TOWLINE_BIND="b", PATH="/bin", SNYK_WHATEVER="z") == [
        "unknown variable TOWLINE_Q_FILE",
        "unknown variable TOWLINE_RESULT; did you mean TOWLINE_RESULTS?",
        "2 errors",
    ]
    assert faults(SNYK_PORT="many", LOG_LEVEL="", MAX_ACTIVE_OPERATIONS="-2") == [
        'SNYK_PORT agent.port: expected a whole number, got "many"',
        'MAX_ACTIVE_OPERATIONS agent.active_operations: expected a whole number, got "-2"',
        "2 errors",
    ]


def test_what_a_server_is_told_in_the_stock_words() -> None:
    settings = load(
        {
            "SOCKET_PING_INTERVAL": "1500",
            "SOCKET_PING_TIMEOUT": "500",
            "MINIMAL_SUPPORTED_BROKER_VERSION": "4.1.2",
            "BROKER_SERVER_MANDATORY_AUTH_ENABLED": "true",
            "GATEWAY_HOSTNAME": "https://gateway.example",
            "DISPATCHER_URL": "https://dispatcher.example",
            "HOSTNAME": "broker-server-7",
            "TOWLINE_DRAIN_TIME": "2m",
            "SOCKET_MAX_RESPONSE_LENGTH": "2000000",
        }
    )
    config = server_config(settings)
    assert (config.ping_interval, config.ping_timeout, config.minimal_version) == (1.5, 0.5, "4.1.2")
    assert (config.authorization, config.gateway_url) == ("gateway", "https://gateway.example")
    told = (config.dispatcher_url, config.server_id, config.host_name)
    assert told == ("https://dispatcher.example", "7", "broker-server-7")
    assert settings["drain.time"] == 120.0
    assert server_limits(settings).tunnel_payload == 2_000_000
    assert (metrics_listener(settings, "server"), metrics_listener(settings, "client")) == (None, None)
    shown = metrics_listener(load({"TOWLINE_SERVER_METRICS_PORT": "0"}), "server")
    assert shown is not None
    assert (shown.host, shown.port) == ("127.0.0.1", 0)


def test_what_a_server_cannot_be_told() -> None:
    assert "SOCKET_MAX_RESPONSE_LENGTH server.message_bytes: expected 1048576 to 67108864 bytes, got 5" in faults(
        SOCKET_MAX_RESPONSE_LENGTH="5"
    )
    assert faults(MINIMAL_SUPPORTED_BROKER_VERSION="new", TOWLINE_DRAIN_TIME="11m") == [
        "TOWLINE_DRAIN_TIME drain.time: expected at most 600 s, got 660 s",
        'MINIMAL_SUPPORTED_BROKER_VERSION server.minimal_version: expected a version such as 4.182.0, got "new"',
        "2 errors",
    ]
    with pytest.raises(ConfigurationError) as refused:
        server_config(load({"BROKER_SERVER_MANDATORY_AUTH_ENABLED": "true"}))
    assert "GATEWAY_HOSTNAME" in refused.value.faults[0]


# ── who wins ────────────────────────────────────────────────────────────────────
def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "t.toml"
    file.write_text("[agent]\nport = 3\nbind = 'file'\nworkdir = 'file'\n")
    settings = load({"SNYK_PORT": "2", "TOWLINE_BIND": "environment"}, str(file), {"agent.port": "1"})
    assert (settings["agent.port"], settings.sources["agent.port"]) == (1, "command line")
    assert (settings["agent.bind"], settings.sources["agent.bind"]) == ("environment", "TOWLINE_BIND")
    assert (settings["agent.workdir"], settings.sources["agent.workdir"]) == ("file", f"{file}:4")
    assert (settings["log.level"], settings.sources["log.level"]) == ("info", "default")
    assert load({"TOWLINE_CONFIG": str(file)})["agent.port"] == 3
    assert load({"TOWLINE_CONFIG": "/absent"}, str(file))["agent.port"] == 3


def test_the_first_variable_of_a_row_wins() -> None:
    assert load({"TOWLINE_SERVER_PORT": "1", "PORT": "2"})["server.port"] == 1
    assert load({"PORT": "2"})["server.port"] == 2
    # A variable that is set to nothing is not set.
    assert load({"TOWLINE_SERVER_PORT": "", "PORT": "2"})["server.port"] == 2


def test_a_fault_of_another_program_is_its_own() -> None:
    assert load({"SNYK_PORT": "many"}, sections=("server",))["agent.port"] == 17500


def test_a_json_file_is_read_too(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"client": {"token": CANARY, "ping_interval": "300ms"}}))
    settings = load({}, str(file))
    assert settings["client.token"] == Secret(CANARY)
    assert settings["client.ping_interval"] == 0.3


# ── secrets ─────────────────────────────────────────────────────────────────────
def test_a_secret_from_a_file_of_its_own(tmp_path: Path) -> None:
    held = tmp_path / "token"
    held.write_text(CANARY + "\r\n")
    settings = load({"BROKER_TOKEN_FILE": str(held)})
    assert settings["client.token"] == Secret(CANARY)
    assert settings.sources["client.token"] == "BROKER_TOKEN_FILE"
    assert load({"BROKER_TOKEN": "direct", "BROKER_TOKEN_FILE": str(held)})["client.token"] == Secret("direct")
    assert faults(CR_PASSWORD_FILE=str(tmp_path / "absent")) == [
        f"CR_PASSWORD_FILE: {tmp_path}/absent cannot be read (No such file or directory)",
        "1 error",
    ]


def test_settings_show_no_secret() -> None:
    secret = [row for row in SETTINGS if row.read.__name__ in ("secret", "secrets")]
    assert len(secret) >= 9
    settings = load({row.variables[0]: CANARY for row in secret})
    assert all(settings[row.key] in (Secret(CANARY), (Secret(CANARY),)) for row in secret)
    assert CANARY not in f"{settings!r} {settings}"


def test_what_is_needed_is_asked_for_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"BROKER_TOKEN": "t"}).need("client.token", "client.server_url", "client.agent_url")
    assert caught.value.faults == [
        "client.server_url is not set: set BROKER_SERVER_URL, or client.server_url in the file",
        "client.agent_url is not set: set CR_AGENT_URL, or client.agent_url in the file",
        "2 errors",
    ]


# ── forms ───────────────────────────────────────────────────────────────────────
def test_forms() -> None:
    assert [seconds(text) for text in ("300ms", "30s", "5m", "2h", "1.5s", 7, 0.5)] == [0.3, 30, 300, 7200, 1.5, 7, 0.5]
    assert (milliseconds("250"), milliseconds("2s"), number("17"), number(17)) == (0.25, 2.0, 17, 17)
    assert [switch(value) for value in ("yes", "OFF", "1", True, 0)] == [True, False, True, True, False]
    assert words(" a, b ,,c") == words(["a", "b", "c"]) == ("a", "b", "c")
    for read, value in [
        (seconds, "5"), (seconds, "-5s"), (seconds, "1e9s"), (seconds, True), (seconds, -1), (number, "٣"),
        (number, "1" * 19), (number, True), (number, 1.0), (switch, "2"), (switch, 2), (words, {"a": 1}),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="expected "):
            read(value)


def test_rows_are_told_apart() -> None:
    keys = [row.key for row in SETTINGS]
    assert len(set(keys)) == len(keys)
    for section in {key.partition(".")[0] for key in keys}:
        names = [name for row in SETTINGS if row.key.startswith(section + ".") for name in row.variables]
        assert len(set(names)) == len(names), section
    assert all(row.meaning and row.variables for row in SETTINGS)
