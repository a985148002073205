"""Accept files: what is refused, and where it says so; and how rules are shown."""

from __future__ import annotations

from typing import Any

import pytest

from towline.core import RemoteProtocolError
from towline.core.broker import AcceptRules


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ("{", "accept file"),
        ("[" * 100_000, "accept file"),
        ("[]", "accept file"),
        ({}, "accept file"),
        ({"public": {}}, "public"),
        ({"public": ["x"]}, "public[0]"),
        ({"private": [{"path": "/a", "auth": "token"}]}, "private[0].auth"),
        ({"private": [{"path": "/a", "auth": {"scheme": "magic"}}]}, "private[0].auth.scheme"),
        ({"private": [{"path": "/a", "auth": {"scheme": "bearer"}}]}, "private[0].auth.token"),
        ({"private": [{"path": "/a", "valid": {}}]}, "private[0].valid"),
        ({"private": [{"path": "/a", "valid": ["x"]}]}, "private[0].valid[0]"),
        ({"private": [{"path": "/a", "valid": [{}]}]}, "private[0].valid[0]"),
        ({"private": [{"path": "/a", "valid": [{"header": "x", "values": "y"}]}]}, "private[0].valid[0].values"),
        ({"private": [{"path": "/a", "valid": [{"queryParam": "x", "values": [1]}]}]}, "private[0].valid[0].values[0]"),
        ({"private": [{"path": 1}]}, "private[0].path"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(source: Any, where: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        AcceptRules.load(source)
    assert caught.value.kind == "invalid-configuration"
    assert caught.value.message.startswith(f"{where}: expected ")


def test_rules_are_shown_without_credentials() -> None:
    valid: list[dict[str, Any]] = [
        {"header": "accept", "values": ["a"]},
        {"queryParam": "q", "values": ["*.json"]},
        {"path": "a.*.b", "value": None},
        {"path": "a.b", "regex": "^x"},
        {"path": "a.b"},
    ]
    auth = {"scheme": "basic", "username": "canary", "password": "canary"}
    rules = AcceptRules.load(
        {
            "private": [
                {"method": "POST", "path": "/a", "origin": "https://canary:canary@host", "valid": valid},
                {"path": "/b", "origin": "https://host", "auth": auth},
                {"path": "/c", "auth": {"scheme": "token", "token": "canary"}},
            ]
        }
    )
    assert rules.shown() == {
        "public": [],
        "private": [
            {"method": "POST", "path": "/a", "origin": "***@host", "valid": valid},
            {"method": "GET", "path": "/b", "origin": "https://host", "auth": {"scheme": "basic"}},
            {"method": "GET", "path": "/c", "auth": {"scheme": "token"}},
        ],
    }
    assert "canary" not in str(rules.shown())
