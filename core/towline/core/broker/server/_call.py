"""One caller's request on its way through a client."""

from __future__ import annotations

from towline.core._contract import Instant
from towline.core.broker._alarms import Timed
from towline.core.broker._desk import Visit
from towline.core.broker._tally import NO_RULE
from towline.core.broker._upload import UploadDecoder
from towline.core.broker.server._directory import Session
from towline.core.tunnel import RequestPayload


class Call(Timed):
    """What is known of it: which client was asked, how the answer comes, and how far it is."""

    __slots__ = (
        "ack_id",
        "again",
        "began_at",
        "begun",
        "decoder",
        "event",
        "over",
        "payload",
        "rule",
        "session",
        "size",
        "status",
        "undrained",
        "upload",
        "visit",
    )

    def __init__(
        self,
        visit: Visit,
        session: Session,
        event: str,
        payload: RequestPayload,
        began_at: Instant,
        rule: int = NO_RULE,
    ) -> None:
        super().__init__()
        self.visit = visit
        self.session = session
        self.event = event
        self.payload = payload
        self.began_at = began_at
        self.rule = rule
        self.ack_id: int | None = None
        self.upload: Visit | None = None
        self.decoder: UploadDecoder | None = None
        # Whether it is the second client that is asked, the first having been lost.
        self.again = False
        self.begun = False
        self.over = False
        # The answer's status, 0 while there is none, and its bytes so far.
        self.status = 0
        self.size = 0
        # Bytes that came by event and may still wait in the caller's outbox.
        self.undrained = 0
