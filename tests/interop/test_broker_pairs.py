"""Our server and client, together and each with the stock other one: what a backend, an agent and an operator meet."""

from __future__ import annotations

import base64
import os
import threading
import time
from collections.abc import Iterator

import pytest
from interop.brokers import LOGIN, MIB, Brokers, Make, brokers, memory, since
from interop.chain import wait
from interop.peers.broker_upstream import Random

pytestmark = pytest.mark.interop

PAIRS: list[tuple[Make, Make]] = [("ours", "ours"), ("ours", "stock"), ("stock", "ours")]
LARGE = 256 * MIB
# What one large answer, or one that nobody reads, may cost: windows on both sides, and what the stock peer sends ahead.
GROWTH = 24 * MIB


@pytest.fixture(scope="module", params=PAIRS, ids=[f"server-{server}-client-{client}" for server, client in PAIRS])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    with brokers(tmp_path_factory.mktemp("pair"), *request.param) as running:
        yield running


@pytest.fixture(autouse=True)
def ready(pair: Brokers) -> None:
    pair.await_ready()


def basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


@pytest.mark.parametrize(
    ("path", "authorization"),
    [
        ("/auth-basic", basic(":".join(LOGIN))),
        ("/auth-bearer", f"Bearer {LOGIN[1]}"),
        ("/auth-token", f"Token {LOGIN[1]}"),
        ("/auth-raw", LOGIN[1]),
        ("/userinfo", basic("us@er:pass:word")),
    ],
)
def test_each_auth_scheme(pair: Brokers, path: str, authorization: str) -> None:
    told = pair.ask(path, authorization="Bearer of-the-caller")
    assert told.status == 200
    came = pair.upstream.of(path)[-1].headers["authorization"]
    assert came == authorization


def test_what_is_denied(pair: Brokers) -> None:
    told = pair.ask("/nobody/allowed/this")
    assert told.status == 401
    assert "blocked" in str(told.json).lower()
    assert pair.upstream.of("/nobody") == []
    assert pair.ask("/small", "DELETE").status == 401


def test_a_large_answer(pair: Brokers) -> None:
    """256 MiB of random bytes arrive as they were, in bounded memory of ours."""
    before = {program.name: memory(program) for program in pair.ours}
    told = pair.ask(f"/bytes/{LARGE}")
    assert (told.status, told.length, told.whole) == (200, LARGE, True)
    assert told.digest == Random(LARGE).digest()
    for program in pair.ours:
        assert memory(program, "VmHWM") - before[program.name] < GROWTH, program.name


def test_a_chunked_answer(pair: Brokers) -> None:
    told = pair.ask(f"/chunked/{12 * MIB + 1}")
    assert (told.status, told.length, told.whole) == (200, 12 * MIB + 1, True)
    assert told.digest == Random(12 * MIB + 1).digest()


@pytest.mark.parametrize("path", ["/cut", "/cut-chunked"])
def test_an_answer_that_the_upstream_cuts_is_seen_as_cut(pair: Brokers, path: str) -> None:
    if pair.makes["client"] == "stock" and path == "/cut-chunked":
        pytest.skip("the stock client ends such an upload in order, with an error text behind what came (Q2)")
    told = pair.ask(path)
    assert not told.whole
    assert told.length <= 1_000_000
    assert pair.ask("/small").body == b'{"small":true}'


def test_a_callback_of_9_mib(pair: Brokers) -> None:
    body = base64.b64encode(os.urandom(9 * MIB))[: 9 * MIB]
    told = pair.call_back("/api/v2/import/result", body)
    assert told.status == 200, told
    came = pair.platform.of("/api/v2/import/result")[-1]
    assert came.length == 9 * MIB


def test_a_callback_of_11_mib_is_refused(pair: Brokers) -> None:
    before = len(pair.platform.seen)
    told = pair.call_back("/api/v2/import/result", b"x" * (11 * MIB))
    # The stock client answers its own body parser's refusal with 500.
    assert told.status == (413 if pair.makes["client"] == "ours" else 500), told
    assert len(pair.platform.seen) == before
    assert pair.call_back("/api/v2/import/done", b"{}").status == 200


