"""The server's results box: what agents posted, joined and kept in one SQLite file (agent.md §6.2, receiver rules).

A message is known by its delivery id: the second time it is taken and changes nothing. Parts are kept until all
of one cut are there, then joined and checked against `bodySha256`. Messages of different broker tokens never
meet: `owner` is the token's digest, and with the job id it is the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from towline.core import LIMITS, Limits, Record, RemoteProtocolError, Secret, canonical, strict_json
from towline.core.agent import CONTRACT, rfc3339
from towline.drivers._sqlite import Database

T = TypeVar("T")

# One result in more parts than this would be larger than any outbox.
_MOST_PARTS: Final = 100_000
_MOST_RESULTS: Final = 1_000_000

MIGRATIONS: Final = (
    """
    CREATE TABLE jobs (
        changed INTEGER PRIMARY KEY AUTOINCREMENT,
        owner TEXT NOT NULL,
        job_id TEXT NOT NULL,
        request_id TEXT,
        image BLOB NOT NULL,
        result_count INTEGER NOT NULL,
        state TEXT NOT NULL,
        done BLOB,
        received_at REAL NOT NULL,
        UNIQUE (owner, job_id)
    );
    CREATE INDEX jobs_by_id ON jobs (job_id, received_at);
    CREATE TABLE deliveries (
        owner TEXT NOT NULL, job_id TEXT NOT NULL, delivery_id TEXT NOT NULL, PRIMARY KEY (owner, job_id, delivery_id)
    ) WITHOUT ROWID;
    CREATE TABLE parts (
        owner TEXT NOT NULL,
        job_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        part_count INTEGER NOT NULL,
        part INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        data BLOB NOT NULL,
        bytes INTEGER NOT NULL,
        UNIQUE (owner, job_id, number, part_count, part)
    );
    CREATE INDEX parts_bytes ON parts (bytes);
    CREATE TABLE results (
        owner TEXT NOT NULL,
        job_id TEXT NOT NULL,
        number INTEGER NOT NULL,
        body BLOB NOT NULL,
        bytes INTEGER NOT NULL,
        UNIQUE (owner, job_id, number)
    );
    CREATE INDEX results_bytes ON results (bytes)
    """,
)


class _Callback(msgspec.Struct, rename="camel"):
    contract: str
    kind: Literal["result", "done", "discover", "progress"]
    delivery_id: str
    job_id: str
    request_id: str | None = None
    image: dict[str, Any] | None = None
    state: str | None = None
    result_count: int = 0
    result_index: int = 0
    part_index: int = 0
    part_count: int = 1
    body_sha256: str = ""
    encoding: str | None = None
    data: str | None = None
    scan_result: msgspec.Raw = msgspec.Raw(b"")
    scan_results: msgspec.Raw = msgspec.Raw(b"")


class Taken(Record, frozen=True):
    """What came of a message: `repeated` when it was known, `done` when its job has nothing more to say."""

    job_id: str
    kind: str
    repeated: bool
    done: bool


class ResultsBox:
    """Results of all agents behind this server. Synchronous; used by one thread at a time."""

    def __init__(self, path: Path, *, limits: Limits = LIMITS) -> None:
        self._database = Database(path, MIGRATIONS)
        self._limits = limits
        self.notice = self._database.notice

    def close(self) -> None:
        self._database.close()

    def batch(self, operations: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """Run several calls of this box in one transaction; one that raises is undone alone."""
        return self._database.batch(operations)

    def take(self, token: Secret, body: bytes, wall: float) -> Taken:
        """Keep one message.

        Raises:  TowlineError("bad-request") for what is no message or does not have the digest it promises,
                 "too-busy" when the box is full, "insufficient-disk"
        """
        message = _parse(body, self._limits)
        # A digest, because the token opens the tunnel and this file is no place for it.
        owner = hashlib.sha256(b"towline results\0" + token.reveal().encode()).hexdigest()[:32]
        with self._database.transaction() as sql:
            key = (owner, message.job_id)
            known = sql.execute(
                "SELECT 1 FROM deliveries WHERE owner = ? AND job_id = ? AND delivery_id = ?",
                (*key, message.delivery_id),
            ).fetchone()
            if known is not None:
                return Taken(message.job_id, message.kind, True, self._is_done(sql, key))
            if message.kind != "done":
                self._check_room(sql, len(body))
            sql.execute("INSERT INTO deliveries VALUES (?, ?, ?)", (*key, message.delivery_id))
            whole = self._join(sql, key, message) if message.kind in ("result", "discover") else None
            if whole is not None:
                self._keep_results(sql, key, message, whole)
            over = message.kind == "done" or (message.kind == "discover" and whole is not None)
            self._touch(sql, key, message, wall, body if over else None)
            return Taken(message.job_id, message.kind, False, over or self._is_done(sql, key))

    def page(self, cursor: int, limit: int) -> dict[str, Any]:
        """Return the jobs that changed after a cursor, in the order of their last change.

        Shape:   {items, nextCursor}; each item has its own cursor, so that a poller can go on after the last one
        """
        with self._database.reading() as sql:
            rows = sql.execute(
                "SELECT changed, job_id, request_id, image, result_count, state, done IS NOT NULL, received_at,"
                " (SELECT count(*) FROM results r WHERE r.owner = j.owner AND r.job_id = j.job_id)"
                " FROM jobs j WHERE changed > ? ORDER BY changed LIMIT ?",
                (cursor, limit + 1),
            ).fetchall()
        items = [
            {
                "cursor": str(changed),
                "jobId": job_id,
                "requestId": request_id,
                "image": msgspec.Raw(image),
                "state": state,
                "done": bool(done),
                "resultCount": expected,
                "resultsReceived": received,
                "receivedAt": rfc3339(at),
            }
            for changed, job_id, request_id, image, expected, state, done, at, received in rows[:limit]
        ]
        more = len(rows) > limit
        return {"items": items, "nextCursor": str(rows[limit - 1][0]) if more else None}

    def job(self, job_id: str) -> dict[str, Any]:
        """Return all there is of a job: {jobId, requestId, image, state, scanResults, resultCount, done}.

        `done` is the message that ended the job, or null while it has not come.
        Raises:  TowlineError("job-not-found")
        """
        with self._database.reading() as sql:
            row = sql.execute(
                "SELECT owner, request_id, image, result_count, state, done FROM jobs WHERE job_id = ?"
                " ORDER BY received_at LIMIT 1",
                (job_id,),
            ).fetchone()
            if row is None:
                raise RemoteProtocolError("job-not-found", "no result of this job has come")
            owner, request_id, image, expected, state, done = row
            results = sql.execute(
                "SELECT body FROM results WHERE owner = ? AND job_id = ? ORDER BY number", (owner, job_id)
            ).fetchall()
        return {
            "jobId": job_id,
            "requestId": request_id,
            "image": msgspec.Raw(image),
            "state": state,
            "scanResults": [msgspec.Raw(body) for (body,) in results],
            "resultCount": expected,
            "done": None if done is None else msgspec.Raw(done),
        }

    def _join(self, sql: sqlite3.Connection, key: tuple[str, str], message: _Callback) -> bytes | None:
        """Return the canonical bytes of what a message carries once all its parts are there, else None."""
        number = message.result_index
        if message.part_count == 1:
            whole = _whole(message)
        else:
            data = _part(message)
            if self._has(sql, key, number):
                return None  # a late part of another cut
            sql.execute(
                "INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*key, number, message.part_count, message.part_index, message.body_sha256, data, len(data)),
            )
            rows = sql.execute(
                "SELECT data FROM parts WHERE owner = ? AND job_id = ? AND number = ? AND part_count = ? AND sha256 = ?"
                " ORDER BY part",
                (*key, number, message.part_count, message.body_sha256),
            ).fetchall()
            if len(rows) < message.part_count:
                return None
            whole = b"".join(data for (data,) in rows)
        if hashlib.sha256(whole).hexdigest() != message.body_sha256:
            raise RemoteProtocolError("bad-request", "what is carried does not have the digest in bodySha256")
        # Parts of a coarser cut, which the sender gave up, go as well.
        sql.execute("DELETE FROM parts WHERE owner = ? AND job_id = ? AND number = ?", (*key, number))
        return whole

    def _has(self, sql: sqlite3.Connection, key: tuple[str, str], number: int) -> bool:
        found = sql.execute("SELECT 1 FROM results WHERE owner = ? AND job_id = ? AND number = ?", (*key, number))
        return found.fetchone() is not None

    def _keep_results(self, sql: sqlite3.Connection, key: tuple[str, str], message: _Callback, whole: bytes) -> None:
        decoded = strict_json(whole, "the joined result", kind="bad-request", limits=self._limits)
        if message.kind == "discover":
            if not isinstance(decoded, list):
                raise RemoteProtocolError("bad-request", "expected scanResults to be a list")
            bodies = [(number, canonical(item)) for number, item in enumerate(decoded)]
        else:
            bodies = [(message.result_index, whole)]
        sql.executemany(
            "INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)",
            [(*key, number, body, len(body)) for number, body in bodies],
        )

    def _touch(
        self, sql: sqlite3.Connection, key: tuple[str, str], message: _Callback, wall: float, done: bytes | None
    ) -> None:
        row = sql.execute(
            "SELECT state, done, received_at FROM jobs WHERE owner = ? AND job_id = ?", key
        ).fetchone() or ("receiving", None, wall)
        sql.execute("DELETE FROM jobs WHERE owner = ? AND job_id = ?", key)
        state = (message.state or "done") if done is not None else row[0]
        if message.kind == "discover" and done is not None:
            # The results are kept once, beside it.
            outcome = msgspec.json.decode(done)
            done = canonical({name: value for name, value in outcome.items() if name not in ("scanResults", "data")})
        sql.execute(
            "INSERT INTO jobs (owner, job_id, request_id, image, result_count, state, done, received_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, message.request_id, canonical(message.image), message.result_count, state, done or row[1], row[2]),
        )

    def _is_done(self, sql: sqlite3.Connection, key: tuple[str, str]) -> bool:
        row = sql.execute("SELECT done IS NOT NULL FROM jobs WHERE owner = ? AND job_id = ?", key).fetchone()
        return bool(row and row[0])

    def _check_room(self, sql: sqlite3.Connection, more: int) -> None:
        (held,) = sql.execute(
            "SELECT (SELECT coalesce(sum(bytes), 0) FROM results) + (SELECT coalesce(sum(bytes), 0) FROM parts)"
        ).fetchone()
        if held + more > self._limits.outbox_bytes:
            raise RemoteProtocolError("too-busy", f"the results box is full with {held} bytes", retry_after=60.0)


def _parse(body: bytes, limits: Limits) -> _Callback:
    strict_json(body, "the callback", kind="bad-request", limits=limits)
    try:
        message = msgspec.json.decode(body, type=_Callback)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError("bad-request", f"the callback: {error}") from None
    if message.contract != CONTRACT:
        raise RemoteProtocolError("bad-request", f"expected contract {CONTRACT}")
    for name, text in (("jobId", message.job_id), ("deliveryId", message.delivery_id)):
        if not 1 <= len(text) <= 200 or not text.isprintable():
            raise RemoteProtocolError("bad-request", f"expected {name} to be 1 to 200 printable characters")
    if not (1 <= message.part_count <= _MOST_PARTS and 0 <= message.part_index < message.part_count):
        raise RemoteProtocolError("bad-request", "expected partIndex from 0 to below partCount")
    if not 0 <= message.result_index <= _MOST_RESULTS or not 0 <= message.result_count <= _MOST_RESULTS:
        raise RemoteProtocolError("bad-request", f"expected resultIndex and resultCount from 0 to {_MOST_RESULTS}")
    return message


def _whole(message: _Callback) -> bytes:
    carried = message.scan_results if message.kind == "discover" else message.scan_result
    if not carried:
        raise RemoteProtocolError("bad-request", "expected the callback to carry its scan result")
    raw = bytes(carried)
    if hashlib.sha256(raw).hexdigest() == message.body_sha256:
        return raw
    # A broker on the way may have written the JSON anew; its canonical form is what was hashed.
    return canonical(msgspec.json.decode(raw))


def _part(message: _Callback) -> bytes:
    if message.encoding != "base64-part" or message.data is None:
        raise RemoteProtocolError("bad-request", "expected a part with encoding base64-part and data")
    try:
        return base64.b64decode(message.data, validate=True)
    except (binascii.Error, ValueError):
        raise RemoteProtocolError("bad-request", "expected the part's data to be base64") from None
