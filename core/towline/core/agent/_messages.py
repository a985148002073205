"""The messages of a job: results, in parts where they are large, and the one that says it is done (agent.md §6.2).

A message is a function of its job and of the canonical bytes of what it carries, so a message that is sent
again is the same bytes under the same delivery id, and nothing but the carried bytes need be kept.
"""

from __future__ import annotations

import base64
import hashlib
import math
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec

from towline.core._contract import Record
from towline.core._json import canonical
from towline.core._limits import KIB
from towline.core.agent._jobs import Job, image_of_job
from towline.core.agent._requests import CONTRACT

# Beside what is carried, a message has its envelope: names, digests, and a context of at most 64 KiB.
ENVELOPE_BYTES: Final = 72 * KIB


class AgentInfo(Record, frozen=True):
    """Who made a result."""

    version: str
    analyser: str
    instance: str


class Message(Record, frozen=True):
    """One callback: POST `body` to `path`. `delivery_id` is equal on every attempt."""

    path: str
    delivery_id: str
    body: bytes


def part_count(carried_bytes: int, part_bytes: int) -> int:
    """Return in how many parts a carried body goes when no message may be larger than `part_bytes`.

    One part is sent as it is; more are sent as base64, which takes four bytes for three.
    """
    if carried_bytes + ENVELOPE_BYTES <= part_bytes:
        return 1
    return max(2, math.ceil(carried_bytes / _slice_bytes(part_bytes)))


def result_message(
    job: Job, index: int, carried: bytes, part: int, part_bytes: int, digest: str | None = None
) -> Message:
    """Return one part of one result.

    Shape:   `carried` is the canonical JSON of a scan result; `index` and `part` count from 0
    Units:   `part_bytes` bounds the whole message
    """
    count = part_count(len(carried), part_bytes)
    head: dict[str, Any] = {
        "contract": CONTRACT,
        "kind": "result",
        "deliveryId": f"{job.id}:{index}:{part + 1}/{count}",
        "jobId": job.id,
        "requestId": job.request_id,
        "context": job.callback.context,
        "image": image_of_job(job),
        "resultIndex": index,
        "resultCount": job.result_count,
        "partIndex": part,
        "partCount": count,
        "bodySha256": digest or hashlib.sha256(carried).hexdigest(),
    }
    body = canonical(head | _cargo("scanResult", carried, part, count, part_bytes))
    return Message(job.callback.result_path, head["deliveryId"], body)


def done_message(job: Job, info: AgentInfo) -> Message:
    """Return the message that ends a job. Exactly one for each job, after all its results."""
    head = _outcome(job, info) | {"kind": "done", "deliveryId": f"{job.id}:done"}
    return Message(job.callback.done_path, f"{job.id}:done", canonical(head))


def discover_message(job: Job, info: AgentInfo, carried: bytes, part: int, part_bytes: int) -> Message:
    """Return one part of the single message of a v1 job: all its results, or its error.

    Shape:   `carried` is the canonical JSON of the list of scan results
    """
    count = part_count(len(carried), part_bytes)
    delivery_id = f"{job.id}:discover:{part + 1}/{count}"
    head = _outcome(job, info) | {
        "kind": "discover",
        "deliveryId": delivery_id,
        "partIndex": part,
        "partCount": count,
        "bodySha256": hashlib.sha256(carried).hexdigest(),
    }
    body = canonical(head | _cargo("scanResults", carried, part, count, part_bytes))
    return Message(job.callback.result_path, delivery_id, body)


def timings(job: Job) -> dict[str, int]:
    """Return the milliseconds that a job spent in each state, from the times of its changes.

    The time of delivery ends when the last result was acknowledged (`announcing`), so that the done message
    says the same on every attempt.
    """
    order = ("queued", "resolving", "pulling", "analysing", "delivering", "announcing")
    names = ("queuedMs", "resolveMs", "pullMs", "analyseMs", "deliverMs")
    out = dict.fromkeys(names, 0)
    known = [(state, job.changed_at[state]) for state in order if state in job.changed_at]
    for (state, since), (_, until) in pairwise(known):
        # A clock that was set back must not make a negative time.
        out[names[order.index(state)]] = max(0, round((until - since) * 1000))
    return out


def _outcome(job: Job, info: AgentInfo) -> dict[str, Any]:
    return {
        "contract": CONTRACT,
        "jobId": job.id,
        "requestId": job.request_id,
        "context": job.callback.context,
        "state": job.outcome,
        "resultCount": job.result_count,
        "stateIdentifier": job.state_identifier,
        "image": image_of_job(job),
        "error": job.error,
        "warnings": job.warnings,
        "timings": timings(job),
        "bytes": job.bytes,
        "agent": info,
    }


def _cargo(
    member: Literal["scanResult", "scanResults"], carried: bytes, part: int, count: int, part_bytes: int
) -> dict[str, Any]:
    if count == 1:
        return {member: msgspec.Raw(carried)}
    step = _slice_bytes(part_bytes)
    piece = memoryview(carried)[part * step : (part + 1) * step]
    return {"encoding": "base64-part", "data": base64.b64encode(piece).decode("ascii")}


def _slice_bytes(part_bytes: int) -> int:
    return max(3, (part_bytes - ENVELOPE_BYTES) // 4 * 3)
