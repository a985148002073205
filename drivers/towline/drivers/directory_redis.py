"""The directory of a cluster of server nodes in Redis (or Valkey): who is a node, and which node holds which token.

    towline:{CLUSTER}:numbers     set      numbers that were claimed; one without a record is stale
    towline:{CLUSTER}:node:N      text     the record of node N, for one lease
    towline:{CLUSTER}:held:N      hash     name of a token → when node N last got a client of it, for one lease;
                                           under the empty name the version of the whole
    towline:{CLUSTER}:left:NAME   text     a client of this token left its node a moment ago

A node renews two keys, however many tokens it holds, and a node that is gone takes its tokens with it at once. Each
change names the version that it builds on: where Redis has lost something, or everything, the versions differ, and
the node writes all of it anew. Names and records are keyed hashes and sealed texts: no token stands here.

coredis runs on trio and on asyncio, through anyio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import anyio

from towline.core import LIMITS, Record, Secret, TowlineError
from towline.drivers._config import TlsSettings
from towline.drivers._tls import client_context

if TYPE_CHECKING:
    import coredis

# One command, and one connection: Redis is near, or it is away.
PATIENCE: Final = 1.0
# Tokens in one command: some 100 KiB.
BATCH: Final = 1_000

_LIVE: Final = """
local prefix, live = KEYS[1], {}
for _, number in ipairs(redis.call('SMEMBERS', prefix .. 'numbers')) do
  local record = redis.call('GET', prefix .. 'node:' .. number)
  if record then live[#live + 1] = {number, record} else redis.call('SREM', prefix .. 'numbers', number) end
end
"""
# number, record, lease, version → state, seconds, microseconds, records
_RENEW: Final = """
local number, record, lease, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local node, held = KEYS[1] .. 'node:' .. number, KEYS[1] .. 'held:' .. number
local before = redis.call('GET', node)
if before and before ~= record then return {'taken'} end
redis.call('SET', node, record, 'PX', lease)
redis.call('SADD', KEYS[1] .. 'numbers', number)
local state = 'lost'
if redis.call('HGET', held, '') == version then
  redis.call('PEXPIRE', held, lease)
  state = 'kept'
end
""" + _LIVE + """
local time, records = redis.call('TIME'), {}
for _, node in ipairs(live) do records[#records + 1] = node[2] end
return {state, time[1], time[2], records}
"""  # fmt: skip
# number, record, lease, version before ("" for none), version after, grace, then name and time ("" for left) by turns
_CHANGE: Final = """
local number, record, lease, before, after, grace = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local held = KEYS[1] .. 'held:' .. number
if redis.call('GET', KEYS[1] .. 'node:' .. number) ~= record then return 0 end
if before == '' then
  redis.call('DEL', held)
elseif redis.call('HGET', held, '') ~= before then
  return 0
end
redis.call('HSET', held, '', after)
redis.call('PEXPIRE', held, lease)
for i = 7, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', held, ARGV[i])
    redis.call('SET', KEYS[1] .. 'left:' .. ARGV[i], '1', 'PX', grace)
  else
    redis.call('HSET', held, ARGV[i], ARGV[i + 1])
  end
end
return 1
"""
# names → for each: whether one left, and of each node that holds it: record, time
_LOCATE: Final = _LIVE + """
local found = {}
for i, name in ipairs(ARGV) do
  local nodes = {redis.call('EXISTS', prefix .. 'left:' .. name)}
  for _, node in ipairs(live) do
    local since = redis.call('HGET', prefix .. 'held:' .. node[1], name)
    if since then
      nodes[#nodes + 1] = node[2]
      nodes[#nodes + 1] = since
    end
  end
  found[i] = nodes
end
return found
"""  # fmt: skip
_NODE: Final = "return redis.call('GET', KEYS[1] .. 'node:' .. ARGV[1])"
# number, record, what remains ("record" while its requests are finished)
_LEAVE: Final = """
local node = KEYS[1] .. 'node:' .. ARGV[1]
if redis.call('GET', node) ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1] .. 'held:' .. ARGV[1])
if ARGV[3] ~= 'record' then
  redis.call('DEL', node)
  redis.call('SREM', KEYS[1] .. 'numbers', ARGV[1])
end
return 1
"""


class DirectoryAway(Exception):
    """Redis does not answer, or not as it should. The text holds no secret."""


class Renewal(Record, frozen=True):
    """What a renewed lease came with: Redis' wall time in seconds, and the records of all live nodes.

    `complete` says that Redis has all that was written before.
    """

    seconds: float
    records: tuple[str, ...]
    complete: bool


class Whereabouts(Record, frozen=True):
    """Which nodes hold a token: their records, and since when, in milliseconds of wall time."""

    holders: tuple[tuple[str, int], ...]
    left: bool


class RedisDirectory:
    """One cluster's part of a Redis. Every call raises DirectoryAway, within a second or two, if Redis is away."""

    def __init__(self, client: coredis.Redis[str], cluster: str, lease: float) -> None:
        # The braces keep all keys in one slot of a Redis cluster.
        self._prefix = f"towline:{{{cluster}}}:"
        self._lease = str(int(lease * 1000))
        self._scripts = {text: client.register_script(text) for text in (_RENEW, _CHANGE, _LOCATE, _NODE, _LEAVE)}

    async def renew(self, number: int, record: str, version: str) -> Renewal | None:
        """Begin this node's lease, or let it run anew; None if another node has the number."""
        said = await self._run(_RENEW, number, record, self._lease, version)
        if said[0] == "taken":
            return None
        return Renewal(int(said[1]) + int(said[2]) / 1e6, tuple(said[3]), said[0] == "kept")

    async def change(
        self, number: int, record: str, before: str, after: str, changes: Mapping[str, int | None], grace: float
    ) -> bool:
        """Write which tokens came (since when, in milliseconds) and left (None); False if Redis has lost the rest.

        Shape:  `before` and `after` are versions; with "" before, `changes` is all that the node holds. What left is
                remembered for `grace` seconds
        """
        rest = iter(changes.items())
        first = True
        while (batch := dict(islice(rest, BATCH))) or first:
            told = [text for name, since in batch.items() for text in (name, "" if since is None else str(since))]
            known = before if first else after
            first = False
            if not await self._run(_CHANGE, number, record, self._lease, known, after, int(grace * 1000), *told):
                return False
        return True

    async def locate(self, names: Sequence[str]) -> list[Whereabouts]:
        """Return which nodes hold each of these tokens."""
        said = await self._run(_LOCATE, *names)
        return [
            Whereabouts(tuple((record, int(since)) for record, since in zip(*[iter(nodes[1:])] * 2)), bool(nodes[0]))
            for nodes in said
        ]

    async def node(self, number: int) -> str | None:
        """Return the record of the node with this number, if it is alive."""
        record: str | None = await self._run(_NODE, number)
        return record

    async def leave(self, number: int, record: str, *, finishing: bool = False) -> None:
        """Hold no token any more; while `finishing`, the node can still be found by its number."""
        await self._run(_LEAVE, number, record, "record" if finishing else "")

    async def _run(self, script: str, *arguments: int | str) -> Any:
        try:
            with anyio.fail_after(2 * PATIENCE):
                return await self._scripts[script]([self._prefix], arguments)
        except Exception as error:
            # coredis raises errors of its own, of anyio and of the system, and groups of them.
            raise DirectoryAway(_reason(error)) from None


@asynccontextmanager
async def open_directory(
    url: Secret, cluster: str, *, lease: float, tls: TlsSettings | None = None
) -> AsyncIterator[RedisDirectory]:
    """Give a cluster's directory while the block lasts. Redis need not be there yet.

    Raises:  TowlineError("invalid-configuration") for an address that cannot be read, or without coredis
    """
    try:
        import coredis
        from coredis.retry import NoRetryPolicy
    except ModuleNotFoundError as error:
        raise TowlineError(
            "invalid-configuration",
            f"several nodes need {error.name}",
            hint='pip install "towline[redis]"',
        ) from None
    address = url.reveal()
    unreadable = TowlineError(
        "invalid-configuration", "expected redis://HOST:PORT/DB or rediss:// for the directory of nodes"
    )
    if not address.startswith(("redis://", "rediss://", "unix://")):
        raise unreadable
    more: dict[str, Any] = {}
    if address.startswith("rediss://"):
        more["ssl_context"] = client_context(tls or TlsSettings(), insecure=False)
    try:
        client = coredis.Redis.from_url(
            address,
            decode_components=True,
            decode_responses=True,
            retry_policy=NoRetryPolicy(),
            connect_timeout=PATIENCE,
            stream_timeout=PATIENCE,
            max_connections=4,
            **more,
        )
    except (ValueError, TypeError):
        # The text of the error may have the address in it, and that a password.
        raise unreadable from None
    async with client:
        yield RedisDirectory(client, cluster, lease)


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[: LIMITS.foreign_text]
