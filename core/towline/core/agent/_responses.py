"""The bodies of the agent's answers (agent.md §5). Each function returns (status, value to encode)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

import msgspec

from towline.core._contract import Record
from towline.core._errors import TowlineError
from towline.core._json import canonical
from towline.core._limits import LIMITS, Limits
from towline.core.agent._credentials import CHECK_PATHS
from towline.core.agent._jobs import Job, image_of_job, plain
from towline.core.agent._requests import CONTRACT
from towline.core.agent._routes import ROUTES, ListQuery
from towline.core.registry import Details, ResolvedImage, TagDetail

Answer: TypeAlias = tuple[int, dict[str, Any]]

# When a queue or a disk is full, asking again sooner than this changes nothing.
RETRY_AFTER: Final = 30


class Check(Record, frozen=True):
    """One step of a check: what was tried, whether it holds, how long it took."""

    name: str
    ok: bool
    ms: int
    detail: str = ""


def error_answer(error: TowlineError, request_id: str, *, path: str = "") -> Answer:
    """Return the answer for an error. On the check paths 401 and 403 are kept for the registry's own refusals."""
    status = error.status_hint
    if error.kind == "caller-unauthorized" and path in CHECK_PATHS:
        status = 400
    return status, {"error": error_body(error, request_id)}


def error_body(error: TowlineError, request_id: str) -> dict[str, Any]:
    """Return the member `error` of an answer (agent.md §5.1)."""
    return {
        "code": error.code,
        "message": plain(error.message),
        "retryable": error.retryable,
        "retryAfterSeconds": retry_after(error),
        "registryStatus": error.registry_status,
        "registryCode": None if error.registry_code is None else plain(error.registry_code, 128),
        "hint": None if error.hint is None else plain(error.hint),
        "requestId": request_id,
    }


def retry_after(error: TowlineError) -> int | None:
    """Return the whole seconds after which to ask again, where the error says so or its kind has a usual time."""
    if error.retry_after is not None:
        return max(1, round(error.retry_after))
    return RETRY_AFTER if error.kind in ("queue-full", "insufficient-disk", "shutting-down") else None


def health_answer(*, ok: bool, version: str, uptime: float, active: int, queued: int) -> Answer:
    body = {"ok": ok, "version": version, "uptimeSeconds": round(uptime), "activeOperations": active, "queued": queued}
    return (200 if ok else 503), body


def ready_answer(checks: Sequence[Check]) -> Answer:
    ok = all(check.ok for check in checks)
    return (200 if ok else 503), {"ok": ok, "checks": list(checks)}


def systemcheck_answer(checks: Sequence[Check], error: TowlineError | None, request_id: str) -> Answer:
    """Return 200 only when everything passed: the stock client takes any status up to 300 as success."""
    if error is None:
        return 200, {"ok": True, "checks": list(checks)}
    status = error.status_hint if error.kind in ("registry-unauthorized", "registry-forbidden") else 502
    if 400 <= error.status_hint < 500 and error.status_hint not in (401, 403, 404, 429):
        status = error.status_hint
    return status, {"ok": False, "checks": list(checks), "error": error_body(error, request_id)}


def validate_answer(type_name: str, host: str, principal: str | None, catalog: str) -> Answer:
    """Return what a good login can do. `pull` is not known before a repository is named."""
    capabilities = {"catalog": catalog, "tags": True, "pull": None, "referrers": None}
    body = {"valid": True, "type": type_name, "registry": host, "capabilities": capabilities, "principal": principal}
    return 200, body


def invalid_answer(error: TowlineError, request_id: str) -> Answer:
    return 200, {"valid": False, "error": error_body(error, request_id)}


