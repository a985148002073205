"""Several connections from a file: ours and the stock universal client's; every fault at once, with its place."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import anyio
import pytest
from needed import CLONE

from towline.core import LIMITS, Secret
from towline.core.broker import BrokerClientConfig, ConnectionConfig, RulesRead
from towline.drivers import Listener
from towline.runtimes.client import serve_client
from towline.runtimes.client_setup import client_config, client_limits, client_warnings, expanded, read_rules
from towline.runtimes.config import ConfigurationError, Settings, load
from towline.runtimes.logs import Log
from towline.runtimes.output import exit_code, first
from towline.runtimes.setup import strike_secrets

SECTIONS = ("log", "tls", "client", "registry")
CONTEXT = "1a111111-2222-4333-8444-555555555555"

OURS = f"""\
[client]
server_url = "https://broker.example"
client_url = "http://client:8000"
agent_url = "http://agent:8081"

[connections.hub]
token = "${{HUB_TOKEN}}"
type = "docker-hub"
CR_BASE = "docker.io"
CR_USERNAME = "me"
CR_PASSWORD = 'c4n4ry"quoted'

[connections.hub.contexts.{CONTEXT}]
CR_PASSWORD = "c4n4ry-context"

[connections."my harbor"]
token = "bbbbbbbb-0000-4000-8000-00000000000b"
type = "harbor-cr"
server_urls = ["https://one.example", "https://two.example"]
agent_url = "http://agent-two:8081"
CR_CREDENTIALS = "c4n4ry-finished"
"""
STOCK: dict[str, Any] = {
    "BROKER_CLIENT_CONFIGURATION": {
        "common": {
            "default": {
                "BROKER_SERVER_URL": "https://broker.example",
                "BROKER_HA_MODE_ENABLED": True,
                "RULES_ONLY": "$CLIENT",
            },
            "oauth": {"clientId": "${CLIENT}", "clientSecret": "c4n4ry-oauth"},
        },
        "docker-hub": {"default": {"CR_BASE": "docker.io"}, "required": {"CR_PASSWORD": ""}, "validations": []},
    },
    "CONNECTIONS": {
        "my registry": {
            "type": "docker-hub",
            "identifier": "${HUB_TOKEN}",
            "id": "i-1",
            "CR_AGENT_URL": "http://cra:8081",
            "BROKER_CLIENT_URL": "http://broker:8000",
            "CR_USERNAME": "$CLIENT",
            "CR_PASSWORD": "pa$word",
            "organisation": "x",
            "contexts": {CONTEXT: {"CR_PASSWORD": "c4n4ry-context"}, "off": {"isDisabled": True}},
        },
        "off": {"isDisabled": True},
    },
    "SUPPORTED_BROKER_TYPES": [],
}
ENVIRONMENT = {"HUB_TOKEN": "aaaaaaaa-0000-4000-8000-00000000000a", "CLIENT": "client-id"}
UNIVERSAL = {"UNIVERSAL_BROKER_ENABLED": "true", "SKIP_REMOTE_CONFIG": "true", **ENVIRONMENT}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ours(text: str = OURS, **environment: str) -> Settings:
    Path("towline.toml").write_text(text)
    return load({**ENVIRONMENT, **environment}, None, None, SECTIONS)


def stock(document: Any = STOCK, **environment: str) -> Settings:
    Path("config.default.json").write_text(document if isinstance(document, str) else json.dumps(document, indent=1))
    return load({**UNIVERSAL, **environment}, None, None, SECTIONS)


def login(connection: ConnectionConfig, context: str | None = None) -> Any:
    made = (connection.contexts[context] if context else connection.variables)["CR_CREDENTIALS"]
    assert isinstance(made, Secret)
    return json.loads(base64.b64decode(made.reveal()))


def faults(make: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert "c4n4ry" not in str(caught.value)
    return caught.value.faults


# ── our file ────────────────────────────────────────────────────────────────────
def test_connections_of_our_file() -> None:
    hub, harbor = client_config(ours()).served()
    assert (hub.name, hub.slug, hub.type) == ("hub", "hub", "docker-hub")
    assert (harbor.name, harbor.slug) == ("my harbor", "my-harbor")
    assert hub.token == Secret(ENVIRONMENT["HUB_TOKEN"])
    assert [str(url) for url in hub.servers()] == ["https://broker.example/"]
    assert [str(url) for url in harbor.servers()] == ["https://one.example/", "https://two.example/"]
    assert (hub.agent_url, harbor.agent_url) == ("http://agent:8081", "http://agent-two:8081")
    assert harbor.variables["CR_CREDENTIALS"] == Secret("c4n4ry-finished")
    assert login(hub) == {
        "type": "docker-hub",
        "username": "me",
        "password": 'c4n4ry"quoted',
        "registryBase": "docker.io",
    }


def test_a_context_has_the_credentials_of_the_effective_configuration() -> None:
    hub, _ = client_config(ours()).served()
    assert login(hub, CONTEXT) == {**login(hub), "password": "c4n4ry-context"}


def test_a_connection_has_nothing_of_the_environments_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CR_PASSWORD", "c4n4ry-elsewhere")
    monkeypatch.setenv("CR_CREDENTIALS", "c4n4ry-elsewhere")
    monkeypatch.setenv("GENERAL", "known")
    text = '[connections.bare]\ntoken = "t"\nserver_url = "http://s"\nagent_url = "http://a"\n'
    (bare,) = client_config(ours(text)).served()
    assert "CR_PASSWORD" not in bare.variables
    assert "CR_CREDENTIALS" not in bare.variables
    assert bare.variables["GENERAL"] == Secret("known")


def test_a_variable_may_come_from_the_file_that_is_named_for_it(tmp_path: Path) -> None:
    (tmp_path / "held").write_text("from-a-file\n")
    Path("towline.toml").write_text(OURS)
    settings = load({"HUB_TOKEN_FILE": str(tmp_path / "held")}, None, None, SECTIONS)
    assert client_config(settings).served()[0].token == Secret("from-a-file")
    with pytest.raises(ConfigurationError, match="HUB_TOKEN_FILE: /absent cannot be read"):
        load({"HUB_TOKEN_FILE": "/absent"}, None, None, SECTIONS)


FAULTY = """\
[client]
server_url = "http://s"

