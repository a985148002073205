"""What the far side may have filled in, and what it may never name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import Secret
from towline.core.broker.client._substitution import substitutable, substitute_body, substitute_headers

VARIABLES: dict[str, str | Secret] = {
    "BROKER_CLIENT_URL": "http://broker:8000",
    "CR_AGENT_URL": "http://agent:8081",
    "CR_CREDENTIALS": Secret("Y3JlZHM="),
    "CR_PASSWORD": Secret("hunter2"),
    "SITE": "north",
}


def test_only_the_short_list_and_credentials_only_to_the_agent() -> None:
    assert set(substitutable(VARIABLES, to_agent=True)) == {"BROKER_CLIENT_URL", "CR_AGENT_URL", "CR_CREDENTIALS"}
    assert set(substitutable(VARIABLES, to_agent=False)) == {"BROKER_CLIENT_URL", "CR_AGENT_URL"}
    assert "SITE" in substitutable(VARIABLES, ["SITE"], to_agent=False)
    # Listing it does not let it go elsewhere.
    assert "CR_CREDENTIALS" not in substitutable(VARIABLES, ["CR_CREDENTIALS"], to_agent=False)


def test_headers() -> None:
    asked = {
        "x-broker-var-sub": "X-Creds, callback,empty ,absent",
        "x-creds": "Cra ${CR_CREDENTIALS}",
        "callback": "${BROKER_CLIENT_URL}/done",
        "empty": "${NOTHING}",
        "other": "${CR_AGENT_URL}",
    }
    filled = substitute_headers(asked, {**substitutable(VARIABLES, to_agent=True), "NOTHING": ""})
    assert filled["x-creds"] == Secret("Cra Y3JlZHM=")
    assert filled["callback"] == "http://broker:8000/done"
    assert filled["empty"] == "${NOTHING}"
    assert filled["other"] == "${CR_AGENT_URL}"
    assert filled["x-broker-var-sub"] == asked["x-broker-var-sub"]


def test_a_value_that_could_not_stand_on_the_wire_is_not_filled_in() -> None:
    filled = substitute_headers({"x-broker-var-sub": "a", "a": "${X}"}, {"X": "1\r\nInjected: 1"})
    assert filled["a"] == "${X}"


def test_other_variables_stay_as_they_are_written() -> None:
    allowed = substitutable(VARIABLES, to_agent=True)
    filled = substitute_headers({"x-broker-var-sub": "a", "a": "${CR_PASSWORD}${CR_CREDENTIALS}"}, allowed)
    assert filled["a"] == Secret("${CR_PASSWORD}Y3JlZHM=")
    body = b'{"BROKER_VAR_SUB":["a"],"a":"${CR_PASSWORD}"}'
    assert substitute_body(body, allowed) == b'{"a":"${CR_PASSWORD}"}'


def test_body() -> None:
    body = json.dumps(
        {
            "n": 12345678901234567890,
            "BROKER_VAR_SUB": ["a", "b.c", "list[0]", "b.missing.x", "n", 7, "a..b"],
            "a": "${CR_CREDENTIALS}",
            "b": {"c": "to ${BROKER_CLIENT_URL}", "d": "${BROKER_CLIENT_URL}"},
            "list": ["${BROKER_CLIENT_URL}", "é"],
        }
    ).encode()
    assert (
        substitute_body(body, substitutable(VARIABLES, to_agent=True))
        == (
            '{"n":12345678901234567890,"a":"Y3JlZHM=","b":{"c":"to http://broker:8000","d":"${BROKER_CLIENT_URL}"},'
            '"list":["http://broker:8000","é"]}'
        ).encode()
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json with BROKER_VAR_SUB",
        b'{"BROKER_VAR_SUB":"a","a":"${BROKER_CLIENT_URL}"}',
        b'["BROKER_VAR_SUB"]',
        b'{"BROKER_VAR_SUB":["a"],"a":1,"a":"${BROKER_CLIENT_URL}"}',
        b'{"BROKER_VAR_SUB":["a"],"a":"\\ud800${BROKER_CLIENT_URL}"}',
        b'{"x":"${BROKER_CLIENT_URL}"}',
        b"\xff BROKER_VAR_SUB",
    ],
)
def test_a_body_that_cannot_be_read_one_way_only_stays(body: bytes) -> None:
    assert substitute_body(body, substitutable(VARIABLES, to_agent=True)) == body


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_the_rest_of_a_document_is_unchanged(document: object) -> None:
    body = json.dumps({"rest": document, "BROKER_VAR_SUB": ["url"], "url": "${BROKER_CLIENT_URL}"}).encode()
    out = substitute_body(body, substitutable(VARIABLES, to_agent=False))
    if out != body:
        assert json.loads(out) == {"rest": document, "url": "http://broker:8000"}
