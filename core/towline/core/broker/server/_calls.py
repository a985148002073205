"""A server's calls: each request goes down a tunnel, and its answer comes back by upload, by events or as an ack.

    queued ──▶ asked ──▶ answering ──▶ (over)        the answer is complete, or cut
       └─────────┴── 4xx/5xx ─────────▶ (over)        nothing came, or something that is no answer

An upload is believed only with the stream's id, its token and its connection's role (security.md T6), and once.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from towline.core._contract import Data, Instant
from towline.core._errors import RemoteProtocolError, TowlineError
from towline.core._limits import LIMITS, Limits
from towline.core.broker._alarms import Alarms
from towline.core.broker._answers import JSON, RETRY_SOON, UNKNOWN_STREAM, compact, payload_body
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._headers import answer_headers
from towline.core.broker._inbound import is_marked
from towline.core.broker._tally import NO_RULE, Tally
from towline.core.broker._upload import UploadDecoder, UploadHead, answer_head, parse_answer_head
from towline.core.broker.nodes._forwarding import Forwarding
from towline.core.broker.server._call import Call
from towline.core.broker.server._directory import Session
from towline.core.tunnel import TunnelBusy, TunnelHost, read_chunk, write_cancel, write_request

_STRANGER: Final = {"message": "Invalid Broker client credentials."}


class Calls:
    """All calls of a server. `answer_seconds` bounds how long a client may be silent about one."""

    def __init__(
        self,
        desk: Desk,
        host: TunnelHost,
        tally: Tally,
        *,
        answer_seconds: float,
        authorization: bool = False,
        limits: Limits = LIMITS,
        forwarding: Forwarding | None = None,
    ) -> None:
        self._desk = desk
        self._host = host
        self._answer_seconds = answer_seconds
        self._tally = tally
        self._authorization = authorization
        self._limits = limits
        self._forwarding = forwarding
        self._by_visit: dict[int, Call] = {}
        self._by_stream: dict[str, Call] = {}
        self._by_ack: dict[tuple[int, int], Call] = {}
        self._by_upload: dict[int, Call] = {}
        # Calls answered by events, by their caller's link: told when that has drained.
        self._by_link: dict[int, Call] = {}
        self._alarms: Alarms[Call] = Alarms()
        # Sessions on which a call ended, so that a waiting one may go.
        self._freed: list[Session] = []

    def __len__(self) -> int:
        return len(self._by_visit)

    def deadline(self) -> Instant | None:
        return self._alarms.deadline()

    # ── from callers ───────────────────────────────────────────────────────────
    def begin(self, call: Call, now: Instant) -> None:
        """Send a call to its client, or let it wait for its turn."""
        session = call.session
        if session.running >= self._limits.tunnel_in_flight and len(session.waiting) >= self._limits.tunnel_waiting:
            body = {"code": "TOO_BUSY", "message": "too many requests wait already"}
            self.refuse(call.visit, 503, body, "too-busy", now)
            return
        self._by_visit[call.visit.number] = call
        self._alarms.set(call, now + self._answer_seconds)
        if session.running >= self._limits.tunnel_in_flight:
            session.waiting.append(call)
        else:
            self._send(call, now)

    def refuse(self, visit: Visit, status: int, document: object, reason: str, now: Instant) -> None:
        """Answer a request that goes to no client."""
        self.count_refusal(visit, status, reason)
        self._respond(visit, status, document, now)

    def count_refusal(self, visit: Visit, status: int, reason: str) -> None:
        self._tally.refuse(reason)
        self._tally.request("inbound", NO_RULE, visit.head.method, status, 0.0)

    def left(self, visit: Visit, now: Instant) -> None:
        """A caller is gone, or an upload broke off."""
        call = self._by_visit.get(visit.number)
        if call is not None:
            self._cancel(call, now)
            self._end(call, now)
            return
        call = self._by_upload.pop(visit.number, None)
        if call is not None:
            call.upload = None
            self._fail(call, 502, "TUNNEL_LOST", "the answer broke off", now)
        elif self._forwarding is not None:
            self._forwarding.left(visit)

    def drained(self, link: int) -> None:
        call = self._by_link.get(link)
        if call is not None:
            call.undrained = 0

    # ── from clients, over HTTP ────────────────────────────────────────────────
    def upload_began(self, visit: Visit, token: str, stream: str, now: Instant) -> None:
        """A client uploads the answer to a stream, perhaps to one that another node gave it."""
        call = self._by_stream.get(unquote(stream))
        if (
            call is None
            and self._forwarding is not None
            and visit.node is None
            and self._forwarding.upload(visit, unquote(stream), now)
        ):
            return
        role = dict(parse_qsl(visit.query)).get("connection_role")
        if (
            call is None
            or call.upload is not None
            or call.begun
            or not hmac.compare_digest(unquote(token).lower().encode(), call.session.token.encode())
            or (role and call.session.role and role != call.session.role)
        ):
            status, headers, body = UNKNOWN_STREAM
            self._desk.respond(visit, status, headers, body, now=now)
            return
        if self._authorization and not self._host.vouches(call.session.number, visit.head.get("authorization") or ""):
            self._desk.respond(visit, 401, (JSON,), compact(_STRANGER), now=now)
            return
        self._tally.uploads += 1
        del self._by_stream[call.payload.streaming_id]
        call.upload = visit
        call.decoder = UploadDecoder(self._limits)
        self._by_upload[visit.number] = call
        # From here on the upload's own pace counts.
        self._alarms.set(call, None)

    def upload_piece(self, visit: Visit, data: Data, now: Instant) -> None:
        call = self._by_upload.get(visit.number)
        if call is None or call.decoder is None:
            if self._forwarding is not None:
                self._forwarding.upload_piece(visit, data, now)
            return
        try:
            body = call.decoder.feed(data)
        except RemoteProtocolError as error:
            self._bad_upload(call, error, now)
            return
        if not call.begun and call.decoder.head is not None and not self._begin(call, call.decoder.head, now):
            self._bad_upload(call, RemoteProtocolError("tunnel-protocol", "expected headers that can be written"), now)
            return
        call.size += len(body)
        if len(body) and not self._desk.send(call.visit, body, now=now):
            self._end(call, now)

    def upload_over(self, visit: Visit, now: Instant) -> None:
        call = self._by_upload.get(visit.number)
        if call is None or call.decoder is None:
            if self._forwarding is not None:
                self._forwarding.upload_over(visit, now)
            return
        try:
            call.decoder.end()
        except RemoteProtocolError as error:
            self._bad_upload(call, error, now)
            return
        self._by_upload.pop(visit.number)
        call.upload = None
        self._desk.end(call.visit, now=now)
        self._end(call, now)
        self._desk.respond(visit, 200, (JSON,), b"{}", now=now)

    # ── from clients, over the tunnel ──────────────────────────────────────────
    def acked(self, session: int, ack_id: int, args: Sequence[Any], now: Instant) -> None:
        """A client acknowledged a request: that is its answer."""
        call = self._by_ack.get((session, ack_id))
        if call is None:
            return
        said = args[0] if args else None
        try:
            head = parse_answer_head(said, self._limits)
        except RemoteProtocolError as error:
            self._fail(call, 502, error.code, "the client's answer cannot be read", now)
            return
        body, content_type = payload_body(said.get("body") if isinstance(said, dict) else None, dict(head.headers))
        headers = [pair for pair in answer_headers(head.headers) if pair[0] != "content-length"]
        if content_type is not None:
            headers.append(("Content-Type", content_type))
        call.status, call.size = head.status, len(body)
        self._desk.respond(call.visit, head.status, headers, body, now=now)
        self._end(call, now)

    def chunk(self, session: int, args: Sequence[Any], now: Instant) -> None:
        """A client sent a piece of an answer as an event (broker-protocol.md §2.6), perhaps the whole of it."""
        try:
            piece = read_chunk(args)
        except RemoteProtocolError:
            return
        call = self._by_stream.get(piece.streaming_id)
        if call is None or call.session.number != session or call.upload is not None:
            return
        if not call.begun:
            try:
                head = answer_head(piece.status, piece.headers, self._limits)
            except RemoteProtocolError as error:
                self._fail(call, 502, error.code, "the client's answer cannot be read", now)
                return
            if piece.finished and piece.data:
                headers = [pair for pair in answer_headers(head.headers) if pair[0] != "content-length"]
                call.status, call.size = head.status, len(piece.data)
                self._desk.respond(call.visit, head.status, headers, piece.data, now=now)
                self._end(call, now)
                return
            if not self._begin(call, head, now):
                self._fail(call, 502, "TUNNEL_PROTOCOL", "the client's answer cannot be written", now)
                return
            self._by_link[call.visit.link] = call
        if call.undrained > self._limits.stream_buffer:
            # A tunnel is never held back for one slow caller, so the caller is let go.
            self._cancel(call, now)
            self._cut(call, now)
            return
        call.undrained += len(piece.data)
        call.size += len(piece.data)
        if piece.data and not self._desk.send(call.visit, piece.data, now=now):
            self._end(call, now)
        elif piece.finished:
            self._desk.end(call.visit, now=now)
            self._end(call, now)
        else:
            self._alarms.set(call, now + self._answer_seconds)

    def session_closed(self, session: Session, now: Instant) -> list[Call]:
        """A tunnel is gone: what it had not begun to answer is answered 502, what came by events is cut (Q4).

        Returns the calls, over here, that another client may be asked: their callers marked them, and still wait.
        """
        session.waiting.clear()
        marked = []
        for call in [call for call in self._by_visit.values() if call.session.number == session.number]:
            if call.upload is not None:
                continue
            if is_marked(call.visit) and not (call.begun or call.again):
                self._end(call, now)
                marked.append(call)
            else:
                self.lose(call, now)
        return marked

    def lose(self, call: Call, now: Instant) -> None:
        """End a call whose client is gone."""
        self._fail(call, 502, "TUNNEL_LOST", "the client's connection ended before the answer came", now)

    def dispatch(self, now: Instant) -> None:
        """Send what may go since other calls have ended. The root calls this before it ends its turn."""
        while self._freed:
            session = self._freed.pop()
            while session.waiting and session.running < self._limits.tunnel_in_flight:
                self._send(session.waiting.popleft(), now)

    def wake(self, now: Instant) -> None:
        for call in self._alarms.due(now):
            if not call.over:
                self._cancel(call, now)
                self._fail(call, 504, "TIMEOUT", f"no answer in {self._answer_seconds:g} s", now)

    # ── inside ─────────────────────────────────────────────────────────────────
    def _respond(self, visit: Visit, status: int, document: object, now: Instant) -> None:
        headers = [JSON, RETRY_SOON] if status == 503 else [JSON]
        self._desk.respond(visit, status, headers, compact(document), now=now)

    def _send(self, call: Call, now: Instant) -> None:
        session, stream = call.session, call.payload.streaming_id
        session.running += 1
        try:
            call.ack_id = self._host.emit(
                session.number, call.event, [write_request(call.payload)], ack=not stream, now=now
            )
        except TunnelBusy:
            self._fail(call, 503, "TOO_BUSY", "the client does not take more at the moment", now)
            return
        except TowlineError as error:
            self._fail(call, error.status_hint, error.code, error.message, now)
            return
        if stream:
            self._by_stream[stream] = call
        elif call.ack_id is not None:
            self._by_ack[session.number, call.ack_id] = call

    def _begin(self, call: Call, head: UploadHead, now: Instant) -> bool:
        """Begin the caller's answer. Content types stay as the upstream gave them, charset and all."""
        headers = answer_headers(head.headers)
        if not head.has_headers:
            headers.append(JSON)
        length = next((value for name, value in headers if name == "content-length"), None)
        known = (
            int(length) if length is not None and length.isascii() and length.isdigit() and len(length) < 20 else None
        )
        call.begun = self._desk.begin(call.visit, head.status, headers, known, now=now)
        call.status = head.status
        return call.begun

    def _bad_upload(self, call: Call, error: RemoteProtocolError, now: Instant) -> None:
        upload, call.upload = call.upload, None
        if upload is not None:
            self._by_upload.pop(upload.number, None)
            self._desk.respond(upload, 400, (JSON,), compact({"message": error.message}), now=now)
        self._fail(call, 502, error.code, "the client's answer cannot be read", now)

    def _fail(self, call: Call, status: int, code: str, message: str, now: Instant) -> None:
        """End a call without its answer: with an error, or, if the answer has begun, with a cut."""
        if call.begun:
            self._cut(call, now)
            return
        self._tally.refuse(code.lower().replace("_", "-"))
        call.status = status
        self._respond(call.visit, status, {"code": code, "message": message}, now)
        self._end(call, now)

    def _cancel(self, call: Call, now: Instant) -> None:
        """Tell the client that nobody waits for its answer; an upload is cut instead, which tells it too."""
        stream = call.payload.streaming_id
        if call.upload is None and (call.ack_id is not None or stream in self._by_stream):
            # What is not told to a client that takes nothing, it finds out when it uploads.
            with suppress(TowlineError):
                self._host.emit(call.session.number, "cancel", write_cancel(stream, call.ack_id), now=now)

    def _cut(self, call: Call, now: Instant) -> None:
        self._tally.refuse("cut")
        self._desk.cut(call.visit, now=now)
        self._end(call, now)

    def _end(self, call: Call, now: Instant) -> None:
        """Forget a call; `dispatch` lets the next one go."""
        if call.over:
            return
        call.over = True
        session, stream = call.session, call.payload.streaming_id
        self._tally.request("inbound", call.rule, call.visit.head.method, call.status, now - call.began_at)
        if call.status:
            self._tally.answer(call.size, call.begun)
        self._alarms.set(call, None)
        self._by_visit.pop(call.visit.number, None)
        self._by_stream.pop(stream, None)
        self._by_link.pop(call.visit.link, None)
        if call.ack_id is not None:
            self._by_ack.pop((session.number, call.ack_id), None)
            self._host.forget(session.number, call.ack_id)
        if call.upload is not None:
            # Nobody wants the rest: the client sees its upload cut, and stops asking its upstream (Q4).
            self._by_upload.pop(call.upload.number, None)
            self._desk.cut(call.upload, now=now)
            call.upload = None
        if call in session.waiting:
            session.waiting.remove(call)
            return
        session.running -= 1
        if session.waiting:
            self._freed.append(session)
