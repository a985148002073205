"""The directory of nodes in a real Redis: leases, numbers, tokens, and what happens when Redis forgets or is away."""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import anyio
import pytest
from drivers.loops import LOOPS, Loop, make_certificate
from needed import need_peer
from redis_tools import RedisServer, redis_server

from towline.core import Secret, TowlineError
from towline.drivers import TlsSettings
from towline.drivers.directory_redis import BATCH, DirectoryAway, RedisDirectory, open_directory

pytestmark = [
    pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name),
    pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning"),
]

Act = Callable[[RedisDirectory], Awaitable[None]]


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """coredis leaves the queues of a connection that broke to the garbage collector; they hold no descriptor."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path / "redis") as server:
        yield server


def on(loop: Loop, redis: RedisServer, act: Act, *, lease: float = 30.0, cluster: str = "c") -> None:
    async def main() -> None:
        async with open_directory(Secret(redis.url), cluster, lease=lease) as directory:
            await act(directory)

    loop.run(main)


def test_a_lease_begins_runs_anew_and_ends(loop: Loop, redis: RedisServer) -> None:
    async def act(directory: RedisDirectory) -> None:
        before = time.time()
        first = await directory.renew(7, "record-a", "v1")
        assert first is not None
        assert before - 1 < first.seconds < time.time() + 1
        assert first.records == ("record-a",)
        assert not first.complete
        assert await directory.renew(7, "record-b", "v1") is None, "the number has a node"
        assert await directory.node(7) == "record-a"
        assert await directory.node(9) is None
        assert await directory.renew(8, "record-b", "v1") is not None
        assert await directory.change(7, "record-a", "", "v1", {"t": 5}, 60)
        await anyio.sleep(0.25)
        again = await directory.renew(7, "record-a", "v1")
        assert again is not None
        assert again.complete
        await anyio.sleep(0.25)
        last = await directory.renew(7, "record-a", "v1")
        assert last is not None
        assert last.complete, "each renewal lets the tokens live on as well"
        assert last.records == ("record-a",), "a lease that nobody renewed has ended"
        await anyio.sleep(0.5)
        (nobody,) = await directory.locate(["t"])
        assert nobody.holders == ()
        assert await directory.renew(7, "record-b", "v1") is not None, "the number is free"

    on(loop, redis, act, lease=0.4)


def test_tokens_come_and_leave(loop: Loop, redis: RedisServer) -> None:
    async def act(directory: RedisDirectory) -> None:
        for number in (1, 2):
            await directory.renew(number, f"record-{number}", "")
        assert await directory.change(1, "record-1", "", "a1", {"t": 10, "u": 20}, 0.3)
        assert await directory.change(2, "record-2", "", "b1", {"t": 30}, 0.3)
        t, u, nobody = await directory.locate(["t", "u", "x"])
        assert sorted(t.holders) == [("record-1", 10), ("record-2", 30)]
        assert u.holders == (("record-1", 20),)
        assert (nobody.holders, nobody.left) == ((), False)
        assert await directory.change(1, "record-1", "a1", "a2", {"u": None, "w": 40, "t": 50}, 0.3)
        t, u, w = await directory.locate(["t", "u", "w"])
        assert sorted(t.holders) == [("record-1", 50), ("record-2", 30)]
        assert (u.holders, u.left) == ((), True)
        assert w.holders == (("record-1", 40),)
        await anyio.sleep(0.4)
        (u,) = await directory.locate(["u"])
        assert not u.left, "that it was there is forgotten in time"

    on(loop, redis, act)


def test_what_redis_has_lost_is_noticed(loop: Loop, redis: RedisServer) -> None:
    async def act(directory: RedisDirectory) -> None:
        await directory.renew(1, "record", "")
        assert await directory.change(1, "record", "", "v1", {"t": 1}, 60)
        redis.cli("FLUSHALL")
        assert not await directory.change(1, "record", "v1", "v2", {"u": 2}, 60), "nobody has this number"
        back = await directory.renew(1, "record", "v1")
        assert back is not None
        assert not back.complete
        assert not await directory.change(1, "record", "v1", "v2", {"u": 2}, 60), "it builds on what is not there"
        assert await directory.change(1, "record", "", "v2", {"t": 1, "u": 2}, 60)
        back = await directory.renew(1, "record", "v2")
        assert back is not None
        assert back.complete

    on(loop, redis, act)


def test_many_tokens(loop: Loop, redis: RedisServer) -> None:
    names = {f"{number:032x}": number for number in range(3 * BATCH + 7)}

    async def act(directory: RedisDirectory) -> None:
        await directory.renew(1, "record", "")
        began = time.monotonic()
        assert await directory.change(1, "record", "", "v1", names, 60)
        assert time.monotonic() - began < 5
        found = await directory.locate(list(names)[-3:])
        assert [there.holders for there in found] == [(("record", number),) for number in list(names.values())[-3:]]
        assert redis.cli("HLEN", "towline:{c}:held:1") == str(len(names) + 1)
        assert await directory.change(1, "record", "v1", "v2", {}, 60), "a change of nothing is one"

    on(loop, redis, act)


def test_a_node_leaves_in_two_steps(loop: Loop, redis: RedisServer) -> None:
    async def act(directory: RedisDirectory) -> None:
        await directory.renew(1, "record", "")
        await directory.change(1, "record", "", "v1", {"t": 1}, 60)
        await directory.leave(1, "another", finishing=False)
        await directory.leave(1, "record", finishing=True)
        (t,) = await directory.locate(["t"])
        assert t.holders == ()
        other = await directory.renew(2, "second", "")
        assert other is not None
        assert sorted(other.records) == ["record", "second"], "answers to what it was asked still find it"
        await directory.leave(1, "record")
        other = await directory.renew(2, "second", "")
        assert other is not None
        assert other.records == ("second",)

    on(loop, redis, act)


def test_clusters_share_a_redis(loop: Loop, redis: RedisServer) -> None:
    async def one(directory: RedisDirectory) -> None:
        await directory.renew(1, "record", "")
        await directory.change(1, "record", "", "v1", {"t": 1}, 60)

    async def other(directory: RedisDirectory) -> None:
        (t,) = await directory.locate(["t"])
        assert t.holders == ()
        assert await directory.renew(1, "its own", "") is not None

    on(loop, redis, one)
    on(loop, redis, other, cluster="d")


@pytest.mark.parametrize("how", ["killed", "silent"])
def test_a_redis_that_is_away(loop: Loop, redis: RedisServer, how: str) -> None:
    async def act(directory: RedisDirectory) -> None:
        await directory.renew(1, "record", "")
        redis.kill() if how == "killed" else redis.pause()
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(DirectoryAway):
                await directory.locate(["t"])
            assert time.monotonic() - began < 4.0
        redis.start() if how == "killed" else redis.resume()
        end = time.monotonic() + 5
        while True:
            try:
                assert await directory.renew(1, "record", "") is not None
                return
            except DirectoryAway:
                assert time.monotonic() < end
                await anyio.sleep(0.05)

    on(loop, redis, act)


def test_a_redis_that_is_not_there_at_the_start(loop: Loop, tmp_path: Path) -> None:
    async def act(directory: RedisDirectory) -> None:
        with pytest.raises(DirectoryAway):
            await directory.renew(1, "record", "")

    on(loop, RedisServer(tmp_path), act)


def test_a_password_with_signs(loop: Loop, tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis", "--requirepass", "p@ss/w:rd") as redis:

        async def main() -> None:
            right = f"redis://:p%40ss%2Fw%3Ard@127.0.0.1:{redis.port}/0"
            async with open_directory(Secret(right), "c", lease=30.0) as directory:
                assert await directory.renew(1, "record", "") is not None
            async with open_directory(Secret(right.replace("rd@", "rx@")), "c", lease=30.0) as directory:
                with pytest.raises(DirectoryAway) as caught:
                    await directory.renew(1, "record", "")
                assert "ss" not in str(caught.value).replace("password", "").replace("pass", "")

        loop.run(main)


def test_a_user_with_the_rights_that_the_documentation_names(loop: Loop, redis: RedisServer) -> None:
    told = (Path(__file__).parents[2] / "docs" / "nodes.md").read_text()
    rights = told[told.index("`~towline:*") + 1 :].partition("`")[0].split()
    redis.cli("ACL", "SETUSER", "towline", "reset", "on", ">word", *rights)

    async def main() -> None:
        async with open_directory(Secret(redis.url.replace("://", "://towline:word@")), "c", lease=30.0) as directory:
            assert await directory.renew(1, "record", "") is not None
            assert await directory.change(1, "record", "", "v1", {"t": 1, "u": None}, 60)
            (t,) = await directory.locate(["t"])
            assert t.holders == (("record", 1),)
            assert await directory.node(1) == "record"
            await directory.leave(1, "record")

    loop.run(main)


def test_tls(loop: Loop, tmp_path: Path) -> None:
    need_peer("openssl")
    certificate = make_certificate(tmp_path)
    redis = RedisServer(tmp_path / "redis", certificate=certificate)
    try:
        redis.start()

        async def main() -> None:
            url = Secret(f"rediss://localhost:{redis.port}/0")
            async with open_directory(url, "c", lease=30.0, tls=TlsSettings(ca_files=(certificate[0],))) as directory:
                assert await directory.renew(1, "record", "") is not None
            async with open_directory(url, "c", lease=30.0) as directory:
                with pytest.raises(DirectoryAway):
                    await directory.renew(1, "record", "")

        loop.run(main)
    finally:
        redis.kill()


@pytest.mark.parametrize("address", ["http://127.0.0.1/", "redis://127.0.0.1:notaport/0", "nothing"])
def test_addresses_that_cannot_be_read(loop: Loop, address: str) -> None:
    async def main() -> None:
        async with open_directory(Secret(address), "c", lease=30.0):
            pass

    with pytest.raises(TowlineError) as caught:
        loop.run(main)
    assert caught.value.kind == "invalid-configuration"
    assert address not in caught.value.message
