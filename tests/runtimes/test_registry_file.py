"""The agent's own registry file: every form, every fault at its place, and no secret in any of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from towline.core import Secret
from towline.core.agent import RegistryLogin
from towline.runtimes.agent.registry_file import RegistryFile, RegistryFileError, read_registries
from towline.runtimes.agent_setup import agent_config
from towline.runtimes.config import ConfigurationError, load
from towline.runtimes.setup import dialer

CANARY = "c4n4ry-in-a-file"


def write(path: Path, content: str, mode: int = 0o600) -> str:
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def read(path: str, **environment: str) -> RegistryFile:
    return read_registries(path, environment, environment)


def faults(path: str, **environment: str) -> list[str]:
    with pytest.raises(RegistryFileError) as caught:
        read(path, **environment)
    told = [line.replace(path, "FILE") for line in caught.value.faults]
    assert CANARY not in " ".join(told)
    assert caught.value.kind == "invalid-configuration"
    return told


FULL = """
[registries.harbor-prod]
type = "harbor-cr"
base = "https://harbor.example:8443/"
namespaces = ["team-a"]
realm_hosts = ["login.example"]
fallback_repositories = ["team-a/app"]
auth = {{ username = "robot$scan", password_file = "{secret}" }}
tls = {{ ca_file = "{ca}", insecure_skip_verify = true, server_name = "inside.example" }}
repositories = {{ include = ["team-a/**"], exclude = ["**/cache"] }}
limits = {{ concurrency = 4, requests_per_second = 2.5 }}

[registries.ecr-prod]
type = "ElasticCR"
[registries.ecr-prod.auth]
cloud = "aws"
role_arn = "arn:aws:iam::123456789012:role/pull"
region = "eu-west-1"
external_id_file = "{secret}"
"""


def test_all_there_is(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", CANARY + "\n")
    ca = write(tmp_path / "ca.pem", "", 0o644)
    file = read(write(tmp_path / "r.toml", FULL.format(secret=secret, ca=ca), 0o644))
    assert file.logins == {
        "harbor-prod": RegistryLogin(
            "harbor-cr", "harbor.example:8443", "robot$scan", namespaces=("team-a",)
        ),
        "ecr-prod": RegistryLogin(
            "ecr", role_arn="arn:aws:iam::123456789012:role/pull", region="eu-west-1", external_id=Secret(CANARY)
        ),
    }  # fmt: skip
    harbor, ecr = file.entries["harbor-prod"], file.entries["ecr-prod"]
    assert (harbor.ca_file, harbor.insecure, harbor.server_name) == (ca, True, "inside.example")
    assert harbor.fallback == ("team-a/app",)
    assert (harbor.concurrency, harbor.rate, harbor.realm_hosts) == (4, 2.5, ("login.example",))
    admitted = [name for name in ("team-a/app", "team-a/x/y", "team-a/x/cache", "team-b/app") if harbor.admits(name)]
    assert admitted == ["team-a/app", "team-a/x/y"]
    assert (ecr.ambient, ecr.source) == ("aws", None)
    assert ecr.admits("any/thing")


def test_json_and_a_list_and_the_other_spelling(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", CANARY)
    entry = {"id": "a", "type": "oci", "base": "h:5000", "scheme": "http"}
    tree = {"registries": [entry | {"auth": {"username": "u", "passwordFile": secret}, "fallbackRepositories": ["x"]}]}
    file = read(write(tmp_path / "r.json", json.dumps(tree)))
    assert file.logins == {"a": RegistryLogin("oci", "h:5000", "u", scheme="http")}
    assert file.entries["a"].fallback == ("x",)
    listed = '[[registries]]\nid = "a"\ntype = "docker-hub"\nauth = { username = "u", password_env = "HUB" }\n'
    hub = read(write(tmp_path / "r.toml", listed), HUB=CANARY).logins["a"]
    assert (hub.type, hub.username, hub.secret) == ("docker-hub", "u", Secret(CANARY))


def test_a_password_in_the_file_itself(tmp_path: Path) -> None:
    content = f'[registries.a]\ntype = "oci"\nbase = "h"\nauth = {{ username = "u", password = "{CANARY}" }}\n'
    assert read(write(tmp_path / "r.toml", content)).logins["a"].secret == Secret(CANARY)
    [told] = faults(write(tmp_path / "r.toml", content, 0o644))
    assert told.startswith("FILE:4 registries.a.auth.password: ")
    assert "others may read" in told
    assert "chmod 600" in told


def test_every_fault_at_once_with_its_place(tmp_path: Path) -> None:
    content = f"""
