"""The agent's API on both loops: every path, every error it can make, and no secret anywhere."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agent_tools import CANARY, REPOSITORY, USER, Receiver, SmallRegistry, agent, make_image, scan_body, sha256, until
from drivers.loops import LOOPS

from towline.core import LIMITS, RemoteProtocolError, Secret, TowlineError
from towline.core.agent import RegistryLogin, sign
from towline.drivers.store_sqlite import JobStore
from towline.runtimes.agent import desk as agent_desk
from towline.runtimes.agent import jobs as agent_jobs


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
    assert made.fault == []
    made.close()


def test_the_calls_that_ask_a_registry(loop: Any, registry: SmallRegistry, tmp_path: Path) -> None:
    async def main() -> None:
        async with agent(loop, tmp_path, registry) as ask:
            health = await ask("GET", "/healthcheck", login=False)
            assert health.body["ok"]
            assert health.headers["x-cra-version"] == "1"
            assert (await ask("GET", "/ready", login=False)).status == 200
            assert "docker-hub" in (await ask("GET", "/capabilities", login=False)).body["registryTypes"]
            listed = await ask("GET", "/list", x_request_id="q-1")
            assert listed.body["repositories"] == [REPOSITORY, "team/other"]
            assert (listed.body["complete"], listed.body["source"]) == (True, "catalog")
            assert listed.headers["x-request-id"] == "q-1"
            again = await ask("GET", "/list", if_none_match=listed.headers["etag"])
            assert (again.status, again.data) == (304, b"")
            for path in (f"/list/{REPOSITORY}", "/list/team%2Fapp", f"/list-paginated/{REPOSITORY}?limit=5"):
                assert (await ask("GET", path)).body["tags"] == ["1.0"]
            first = await ask("GET", "/list-paginated?limit=1")
            assert first.body["repositories"] == [REPOSITORY]
            rest = await ask("GET", f"/list?cursor={first.body['nextCursor']}")
            assert rest.body["repositories"] == ["team/other"]
            state = await ask("GET", f"/get-state-identifier?repository={REPOSITORY}&reference=1.0")
            assert state.body["stateIdentifier"] == sha256(registry.images["1.0"]["manifest"])
            details = await ask("GET", f"/list-with-metadata/{REPOSITORY}")
            digest = sha256(registry.images["1.0"]["manifest"])
            assert [(it["tag"], it["digest"]) for it in details.body["items"]] == [("1.0", digest)]
            assert details.body["items"][0]["lastPushedSource"] == "unknown"
            assert (details.body["complete"], details.body["nextCursor"]) == (True, None)
            for reference in ("1.0", digest, digest.replace(":", "%3A")):
                image = (await ask("GET", f"/image-metadata/{REPOSITORY}/{reference}")).body
                assert image["manifest"]["manifestDigest"] == digest
                assert image["manifest"]["schemaVersion"] == 2
                assert (image["config"]["architecture"], image["platform"]) == ("amd64", "linux/amd64")
            missing = await ask("GET", f"/image-metadata/{REPOSITORY}/2.0")
            assert (missing.status, missing.body["error"]["code"]) == (404, "IMAGE_NOT_FOUND")
            assert (await ask("GET", f"/image-metadata/{REPOSITORY}/1.0?platform=linux/arm64")).status == 404
            bare = registry.credentials().reveal()
            for path in ("/systemcheck", "/systemcheck?deep=true"):
                checked = await ask("GET", path, login=False, authorization=bare)
                assert checked.status == 200, checked.data
                assert all(check["ok"] for check in checked.body["checks"])
            valid = await ask("GET", "/validate-credentials", login=False, authorization=bare)
            assert valid.body["valid"]
            assert valid.body["capabilities"]["catalog"] == "full"
            assert (await ask("HEAD", "/healthcheck", login=False)).data == b""

    loop.run(main)


def test_what_is_wrong_with_a_request(loop: Any, registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    wrong = base64.b64encode(
        json.dumps({"type": "oci", "registryBase": registry.host, "password": "x"}).encode()
    ).decode()
    pasted = base64.b64encode(b'{"type":"oci","password":"' + CANARY.encode() + b'"}').decode()
    ecr = base64.b64encode(b'{"type":"ecr","roleArn":"arn","extra":{}}').decode()
    http = {"type": "oci", "scheme": "http", "registryBase": "elsewhere.example:1"}

    async def main() -> None:
        limits = msgspec.structs.replace(LIMITS, retry_base=0.01, retry_cap=0.02)
        async with agent(loop, tmp_path, registry, callback_urls=(receiver.url,), limits=limits) as ask:

            async def code(method: str, target: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
                given = {"x_registry_credentials": registry.credentials().reveal()} | headers
                got = await ask(method, target, body, login=False, **{n: v for n, v in given.items() if v})
                assert got.body["error"]["requestId"]
                assert CANARY not in got.data.decode()
                return got.status, got.code

            assert await code("GET", "/nothing") == (404, "NOT_FOUND")
            assert await code("PUT", "/scan") == (405, "METHOD_NOT_ALLOWED")
            assert await code("GET", "/list/A") == (400, "INVALID_NAME")
            assert await code("GET", "/list?limit=0") == (400, "BAD_REQUEST")
            assert await code("GET", f"/get-state-identifier?repository={REPOSITORY}&reference=a/b") == (
                400,
                "INVALID_REFERENCE",
            )
            assert await code("GET", "/list", x_registry_credentials="") == (400, "MISSING_CREDENTIALS")
            assert await code("GET", "/list", x_registry_credentials=pasted) == (400, "MALFORMED_CREDENTIALS")
            assert await code("GET", "/list", x_registry_credentials=ecr) == (400, "MALFORMED_CREDENTIALS")
            novel = base64.b64encode(b'{"type": "novel"}').decode()
            assert await code("GET", "/list", x_registry_credentials=novel) == (400, "UNSUPPORTED_TYPE")
            assert await code("GET", "/list", authorization=f"Cra {wrong}") == (400, "AMBIGUOUS_CREDENTIALS")
            assert await code("GET", "/list", x_registry_credentials=wrong) == (401, "REGISTRY_UNAUTHORIZED")
            assert await code("GET", "/list?registryId=x", x_registry_credentials="") == (400, "BAD_REQUEST")
            assert await code("GET", "/systemcheck", x_registry_credentials=wrong) == (401, "REGISTRY_UNAUTHORIZED")
            assert await code("GET", "/validate-credentials", x_registry_credentials=wrong) == (
                401,
                "REGISTRY_UNAUTHORIZED",
            )
            assert await code("GET", "/list/no/such") == (404, "REPOSITORY_NOT_FOUND")
            assert await code("GET", f"/get-state-identifier?repository={REPOSITORY}&reference=9") == (
                404,
                "IMAGE_NOT_FOUND",
            )
            assert await code("POST", "/scan", b"no json") == (400, "BAD_REQUEST")
            clear = scan_body(receiver, credentials=http)
            assert await code("POST", "/scan", clear, x_registry_credentials="") == (400, "BAD_REQUEST")
            abroad = scan_body(receiver, callback_baseUrl="http://127.0.0.1:1")
            assert await code("POST", "/scan", abroad) == (400, "BAD_REQUEST")
            assert await code("GET", "/jobs/none") == (404, "JOB_NOT_FOUND")
            assert await code("DELETE", "/jobs/none") == (404, "JOB_NOT_FOUND")
            assert await code("POST", "/jobs/none/redeliver") == (404, "JOB_NOT_FOUND")
            assert await code("POST", "/jobs/none/other") == (404, "NOT_FOUND")
            assert await code("GET", "/jobs?state=odd") == (400, "BAD_REQUEST")
            told = await ask(
                "GET", "/validate-credentials", login=False, x_registry_credentials=wrong, x_cra_version="1"
            )
            assert told.status == 200
            assert told.body["valid"] is False
            assert told.body["error"]["code"] == "REGISTRY_UNAUTHORIZED"
            gone = {"type": "oci", "registryBase": "127.0.0.1:1", "scheme": "https"}
            lost = base64.b64encode(json.dumps(gone).encode()).decode()
            assert await code("GET", "/list", x_registry_credentials=lost) == (502, "REGISTRY_UNREACHABLE")
            assert await code("GET", "/systemcheck", x_registry_credentials=lost) == (502, "REGISTRY_UNREACHABLE")

    loop.run(main, 60.0)


def test_a_full_queue_and_a_full_disk(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    stall = registry.stall = threading.Event()
    limits = msgspec.structs.replace(LIMITS, jobs_queued=1)

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path / "a", registry, limits=limits) as ask:
            first = await ask.scan(receiver)
            await ask.reached(first, {"pulling"})
            second = await ask.scan(receiver)
            full = await ask("POST", "/scan", scan_body(receiver))
            assert (full.status, full.code, full.headers["retry-after"]) == (429, "QUEUE_FULL", "30")
            stall.set()
            for job in (first, second):
                assert (await ask.ended(job))["state"] == "done"
        async with agent(LOOPS[0], tmp_path / "b", registry, disk_reserve_bytes=1 << 60) as ask:
            full = await ask("POST", "/scan", scan_body(receiver))
            assert (full.status, full.code) == (503, "INSUFFICIENT_DISK")
            assert (await ask("GET", "/ready", login=False)).status == 503

    LOOPS[0].run(main)


def test_a_scan_from_request_to_done(loop: Any, registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    async def main() -> None:
        async with agent(loop, tmp_path, registry) as ask:
            job = await ask.scan(receiver, requestId="r-1")
            ended = await ask.ended(job)
            assert ended["state"] == "done", ended
            assert ended["resultCount"] == len(receiver.of(job)) - 1
            done = receiver.done(job)
            assert done["requestId"] == "r-1"
            assert done["context"] == {"k": [1]}
            assert (
                done["stateIdentifier"] == done["image"]["manifestDigest"] == sha256(registry.images["1.0"]["manifest"])
            )
            assert done["timings"]["pullMs"] >= 0
            result = next(d for d in receiver.of(job) if d.body["kind"] == "result")
            assert result.path == "/api/v2/import/result"
            assert result.delivery == f"{job}:0:1/1"
            assert result.headers["content-type"] == "application/json"
            assert result.body["scanResult"]["identity"]["type"] == "deb"
            graph = next(fact["data"] for fact in result.body["scanResult"]["facts"] if fact["type"] == "depGraph")
            found = {package["info"]["name"].rpartition("/")[2] for package in graph["pkgs"]}
            assert {"bash", "libc6"} <= found, found
            assert done["bytes"]["compressed"] == done["bytes"]["downloaded"] > 0
            again = await ask("POST", "/scan", scan_body(receiver, requestId="r-1"))
            assert (again.status, again.body["duplicate"], again.body["jobId"]) == (202, True, job)
            other = await ask("POST", "/scan", scan_body(receiver, requestId="r-1", options_priority=1))
            assert (other.status, other.code) == (409, "IDEMPOTENCY_CONFLICT")
            keyed = await ask("POST", "/scan", scan_body(receiver), idempotency_key="k")
            assert (await ask("POST", "/scan", scan_body(receiver), idempotency_key="k")).body["duplicate"]
            await ask.ended(keyed.body["jobId"])
            same = await ask.scan(receiver, options_ifNotState=done["stateIdentifier"])
            assert (await ask.ended(same))["state"] == "unchanged"
            assert receiver.done(same)["state"] == "unchanged"
            assert len(receiver.of(same)) == 1
            listed = await ask("GET", "/jobs?limit=2", login=False)
            assert len(listed.body["items"]) == 2
            rest = await ask("GET", f"/jobs?cursor={listed.body['nextCursor']}", login=False)
            assert len(rest.body["items"]) == 1

    loop.run(main)


def test_v1_is_one_message(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry) as ask:
            accepted = await ask("POST", "/discover", scan_body(receiver, callback_resultPath="/v1/import/app"))
            job = accepted.body["jobId"]
            assert (await ask.ended(job))["state"] == "done"
            (only,) = receiver.of(job)
            assert only.path == "/v1/import/app"
            assert only.body["scanResults"][0]["identity"]["type"] == "deb"

    LOOPS[0].run(main)


def test_scans_that_fail_say_why(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry) as ask:
            failures: list[tuple[dict[str, Any], str]] = [
                ({"image_reference": "9"}, "IMAGE_NOT_FOUND"),
                ({"image_repository": "no/such"}, "IMAGE_NOT_FOUND"),  # a HEAD has no body that tells the two apart
                ({"options_maxImageBytes": 10}, "IMAGE_TOO_LARGE"),
                ({"image_expectedDigest": "sha256:" + "0" * 64}, "DIGEST_MISMATCH"),
            ]
            for changes, code in failures:
                job = await ask.scan(receiver, **changes)
                ended = await ask.ended(job)
                assert (ended["state"], ended["error"]["code"]) == ("failed", code)
                (only,) = receiver.of(job)
                assert only.body["state"] == "failed"
                assert only.body["error"]["code"] == code
            registry.corrupt = True
            job = await ask.scan(receiver)
            assert (await ask.ended(job))["error"]["code"] == "DIGEST_MISMATCH"
            assert [d.body["kind"] for d in receiver.of(job)] == ["done"]

    LOOPS[0].run(main)


def test_a_job_that_takes_too_long_and_one_that_is_cancelled(
    loop: Any, registry: SmallRegistry, receiver: Receiver, tmp_path: Path
) -> None:
    stall = registry.stall = threading.Event()

    async def main() -> None:
        async with agent(loop, tmp_path, registry) as ask:
            job = await ask.scan(receiver, options_timeoutSeconds=1)
            waiting = await ask.scan(receiver)
            assert (await ask.ended(job))["state"] == "expired"
            assert receiver.done(job)["error"]["code"] == "TIMEOUT"
            await ask.reached(waiting, {"pulling"})
            queued = await ask.scan(receiver)
            for one in (queued, waiting):
                gone = await ask("DELETE", f"/jobs/{one}", login=False)
                assert gone.body["outcome"] == "cancelled"
                assert (await ask.ended(one))["state"] == "cancelled"
                assert receiver.done(one)["state"] == "cancelled"
            stall.set()
            assert (await ask("DELETE", f"/jobs/{job}", login=False)).body["state"] == "expired"
            last = await ask.scan(receiver)
            assert (await ask.ended(last))["state"] == "done"

    loop.run(main)


@pytest.mark.parametrize("workers", [1, 8])
def test_many_requests_for_one_image_are_one_pull(
    registry: SmallRegistry, receiver: Receiver, tmp_path: Path, workers: int
) -> None:
    layer = next(name for name, data in registry.images["1.0"].items() if data[:2] == b"\x1f\x8b")
    stall = registry.stall = threading.Event()

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry, active_operations=workers) as ask:
            jobs = [await ask.scan(receiver) for _ in range(20)]
            await ask.reached(jobs[0], {"pulling"})
            stall.set()
            for job in jobs:
                assert (await ask.ended(job))["state"] == "done"
            assert len({receiver.done(job)["jobId"] for job in jobs}) == 20

    LOOPS[0].run(main)
    assert registry.count(f"/blobs/{layer}") == 1


def test_own_logins(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    own = RegistryLogin("oci", registry.host, USER, Secret(CANARY))

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path / "a", registry, login=own) as ask:
            assert (await ask("GET", "/list", login=False)).status == 200
            accepted = await ask("POST", "/scan", scan_body(receiver), login=False)
            assert (await ask.ended(accepted.body["jobId"]))["state"] == "done"
        async with agent(LOOPS[0], tmp_path / "b", registry, registries={"main": own}) as ask:
            assert (await ask("GET", "/list?registryId=main", login=False)).status == 200
            accepted = await ask("POST", "/scan", scan_body(receiver, registryId="main"), login=False)
            assert (await ask.ended(accepted.body["jobId"]))["state"] == "done"
        async with agent(LOOPS[0], tmp_path / "c", registry, login=own, disable_list=True) as ask:
            listed = (await ask("GET", "/list", login=False)).body
            assert (listed["repositories"], listed["source"]) == ([], "disabled")

    LOOPS[0].run(main)


def test_callers_prove_themselves(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    secret = Secret("shared-c4n4ry")

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry, shared_secret=secret) as ask:
            assert (await ask("GET", "/healthcheck", login=False)).status == 200
            refused = await ask("GET", "/list")
            assert (refused.status, refused.code) == (403, "CALLER_UNAUTHORIZED")
            assert (await ask("GET", "/systemcheck")).status == 400
            proof = sign(secret, "GET", "/list?limit=1", b"", time.time())
            assert (await ask("GET", "/list?limit=1", x_cra_auth=proof)).status == 200
            assert (await ask("GET", "/list?limit=1", x_cra_auth=proof)).status == 403
            body = scan_body(receiver)
            accepted = await ask("POST", "/scan", body, x_cra_auth=sign(secret, "POST", "/scan", body, time.time()))
            job = accepted.body["jobId"]
            await until(lambda: receiver.done(job))
            assert receiver.of(job)[0].headers["x-cra-signature"].startswith("v1 ")

    LOOPS[0].run(main)


def test_stopping_lets_running_jobs_end(loop: Any, registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    stall = registry.stall = threading.Event()
    jobs: list[str] = []

    async def main() -> None:
        async with agent(loop, tmp_path, registry) as ask:
            jobs.append(await ask.scan(receiver))
            await ask.reached(jobs[0], {"pulling"})
            threading.Timer(0.3, stall.set).start()

    loop.run(main)
    assert receiver.done(jobs[0])["state"] == "done"


def test_stopping_puts_back_what_does_not_end(registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    stall = registry.stall = threading.Event()
    own = RegistryLogin("oci", registry.host, USER, Secret(CANARY))
    jobs: list[str] = []

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry, login=own, drain_seconds=0.2) as ask:
            jobs.append(await ask.scan(receiver))
            await ask.reached(jobs[0], {"pulling"})
        stall.set()
        async with agent(LOOPS[0], tmp_path, registry, login=own) as ask:
            assert ask.running.resumed == 1
            ended = await ask.ended(jobs[0])
            assert (ended["state"], ended["attempt"]) == ("done", 2)

    LOOPS[0].run(main)


def test_no_secret_is_kept_or_said(loop: Any, registry: SmallRegistry, receiver: Receiver, tmp_path: Path) -> None:
    registry.images["2.0"] = make_image(version=b"9")
    said: list[str] = []

    async def main() -> None:
        async with agent(loop, tmp_path, registry) as ask:
            text = registry.credentials().reveal()
            for body in (
                scan_body(receiver, credentials=text, requestId="a"),
                scan_body(
                    receiver,
                    credentials={"type": "oci", "registryBase": registry.host, "username": USER, "password": CANARY},
                ),
            ):
                accepted = await ask("POST", "/scan", body, login=False)
                await ask.ended(accepted.body["jobId"])
            wrong = registry.credentials(CANARY + "x").reveal()
            await ask("GET", "/list", login=False, x_registry_credentials=wrong)
            await ask("GET", "/systemcheck", login=False, authorization=wrong)
            await ask("GET", "/list", login=False, x_registry_credentials=text[:-7])
            said.append((await ask("GET", "/jobs", login=False)).data.decode())
            said.append(ask.log.getvalue())

    loop.run(main)
    plain = CANARY.encode()
    forms = [plain, base64.b64encode(plain).rstrip(b"=")[:-1], json.dumps(CANARY).encode()[1:-1]]
    forms += [base64.b64encode(f"{USER}:{CANARY}".encode()).rstrip(b"=")[:-1], registry.credentials().reveal().encode()]
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    held += "".join(said).encode() + json.dumps([d.body for d in receiver.seen]).encode()
    for form in forms:
        assert form not in held


def test_what_stops_the_start(registry: SmallRegistry, tmp_path: Path) -> None:
    async def taken() -> None:
        async with agent(LOOPS[0], tmp_path / "a", registry) as ask:
            async with agent(LOOPS[0], tmp_path / "b", registry, port=ask.port):
                pass

    async def folder() -> None:
        (tmp_path / "file").write_text("")
        async with agent(LOOPS[0], tmp_path / "file" / "x", registry):
            pass

    async def shared() -> None:
        async with agent(LOOPS[0], tmp_path / "c", registry):
            async with agent(LOOPS[0], tmp_path / "c", registry):
                pass

    for start in (taken, folder, shared):
        with pytest.raises(BaseExceptionGroup) as caught:
            LOOPS[0].run(start)
        error: BaseException = caught.value
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        assert isinstance(error, TowlineError)
        assert error.kind == "invalid-configuration"


def test_a_fault_of_ours_ends_one_job_only(
    registry: SmallRegistry, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError(CANARY)

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry) as ask:
            with monkeypatch.context() as patch:
                patch.setattr(agent_desk, "scan_image", broken)
                job = await ask.scan(receiver)
                assert (await ask.ended(job))["error"]["code"] == "INTERNAL"
            assert "ZeroDivisionError" in ask.log.getvalue()
            assert CANARY not in ask.log.getvalue()
            assert receiver.done(job)["state"] == "failed"
            assert (await ask.ended(await ask.scan(receiver)))["state"] == "done"

    LOOPS[0].run(main)


def test_a_result_waits_for_room_on_the_disk(
    registry: SmallRegistry, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_jobs, "_DISK_PAUSE", 0.05)
    whole = JobStore.settle
    refused: list[tuple[Any, ...]] = []

    def full(self: JobStore, *given: Any, **named: Any) -> Any:
        if len(refused) < 2:
            refused.append(given)
            raise RemoteProtocolError("insufficient-disk", "no room")
        return whole(self, *given, **named)

    monkeypatch.setattr(JobStore, "settle", full)

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry) as ask:
            assert (await ask.ended(await ask.scan(receiver)))["state"] == "done"

    LOOPS[0].run(main)
    assert len(refused) == 2


def test_one_who_fails_does_not_fail_those_who_wait(
    registry: SmallRegistry, receiver: Receiver, tmp_path: Path
) -> None:
    stall = registry.stall = threading.Event()

    async def main() -> None:
        async with agent(LOOPS[0], tmp_path, registry, active_operations=2) as ask:
            first = await ask.scan(receiver)
            await until(registry.stalled.is_set)
            second = await ask.scan(receiver)
            await ask.reached(second, {"pulling"})
            await ask("DELETE", f"/jobs/{first}", login=False)
            stall.set()
            assert (await ask.ended(second))["state"] == "done"
            assert (await ask.ended(first))["state"] == "cancelled"

    LOOPS[0].run(main)
