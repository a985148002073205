"""The config's facts: keys that are there, limits, and the instructions that install packages."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from towline.core import RemoteProtocolError
from towline.core.inventory import Package
from towline.core.inventory._config import Cutter, RawHistory, read_config, strike_config
from towline.core.inventory._graph import build_tree
from towline.core.inventory._instructions import find_instructions, layer_label, with_dependencies


def wire(value: object) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_a_key_is_there_if_the_config_has_it() -> None:
    config = read_config(
        b'{"config": {"User": "", "Env": null, "Volumes": {"/b": {}, "/a": {}}, "ArgsEscaped": true}}'
    ).config
    assert config is not None
    assert wire(Cutter().container_config(config)) == {
        "user": "",
        "env": None,
        "volumes": ["/b", "/a"],
        "argsEscaped": True,
    }


def test_null_in_the_history_is_nothing_said() -> None:
    document = {"history": [{"created": None, "author": None, "created_by": None, "comment": None}, {"created": NEW}]}
    image = read_config(json.dumps(document).encode())
    struck = strike_config(image)
    for history in (image.history, struck.history):
        assert wire(Cutter().history(history or [])) == [{}, {"created": NEW}]
        assert find_instructions(history or []).dockerfile_packages == {}


def test_what_is_too_long_is_cut_and_told() -> None:
    document = {
        "config": {"User": "u" * 1025, "Env": ["e" * 1030, "f" * 2000] + ["x"] * 500, "StopSignal": "s" * 129},
        "history": [{"created_by": "c" * 5000, "author": "a" * 130}, {"created_by": "d" * 4097}] + [{}] * 1000,
    }
    image = read_config(json.dumps(document).encode())
    cutter = Cutter()
    assert image.config is not None
    fact = cutter.container_config(image.config)
    history = cutter.history(image.history or [])
    assert isinstance(fact.env, list)
    assert [len(fact.env), len(fact.env[1]), len(history)] == [500, 1024, 1000]
    assert wire(cutter.truncated) == {
        "containerConfig.user": {"type": "string", "countAboveLimit": 1},
        "containerConfig.env": {"type": "array", "countAboveLimit": 2},
        "containerConfig.env[*]": {"type": "string", "countAboveLimit": 976},
        "containerConfig.stopSignal": {"type": "string", "countAboveLimit": 1},
        "history": {"type": "array", "countAboveLimit": 2},
        "history[*].author": {"type": "string", "countAboveLimit": 2},
        "history[*].createdBy": {"type": "string", "countAboveLimit": 904},
    }


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"config": 1}', b'{"history": {}}', b'{"config": {"Env": [1]}}', b"\xff"]
)
def test_a_config_of_another_shape_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        read_config(raw)
    assert raised.value.kind == "invalid-manifest"


def test_secrets_are_struck_everywhere() -> None:
    canary = "canary-7c1f"
    document = {
        "config": {
            "Env": [f"TOKEN={canary}", "PATH=/bin"],
            "Labels": {"api.key": canary, "a": f"https://u:{canary}@h"},
            "Cmd": ["run", "--password", canary, f"--token={canary}"],
            "Entrypoint": [f"SECRET={canary}"],
        },
        "history": [
            {"created_by": f"ENV TOKEN={canary}", "comment": f"PASSWORD={canary}", "author": f"x://a:{canary}@b"}
        ],
    }
    image = strike_config(read_config(json.dumps(document).encode()))
    assert canary not in wire(image).__repr__()
    assert image.config is not None
    assert image.config.env == ["TOKEN=***", "PATH=/bin"]
    assert image.config.cmd == ["run", "--password", "***", "--token=***"]
    empty = read_config(b"{}")
    assert strike_config(empty) == empty


NEW, OLD = "2023-11-14T22:13:20Z", "2023-11-14T17:13:19.5Z"


def instructions(*texts: str) -> Any:
    history = [
        RawHistory(created=OLD, created_by="base"),
        *(RawHistory(created=NEW, created_by=text) for text in texts),
    ]
    return find_instructions(history)


@pytest.mark.parametrize(
    ("text", "command", "names"),
    [
        (
            "RUN /bin/sh -c apt-get update && apt-get install -y curl=1.2 $git # buildkit",
            "apt-get install -y curl=1.2 $git",
            ["curl", "git"],
        ),
        ("/bin/sh -c apk --no-cache  add\tnginx", "apk --no-cache add nginx", ["nginx"]),
        ("|1 v=2 /bin/sh -c yum -y install httpd; yum clean all", "yum -y install httpd", ["httpd"]),
        ("RUN dnf install a", "dnf install a", ["a"]),
        ("RUN microdnf install a", "microdnf install a", ["a"]),
        ("RUN aptitude install a", "aptitude install a", ["a"]),
        ("RUN rpm -ivh a.rpm", "rpm -ivh a.rpm", ["a.rpm"]),
        ("RUN sudo apt install a", "apt install a", ["a"]),
    ],
)
def test_install_commands(text: str, command: str, names: list[str]) -> None:
    found = instructions(text)
    assert list(found.dockerfile_packages) == names
    assert {entry.install_command for entry in found.dockerfile_packages.values()} == {command}
    [(key, layer)] = found.dockerfile_layers.items()
    assert base64.b64decode(key).decode() == layer.instruction == text.replace("# buildkit", "")


@pytest.mark.parametrize(
    "text", ["COPY . .", "RUN apt-get update", "RUN rpm -qa", "RUN apt-get -y remove install", "apk", "rpm"]
)
def test_other_commands(text: str) -> None:
    assert instructions(text).dockerfile_packages == {}


def test_only_the_user_s_own_entries_count() -> None:
    entry = RawHistory(created=NEW, created_by="RUN apk add x")
    empty = RawHistory(created=NEW, created_by="RUN apk add x", empty_layer=True)
    for history in (
        [],
        [entry],
        [entry, entry],
        [RawHistory(created=OLD), empty],
        [entry, RawHistory()],
        [RawHistory(created="x")],
    ):
        assert find_instructions(history).dockerfile_packages == {}
    assert find_instructions([RawHistory(created_by="x"), entry]).dockerfile_packages != {}
    assert find_instructions([RawHistory(created="0001-01-01T00:00:00Z"), entry]).dockerfile_packages != {}


def test_dependencies_come_with_their_package() -> None:
    packages = [
        Package("deb", "x", "1", links=("lib",)),
        Package("deb", "lib", "1", source="libsrc", auto_installed=True),
        Package("deb", "y", "1", source="ysrc"),
    ]
    found = with_dependencies(instructions("RUN apt install x y"), build_tree(packages))
    assert set(found.dockerfile_packages) == {"x", "y", "libsrc"}
    labels = [layer_label(found, package) for package in packages]
    assert labels[0] == labels[1]
    # The reference finds `y` neither as `ysrc/y` nor as `ysrc`.
    assert labels[2] is None