[connections.one]
tokn = "c4n4ry"
type = 5
token = "${ABSENT}"
contexts = 7

[connections.two.contexts]
a = 5
[connections.two.contexts.b]
CR_PASSWORD = "x"
lower = "y"

[connections]
three = 4
"""


def test_every_fault_of_a_connection_is_told_with_its_place() -> None:
    assert faults(lambda: ours(FAULTY)) == [
        'towline.toml:5 connections.one.tokn: unknown key; did you mean "token"?',
        "towline.toml:6 connections.one.type: expected a text, got 5",
        "towline.toml:7 connections.one.token: ABSENT is not set in the environment",
        "towline.toml:8 connections.one.contexts: expected a table of contexts, got a int",
        "towline.toml:11 connections.two.contexts.a: expected a table of variables, got a int",
        "towline.toml:14 connections.two.contexts.b.lower: expected a variable in capitals",
        "towline.toml:17 connections.three: expected a table, got a int",
        "7 errors",
    ]


NOT_ENOUGH = """\
[connections.one]
type = "docker-hub"
CR_USERNAME = "me"
accept = "absent.json"

[connections.two]
token = "same"
agent_url = "http://a"
server_url = "http://s"
type = "ecr"
CR_REGION = "eu-west-1"

[connections.three]
token = "SAME"
agent_url = "http://a"
server_url = "http://s"
CR_PASSWORD = "c4n4ry"
CR_USERNAME = "me"

