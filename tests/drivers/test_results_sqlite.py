"""The results box: known by delivery id, joined from parts, read as pages and as a whole."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towline.core import LIMITS, RemoteProtocolError, Secret, canonical
from towline.core.agent import (
    AgentInfo,
    Job,
    JobRegistry,
    discover_message,
    done_message,
    new_job,
    parse_job,
    part_count,
    result_message,
)
from towline.drivers.results_sqlite import ResultsBox

TOKEN = Secret("b0000000-c4n4-4444-8444-444444444444")
INFO = AgentInfo("1", "1", "i")


def job(kind: Any = "scan", **changes: Any) -> Job:
    body = b'{"requestId":"r","image":{"repository":"a","reference":"1"},"callback":{"baseUrl":"http://b"}}'
    made = new_job("j1", parse_job(kind, body), JobRegistry("oci", "h", "http", "anonymous"), 1.0)
    return msgspec.structs.replace(made, outcome="done", **changes)


@pytest.fixture
def box(tmp_path: Path) -> Any:
    made = ResultsBox(tmp_path / "results.sqlite")
    yield made
    made.close()


def plain(value: Any) -> Any:
    return json.loads(msgspec.json.encode(value))


def test_results_then_done(box: ResultsBox, tmp_path: Path) -> None:
    made = job(result_count=2)
    results = [{"facts": [1]}, {"facts": ["é"]}]
    for number, result in enumerate(results):
        message = result_message(made, number, canonical(result), 0, 8 << 20)
        first = box.take(TOKEN, message.body, 1.0)
        assert (first.repeated, first.done, first.job_id) == (False, False, "j1")
        assert box.take(TOKEN, message.body, 2.0).repeated
    half = plain(box.job("j1"))
    assert (half["state"], half["done"], half["scanResults"]) == ("receiving", None, results)
    assert box.take(TOKEN, done_message(made, INFO).body, 3.0).done
    whole = plain(box.job("j1"))
    assert (whole["state"], whole["scanResults"], whole["resultCount"]) == ("done", results, 2)
    assert whole["done"]["kind"] == "done"
    assert whole["image"]["repository"] == "a"
    item = box.page(0, 10)["items"][0]
    assert (item["resultsReceived"], item["done"], item["requestId"]) == (2, True, "r")
    box.close()
    held = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert TOKEN.reveal().encode() not in held


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.randoms(use_true_random=False), size=st.integers(300_000, 900_000))
def test_parts_in_any_order_join(tmp_path_factory: pytest.TempPathFactory, order: random.Random, size: int) -> None:
    box = ResultsBox(tmp_path_factory.mktemp("box") / "r")
    made = job(result_count=1)
    carried = canonical({"facts": ["x" * size]})
    messages = []
    for bound in (256 * 1024, 600 * 1024):
        messages += [result_message(made, 0, carried, n, bound) for n in range(part_count(len(carried), bound))]
    order.shuffle(messages)
    for message in messages + messages[:2]:
        box.take(TOKEN, message.body, 1.0)
    assert msgspec.json.encode(box.job("j1")["scanResults"]) == b"[" + carried + b"]"
    assert box._database.connection.execute("SELECT count(*) FROM parts").fetchone() == (0,)
    box.close()


def test_the_single_message_of_v1(box: ResultsBox) -> None:
    made = job("discover", result_count=2)
    carried = canonical([{"a": "x" * 400_000}, {"b": 2}])
    count = part_count(len(carried), 256 * 1024)
    for number in reversed(range(count)):
        taken = box.take(TOKEN, discover_message(made, INFO, carried, number, 256 * 1024).body, 1.0)
    assert taken.done
    whole = plain(box.job("j1"))
    assert [sorted(result) for result in whole["scanResults"]] == [["a"], ["b"]]
    assert whole["state"] == "done"
    assert "data" not in whole["done"]


def test_wrong_digest_is_refused_and_forgotten(box: ResultsBox) -> None:
    made = job(result_count=1)
    body = json.loads(result_message(made, 0, canonical({"a": 1}), 0, 8 << 20).body)
    with pytest.raises(RemoteProtocolError) as caught:
        box.take(TOKEN, json.dumps(body | {"bodySha256": "0" * 64}).encode(), 1.0)
    assert caught.value.kind == "bad-request"
    assert not box.take(TOKEN, json.dumps(body, indent=1).encode(), 1.0).repeated


@pytest.mark.parametrize(
    "change",
    [
        {"contract": "other"},
        {"kind": "song"},
        {"deliveryId": ""},
        {"jobId": "x" * 300},
        {"jobId": 5},
        {"partIndex": 1},
        {"partIndex": -1},
        {"partCount": 0},
        {"partCount": 1 << 40},
        {"resultIndex": -1},
        {"resultCount": 1 << 40},
        {"scanResult": ...},
        {"partCount": 2},
        {"partCount": 2, "encoding": "base64-part", "data": "!!"},
    ],
)
def test_what_is_no_message(box: ResultsBox, change: dict[str, Any]) -> None:
    body = json.loads(result_message(job(result_count=1), 0, canonical({"a": 1}), 0, 8 << 20).body) | change
    body = {name: value for name, value in body.items() if value is not ...}
    with pytest.raises(RemoteProtocolError) as caught:
        box.take(TOKEN, json.dumps(body).encode(), 1.0)
    assert caught.value.kind == "bad-request"
    with pytest.raises(RemoteProtocolError):
        box.take(TOKEN, b"not json", 1.0)


def test_tokens_do_not_meet(box: ResultsBox) -> None:
    made = job(result_count=1)
    message = result_message(made, 0, canonical({"mine": 1}), 0, 8 << 20)
    box.take(TOKEN, message.body, 1.0)
    intruder = result_message(made, 0, canonical({"yours": 1}), 0, 8 << 20)
    assert not box.take(Secret("other"), intruder.body, 2.0).repeated
    assert plain(box.job("j1"))["scanResults"] == [{"mine": 1}]


def test_pages(box: ResultsBox) -> None:
    for number in range(5):
        made = msgspec.structs.replace(job(result_count=0), id=f"j{number}")
        box.take(TOKEN, done_message(made, INFO).body, float(number))
    first = box.page(0, 2)
    assert [item["jobId"] for item in first["items"]] == ["j0", "j1"]
    rest = box.page(int(first["nextCursor"]), 10)
    assert [item["jobId"] for item in rest["items"]] == ["j2", "j3", "j4"]
    assert rest["nextCursor"] is None
    last = int(rest["items"][-1]["cursor"])
    assert box.page(last, 10) == {"items": [], "nextCursor": None}
    late = result_message(msgspec.structs.replace(job(result_count=1), id="j1"), 0, canonical({}), 0, 8 << 20)
    box.take(TOKEN, late.body, 9.0)
    assert [item["jobId"] for item in box.page(last, 10)["items"]] == ["j1"]


def test_a_full_box_says_so(tmp_path: Path) -> None:
    box = ResultsBox(tmp_path / "r", limits=msgspec.structs.replace(LIMITS, outbox_bytes=1000))
    made = job(result_count=1)
    big = result_message(made, 0, canonical({"a": "x" * 2000}), 0, 8 << 20)
    with pytest.raises(RemoteProtocolError) as caught:
        box.take(TOKEN, big.body, 1.0)
    assert caught.value.kind == "too-busy"
    with pytest.raises(RemoteProtocolError) as caught:
        box.job("nobody")
    assert caught.value.kind == "job-not-found"
    box.close()