[registries.one]
typ = "oci"
base = "bad host"
scheme = "ftp"
[registries.one.limits]
concurrency = "four"
requests_per_second = 0
[registries.two]
type = "novel"
base = "undefined"
auth = {{ username = "u", password = ["{CANARY}"], program = "{CANARY}" }}
tls = {{ ca_file = "absent.pem", insecure_skip_verify = "maybe", server_name = "h:1" }}
[registries.three]
type = "harbor-cr"
auth = {{ username = "u" }}
[registries."no id"]
[registries.four]
type = "oci"
base = "h"
auth = {{ username = "u", password_file = "absent" }}
repositorys = 5
[registries.five]
type = "ecr"
auth = {{ cloud = "moon", role_arn = "arn:x", password_env = "UNSET" }}
[registry]
"""
    told = faults(write(tmp_path / "r.toml", content))
    wanted = [
        ':3 registries.one.typ: unknown key; did you mean "type"?',
        ":2 registries.one.type: is not set",
        ":4 registries.one.base: ",
        ":5 registries.one.scheme: expected one of https, http",
        ':7 registries.one.limits.concurrency: expected a whole number, got "four"',
        ":8 registries.one.limits.requests_per_second: expected a number above 0",
        ":10 registries.two.type: the registry type is none that is known (one of oci, ",
        ":11 registries.two.base: expected a host",
        ":12 registries.two.auth.program: expected one way to the secret, got password and program",
        ":12 registries.two.auth.password: expected a text",
        ":13 registries.two.tls.ca_file: absent.pem is no file that can be read",
        ":13 registries.two.tls.insecure_skip_verify: expected true or false",
        ":13 registries.two.tls.server_name: expected a host's name",
        ":14 registries.three.base: is not set, and the type harbor-cr has no address of its own",
        ":16 registries.three.auth.username: has no password",
        ":17 registries[3].id: expected an id",
        ":21 registries.four.auth.password_file: cannot read absent: No such file or directory",
        ':22 registries.four.repositorys: unknown key; did you mean "repositories"?',
        ":25 registries.five.auth.cloud: expected one of aws, gcp, azure",
        ":25 registries.five.auth.password_env: UNSET is not set in the environment",
        ":25 registries.five.auth.role_arn: needs a region",
        ":26 registry: unknown key",
    ]
    for line in wanted:
        assert any(fault.startswith(f"FILE{line}") for fault in told), (line, "\n".join(told))


@pytest.mark.parametrize(
    "content",
    ["", "x", "[registries", "registries = 5", "[[registries]]", "registries = [5]", "\x00", "[" * 100_000],
)
@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_what_is_no_registry_file(content: str, ending: str, tmp_path: Path) -> None:
    assert faults(write(tmp_path / f"r{ending}", content))


def test_ids_are_there_once(tmp_path: Path) -> None:
    one = '[[registries]]\nid = "a"\ntype = "docker-hub"\n'
    assert [line.partition(" ")[2] for line in faults(write(tmp_path / "r.toml", one + one))] == [
        "registries.a.id: is there twice"
    ]


def test_a_secret_others_may_read_is_refused(tmp_path: Path) -> None:
    for mode in (0o644, 0o604, 0o602):
        secret = write(tmp_path / "secret", CANARY, mode)
        content = f'[registries.a]\ntype = "docker-hub"\nauth = {{ username = "u", password_file = "{secret}" }}\n'
        [told] = faults(write(tmp_path / "r.toml", content))
        assert "others may read or write it" in told
    os.mkfifo(tmp_path / "pipe")
    content = f'[registries.a]\ntype = "docker-hub"\nauth = {{ docker_config = "{tmp_path}/pipe" }}\n'
    assert "expected a file" in faults(write(tmp_path / "r.toml", content))[0]


# ── from the settings ───────────────────────────────────────────────────────────
def test_the_program_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "r.toml", '[registries.a]\ntype = "docker-hub"\n')
    around = {
        "TOWLINE_REGISTRIES": path, "TOWLINE_SHARED_SECRET": CANARY, "TOWLINE_REGISTRY_CONCURRENCY": "3",
        "TOWLINE_REGISTRY_RPS": "7", "CR_TYPE": "quay-cr", "CR_USERNAME": "u", "CR_PASSWORD": CANARY,
        "TOWLINE_REGISTRY_NAMESPACES": "one,two", "TOWLINE_REGISTRY_API": "https://api.example",
        "TOWLINE_CREDENTIAL_PROGRAM": "/bin/login,--for,quay", "AWS_REGION": "eu-west-1",
    }  # fmt: skip
    settings = load(around)
    made = agent_config(settings, dialer(settings, None), "here", around)  # type: ignore[arg-type]
    assert made.by_id("a").base == "registry-1.docker.io"
    assert (made.shared_secret, made.registry_concurrency, made.registry_rate) == (Secret(CANARY), 3, 7)
    own = made.own()
    assert own is not None
    assert (own.namespaces, own.api, own.registry_id) == (("one", "two"), "https://api.example", "")
    assert made.surroundings.variable("AWS_REGION") == "eu-west-1"
    entry, is_own = made.entry_of(own)
    assert is_own
    assert entry.source is not None
    # What is secret for us is not for the program that is asked.
    assert CANARY not in repr(vars(entry.source))
    write(tmp_path / "r.toml", "[registries.a]\n")
    with pytest.raises(ConfigurationError) as caught:
        agent_config(settings, dialer(settings, None), "here", around)  # type: ignore[arg-type]
    assert caught.value.faults == [f"{path}:1 registries.a.type: is not set", "1 error"]


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "agent.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    for name in ("/run/secrets/harbor", "/etc/towline/ca.pem"):
        assert name in example
        example = example.replace(name, write(tmp_path / Path(name).name, CANARY))
    file = read(write(tmp_path / "r.toml", example), GHCR_TOKEN=CANARY)
    assert sorted(file.logins) == ["ecr-prod", "ghcr", "harbor-prod"]
    # Each key that is named there is one.
    for key in ("realm_hosts", "api", "docker_config", "program", "token_file", "identity_token_file"):
        assert f"`{key}" in page