[connections.four]
token = "a-fourth"
agent_url = "http://a"
server_url = "http://s"
type = "github"
CR_PASSWORD = "c4n4ry"
CR_USERNAME = "me"
"""


def test_everything_that_a_connection_lacks_is_told_at_once() -> None:
    told = faults(lambda: client_config(ours(NOT_ENOUGH)))
    assert [line.partition(" ")[2].partition(";")[0] for line in told[:-1]] == [
        "connections.one: token is not set",
        "connections.one: neither server_url nor client.server_url is set",
        "connections.one: neither agent_url nor client.agent_url is set",
        "connections.one: CR_PASSWORD of its credentials is not set",
        "connections.one: accept file absent.json cannot be read (No such file or directory)",
        "connections.two: CR_ROLE_ARN of its credentials is not set",
        "connections.three: its token is that of two",
        "connections.three: CR_TYPE of its credentials is not set",
        "connections.four: the registry type is none that is known",
    ]
    assert told[0].startswith("towline.toml:1 ")
    assert told[-1] == "9 errors"


def test_names_that_are_one_in_a_path() -> None:
    text = OURS.replace('"my harbor"', '"hub-"').replace("bbbbbbbb", "cccccccc")
    assert faults(lambda: client_config(ours(text))) == [
        "connection 2: expected a name of its own, and hub comes twice",
        "1 error",
    ]


def test_a_name_that_holds_the_token() -> None:
    token = "c4n4ry-0000-4000-8000-00000000000a"
    text = f'[connections."hub {token}"]\ntoken = "{token}"\nserver_url = "http://s"\nagent_url = "http://a"\n'
    told = faults(lambda: client_config(ours(text)))
    assert told == ["towline.toml:1 connections: the name of a connection holds its token", "1 error"]


def test_other_programs_pass_connections_over() -> None:
    Path("towline.toml").write_text(OURS)
    assert load({}, None, None, ("log", "server")).connections == ()


# ── the stock file ──────────────────────────────────────────────────────────────
def test_connections_of_the_stock_file() -> None:
    settings = stock()
    config = client_config(settings)
    (mine,) = config.served()
    assert (mine.name, mine.type, mine.token) == ("my registry", "docker-hub", Secret(ENVIRONMENT["HUB_TOKEN"]))
    assert (mine.agent_url, mine.client_url, mine.server_url) == (
        "http://cra:8081",
        "http://broker:8000",
        "https://broker.example",
    )
    assert config.high_availability is True
    assert mine.variables["RULES_ONLY"] == Secret("client-id")
    assert "BROKER_HA_MODE_ENABLED" not in mine.variables
    assert login(mine) == {
        "type": "docker-hub",
        "username": "client-id",
        "password": "pa$word",
        "registryBase": "docker.io",
    }
    assert login(mine, CONTEXT)["password"] == "c4n4ry-context"
    assert list(mine.contexts) == [CONTEXT]


def test_what_does_not_map_is_named_in_one_warning() -> None:
    (told,) = client_warnings(stock())
    assert told.partition(": ")[2].split(", ") == [
        "SUPPORTED_BROKER_TYPES",
        "BROKER_CLIENT_CONFIGURATION.docker-hub.validations",
        "CONNECTIONS.my registry.organisation",
    ]
    assert client_warnings(stock(BROKER_TOKEN="x"))[1].startswith("client.token is not used")


def test_the_environment_wins_over_what_the_stock_file_says_for_all() -> None:
    assert client_config(stock(BROKER_SERVER_URL="https://other.example")).served()[0].server_url == (
        "https://other.example"
    )


def test_a_remote_configuration_is_refused_in_words() -> None:
    with pytest.raises(ConfigurationError, match="not fetched from the vendor"):
        load({"UNIVERSAL_BROKER_ENABLED": "true"}, None, None, SECTIONS)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "config.default.json: Expecting property name"),
        ("[]", "expected CONNECTIONS with at least one connection"),
        ('{"CONNECTIONS": {}}', "expected CONNECTIONS with at least one connection"),
        ('{"CONNECTIONS": {"a": 5}}', "CONNECTIONS.a: expected an object, got a int"),
        ('{"CONNECTIONS": {"a": {"identifier": 5}}}', "CONNECTIONS.a.identifier: expected a text"),
    ],
)
def test_a_stock_file_that_cannot_be_used(document: str, said: str) -> None:
    assert any(said in line for line in faults(lambda: stock(document)))


def test_a_stock_file_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match=r"elsewhere\.json: No such file"):
        load({**UNIVERSAL, "TOWLINE_UNIVERSAL_CONFIG": "elsewhere.json"}, None, None, SECTIONS)


def test_connections_in_both_files() -> None:
    Path("towline.toml").write_text(OURS)
    assert faults(stock)[0].startswith("connections are listed twice")


def test_the_example_of_the_documentation() -> None:
    text = (CLONE / "docs" / "client.md").read_text()
    example = text.partition("```toml\n")[2].partition("```")[0]
    Path("harbor.json").write_text('{"private": [{"path": "/list"}]}')
    given = {name: f"of-{name}" for name in ("HUB_TOKEN", "HUB_PASSWORD", "OTHER_PASSWORD", "HARBOR_TOKEN")}
    hub, harbor = client_config(ours(example, **given, HARBOR_PASSWORD="p")).served()
    assert (hub.token, login(hub, CONTEXT)["password"]) == (Secret("of-HUB_TOKEN"), "of-OTHER_PASSWORD")
    assert (harbor.slug, login(harbor)["username"]) == ("my-harbor", "robot$scan")


# ── the program ─────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("loop", ["trio", "asyncio"])
def test_a_client_that_reaches_no_server_ends_as_unreachable(loop: str) -> None:
    from towline.drivers import on_asyncio, on_trio

    driver = on_trio if loop == "trio" else on_asyncio
    config = BrokerClientConfig(server_url="http://127.0.0.1:1", token=Secret("t"), attempts=1)

    async def run() -> None:
        await serve_client(
            config, driver, Listener("127.0.0.1", 0), log=Log("error", "json", io.StringIO()), stop=anyio.Event()
        )

    with pytest.raises(BaseExceptionGroup) as caught:
        anyio.run(run, backend=loop)
    error = first(caught.value)
    assert (error.kind, exit_code(error)) == ("tunnel-refused", 3)


def test_accept_files_are_read_again_every_day(monkeypatch: pytest.MonkeyPatch) -> None:
    from towline.drivers import on_trio

    monkeypatch.setattr("towline.runtimes.client._REREAD_SECONDS", 0.02)
    config = BrokerClientConfig(server_url="http://127.0.0.1:1", token=Secret("t"))
    out = io.StringIO()
    answers = iter([RulesRead(fault="accept.json: not now"), RulesRead()])

    async def run() -> None:
        stop = anyio.Event()

        def reread() -> RulesRead:
            said = next(answers, None)
            if said is None:
                stop.set()
            return said or RulesRead()

        with anyio.fail_after(10):
            log = Log("info", "json", out)
            await serve_client(config, on_trio, Listener("127.0.0.1", 0), log=log, stop=stop, reread=reread)

    anyio.run(run, backend="trio")
    told = [json.loads(line) for line in out.getvalue().splitlines()]
    read = [(line["level"], line["fault"]) for line in told if line["event"] == "rules read again"]
    assert read[:2] == [("error", "accept.json: not now"), ("info", None)]


# ── what else the programs read ─────────────────────────────────────────────────
def test_accept_files_are_read_again_by_connection() -> None:
    Path("own.json").write_text('{"private": [{"path": "/only"}]}')
    settings = ours(OURS.replace('type = "harbor-cr"', 'type = "harbor-cr"\naccept = "own.json"'))
    assert set(read_rules(settings).rules) == {"hub", "my-harbor"}
    assert read_rules(settings).rules["my-harbor"].private[0].path == "/only"
    Path("own.json").write_text("{")
    said = read_rules(settings)
    assert said.fault is not None
    assert said.fault.startswith("own.json: ")
    assert said.rules == {}


def test_the_log_strikes_the_secrets_of_connections() -> None:
    out = io.StringIO()
    log = Log("info", "json", out)
    strike_secrets(log, ours())
    log.say("info", "x", a="c4n4ry-context", b="bbbbbbbb-0000-4000-8000-00000000000b", c="c4n4ry-finished")
    assert "c4n4ry" not in out.getvalue()
    assert "bbbbbbbb" not in out.getvalue()
    assert "c4n4ry" not in repr(client_config(ours()))


def test_values_of_the_environment_may_name_others() -> None:
    given = {
        "HOST": "git.example",
        "WHERE": "https://$TOK@$HOST/$ABSENT",
        "TOK": "one",
        "TOK_POOL": "two, three",
        "CR_PASSWORD": "pa$HOST",
        "KEPT": r"\$HOST ${HOST}",
        "LOOP": "$LOOP$HOST",
    }
    known = {name: value.reveal() for name, value in expanded(given).items()}
    assert known["WHERE"] == "https://one@git.example/$ABSENT"
    assert known["WHERE_POOL"] == "https://two@git.example/$ABSENT,https://three@git.example/$ABSENT"
    assert (known["CR_PASSWORD"], known["KEPT"]) == ("pa$HOST", r"\$HOST ${HOST}")
    assert known["LOOP"] == "$LOOP$HOSTgit.example"


def test_the_largest_acknowledged_answer() -> None:
    settings = load({"SOCKET_MAX_RESPONSE_LENGTH": "1000"}, None, None, SECTIONS)
    assert client_limits(settings).tunnel_answer == 1_000
    assert client_limits(load({}, None, None, SECTIONS)) == LIMITS
    settings = load({"SOCKET_MAX_RESPONSE_LENGTH": str(1 << 40)}, None, None, SECTIONS)
    assert client_limits(settings).tunnel_answer == 64 * 1024 * 1024
