"""The results box as a service: callbacks are kept, and read from this machine or with the token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from drivers.loops import LOOPS

from towline.core import LIMITS, Secret, canonical
from towline.core.agent import AgentInfo, JobRegistry, done_message, new_job, parse_job, result_message
from towline.core.http import Answer, ServerRequest
from towline.runtimes.logs import Log
from towline.runtimes.results import Results, open_results

TOKEN = Secret("broker-t0ken-canary")
BODY = b'{"image":{"repository":"a","reference":"1"},"callback":{"baseUrl":"http://b"}}'
JOB = msgspec.structs.replace(
    new_job("j1", parse_job("scan", BODY), JobRegistry("oci", "h", "http", "anonymous"), 1.0),
    outcome="done",
    result_count=1,
)
RESULT = result_message(JOB, 0, canonical({"facts": [1]}), 0, 8 << 20)
DONE = done_message(JOB, AgentInfo("1", "1", "i"))


def request(
    target: str = "/results",
    method: str = "GET",
    body: bytes = b"",
    peer: str = "127.0.0.1:4000",
    **headers: str,
) -> ServerRequest:
    path, _, query = target.partition("?")
    pairs = tuple((name, value) for name, _, value in (part.partition("=") for part in query.split("&") if part))
    named = {"host": "localhost:7341"} | {name.replace("_", "-"): value for name, value in headers.items()}
    parts = tuple(path.split("/")[1:])
    return ServerRequest(tuple(named.items()), method, target, path, parts, pairs, body, "api", peer)


def read(answer: Answer) -> tuple[int, Any]:
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
def test_what_is_posted_is_read(loop: Any, tmp_path: Path) -> None:
    async def main() -> None:
        async with open_results(tmp_path / "box" / "r", log=Log("error", "json")) as results:
            for message, repeated in ((RESULT, False), (RESULT, True), (DONE, False)):
                answer = await results.callback(1, TOKEN, request("/api/v2/import/result", "POST", message.body))
                assert read(answer) == (200, {"ok": True, "duplicate": repeated})
            status, page = read(await results.asked(2, request("/results?limit=5&cursor=0")))
            assert status == 200
            assert [item["jobId"] for item in page["items"]] == ["j1"]
            assert page["nextCursor"] is None
            status, whole = read(await results.asked(3, request("/results/j1")))
            assert (status, whole["scanResults"], whole["state"]) == (200, [{"facts": [1]}], "done")
            assert whole["done"]["deliveryId"] == "j1:done"
            assert whole["image"]["repository"] == "a"

    loop.run(main)


def run(tmp_path: Path, token: Secret | None, check: Any, **limits: Any) -> None:
    async def main() -> None:
        narrowed = msgspec.structs.replace(LIMITS, **limits)
        async with open_results(tmp_path / "r", log=Log("error", "json"), token=token, limits=narrowed) as results:
            await check(results)

    LOOPS[0].run(main)


def test_only_this_machine_without_a_token(tmp_path: Path) -> None:
    async def check(results: Results) -> None:
        for peer in ("127.0.0.1:1", "127.9.9.9", "[::1]:1", "::1", "[::ffff:127.0.0.1]:5"):
            assert (await results.asked(1, request(peer=peer))).status == 200
        for peer in ("10.0.0.1:1", "[2001:db8::1]:1", "", "example.com:1", "localhost.evil:1"):
            assert (await results.asked(1, request(peer=peer))).status == 403
        for asked in (
            request(x_forwarded_for="1.2.3.4"),
            request(forwarded="for=1.2.3.4"),
            request(host="evil.example"),
        ):
            assert (await results.asked(1, asked)).status == 403

    run(tmp_path, None, check)


def test_everybody_with_the_token_and_nobody_without(tmp_path: Path) -> None:
    async def check(results: Results) -> None:
        assert (await results.asked(1, request(peer="10.0.0.1:1", authorization="Bearer s3cret"))).status == 200
        for shown in ("", "Bearer", "Bearer other", "Basic s3cret", "s3cret"):
            assert (await results.asked(1, request(authorization=shown))).status == 403

    run(tmp_path, Secret("s3cret"), check)


def test_what_is_refused(tmp_path: Path) -> None:
    async def check(results: Results) -> None:
        assert (await results.asked(1, request("/results/nobody"))).status == 404
        assert (await results.asked(1, request("/elsewhere"))).status == 404
        assert (await results.asked(1, request("/results/a/b"))).status == 404
        assert (await results.asked(1, request(method="POST"))).status == 405
        assert (await results.asked(1, request("/results?cursor=x"))).status == 400
        assert (await results.asked(1, request("/results?limit=99999"))).status == 400
        assert (await results.callback(1, TOKEN, request("/x", "GET"))).status == 405
        assert (await results.callback(1, TOKEN, request("/x", "POST", b"no"))).status == 400
        full = await results.callback(1, TOKEN, request("/x", "POST", RESULT.body))
        assert (full.status, dict(full.headers)["retry-after"]) == (503, "60")

    run(tmp_path, None, check, outbox_bytes=10)
