"""A client's jobs: each request of the server is filtered, filled in, sent upstream, and its answer sent back.

    queued ──▶ asking ──▶ collecting ──▶ (over)     one event, or one acknowledgement
                  └──────▶ relaying ───▶ (over)     an upload, or legacy events; cut if the upstream breaks off

What a small answer is does not depend on how its bytes are cut: its announced length says it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from towline.core._contract import Data, Instant
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head
from towline.core.broker._answers import (
    DENIED_OVER_TUNNEL,
    WS_RESPONSE,
    acknowledged,
    compact,
    denial,
    downstream_failure,
    error_type_of,
    too_large,
)
from towline.core.broker._headers import answer_object
from towline.core.broker._ids import request_id_of
from towline.core.broker._inbound import CONTEXT_HEADER
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker._tally import NO_RULE, Tally
from towline.core.broker._upload import encode_upload_head
from towline.core.broker.client._client_config import BrokerClientConfig
from towline.core.broker.client._errands import upload_errand, upstream_errand
from towline.core.broker.client._job import Job, Tunnel
from towline.core.broker.client._rewrite import NEXT_SERVER, UrlRewriter
from towline.core.broker.filter._filter import Denied
from towline.core.http import ClientEvent
from towline.core.tunnel import (
    CAPABILITY_RECEIVE_POST,
    ChunkPayload,
    RequestPayload,
    read_cancel,
    read_request,
    write_chunk,
)


class Jobs:
    """All jobs of a client. At most LIMITS.tunnel_in_flight of one tunnel run at once, so many more wait."""

    def __init__(
        self,
        outgoing: Outgoing,
        config: BrokerClientConfig,
        *,
        entropy: Entropy,
        limits: Limits = LIMITS,
    ) -> None:
        self._outgoing = outgoing
        self._config = config
        self._one_event_answers = config.one_event_answers
        self.tally = Tally()
        self._entropy = entropy
        self._limits = limits
        self._jobs: set[Job] = set()
        self._freed: list[Tunnel] = []

    def __len__(self) -> int:
        return len(self._jobs)

    # ── from the server ────────────────────────────────────────────────────────
    def arrived(self, tunnel: Tunnel, args: Sequence[Any], ack_id: int | None, now: Instant) -> None:
        """Take a `request` event."""
        try:
            asked = read_request(args)
            fault = None
        except RemoteProtocolError as error:
            stream = args[0].get("streamingID") if args and isinstance(args[0], dict) else None
            asked = RequestPayload("", "", {}, None, stream if isinstance(stream, str) else "", "")
            fault = error
        if not asked.streaming_id and ack_id is None:
            return  # there is nowhere to send an answer
        request_id = request_id_of([("snyk-request-id", asked.headers.get("snyk-request-id", ""))], self._entropy)
        job = Job(tunnel, asked, ack_id, request_id, now)
        self._jobs.add(job)
        if fault is not None:
            self._own_answer(job, 400, fault.code, {"code": fault.code, "message": fault.message}, now)
        elif tunnel.running < self._limits.tunnel_in_flight:
            self._start(job, now)
        elif len(tunnel.waiting) < self._limits.tunnel_waiting:
            tunnel.waiting.append(job)
        else:
            busy = {"code": "TOO_BUSY", "message": "too many requests wait already"}
            self._own_answer(job, 503, "TOO_BUSY", busy, now)

    def cancelled(self, tunnel: Tunnel, args: Sequence[Any], now: Instant) -> None:
        """Take a `cancel` event: nobody waits for the answer to a request any more."""
        stream, number = read_cancel(args)
        ack_id = None if number is None else tunnel.client.handle_of(number)
        for job in [job for job in self._jobs if job.tunnel is tunnel]:
            if (stream and job.asked.streaming_id == stream) or (ack_id is not None and job.ack_id == ack_id):
                self._end(job, now)

    def tunnel_lost(self, tunnel: Tunnel, now: Instant) -> None:
        """A tunnel is gone: what could be answered over it only is given up; what can be uploaded goes on."""
        for job in [job for job in self._jobs if job.tunnel is tunnel]:
            if not job.asked.streaming_id or job.way == "chunk":
                self._end(job, now)

    def dispatch(self, now: Instant) -> None:
        """Start what may start since other jobs have ended. The root calls this before it ends its turn."""
        while self._freed:
            tunnel = self._freed.pop()
            while tunnel.waiting and tunnel.running < self._limits.tunnel_in_flight:
                self._start(tunnel.waiting.popleft(), now)

    # ── to the upstream ────────────────────────────────────────────────────────
    def _start(self, job: Job, now: Instant) -> None:
        job.started = True
        job.tunnel.running += 1
        asked, connection = job.asked, job.tunnel.connection
        outlook = connection.outlook_for(asked.headers)
        if outlook is None:
            # Never the base's credentials in place of those that were meant (security.md T5).
            body = {"code": "UNKNOWN_CONTEXT", "message": f"{CONTEXT_HEADER} names no context of this connection"}
            self._own_answer(job, 400, "UNKNOWN_CONTEXT", body, now)
            return
        gate = connection.inbound
        verdict = gate.decide(asked.method, asked.url, asked.headers, asked.body, rules=outlook.private)
        job.rule = NO_RULE if isinstance(verdict, Denied) else verdict.rule
        if isinstance(verdict, Denied):
            self._own_answer(job, 401, "FILTER_BLOCKED", denial(DENIED_OVER_TUNNEL, asked.url), now)
            return
        if verdict.upstream is None:
            body = {"code": "DOWNSTREAM_ERROR", "message": "the matching rule names no origin"}
            self._own_answer(job, 502, "DOWNSTREAM_ERROR", body, now)
            return
        try:
            job.errand = upstream_errand(job, outlook.drawn(verdict), outlook, self._config, self._limits)
            self._outgoing.begin(job.errand, now)
        except RemoteProtocolError as error:
            self._own_answer(job, 400, error.code, {"code": error.code, "message": error.message}, now)

    # ── from the upstream, and from the server about uploads ───────────────────
    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        job: Job = errand.owner
        if job.over:
            return
        if errand is job.upload:
            self._upload_happened(job, event, now)
        elif isinstance(event, Head):
            self._head(job, event, now)
        elif isinstance(event, Body):
            self._body(job, event.data, now)
        elif isinstance(event, Broken):
            self._broken(job, event, now)
        else:
            self._tail(job, now)

    def _head(self, job: Job, head: Head, now: Instant) -> None:
        job.head = self._rewritten(job, head)
        job.status = head.status
        if not job.asked.streaming_id:
            return
        # What the server can do is looked at when a request is answered (broker-protocol.md §1.8).
        job.way = "post" if CAPABILITY_RECEIVE_POST in job.tunnel.capabilities else "chunk"
        length = self._length(job)
        small = length is not None and length <= self._limits.answer_inline
        if small and self._one_event_answers and job.tunnel.open:
            job.inline = True
        else:
            self._relay(job, length, now)

    def _rewritten(self, job: Job, head: Head) -> Head:
        """Return the head that the server gets; the length of a body that is rewritten is not known."""
        url = self._config.rewritten_url
        if url is None or "json" not in (head.get("content-type") or "").lower() or head.get("content-encoding"):
            return head
        job.rewriter = UrlRewriter(url, NEXT_SERVER + job.tunnel.connection.own.token.reveal())
        return Head(head.status, tuple(pair for pair in head.headers if pair[0] != "content-length"))

    def _length(self, job: Job) -> int | None:
        """How long the body of the upstream's answer will be; None if nobody knows."""
        assert job.head is not None
        if job.asked.method == "HEAD" or job.head.status in (204, 304):
            return 0
        length = job.head.get("content-length")
        return None if length is None else int(length)

    def _body(self, job: Job, data: Data, now: Instant) -> None:
        if job.rewriter is not None:
            data = job.rewriter.feed(data)
            if not data:
                return
        job.size += len(data)
        if job.relaying:
            self._forward(job, data, now)
            return
        if not job.inline and job.size > self._limits.tunnel_answer:
            assert job.head is not None
            size = int(job.head.get("content-length") or job.size)
            body = too_large(size, self._limits.tunnel_answer)
            self._own_answer(job, 502, "BODY_TOO_LARGE", body, now, original=size)
            return
        job.collected.append(bytes(data))

    def _tail(self, job: Job, now: Instant) -> None:
        if job.rewriter is not None:
            rest, job.rewriter = job.rewriter.end(), None
            self._body(job, rest, now)
            if job.over:
                return  # it was too much
        job.errand = None
        assert job.head is not None
        if job.relaying:
            self._finish_relay(job, now)
            return
        body = b"".join(job.collected)
        if job.way == "ack":
            headers = answer_object(job.head.headers)
            text = body.decode("utf-8", "replace")
            kind = error_type_of(job.head.status)
            self._acknowledge(job, acknowledged(job.head.status, text, job.request_id, headers, error_type=kind), now)
            return
        if not (job.tunnel.open and _is_text(body)):
            self._relay(job, len(body), now)
            self._forward(job, body, now)
            self._finish_relay(job, now)
            return
        self._emit(job, body, True, now, status=job.head.status, headers=answer_object(job.head.headers))
        self._end(job, now)

    def _broken(self, job: Job, broken: Broken, now: Instant) -> None:
        origin = str(job.errand.url.origin) if job.errand is not None else "the upstream"
        job.errand = None
        if job.relaying:
            self.tally.refuse("cut")
            # Never an error text after a body that has begun: the far side must see the cut (security.md §6). It sees
            # one only in an upload that it sees, so what was sent of this one arrives before its end.
            upload, job.upload = job.upload, None
            if upload is not None:
                self._outgoing.break_off(upload)
            self._end(job, now)
            return
        status, code, body = downstream_failure(broken, origin)
        connection = job.tunnel.connection
        if job.asked.streaming_id:
            # An acknowledgement tells the server by itself.
            failure = {"errorCode": code, "requestId": job.request_id, "integrationType": connection.own.type or ""}
            connection.report("client-error", failure, now)
        self._own_answer(job, status, code, body, now)

    # ── to the server ──────────────────────────────────────────────────────────
    def _relay(self, job: Job, length: int | None, now: Instant) -> None:
        """Begin to send an answer on as it comes. `length` is its body's, None if nobody knows."""
        assert job.head is not None
        job.relaying = True
        headers = answer_object(job.head.headers)
        if job.way == "chunk":
            self._emit(job, b"", False, now, status=job.head.status, headers=self._told(job, headers))
            return
        prefix = encode_upload_head(job.head.status, headers, error_type_of(job.head.status))
        self._begin_upload(job, prefix, length, now)

    def _told(self, job: Job, headers: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        return headers | {"snyk-request-id": job.request_id, WS_RESPONSE: "true"}

    def _begin_upload(self, job: Job, prefix: bytes, length: int | None, now: Instant) -> None:
        job.upload = upload_errand(job, self._config, None if length is None else len(prefix) + length)
        self._outgoing.begin(job.upload, now)
        self._outgoing.send(job.upload, prefix, now)

    def _forward(self, job: Job, data: Data, now: Instant) -> None:
        if job.upload is not None:
            self._outgoing.send(job.upload, data, now)
        else:
            self._emit(job, bytes(data), False, now)

    def _finish_relay(self, job: Job, now: Instant) -> None:
        if job.upload is not None:
            self._outgoing.end(job.upload, now)
        else:
            self._emit(job, b"", True, now)
            self._end(job, now)

    def _upload_happened(self, job: Job, event: ClientEvent, now: Instant) -> None:
        if isinstance(event, Head):
            if event.status >= 300 and job.errand is not None:
                # The caller is gone, or the server has had this answer: nobody wants the rest.
                self._end(job, now)
        elif not isinstance(event, Body):
            job.upload = None
            if isinstance(event, Broken) and not event.sent and job.tunnel.open:
                # Nothing of the answer left, so that another one may be given the other way.
                body = {"code": "UPLOAD_FAILED", "message": f"the answer could not be uploaded: {event.why}"[:1024]}
                self._tell(job, 502, body, now)
            self._end(job, now)

    def _own_answer(
        self, job: Job, status: int, code: str, body: dict[str, Any], now: Instant, *, original: int | None = None
    ) -> None:
        """Answer in the client's own name."""
        job.status = status
        self.tally.refuse("denied" if code == "FILTER_BLOCKED" else code.lower().replace("_", "-"))
        errand, job.errand = job.errand, None
        if errand is not None:
            self._outgoing.give_up(errand)
        if not job.asked.streaming_id:
            said = acknowledged(status, body, job.request_id, error_type=code, original_body_size=original)
            self._acknowledge(job, said, now)
            return
        uploads = CAPABILITY_RECEIVE_POST in job.tunnel.capabilities and not (
            self._one_event_answers and job.tunnel.open
        )
        # A job that was turned away for want of room gets no upload, which would take room.
        if not uploads or (not job.started and job.tunnel.open):
            self._tell(job, status, body, now)
            self._end(job, now)
            return
        text = compact(body)
        prefix = encode_upload_head(status, None, code)
        self._begin_upload(job, prefix, len(text), now)
        if job.upload is not None:
            self._outgoing.send(job.upload, text, now)
            self._outgoing.end(job.upload, now)

    def _tell(self, job: Job, status: int, body: dict[str, Any], now: Instant) -> None:
        """Send an answer of the client's own as one event."""
        headers: dict[str, str | list[str]] = {"content-type": "application/json; charset=utf-8"}
        self._emit(job, compact(body), True, now, status=status, headers=self._told(job, headers))

    def _emit(
        self,
        job: Job,
        data: bytes,
        finished: bool,
        now: Instant,
        *,
        status: int | None = None,
        headers: dict[str, str | list[str]] | None = None,
    ) -> None:
        piece = ChunkPayload(job.asked.streaming_id, data, finished, status, headers or {})
        args: tuple[Any, ...] = write_chunk(piece)
        if status is not None and finished:
            # A whole answer as a text: a third less on the wire than in base64, and no less to the peer.
            args = (args[0], data.decode("utf-8"), *args[2:])
        try:
            job.tunnel.client.emit("chunk", args, now=now)
        except TowlineError:
            # Part of a stream is missing from here on: it is left without its end, so that nobody takes it for whole.
            self._end(job, now)

    def _acknowledge(self, job: Job, said: dict[str, Any], now: Instant) -> None:
        if job.ack_id is not None:
            job.tunnel.client.acknowledge(job.ack_id, [said], now=now)
        self._end(job, now)

    def _end(self, job: Job, now: Instant) -> None:
        if job.over:
            return
        job.over = True
        self._jobs.discard(job)
        self.tally.request("inbound", job.rule, job.asked.method, job.status, now - job.began_at)
        if job.head is not None:
            self.tally.answer(job.size, job.relaying)
        for errand in (job.errand, job.upload):
            if errand is not None:
                self._outgoing.give_up(errand)
        job.errand = job.upload = None
        if job.started:
            job.tunnel.running -= 1
        elif job in job.tunnel.waiting:
            job.tunnel.waiting.remove(job)
        if job.tunnel.waiting:
            self._freed.append(job.tunnel)


def _is_text(body: bytes) -> bool:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
