"""Jobs, messages and delivery: the table, restarts, parts that join again, verdicts, idempotency, callers."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towline.core import LIMITS, Entropy, RemoteProtocolError, Secret, canonical
from towline.core.agent import (
    JOB_TABLE,
    OUTCOMES,
    WORKING,
    Again,
    AgentInfo,
    CallerCheck,
    Check,
    ImageFound,
    Job,
    JobRegistry,
    KnownKey,
    Message,
    Refusal,
    RegistryLogin,
    Smaller,
    Taken,
    after_restart,
    backoff,
    capabilities_answer,
    decide,
    discover_message,
    done_message,
    encode,
    error_answer,
    halved,
    health_answer,
    invalid_answer,
    job_body,
    job_error,
    jobs_answer,
    join_key,
    judge,
    list_query,
    login_for,
    new_job,
    parse_job,
    part_count,
    plain,
    ready_answer,
    repositories_answer,
    result_message,
    retry_after,
    sign,
    state_answer,
    systemcheck_answer,
    tags_answer,
    validate_answer,
)

INFO = AgentInfo("0.1", "towline 0.1", "test")
PLACE = JobRegistry("oci", "127.0.0.1:5000", "http", "request")


def job(**changes: Any) -> Job:
    body = {
        "image": {"repository": "team/app", "reference": "1.0"},
        "callback": {"baseUrl": "http://broker:8000", "context": {"k": "v"}},
    }
    made = new_job("j1", parse_job("scan", json.dumps(body).encode()), PLACE, 100.0)
    return msgspec.structs.replace(made, **changes)


def test_every_state_has_an_end_or_a_way_out() -> None:
    for state in JOB_TABLE.states:
        ways = {after for (at, _), after in JOB_TABLE.steps.items() if at == state}
        assert (state in JOB_TABLE.ends) == (not ways), state
    for state in JOB_TABLE.states:
        for fed in JOB_TABLE.inputs:
            if (state, fed) in JOB_TABLE.steps:
                assert JOB_TABLE.next(state, fed) in JOB_TABLE.states
            else:
                with pytest.raises(RemoteProtocolError):
                    JOB_TABLE.next(state, fed)


def test_a_job_is_the_same_after_the_disk() -> None:
    made = job(found=ImageFound("h", "r", "1"), changed_at={"queued": 1.5})
    assert msgspec.json.decode(msgspec.json.encode(made), type=Job) == made


def test_the_way_of_a_job() -> None:
    made = job().step("start", 101.0).step("resolved", 102.0).step("pulled", 103.0)
    assert made.state == "analysing"
    made = made.step("settle", 104.0, outcome="done")
    assert (made.state, made.over) == ("delivering", False)
    made = made.step("done", 105.0)
    assert made.over
    assert made.changed_at["delivering"] == 104.0
    with pytest.raises(RemoteProtocolError):
        made.step("start", 106.0)


@pytest.mark.parametrize("state", WORKING)
def test_restart_begins_again(state: str) -> None:
    found = after_restart(job(state=state, registry=JobRegistry("oci", "b", "http", "anonymous")), 1.0)
    assert found.error is None
    assert (found.job.state, found.job.attempt) == ("queued", 1 if state == "queued" else 2)


def test_restart_ends_a_crash_loop() -> None:
    found = after_restart(job(state="pulling", attempt=LIMITS.job_attempts), 1.0, configured=RegistryLogin("oci"))
    assert found.error is not None
    assert found.error.code == "CRASH_LOOP"


def test_restart_without_the_login_says_so() -> None:
    found = after_restart(job(), 1.0)
    assert found.error is not None
    assert found.error.code == "MISSING_CREDENTIALS"
    assert after_restart(job(), 1.0, configured=RegistryLogin("oci")).error is None
    delivering = job(state="delivering")
    assert after_restart(delivering, 1.0).job is delivering


def test_the_agents_own_login_for_a_job() -> None:
    own = RegistryLogin("oci", "127.0.0.1:5000", "u", Secret("p"), "http")
    assert login_for(PLACE, own, {}) is own
    assert login_for(PLACE, None, {"x": own}) is own
    assert login_for(PLACE, RegistryLogin("oci", "elsewhere", scheme="http"), {}) is None
    named = JobRegistry("oci", "127.0.0.1:5000", "http", "configured", "x")
    assert login_for(named, own, {}) is None
    assert login_for(named, None, {"x": own}) is own


def test_what_is_joined() -> None:
    assert join_key(job(), "sha256:1") == join_key(job(id="j2", request_id="q"), "sha256:1")
    assert join_key(job(), "sha256:1") != join_key(job(), "sha256:2")
    other = msgspec.structs.replace(job().options, exclude_app_vulns=True)
    assert join_key(job(), "s") != join_key(job(options=other), "s")


# ── messages ───────────────────────────────────────────────────────────────────
def parts_of(made: Job, index: int, carried: bytes, bound: int) -> list[Message]:
    count = part_count(len(carried), bound)
    return [result_message(made, index, carried, part, bound) for part in range(count)]


@given(size=st.integers(0, 700_000), bound=st.sampled_from([256 * 1024, 300_001, 1024 * 1024]))
def test_parts_join_to_the_whole(size: int, bound: int) -> None:
    carried = canonical({"facts": ["é" * (size // 2)]})
    messages = parts_of(job(result_count=1), 0, carried, bound)
    assert len({message.delivery_id for message in messages}) == len(messages)
    bodies = [json.loads(message.body) for message in messages]
    assert all(len(message.body) <= bound for message in messages)
    assert [body["partIndex"] for body in bodies] == list(range(len(bodies)))
    assert {body["partCount"] for body in bodies} == {len(bodies)}
    if len(bodies) == 1:
        assert canonical(bodies[0]["scanResult"]) == carried
    else:
        assert b"".join(base64.b64decode(body["data"]) for body in bodies) == carried
    assert {body["bodySha256"] for body in bodies} == {hashlib.sha256(carried).hexdigest()}


def test_a_result_is_the_form_of_the_contract() -> None:
    made = job(
        result_count=7, request_id="r", found=ImageFound("host", "team/app", "1.0", "sha256:x", None, "linux/amd64")
    )
    message = result_message(made, 3, canonical({"facts": []}), 0, 8 << 20)
    assert message.path == "/api/v2/import/result"
    assert message.delivery_id == "j1:3:1/1"
    body = json.loads(message.body)
    assert body["contract"] == "cra/1"
    assert body["context"] == {"k": "v"}
    assert body["image"]["manifestDigest"] == "sha256:x"
    assert (body["resultIndex"], body["resultCount"], body["kind"]) == (3, 7, "result")
    assert message == result_message(made, 3, canonical({"facts": []}), 0, 8 << 20)


def test_done_is_the_form_of_the_contract() -> None:
    times = {
        "queued": 100.0,
        "resolving": 100.5,
        "pulling": 101.0,
        "analysing": 103.0,
        "delivering": 103.5,
        "announcing": 104.0,
    }
    made = job(outcome="done", result_count=2, changed_at=times, state_identifier="sha256:s")
    message = done_message(made, INFO)
    body = json.loads(message.body)
    assert (message.path, message.delivery_id) == ("/api/v2/import/done", "j1:done")
    assert body["state"] == "done"
    assert body["timings"] == {"queuedMs": 500, "resolveMs": 500, "pullMs": 2000, "analyseMs": 500, "deliverMs": 500}
    failed = job(outcome="failed", error=job_error(RemoteProtocolError("image-not-found", "no\x1b[31m", hint="h")))
    error = json.loads(done_message(failed, INFO).body)["error"]
    assert error["code"] == "IMAGE_NOT_FOUND"
    assert "\x1b" not in error["message"]


def test_a_clock_set_back_makes_no_negative_time() -> None:
    made = job(outcome="done", changed_at={"queued": 100.0, "delivering": 50.0})
    assert json.loads(done_message(made, INFO).body)["timings"]["queuedMs"] == 0


def test_the_single_message_of_v1() -> None:
    made = job(kind="discover", outcome="done", result_count=1)
    body = json.loads(discover_message(made, INFO, canonical([{"a": 1}]), 0, 8 << 20).body)
    assert (body["kind"], body["scanResults"], body["state"]) == ("discover", [{"a": 1}], "done")
    carried = canonical(["x" * 900_000])
    count = part_count(len(carried), 512 * 1024)
    parts = [json.loads(discover_message(made, INFO, carried, n, 512 * 1024).body) for n in range(count)]
    assert b"".join(base64.b64decode(part["data"]) for part in parts) == carried


# ── delivery ───────────────────────────────────────────────────────────────────
def verdict(status: int, headers: tuple[tuple[str, str], ...] = (), body: bytes = b"", sent: int = 1000) -> object:
    return judge(status, headers, body, sent_bytes=sent, part_bytes=8 << 20, path="/p", wall=1000.0)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_taken(status: int) -> None:
    assert verdict(status) == Taken()


@pytest.mark.parametrize("status", [301, 302, 408, 409, 425, 429, 500, 501, 502, 503, 504, 505, 599])
def test_again(status: int) -> None:
    assert isinstance(verdict(status), Again)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422, 451])
def test_refused(status: int) -> None:
    found = verdict(status, body=b'{"code":"FILTER_BLOCKED"}')
    assert isinstance(found, Refusal)
    assert "rule for POST /p" in found.hint


def test_smaller() -> None:
    assert isinstance(verdict(413, sent=2 << 20), Smaller)
    assert isinstance(verdict(413, sent=1000), Refusal)
    html = (("content-type", "text/html; charset=utf-8"),)
    assert isinstance(verdict(500, html, b"<!DOCTYPE html>", sent=2 << 20), Smaller)
    assert isinstance(verdict(500, (), b"<html>", sent=2 << 20), Smaller)
    assert isinstance(verdict(500, html, b"", sent=1000), Again)
    assert isinstance(verdict(500, (), b"{}", sent=2 << 20), Again)
    assert isinstance(verdict(500, html, b"", sent=200_000), Again)
    small = judge(500, html, b"", sent_bytes=2 << 20, part_bytes=1000, path="/p", wall=0.0)
    assert isinstance(small, Again)
    other = verdict(403)
    assert isinstance(other, Refusal)
    assert other.hint == "the receiver refuses POST /p"
    assert halved(8 << 20, 6 << 20) == 3 << 20
    assert halved(300_000, 1 << 20) == LIMITS.callback_bytes_least


def test_retry_after() -> None:
    assert verdict(503, (("retry-after", "7"),)) == Again("answer 503", 7.0)
    assert verdict(503, (("retry-after", "Thu, 01 Jan 1970 00:17:00 GMT"),)) == Again("answer 503", 20.0)
    for odd in ("soon", "Thu, 01 Xyz 1970 00:17:00 GMT", "-1", "1" * 30, "1e9"):
        assert verdict(503, (("retry-after", odd),)) == Again("answer 503", None)


def test_backoff_doubles_to_five_minutes() -> None:
    entropy = Entropy(bytes(16))
    for attempt in range(1, 60):
        assert 0 <= backoff(attempt, entropy) <= min(300.0, 2.0 ** (attempt - 1))
    assert backoff(1, entropy, 30.0) >= 30.0
    assert backoff(1, entropy, 1e9) <= 3600.0
    assert max(backoff(50, entropy) for _ in range(200)) > 200


# ── keys, callers, answers ─────────────────────────────────────────────────────
def test_keys() -> None:
    known = KnownKey("d", "j", 100.0)
    assert decide(None, "d", 0.0) == "fresh"
    assert decide(known, "d", 50.0) == "repeat"
    assert decide(known, "x", 100.0) == "fresh"
    with pytest.raises(RemoteProtocolError) as caught:
        decide(known, "x", 50.0)
    assert caught.value.kind == "idempotency-conflict"


def test_a_callers_proof_is_taken_once() -> None:
    secret = Secret("s3cret")
    check = CallerCheck(secret)
    proof = sign(secret, "POST", "/scan?x=1", b"body", 1000.0)
    check.check(proof, "POST", "/scan?x=1", b"body", 1010.0)
    for value, method, target, body, wall in [
        (proof, "POST", "/scan?x=1", b"body", 1010.0),
        (None, "POST", "/scan", b"", 1000.0),
        ("v1 x y", "POST", "/scan", b"", 1000.0),
        ("v1 ² é", "POST", "/scan", b"", 1000.0),
        (sign(secret, "POST", "/scan", b"", 1000.0), "POST", "/scan", b"other", 1000.0),
        (sign(secret, "POST", "/scan", b"", 1000.0), "GET", "/scan", b"", 1000.0),
        (sign(secret, "GET", "/list", b"", 1000.0), "GET", "/list", b"", 1301.0),
        (sign(Secret("other"), "GET", "/list", b"", 1000.0), "GET", "/list", b"", 1000.0),
    ]:
        with pytest.raises(RemoteProtocolError) as caught:
            check.check(value, method, target, body, wall)
        assert caught.value.kind == "caller-unauthorized"
    check.check(sign(secret, "GET", "/list", b"", 5000.0), "GET", "/list", b"", 5000.0)


def test_error_bodies() -> None:
    error = RemoteProtocolError(
        "registry-unauthorized", "no\r\nentry", hint="h", registry_status=401, registry_code="UNAUTHORIZED"
    )
    status, body = error_answer(error, "q1")
    assert status == 401
    assert body["error"]["code"] == "REGISTRY_UNAUTHORIZED"
    assert body["error"]["message"] == "no��entry"
    assert body["error"]["requestId"] == "q1"
    assert body["error"]["registryCode"] == "UNAUTHORIZED"
    caller = RemoteProtocolError("caller-unauthorized", "m")
    assert error_answer(caller, "q", path="/list")[0] == 403
    assert error_answer(caller, "q", path="/systemcheck")[0] == 400
    assert retry_after(RemoteProtocolError("queue-full", "m")) == 30
    assert retry_after(RemoteProtocolError("registry-rate-limited", "m", retry_after=1.4)) == 1
    assert retry_after(RemoteProtocolError("internal", "m")) is None
    assert plain("x" * 2000) == "x" * 1023 + "…"


def test_answers() -> None:
    assert health_answer(ok=False, version="v", uptime=1.2, active=0, queued=0)[0] == 503
    assert ready_answer([Check("disk", True, 0), Check("outbox", False, 0)])[0] == 503
    assert systemcheck_answer([], None, "q")[0] == 200
    kinds = {"registry-unauthorized": 401, "registry-forbidden": 403, "tls-error": 502, "timeout": 502}
    kinds |= {"malformed-credentials": 400, "image-not-found": 502, "registry-rate-limited": 502, "internal": 502}
    for kind, status in kinds.items():
        assert systemcheck_answer([], RemoteProtocolError(kind, "m"), "q")[0] == status
    assert validate_answer("oci", "h", None, "full")[1]["valid"]
    assert not invalid_answer(RemoteProtocolError("registry-unauthorized", "m"), "q")[1]["valid"]
    assert state_answer("sha256:x", "manifest", "v")[1]["stateIdentifier"] == "sha256:x"
    assert job_body(job())["state"] == "queued"
    assert jobs_answer([job()], 7)[1]["nextCursor"] == "7"
    assert (
        "cra/1"
        in capabilities_answer(version="v", analyser="a", instance="i", types=["oci"], limits={}, warnings=[])[1][
            "contracts"
        ]
    )
    data, tag = encode({"a": 1})
    assert json.loads(data) == {"a": 1}
    assert tag == encode({"a": 1})[1] != encode({"a": 2})[1]


def test_lists_in_pages() -> None:
    names = [f"team/app-{n:04}" for n in range(2500)]
    seen: list[str] = []
    cursor = None
    while True:
        query = list_query([("limit", "1000")] + ([("cursor", cursor)] if cursor else []))
        _, body = repositories_answer(names, query, complete=True, source="catalog", warnings=[])
        seen += body["repositories"]
        cursor = body["nextCursor"]
        if cursor is None:
            break
    assert seen == names
    _, body = repositories_answer(
        names, list_query([("prefix", "team/app-00")]), complete=True, source="x", warnings=[]
    )
    assert len(body["repositories"]) == 100
    gone = list_query([("cursor", b"team/app-0001x".hex())])
    assert (
        repositories_answer(names, gone, complete=True, source="x", warnings=[])[1]["repositories"][0]
        == "team/app-0002"
    )


def test_a_list_ends_before_the_tunnels_wall() -> None:
    tags = [f"{n:06}" + "x" * 120 for n in range(80_000)]
    _, body = tags_answer("r", tags, list_query([]), complete=True, warnings=[])
    assert len(encode(body)[0]) <= LIMITS.callback_bytes
    assert body["nextCursor"] is not None


def test_tags_by_version() -> None:
    tags = ["1.10", "1.9", "latest", "1.9-rc1", "2"]
    query = list_query([("sort", "version")])
    shown = tags_answer("r", tags, query, complete=True, warnings=[])[1]["tags"]
    assert shown.index("1.9") < shown.index("1.10") < shown.index("2")


def test_outcomes_are_ends() -> None:
    assert set(OUTCOMES) == JOB_TABLE.ends