def test_a_caller_that_leaves_stops_the_upstream(pair: Brokers) -> None:
    """Within a second, whether the answer had begun or not; how far the stock peer carries it is its own affair."""
    if pair.makes["server"] == "stock":
        pytest.skip("the stock server goes on reading an upload whose caller has left (Q4)")
    sock = pair.begin(f"/bytes/{4096 * MIB}")
    sock.recv(100_000)
    began = time.monotonic()
    sock.close()
    (seen,) = pair.upstream.of(f"/bytes/{4096 * MIB}")
    wait(lambda: seen.left_at is not None, 5, pair.said)
    assert since(began) < 1.0
    if pair.makes["client"] == "ours":
        sock = pair.begin("/hang")
        hanging = wait(lambda: pair.upstream.of("/hang"), 5, pair.said)[-1]
        began = time.monotonic()
        sock.close()
        wait(lambda: hanging.left_at is not None, 5, pair.said)
        assert since(began) < 1.0


def test_a_slow_caller_holds_nobody_up(pair: Brokers) -> None:
    """What it does not read stays at the upstream; others on the same tunnel are served as ever."""
    before = {program.name: memory(program) for program in pair.ours}
    size = 600 * MIB
    sock = pair.begin(f"/bytes/{size}")
    sock.recv(1000)
    (seen,) = wait(lambda: pair.upstream.of(f"/bytes/{size}"), 10)
    took = []
    for _ in range(60):
        began = time.monotonic()
        assert pair.ask("/small").status == 200
        took.append(since(began))
        time.sleep(0.02)
    sent = seen.sent
    time.sleep(1.0)
    assert seen.sent == sent < size // 4
    assert sorted(took)[len(took) // 2] < 0.1
    for program in pair.ours:
        assert memory(program) - before[program.name] < GROWTH, program.name
    sock.close()


def test_many_at_once(pair: Brokers) -> None:
    """Answers of all kinds side by side, each as it should be."""
    wrong: list[object] = []

    def ask(at: int) -> None:
        size = 1 if at % 3 == 0 else 100_000 * at + at
        for kind in ("bytes", "chunked"):
            told = pair.ask(f"/{kind}/{size}")
            if (told.status, told.digest) != (200, Random(size).digest()):
                wrong.append((at, kind, told))

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


# ── what kills ───────────────────────────────────────────────────────────────
def test_a_client_that_is_killed_mid_answer(pair: Brokers) -> None:
    """Its callers are told within 5 s: a cut where the answer had begun, else 502. Then it comes back."""
    if pair.makes["server"] == "stock":
        pytest.skip("the stock server leaves callers waiting whose client has gone (Q4)")
    told: dict[str, tuple[float, object]] = {}

    def ask(target: str) -> None:
        answer = pair.ask(target)
        told[target] = time.monotonic(), answer

    size = 8192 * MIB
    threads = [threading.Thread(target=ask, args=(target,), daemon=True) for target in ("/hang", f"/bytes/{size}")]
    for thread in threads:
        thread.start()
    wait(lambda: any(seen.sent > 20 * MIB for seen in pair.upstream.of(f"/bytes/{size}")), 20, pair.said)
    wait(lambda: pair.upstream.of("/hang"), 20, pair.said)
    time.sleep(0.2)
    killed = time.monotonic()
    pair.client.kill()
    for thread in threads:
        thread.join(10)
    hung, streamed = told["/hang"], told[f"/bytes/{size}"]
    assert max(hung[0], streamed[0]) - killed < 5.0
    assert hung[1].status == 502  # type: ignore[attr-defined]
    assert not streamed[1].whole  # type: ignore[attr-defined]
    pair.client.start()
    pair.await_ready()
    assert pair.ask("/small").status == 200


def test_a_server_that_is_killed(pair: Brokers) -> None:
    pair.server.kill()
    time.sleep(0.5)
    pair.server.start()
    pair.await_ready()
    assert pair.ask("/small").status == 200
    pair.client.kill()
    pair.client.start()
    pair.await_ready()
    assert pair.ask("/small").status == 200
    assert pair.call_back("/api/v2/import/done", b"{}").status == 200
