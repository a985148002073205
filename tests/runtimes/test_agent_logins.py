"""The agent's own logins, on both loops: where they are kept, how a changed one is picked up, where they do not go."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from agent_tools import CANARY, REPOSITORY, USER, Receiver, SmallRegistry, agent, scan_body
from command_tools import repository, serving
from drivers.loops import LOOPS, make_certificate

from towline.core import Entropy, RemoteProtocolError, Secret
from towline.core.agent import RegistryLogin
from towline.core.registry import Credentials, Surroundings
from towline.drivers import Listener
from towline.runtimes import credential_programs
from towline.runtimes.agent import registries
from towline.runtimes.agent.config import OWN, AgentConfig, RegistryEntry
from towline.runtimes.agent.registries import Registries
from towline.runtimes.agent.sources import FromDockerFile, FromFiles, FromOneFile, FromProgram
from towline.runtimes.demo.registry import Token

AROUND = {"PATH": os.environ["PATH"]}


@pytest.fixture(params=LOOPS, ids=lambda loop: loop.name)
def loop(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    made = SmallRegistry()
    yield made
    made.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def private(path: Path, content: str) -> str:
    path.write_text(content)
    path.chmod(0o600)
    return str(path)


def program(path: Path, printed: Path) -> str:
    """Write a program that prints a file, and counts in another how often it was asked."""
    path.write_text(f"#!/bin/sh\necho asked >> {printed}.count\ncat {printed}\n")
    path.chmod(0o700)
    return str(path)


def told(password: str, **more: object) -> str:
    return json.dumps({"username": USER, "password": password, **more})


def test_a_file_is_read_again(loop: Any, registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    secret = private(tmp_path / "secret", CANARY + "\n")
    own = {"main": RegistryLogin("oci", registry.host, USER)}
    entries = {"main": RegistryEntry(FromFiles(USER, secret))}

    async def main() -> None:
        async with agent(loop, tmp_path / "work", registry, registries=own, entries=entries) as ask:
            listed = await ask("GET", "/list?registryId=main", login=False)
            assert listed.body["repositories"] == [REPOSITORY, "team/other"]
            registry.password = "an0ther-c4n4ry"
            refused = await ask("GET", "/list?registryId=main", login=False)
            assert (refused.status, refused.code) == (401, "REGISTRY_UNAUTHORIZED")
            private(tmp_path / "secret", "an0ther-c4n4ry")
            assert (await ask("GET", "/list?registryId=main", login=False)).status == 200
            body = scan_body(receiver, registryId="main")
            accepted = await ask("POST", "/scan", body, login=False)
            assert accepted.status == 202, accepted.data
            assert (await ask.ended(accepted.body["jobId"]))["state"] == "done"
            os.chmod(secret, 0o644)
            shown = await ask("GET", "/list?registryId=main", login=False)
            assert (shown.status, shown.code) == (400, "INVALID_CONFIGURATION")
            assert "chmod 600" in shown.body["error"]["hint"]
            assert "c4n4ry" not in ask.log.getvalue() + shown.data.decode() + refused.data.decode()

    loop.run(main)


def test_a_program_is_asked_again_when_its_login_is_refused(loop: Any, registry: SmallRegistry, tmp_path: Path) -> None:
    printed = tmp_path / "login.json"
    printed.write_text(told(CANARY))
    count = tmp_path / "login.json.count"
    own = RegistryLogin("oci", registry.host)
    entries = {OWN: RegistryEntry(FromProgram([program(tmp_path / "gives", printed)], AROUND))}

    async def main() -> None:
        async with agent(loop, tmp_path / "work", registry, login=own, entries=entries) as ask:
            for _ in range(3):
                assert (await ask("GET", "/list", login=False)).status == 200
            assert count.read_text().count("asked") == 1
            registry.password = "r0tated-c4n4ry"
            printed.write_text(told("r0tated-c4n4ry"))
            # The refusal of the old login makes the agent ask, and the same request succeeds.
            assert (await ask("GET", "/list", login=False)).status == 200
            assert count.read_text().count("asked") == 2
            registry.password = "unknown"
            refused = await ask("GET", "/list", login=False)
            assert (refused.status, refused.code) == (401, "REGISTRY_UNAUTHORIZED")
            # The refused login is not tried at the registry again, whoever asks.
            before = len(registry.asked)
            assert (await ask("GET", "/list", login=False)).status == 401
            assert len(registry.asked) == before
            # A check is: who asks for it wants to know.
            assert (await ask("GET", "/systemcheck", login=False)).status == 401
            assert len(registry.asked) > before
            printed.write_text("no json c4n4ry")
            broken = await ask("GET", "/list", login=False)
            assert (broken.status, broken.code) == (400, "MALFORMED_CREDENTIALS")
            assert "c4n4ry" not in ask.log.getvalue() + broken.data.decode()

    loop.run(main)


def test_a_program_is_asked_again_when_its_login_ends(loop: Any, tmp_path: Path) -> None:
    printed = tmp_path / "login.json"
    printed.write_text(told("p", expiresInSeconds=0.2))
    source = FromProgram([program(tmp_path / "gives", printed)], AROUND)

    async def main() -> None:
        first = await source.login("h", "")
        assert first == Credentials(USER, Secret("p"))
        await anyio.sleep(0.25)
        printed.write_text(json.dumps({"identityToken": "t", "expiresInSeconds": 1000}))
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(source.login, "h", "")
        assert await source.login("h", "") == Credentials("", Secret(""), Secret("t"))
        assert (tmp_path / "login.json.count").read_text().count("asked") == 2
        # What somebody else was refused with is not what is kept.
        source.refused(Credentials("other", Secret("x")))
        await source.login("h", "")
        assert (tmp_path / "login.json.count").read_text().count("asked") == 2

    loop.run(main)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("exit 1", "missing-credentials"),
        ("echo '{}'", "malformed-credentials"),
        ('echo \'{"username":"u"}\'', "malformed-credentials"),
        ('echo \'{"password":"p","expiresInSeconds":-1}\'', "malformed-credentials"),
        ('echo \'{"password":"p","expiresInSeconds":"soon"}\'', "malformed-credentials"),
        ("sleep 60", "timeout"),
    ],
)
def test_what_a_program_may_do_wrong(
    loop: Any, script: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credential_programs, "SECONDS", 0.5 if kind == "timeout" else 10.0)
    path = tmp_path / "gives"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)

    async def main() -> None:
        with pytest.raises(RemoteProtocolError) as caught:
            await FromProgram([str(path)], AROUND).login("h", "")
        assert caught.value.kind == kind
        with pytest.raises(RemoteProtocolError) as caught:
            await FromProgram(["no-such-program"], AROUND).login("h", "")
        assert caught.value.kind == "invalid-configuration"

    loop.run(main)


def test_a_login_file_of_docker(loop: Any, registry: SmallRegistry, tmp_path: Path) -> None:
    bare = base64.b64encode(f"{USER}:{CANARY}".encode()).decode()
    file = private(tmp_path / "config.json", json.dumps({"auths": {f"{registry.host}/team": {"auth": bare}}}))
    own = {"main": RegistryLogin("oci", registry.host)}
    entries = {"main": RegistryEntry(FromDockerFile(file, AROUND))}

    async def main() -> None:
        async with agent(loop, tmp_path / "work", registry, registries=own, entries=entries) as ask:
            assert (await ask("GET", f"/list/{REPOSITORY}?registryId=main", login=False)).body["tags"] == ["1.0"]
            # The file has a login for that team alone.
            assert (await ask("GET", "/list?registryId=main", login=False)).status == 401

    loop.run(main)


def test_a_token_that_is_both(tmp_path: Path) -> None:
    source = FromOneFile(private(tmp_path / "t", "dop_v1_x\n"))
    assert anyio.run(source.login, "h", "") == Credentials("dop_v1_x", Secret("dop_v1_x"))


def test_what_the_file_leaves_out(loop: Any, registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    own = {"main": RegistryLogin("oci", registry.host, USER, Secret(CANARY))}
    entries = {"main": RegistryEntry(exclude=("team/o*",), fallback=("team/app", "team/named"))}

    async def main() -> None:
        async with agent(loop, tmp_path / "work", registry, registries=own, entries=entries) as ask:
            listed = (await ask("GET", "/list?registryId=main", login=False)).body
            assert (listed["repositories"], listed["source"]) == ([REPOSITORY], "catalog")
            denied = await ask("GET", "/list/team/other?registryId=main", login=False)
            assert (denied.status, denied.code) == (403, "REGISTRY_FORBIDDEN")
            # Who brings a login is not bound by what the file says of its own.
            assert (await ask("GET", "/list")).body["repositories"] == [REPOSITORY, "team/other"]
            registry.catalogue = 404
            named = (await ask("GET", "/list?registryId=main", login=False)).body
            assert (named["repositories"], named["source"]) == (["team/app", "team/named"], "configured")
            assert named["complete"]
            assert named["warnings"]

    loop.run(main)


def test_one_registry_for_all_operations_and_its_pace(loop: Any, registry: SmallRegistry, tmp_path: Path) -> None:
    own = {"main": RegistryLogin("oci", registry.host, USER, Secret(CANARY))}
    entries = {"main": RegistryEntry(rate=4.0, concurrency=1)}

    async def main() -> None:
        async with agent(loop, tmp_path / "work", registry, registries=own, entries=entries) as ask:
            began = time.monotonic()
            async with anyio.create_task_group() as tasks:
                for _ in range(6):
                    tasks.start_soon(lambda: ask("GET", "/list?registryId=main", login=False))
            # One challenge for all: seven requests, of which four may go at once.
            assert registry.count("_catalog") == 7
            assert time.monotonic() - began >= 0.7

    loop.run(main)


def test_tls_for_one_registry_alone(tmp_path: Path) -> None:
    cert, _ = make_certificate(tmp_path)
    config = AgentConfig(
        registries={"a": RegistryLogin("oci", "a.example:5000"), "b": RegistryLogin("oci", "b.example")},
        entries={"a": RegistryEntry(ca_file=cert), "b": RegistryEntry(insecure=True)},
    )

    async def main() -> None:
        made = Registries(config, Entropy(b"a seed of the tests"))
        assert made.dialer(config.by_id("a")).tls.ca_files == (cert,)
        assert made.dialer(config.by_id("a")).tls.insecure_hosts == frozenset()
        assert made.dialer(config.by_id("b")).tls.insecure_hosts == {"b.example"}
        # A login that came with a request gets the links of its host's entry, and nothing of its login.
        brought = config.settled(RegistryLogin("oci", "a.example:5000", "u", Secret("p")))
        assert made.dialer(brought).tls.ca_files == (cert,)
        assert config.entry_of(brought)[1] is False
        assert made.dialer(config.settled(RegistryLogin("oci", "c.example"))) == config.dialer

    anyio.run(main)


def test_a_registry_with_an_authority_of_its_own(registry: SmallRegistry, tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "inside.example", "DNS:inside.example")
    auth = Token("robot", Secret(CANARY))
    with serving(
        {"team/app": repository()}, auth, Listener(tls_cert=cert, tls_key=key), scheme="https"
    ) as address:  # fmt: skip
        base = f"localhost:{address.partition(':')[2]}"
        own = {
            name: RegistryLogin("oci", base, "robot", Secret(CANARY)) for name in ("known", "unknown", "any", "other")
        }
        entries = {
            "known": RegistryEntry(ca_file=cert, server_name="inside.example"),
            "any": RegistryEntry(insecure=True),
            "other": RegistryEntry(ca_file=cert),
        }

        async def main() -> None:
            async with agent(LOOPS[0], tmp_path / "work", registry, registries=own, entries=entries) as ask:
                for name in ("known", "any"):
                    assert (await ask("GET", f"/list/team/app?registryId={name}", login=False)).body["tags"] == ["1.0"]
                for name in ("unknown", "other"):
                    refused = await ask("GET", f"/list/team/app?registryId={name}", login=False)
                    assert (refused.status, refused.code) == (502, "TLS_ERROR")

        LOOPS[0].run(main)


def test_what_is_not_verified_is_said_at_every_start(registry: SmallRegistry, tmp_path: Path) -> None:
    own = {"a": RegistryLogin("oci", "a.example:5000"), "b": RegistryLogin("oci", "b.example")}
    entries = {"a": RegistryEntry(insecure=True), "b": RegistryEntry()}

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path / "work", registry, registries=own, entries=entries) as ask:
            told = (await ask("GET", "/capabilities", login=False)).body
            assert "certificates of a.example are not verified" in json.dumps(told)
            assert "b.example" not in json.dumps(told)
            assert '"hosts":"a.example"' in ask.log.getvalue()

    LOOPS[0].run(main)


def test_a_check_does_not_cost_the_others_their_tokens() -> None:
    async def main() -> None:
        config = AgentConfig(registries={"a": RegistryLogin("oci", "a.example", "u", Secret("p"))})
        made = Registries(config, Entropy(b"a seed of the tests"))
        login = config.by_id("a")
        who = await made.credentials(login, "")
        first = made.registry(login, who)
        assert made.registry(login, who, check=True) is not first
        assert made.registry(login, who) is first
        assert await made.after_refusal(login, who, "") is None
        assert made.registry(login, who) is first
        made.registry(login, who, check=True)
        assert made.registry(login, who) is not first
        # So many logins are kept, and no more.
        for number in range(200):
            made.registry(login, Credentials(f"u{number}", Secret("p")))
        assert made.registry(login, who) is not made.registry(login, Credentials("u1", Secret("p")))
        assert len(made._known) == 64

    anyio.run(main)


def test_the_machines_identity_goes_nowhere_a_request_says() -> None:
    around = Surroundings({"GCE_METADATA_HOST": Secret("m"), "AWS_ACCESS_KEY_ID": Secret("k")})
    own = RegistryLogin("acr", "images.example")
    config = AgentConfig(surroundings=around, registries={"own": own}, login=RegistryLogin("gcr", "mirror.example"))

    async def main() -> None:
        made = Registries(config, Entropy(b"a seed of the tests"))

        def identity(login: RegistryLogin) -> Surroundings:
            return made.registry(config.settled(login), None).surroundings

        assert identity(RegistryLogin("gcr", "eu.gcr.io/p")) == around
        assert identity(RegistryLogin("gcr", "evil.example")).variables == {}
        assert identity(RegistryLogin("gcr", "gcr.io.evil.example")).variables == {}
        assert identity(RegistryLogin("acr", "evil.example")).variables == {}
        assert identity(own) == around
        assert identity(RegistryLogin("gcr", "mirror.example")) == around
        assert identity(RegistryLogin("ecr", "123456789012.dkr.ecr.eu-west-1.amazonaws.com")) == around
        role = RegistryLogin("ecr", role_arn="arn:aws:iam::123456789012:role/pull", region="eu-west-1")
        assert identity(role) == around
        with pytest.raises(RemoteProtocolError) as caught:
            identity(msgspec.structs.replace(role, base="evil.example"))
        assert caught.value.kind == "bad-request"
        assert "registry file" in str(caught.value.hint)

    anyio.run(main)


def test_a_cloud_that_is_named_needs_no_variable() -> None:
    for cloud, name in (("gcp", "GCE_METADATA_HOST"), ("azure", "AZURE_USE_MANAGED_IDENTITY"), ("aws", "")):
        config = AgentConfig(
            registries={"a": RegistryLogin("oci", "a.example")},
            entries={"a": RegistryEntry(ambient=cloud)},  # type: ignore[arg-type]
        )

        async def main(config: AgentConfig = config, name: str = name) -> None:
            made = Registries(config, Entropy(b"a seed of the tests"))
            assert set(made.registry(config.by_id("a"), None).surroundings.variables) == ({name} if name else set())

        anyio.run(main)


def test_a_refused_login_is_tried_again_after_a_while(
    registry: SmallRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registries, "_REFUSED_FOR", 0.2)
    own = RegistryLogin("oci", registry.host, USER, Secret(CANARY))
    registry.password = "changed"

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path / "work", registry, login=own) as ask:
            assert (await ask("GET", "/list", login=False)).status == 401
            registry.password = CANARY
            assert (await ask("GET", "/list", login=False)).status == 401
            await anyio.sleep(0.25)
            assert (await ask("GET", "/list", login=False)).status == 200

    LOOPS[0].run(main)
