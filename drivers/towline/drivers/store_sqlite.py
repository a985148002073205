"""The agent's memory: jobs, request ids and the outbox in one SQLite file.

A job is on the disk before its 202 is sent, and its messages are in the outbox in the transaction that settles
it. An entry leaves the outbox when its receiver has acknowledged it, oldest first within a job; the entry that
says done is the job's last. No login is ever written: a job knows the place of its registry only.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from towline.core import LIMITS, Limits, Record, RemoteProtocolError
from towline.core.agent import (
    KEY_LIFE,
    WORKING,
    Job,
    JobError,
    KnownKey,
    Outcome,
    RegistryLogin,
    after_restart,
    decide,
)
from towline.drivers._sqlite import Database

T = TypeVar("T")

# How long a finished job can be asked for, and how long refused messages wait for someone to mend the receiver.
JOB_LIFE: Final = 7 * 24 * 3600.0
DEAD_LIFE: Final = 30 * 24 * 3600.0

_MESSAGE: Final = """
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL REFERENCES jobs (id),
    kind TEXT NOT NULL,
    number INTEGER NOT NULL,
    body BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    part_bytes INTEGER NOT NULL,
    next_part INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    waited REAL NOT NULL DEFAULT 0
"""
MIGRATIONS: Final = (
    f"""
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        state TEXT NOT NULL,
        priority INTEGER NOT NULL,
        changed_at REAL NOT NULL,
        record BLOB NOT NULL
    );
    CREATE INDEX jobs_by_state ON jobs (state, priority DESC, number);
    CREATE TABLE keys (key TEXT PRIMARY KEY, digest TEXT NOT NULL, job_id TEXT NOT NULL, expires_at REAL NOT NULL);
    CREATE TABLE outbox ({_MESSAGE});
    CREATE INDEX outbox_by_job ON outbox (job_id, seq);
    CREATE INDEX outbox_bytes ON outbox (bytes);
    CREATE TABLE dead ({_MESSAGE}, why TEXT NOT NULL, died_at REAL NOT NULL);
    CREATE INDEX dead_by_job ON dead (job_id, seq);
    CREATE INDEX dead_bytes ON dead (bytes);
    CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)
    """,
)
_COLUMNS: Final = "seq, job_id, kind, number, body, bytes, part_bytes, next_part, attempts, waited"


class Entry(Record, frozen=True):
    """The oldest message of a job that was not acknowledged yet.

    `body` is what it carries; `next_part` counts from 0; `attempts` are those of this part that failed;
    `waited` are the seconds for which it was tried.
    """

    seq: int
    job: Job
    kind: Literal["result", "done", "discover"]
    number: int
    body: bytes
    part_bytes: int
    next_part: int
    attempts: int
    waited: float


class Admitted(Record, frozen=True):
    """An accepted request: its job, whether it was known already, and its place in the queue (from 1)."""

    job: Job
    duplicate: bool
    position: int | None


class Totals(Record, frozen=True):
    """What the store holds."""

    queued: int
    working: int
    delivering: int
    outbox_entries: int
    outbox_bytes: int
    dead_entries: int


class JobStore:
    """Jobs and outbox of one agent. Synchronous; used by one thread at a time."""

    def __init__(self, path: Path, *, limits: Limits = LIMITS) -> None:
        self._database = Database(path, MIGRATIONS)
        self._limits = limits
        self.notice = self._database.notice

    def close(self) -> None:
        self._database.close()

    def batch(self, operations: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """Run several calls of this store in one transaction; one that raises is undone alone."""
        return self._database.batch(operations)

    # ── jobs ───────────────────────────────────────────────────────────────────
    def admit(self, job: Job, digest: str, wall: float) -> Admitted:
        """Write a new job down, or find the one that the same request id made before.

        Raises:  TowlineError("idempotency-conflict"), "queue-full" when the queue or the outbox is at its bound
        """
        with self._database.transaction() as sql:
            if job.request_id is not None:
                row = sql.execute(
                    "SELECT digest, job_id, expires_at FROM keys WHERE key = ?", (job.request_id,)
                ).fetchone()
                known = None if row is None else KnownKey(*row)
                if known is not None and decide(known, digest, wall) == "repeat":
                    first = self.find(known.job_id)
                    if first is not None:
                        return Admitted(first, True, self._position(sql, first))
            self._check_room(sql)
            sql.execute(
                "INSERT INTO jobs (id, state, priority, changed_at, record) VALUES (?, ?, ?, ?, ?)",
                (job.id, job.state, job.options.priority, wall, msgspec.json.encode(job)),
            )
            if job.request_id is not None:
                sql.execute(
                    "INSERT OR REPLACE INTO keys VALUES (?, ?, ?, ?)", (job.request_id, digest, job.id, wall + KEY_LIFE)
                )
            return Admitted(job, False, self._position(sql, job))

    def find(self, job_id: str) -> Job | None:
        """Return a job, or None."""
        with self._database.reading() as sql:
            row = sql.execute("SELECT record FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else msgspec.json.decode(row[0], type=Job)

    def get(self, job_id: str) -> Job:
        """Return a job; raise TowlineError("job-not-found")."""
        job = self.find(job_id)
        if job is None:
            raise RemoteProtocolError("job-not-found", "no job has this id")
        return job

    def page(self, state: str | None, limit: int, after: int) -> tuple[list[Job], int | None]:
        """Return jobs in the order in which they were accepted, and the number after which to go on, or None."""
        with self._database.reading() as sql:
            rows = sql.execute(
                "SELECT number, record FROM jobs WHERE number > ? AND (? IS NULL OR state = ?) ORDER BY number LIMIT ?",
                (after, state, state, limit + 1),
            ).fetchall()
        jobs = [msgspec.json.decode(record, type=Job) for _, record in rows[:limit]]
        return jobs, rows[limit - 1][0] if len(rows) > limit else None

    def start_next(self, wall: float) -> Job | None:
        """Start the queued job that is to be worked on next: highest priority first, then the oldest."""
        with self._database.transaction() as sql:
            row = sql.execute(
                "SELECT record FROM jobs WHERE state = 'queued' ORDER BY priority DESC, number LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            return self._save(sql, msgspec.json.decode(row[0], type=Job).step("start", wall), wall)

    def advance(self, job_id: str, fed: str, wall: float, **changes: Any) -> Job:
        """Take a step of the job table. Raises TowlineError when there is no such step."""
        with self._database.transaction() as sql:
            return self._save(sql, self.get(job_id).step(fed, wall, **changes), wall)

    def settle(
        self,
        job_id: str,
        outcome: Outcome,
        wall: float,
        *,
        results: Sequence[bytes] = (),
        part_bytes: int,
        **changes: Any,
    ) -> Job:
        """End a job's work and put its messages into the outbox, in one transaction.

        Shape:   each result is the canonical JSON of one scan result
        """
        with self._database.transaction() as sql:
            job = self.get(job_id).step("settle", wall, outcome=outcome, result_count=len(results), **changes)
            messages: list[tuple[str, int, bytes]] = []
            if job.kind == "discover":
                messages.append(("discover", 0, b"[" + b",".join(results) + b"]"))
            else:
                if "result" in job.deliver:
                    messages += [("result", number, body) for number, body in enumerate(results)]
                if "done" in job.deliver:
                    messages.append(("done", 0, b""))
            sql.executemany(
                "INSERT INTO outbox (job_id, kind, number, body, bytes, part_bytes) VALUES (?, ?, ?, ?, ?, ?)",
                [(job.id, kind, number, body, len(body), part_bytes) for kind, number, body in messages],
            )
            if not messages:
                job = job.step(outcome, wall)
            return self._save(sql, job, wall)

    def resume(
        self, login_of: Callable[[Job], RegistryLogin | None], wall: float, *, part_bytes: int
    ) -> list[tuple[Job, JobError | None]]:
        """Put the jobs of an agent that ended back into the queue, or end them as failed; return what became of each.

        Called once, before anything works on a job.
        """
        out: list[tuple[Job, JobError | None]] = []
        with self._database.transaction() as sql:
            marks = ", ".join("?" * len(WORKING))
            rows = sql.execute(f"SELECT record FROM jobs WHERE state IN ({marks}) ORDER BY number", WORKING).fetchall()
            for (record,) in rows:
                job = msgspec.json.decode(record, type=Job)
                found = after_restart(job, wall, configured=login_of(job), limits=self._limits)
                job = self._save(sql, found.job, wall)
                if found.error is not None:
                    job = self.settle(job.id, "failed", wall, part_bytes=part_bytes, error=found.error)
                out.append((job, found.error))
        return out

    # ── outbox ─────────────────────────────────────────────────────────────────
    def waiting_jobs(self) -> list[str]:
        """Return the ids of the jobs that have something in the outbox, oldest first."""
        with self._database.reading() as sql:
            rows = sql.execute("SELECT job_id FROM outbox GROUP BY job_id ORDER BY min(seq)").fetchall()
        return [job_id for (job_id,) in rows]

    def head(self, job_id: str) -> Entry | None:
        """Return a job's oldest entry in the outbox, or None."""
        with self._database.reading() as sql:
            row = sql.execute(
                f"SELECT {_COLUMNS} FROM outbox WHERE job_id = ? ORDER BY seq LIMIT 1", (job_id,)
            ).fetchone()
            if row is None:
                return None
            seq, _, kind, number, body, _, part_bytes, next_part, attempts, waited = row
            return Entry(seq, self.get(job_id), kind, number, bytes(body), part_bytes, next_part, attempts, waited)

    def part_taken(self, seq: int, next_part: int) -> None:
        """Remember that the parts before `next_part` were acknowledged."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE outbox SET next_part = ?, attempts = 0 WHERE seq = ?", (next_part, seq))

    def taken(self, entry: Entry, wall: float) -> Job:
        """Remove an entry that was acknowledged whole; a job whose last entry it was takes its outcome's state."""
        with self._database.transaction() as sql:
            sql.execute("DELETE FROM outbox WHERE seq = ?", (entry.seq,))
            job = self.get(entry.job.id)
            after = sql.execute("SELECT kind FROM outbox WHERE job_id = ? ORDER BY seq LIMIT 1", (job.id,)).fetchone()
            if after is None:
                assert job.outcome is not None
                return self._save(sql, job.step(job.outcome, wall), wall)
            if after[0] == "done":
                times = {**job.changed_at, "announcing": wall}
                job = self._save(sql, msgspec.structs.replace(job, changed_at=times), wall)
            return job

    def tried(self, seq: int, waited: float) -> None:
        """Count a failed attempt and the seconds that it and the pause after it take."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE outbox SET attempts = attempts + 1, waited = waited + ? WHERE seq = ?", (waited, seq))

    def resize(self, seq: int, part_bytes: int) -> None:
        """Cut an entry into smaller parts and begin it again; the job's later entries get the same size."""
        with self._database.transaction() as sql:
            sql.execute("UPDATE outbox SET part_bytes = ?, next_part = 0 WHERE seq = ?", (part_bytes, seq))
            sql.execute(
                "UPDATE outbox SET part_bytes = ? WHERE seq > ? AND part_bytes > ? AND next_part = 0"
                " AND job_id = (SELECT job_id FROM outbox WHERE seq = ?)",
                (part_bytes, seq, part_bytes, seq),
            )

    def refuse(self, job_id: str, why: str, wall: float) -> Job:
        """Set all that a job still has to say aside: its receiver refuses it for good."""
        with self._database.transaction() as sql:
            sql.execute(
                f"INSERT INTO dead ({_COLUMNS}, why, died_at) SELECT {_COLUMNS}, ?, ? FROM outbox WHERE job_id = ?",
                (why, wall, job_id),
            )
            sql.execute("DELETE FROM outbox WHERE job_id = ?", (job_id,))
            job = self.get(job_id)
            return self._save(sql, job.step("refused", wall, warnings=(*job.warnings, why)), wall)

    def redeliver(self, job_id: str, wall: float) -> Job:
        """Put what was set aside back into the outbox. Raises TowlineError when the job is not undeliverable."""
        with self._database.transaction() as sql:
            job = self.get(job_id)
            if job.state != "undeliverable":
                raise RemoteProtocolError(
                    "bad-request", f"expected a job in state undeliverable, this one is {job.state}"
                )
            sql.execute(
                f"INSERT INTO outbox ({_COLUMNS}) SELECT seq, job_id, kind, number, body, bytes, part_bytes, next_part,"
                " 0, 0 FROM dead WHERE job_id = ?",
                (job_id,),
            )
            sql.execute("DELETE FROM dead WHERE job_id = ?", (job_id,))
            return self._save(sql, job.step("redeliver", wall), wall)

    # ── the rest ───────────────────────────────────────────────────────────────
    def totals(self) -> Totals:
        with self._database.reading() as sql:
            states = dict(sql.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
            entries, size = sql.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM outbox").fetchone()
            (dead,) = sql.execute("SELECT count(*) FROM dead").fetchone()
        working = sum(states.get(state, 0) for state in WORKING if state != "queued")
        return Totals(states.get("queued", 0), working, states.get("delivering", 0), entries, size, dead)

    def prune(self, wall: float) -> int:
        """Forget request ids, finished jobs and refused messages past their life; return how many jobs went."""
        with self._database.transaction() as sql:
            sql.execute("DELETE FROM keys WHERE expires_at <= ?", (wall,))
            sql.execute("DELETE FROM dead WHERE died_at < ?", (wall - DEAD_LIFE,))
            gone = sql.execute(
                "DELETE FROM jobs WHERE changed_at < ? AND state NOT IN ('queued', 'resolving', 'pulling', 'analysing',"
                " 'delivering') AND id NOT IN (SELECT job_id FROM outbox UNION SELECT job_id FROM dead)",
                (wall - JOB_LIFE,),
            )
            return gone.rowcount

    def recall(self, name: str) -> str | None:
        """Return a small fact that was remembered, or None."""
        with self._database.reading() as sql:
            row = sql.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def remember(self, name: str, value: str) -> None:
        """Keep a small fact."""
        with self._database.transaction() as sql:
            sql.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def _check_room(self, sql: sqlite3.Connection) -> None:
        (queued,) = sql.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()
        if queued >= self._limits.jobs_queued:
            raise RemoteProtocolError("queue-full", f"{queued} jobs wait, which is the most that may")
        entries = size = 0
        for table in ("outbox", "dead"):
            found = sql.execute(f"SELECT count(*), coalesce(sum(bytes), 0) FROM {table}").fetchone()
            entries, size = entries + found[0], size + found[1]
        if entries >= self._limits.outbox_entries or size >= self._limits.outbox_bytes:
            raise RemoteProtocolError(
                "queue-full",
                f"{entries} messages of {size} bytes wait in the outbox, which is the most that may",
                hint="the receiver of the results does not take them; see the log",
            )

    def _position(self, sql: sqlite3.Connection, job: Job) -> int | None:
        if job.state != "queued":
            return None
        (number,) = sql.execute("SELECT number FROM jobs WHERE id = ?", (job.id,)).fetchone()
        priority = job.options.priority
        (before,) = sql.execute(
            "SELECT count(*) FROM jobs WHERE state = 'queued' AND (priority > ? OR (priority = ? AND number <= ?))",
            (priority, priority, number),
        ).fetchone()
        return int(before)

    def _save(self, sql: sqlite3.Connection, job: Job, wall: float) -> Job:
        sql.execute(
            "UPDATE jobs SET state = ?, changed_at = ?, record = ? WHERE id = ?",
            (job.state, wall, msgspec.json.encode(job), job.id),
        )
        return job