def page(items: Sequence[str], query: ListQuery, limits: Limits = LIMITS) -> tuple[list[str], str | None]:
    """Return the part of a list that was asked for, and the cursor of the next part.

    Shape:   `items` in the order in which they are shown; without a limit a page still ends before
             LIMITS.callback_bytes, which is what the way back through the tunnel carries
    """
    chosen = [item for item in items if item.startswith(query.prefix)]
    if query.after is not None:
        # By position where the item is still there, else by order: a deleted item must not restart the walk.
        where = chosen.index(query.after) + 1 if query.after in chosen else None
        chosen = chosen[where:] if where is not None else [item for item in chosen if item > query.after]
    out: list[str] = []
    size = 0
    for item in chosen:
        size += len(item.encode()) + 3
        if len(out) == query.limit or (out and size > limits.callback_bytes - limits.registry_document // 4):
            return out, out[-1].encode().hex()
        out.append(item)
    return out, None


def repositories_answer(
    names: Sequence[str], query: ListQuery, *, complete: bool, source: str, warnings: Sequence[str]
) -> Answer:
    shown, cursor = page(names, query)
    body = {
        "repositories": shown,
        "nextCursor": cursor,
        "complete": complete,
        "source": source,
        "warnings": [plain(warning) for warning in warnings],
    }
    return 200, body


def tags_answer(
    repository: str, tags: Sequence[str], query: ListQuery, *, complete: bool, warnings: Sequence[str]
) -> Answer:
    ordered = sorted(tags, key=version_key) if query.by_version else tags
    shown, cursor = page(ordered, query)
    body = {
        "repository": repository,
        "tags": shown,
        "nextCursor": cursor,
        "complete": complete,
        "warnings": [plain(warning) for warning in warnings],
    }
    return 200, body


def details_answer(repository: str, details: Details, shown: Sequence[str], cursor: str | None) -> Answer:
    """Return tags with what is known of each; `shown` are those of this page, in order.

    The time of a push is the registry's word where it has one; nothing else stands in for it.
    """
    known = {detail.tag: detail for detail in details.items}
    items = []
    for tag in shown:
        detail = known.get(tag) or TagDetail(tag)
        pushed = detail.pushed_at
        items.append(
            {
                "tag": tag,
                "digest": detail.digest,
                "mediaType": detail.media_type,
                "lastPushed": None if pushed is None else rfc3339(pushed),
                "lastPushedSource": "unknown" if pushed is None else "registry",
                "sizeBytes": detail.size,
                "platforms": None,
                "artifactType": None,
            }
        )
    body = {
        "repository": repository,
        "items": items,
        "nextCursor": cursor,
        "complete": details.complete,
        "warnings": [plain(warning) for warning in details.warnings],
    }
    return 200, body


def image_answer(image: ResolvedImage) -> Answer:
    """Return an image's config and manifest as the registry has them, both proven (agent.md §5.2)."""
    manifest = msgspec.json.decode(image.manifest.raw)
    body = {
        "config": msgspec.json.decode(image.config_raw),
        "manifest": manifest
        | {
            "indexDigest": image.index_digest,
            "manifestDigest": image.manifest.digest,
            "manifestContentType": image.manifest.media_type,
        },
        "attestations": {"digests": [it.digest for it in image.attestations]} if image.attestations else None,
        "platform": str(image.platform),
        "sizeBytes": sum(layer.size for layer in image.layers),
    }
    return 200, body


def version_key(tag: str) -> tuple[tuple[int, int, str], ...]:
    """Order tags so that 1.9 comes before 1.10: runs of digits count as numbers, the rest as text."""
    parts: list[tuple[int, int, str]] = []
    run = ""
    for char in tag + "\0":
        if run and (char.isdigit() != run[-1].isdigit() or char == "\0"):
            parts.append((1, int(run), "") if run.isdigit() else (0, 0, run))
            run = ""
        run += char
    return tuple(parts)


def state_answer(identifier: str, kind: str, scanner: str) -> Answer:
    return 200, {"stateIdentifier": identifier, "kind": kind, "scannerVersion": scanner}


def accepted_answer(job: Job, position: int | None, *, duplicate: bool) -> Answer:
    return 202, {"jobId": job.id, "state": job.state, "position": position, "duplicate": duplicate}


def job_body(job: Job) -> dict[str, Any]:
    """Return what the API shows of a job."""
    return {
        "jobId": job.id,
        "kind": job.kind,
        "requestId": job.request_id,
        "state": job.state,
        "outcome": job.outcome,
        "attempt": job.attempt,
        "acceptedAt": rfc3339(job.accepted_at),
        "changedAt": {state: rfc3339(at) for state, at in job.changed_at.items()},
        "image": image_of_job(job),
        "resultCount": job.result_count,
        "stateIdentifier": job.state_identifier,
        "error": job.error,
        "warnings": list(job.warnings),
        "bytes": job.bytes,
    }


def jobs_answer(jobs: Sequence[Job], next_cursor: int | None) -> Answer:
    return 200, {
        "items": [job_body(job) for job in jobs],
        "nextCursor": None if next_cursor is None else str(next_cursor),
    }


def capabilities_answer(
    *,
    version: str,
    analyser: str,
    instance: str,
    types: Sequence[str],
    limits: Mapping[str, int],
    warnings: Sequence[str],
) -> Answer:
    body = {
        "contracts": [CONTRACT],
        "version": version,
        "analyser": analyser,
        "instance": instance,
        "registryTypes": list(types),
        "paths": sorted({f"{method} {path}" for method, path in ROUTES}),
        "limits": dict(limits),
        "messageEncodings": ["json", "base64-part"],
        "features": ["idempotency", "join", "cancel", "redeliver"],
        "warnings": list(warnings),
    }
    return 200, body


def rfc3339(wall: float) -> str:
    """Return a time as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def encode(body: Mapping[str, Any]) -> tuple[bytes, str]:
    """Return a body's bytes and its entity tag."""
    data = canonical(body)
    return data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
