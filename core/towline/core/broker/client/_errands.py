"""The two requests that a job may make: of the upstream, and of the server, to bring it the answer."""

from __future__ import annotations

from urllib.parse import quote

from towline.core._limits import LIMITS, Limits
from towline.core.broker._headers_up import upstream_body, upstream_headers
from towline.core.broker._outgoing import Errand
from towline.core.broker.client._client_config import CONNECTION_HEADER, BrokerClientConfig
from towline.core.broker.client._job import Job
from towline.core.broker.client._outlook import Outlook
from towline.core.broker.client._substitution import substitute_body, substitute_headers
from towline.core.broker.client._upload_headers import upload_headers
from towline.core.broker.filter._filter import Allowed


def upstream_errand(
    job: Job, verdict: Allowed, outlook: Outlook, config: BrokerClientConfig, limits: Limits = LIMITS
) -> Errand:
    """Return the request of the upstream (broker-protocol.md §2.8), filled in (§3.7)."""
    assert verdict.upstream is not None
    asked, url = job.asked, verdict.upstream.url
    fill = outlook.fill(url.origin, asked)
    headers = substitute_headers(verdict.headers, fill if config.substitute_headers else {})
    if len(config.connections) > 1:
        headers[CONNECTION_HEADER] = job.tunnel.connection.slug
    body = asked.body
    if body and config.substitute_bodies:
        body = substitute_body(body, fill, limits)
    # A text that is to be rewritten or acknowledged must not come compressed (Q12).
    plain = not asked.streaming_id or config.rewritten_url is not None
    return Errand(
        job,
        asked.method,
        url,
        verdict.upstream.prefix + verdict.target,
        upstream_headers(verdict, headers, job.request_id, config.version, identity_only=plain),
        upstream_body(headers, body, limits),
        patience=config.answer_seconds,
        retries=config.retries,
    )


def upload_errand(job: Job, config: BrokerClientConfig, length: int | None) -> Errand:
    """Return the POST that brings an answer (broker-protocol.md §2.3). `length` is its body's, None if nobody knows."""
    server, server_id = job.place.server, job.place.server_id
    belongs = "" if server_id is None else f"server_id={quote(server_id, safe='')}&"
    connection, stream = job.tunnel.connection, quote(job.asked.streaming_id, safe="")
    # A server that wants credentials takes answers elsewhere, with them.
    hidden = "" if connection.authorization is None else "/hidden/brokers"
    path = f"{server.path.rstrip('/')}{hidden}/response-data/{connection.quoted_token}/{stream}"
    headers = upload_headers(job.asked.headers, job.request_id, config.version, server.authority)
    if connection.authorization is not None:
        headers += (("authorization", connection.authorization),)
    return Errand(
        job,
        "POST",
        server,
        f"{path}?{belongs}connection_role={job.tunnel.role}",
        headers,
        length=length,
        chunked=length is None,
        # A stream's id is good for one answer, so that the server refuses what it has had already.
        repeatable=True,
        counts=True,
        patience=config.upload_seconds,
    )
