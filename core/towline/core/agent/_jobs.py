"""A job: one accepted scan request, its states, and what a restart makes of it (agent.md §5.4).

A job's outcome (done, unchanged, failed, cancelled, expired) is settled in the transaction that puts its
messages into the outbox. It then delivers, and takes its outcome's name as its state when the last message was
acknowledged. So a job that is accepted ends with exactly one done message, or is kept as undeliverable.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import msgspec

from towline.core._contract import Record
from towline.core._errors import TowlineError
from towline.core._limits import LIMITS, Limits
from towline.core._table import Table
from towline.core.agent._credentials import RegistryLogin
from towline.core.agent._requests import Callback, ImageWanted, JobRequest, RequestOptions

Outcome: TypeAlias = Literal["done", "unchanged", "failed", "cancelled", "expired"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("done", "unchanged", "failed", "cancelled", "expired")
WORKING: Final = ("queued", "resolving", "pulling", "analysing")

JOB_TABLE: Final = Table(
    "job",
    "queued",
    {
        ("queued", "start"): "resolving",
        ("resolving", "resolved"): "pulling",
        ("pulling", "pulled"): "analysing",
        **{(state, "settle"): "delivering" for state in WORKING},
        **{(state, "restart"): "queued" for state in WORKING},
        **{("delivering", outcome): outcome for outcome in OUTCOMES},
        ("delivering", "refused"): "undeliverable",
        ("undeliverable", "redeliver"): "delivering",
    },
    ends=frozenset(OUTCOMES),
)
"""undeliverable has a way out: a person mends the receiver's rules and asks for the messages again."""


class JobRegistry(Record, frozen=True, rename="camel"):
    """Where a job's image is, as far as it may be kept on disk: the place, never the login.

    `login` tells where the login came from: with the request (`request`), from the agent's own
    configuration (`configured`, found again by `id` or by place), or there is none (`anonymous`).
    """

    type: str
    base: str
    scheme: str
    login: Literal["request", "configured", "anonymous"]
    id: str | None = None


class JobError(Record, frozen=True, rename="camel"):
    """What a TowlineError leaves behind in a job and in its done message."""

    code: str
    message: str
    retryable: bool
    hint: str | None = None
    registry_status: int | None = None
    registry_code: str | None = None


class ImageFound(Record, frozen=True, rename="camel"):
    """The image that a scan was of, as its messages name it."""

    registry: str
    repository: str
    reference: str
    manifest_digest: str | None = None
    index_digest: str | None = None
    platform: str | None = None


class JobSums(Record, frozen=True, rename="camel"):
    """Bytes that a scan moved."""

    compressed: int = 0
    downloaded: int = 0
    reused: int = 0


class Job(Record, frozen=True, rename="camel"):
    """Everything about one job that survives a restart. Times are wall-clock seconds since 1970."""

    id: str
    kind: Literal["scan", "discover"]
    accepted_at: float
    image: ImageWanted
    registry: JobRegistry
    callback: Callback
    options: RequestOptions
    deliver: tuple[str, ...]
    request_id: str | None = None
    connection: str | None = None
    state: str = "queued"
    outcome: Outcome | None = None
    attempt: int = 1
    changed_at: dict[str, float] = msgspec.field(default_factory=dict)
    found: ImageFound | None = None
    state_identifier: str | None = None
    result_count: int = 0
    error: JobError | None = None
    warnings: tuple[str, ...] = ()
    bytes: JobSums = JobSums()

    @property
    def over(self) -> bool:
        return self.state in JOB_TABLE.ends

    def step(self, fed: str, wall: float, **changes: Any) -> Job:
        """Return the job after an input of the table, with further changes.

        Raises:  RemoteProtocolError if the table has no such step
        """
        state = JOB_TABLE.next(self.state, fed)
        times = {**self.changed_at, state: wall}
        return msgspec.structs.replace(self, state=state, changed_at=times, **changes)


def new_job(
    job_id: str, request: JobRequest, registry: JobRegistry, wall: float, *, connection: str | None = None
) -> Job:
    """Return the record of a request that was just accepted."""
    return Job(
        id=job_id,
        kind=request.kind,
        accepted_at=wall,
        image=request.image,
        registry=registry,
        callback=request.callback,
        options=request.options,
        deliver=tuple(request.deliver),
        request_id=request.request_id,
        connection=connection,
        changed_at={"queued": wall},
    )


def image_of_job(job: Job) -> ImageFound:
    """Return what messages say about the image: what was found, else what was asked for."""
    if job.found is not None:
        return job.found
    return ImageFound(
        registry=job.registry.base.partition("/")[0],
        repository=job.image.repository,
        reference=job.image.reference,
        platform=job.image.platform,
    )


def job_error(error: TowlineError) -> JobError:
    return JobError(
        code=error.code,
        message=plain(error.message),
        retryable=error.retryable,
        hint=None if error.hint is None else plain(error.hint),
        registry_status=error.registry_status,
        registry_code=None if error.registry_code is None else plain(error.registry_code, 128),
    )


def plain(text: str, most: int = LIMITS.foreign_text) -> str:
    """Return text from outside for a message: control characters struck out, cut at LIMITS.foreign_text."""
    safe = "".join(c if c.isprintable() else "�" for c in text[:most])
    return safe if len(text) <= most else safe[:-1] + "…"


class Restart(Record, frozen=True):
    """What becomes of a job when the agent starts: resumed in the queue, left alone, or ended with an error."""

    job: Job
    error: JobError | None = None


def after_restart(
    job: Job, wall: float, *, configured: RegistryLogin | None = None, limits: Limits = LIMITS
) -> Restart:
    """Decide what becomes of a job that the agent finds in its store when it starts.

    A login that came with the request was never written down. Such a job goes on only when the agent's own
    configuration has a login for the same registry (`configured`); otherwise it ends as failed, so that its
    receiver hears of it.
    """
    if job.state not in WORKING:
        return Restart(job)
    started = job.state != "queued"
    again = job.step("restart", wall, attempt=job.attempt + 1 if started else job.attempt)
    if again.attempt > limits.job_attempts:
        return Restart(
            again,
            JobError("CRASH_LOOP", f"the agent ended {limits.job_attempts} times while it worked on this job", False),
        )
    if job.registry.login == "anonymous":
        return Restart(again)
    if configured is None:
        return Restart(
            again,
            JobError(
                "MISSING_CREDENTIALS",
                "the agent restarted, and the credentials that came with the request are not kept on disk",
                True,
                hint="send the request again, or give the agent its own CR_* variables for this registry",
            ),
        )
    return Restart(again)


def login_for(registry: JobRegistry, own: RegistryLogin | None, file: dict[str, RegistryLogin]) -> RegistryLogin | None:
    """Return the agent's own login for a job's registry: by its id, else one for the same place."""
    if registry.id is not None:
        return file.get(registry.id)
    place = (registry.type, registry.scheme, registry.base)
    for login in (own, *file.values()):
        if login is not None and login.same_place == place:
            return login
    return None


def join_key(job: Job, state_identifier: str) -> tuple[object, ...]:
    """What two running jobs share when one pull serves both: registry, content, platform and options.

    Each of them has asked the registry for the content's digest with its own login before it is joined, so
    nobody gets an inventory that the registry would not have let them pull.
    """
    options = msgspec.structs.replace(job.options, priority=5, timeout_seconds=1800, if_not_state=None)
    place = (job.registry.type, job.registry.scheme, job.registry.base)
    # The reference is part of the results (image names), so only requests for the same one are joined.
    image = (job.image.repository, job.image.reference, job.image.platform)
    return place, image, state_identifier, msgspec.json.encode(options)
