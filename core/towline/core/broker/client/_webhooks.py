"""Webhooks while no tunnel is open: straight to the vendor's API (broker-protocol.md §2.9)."""

from __future__ import annotations

from towline.core._contract import Instant
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._script import Body, Broken, Head
from towline.core.broker._answers import JSON, compact, downstream_failure
from towline.core.broker._desk import Desk, Visit
from towline.core.broker._headers import answer_headers
from towline.core.broker._ids import masked_token
from towline.core.broker._outgoing import Errand, Outgoing
from towline.core.broker.client._client_config import BrokerClientConfig
from towline.core.broker.client._connection import Connection
from towline.core.broker.filter._filter import Allowed
from towline.core.http import ClientEvent


class Webhook:
    """One webhook on its way, and its answer so far."""

    __slots__ = ("body", "errand", "head", "size", "visit")

    def __init__(self, visit: Visit) -> None:
        self.visit = visit
        self.errand: Errand | None = None
        self.head: Head | None = None
        self.body: list[bytes] = []
        self.size = 0


class Webhooks:
    """All webhooks under way past the tunnels."""

    def __init__(self, desk: Desk, outgoing: Outgoing, config: BrokerClientConfig, limits: Limits = LIMITS) -> None:
        self._desk = desk
        self._outgoing = outgoing
        self._config = config
        self._limits = limits
        self._by_visit: dict[int, Webhook] = {}

    def __len__(self) -> int:
        return len(self._by_visit)

    def send(
        self, visit: Visit, connection: Connection, verdict: Allowed, method: str, body: bytes, now: Instant
    ) -> bool:
        """Send an allowed callback to the API; False where there is none."""
        api = self._config.api(connection.servers[0])
        if api is None:
            return False
        masked = masked_token(connection.own.token.reveal())
        headers = {**verdict.headers, "snyk-request-id": visit.request_id, "x-snyk-broker": masked}
        headers["Host"] = api.authority
        webhook = self._by_visit[visit.number] = Webhook(visit)
        target = api.path.rstrip("/") + verdict.target
        webhook.errand = Errand(
            webhook, method, api, target, tuple(headers.items()), body, patience=self._config.answer_seconds
        )
        try:
            self._outgoing.begin(webhook.errand, now)
        except RemoteProtocolError as error:
            self._answer(webhook, 400, {"code": error.code, "message": error.message}, now)
        return True

    def happened(self, errand: Errand, event: ClientEvent, now: Instant) -> None:
        webhook: Webhook = errand.owner
        if webhook.visit.number not in self._by_visit:
            return
        if isinstance(event, Head):
            webhook.head = event
        elif isinstance(event, Body):
            webhook.size += len(event.data)
            webhook.body.append(bytes(event.data))
            if webhook.size > self._limits.tunnel_answer:
                self._outgoing.give_up(errand)
                self._answer(webhook, 502, {"code": "BODY_TOO_LARGE", "message": "the API answers too much"}, now)
        elif isinstance(event, Broken):
            status, _, document = downstream_failure(event, str(errand.url.origin))
            self._answer(webhook, status, document, now)
        elif webhook.head is not None:
            del self._by_visit[webhook.visit.number]
            headers = [pair for pair in answer_headers(webhook.head.headers) if pair[0] != "content-length"]
            self._desk.respond(webhook.visit, webhook.head.status, headers, b"".join(webhook.body), now=now)

    def left(self, visit: Visit) -> None:
        webhook = self._by_visit.pop(visit.number, None)
        if webhook is not None and webhook.errand is not None:
            self._outgoing.give_up(webhook.errand)

    def _answer(self, webhook: Webhook, status: int, document: object, now: Instant) -> None:
        self._by_visit.pop(webhook.visit.number, None)
        self._desk.respond(webhook.visit, status, (JSON,), compact(document), now=now)
