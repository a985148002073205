"""Quirks of the stock broker that are its program's and not its protocol's (broker-protocol.md §6)."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_tools import towline


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({}, ("BROKER_TOKEN", "BROKER_SERVER_URL")),
        ({"BROKER_SERVER_URL": "http://127.0.0.1:1", "CR_AGENT_URL": "http://127.0.0.1:1"}, ("BROKER_TOKEN",)),
        ({"BROKER_TOKEN": "t", "CR_AGENT_URL": "http://127.0.0.1:1"}, ("BROKER_SERVER_URL",)),
    ],
)
def test_q16_a_client_that_cannot_start_says_so_and_with_its_status(
    given: dict[str, str], names: tuple[str, ...], tmp_path: Path
) -> None:
    told = towline("client", home=tmp_path, **given)
    assert told.code == 2
    assert all(name in told.err for name in names)
    assert told.out == ""
