"""Who calls: a proof made with a shared secret, where the agent has one (agent.md §3.4).

`X-Cra-Auth: v1 <unix time> <hex HMAC-SHA256(secret, method "\\n" target "\\n" time "\\n" hex SHA-256(body))>`.
The same form signs callbacks (`X-Cra-Signature`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from typing import Final

from towline.core._errors import RemoteProtocolError
from towline.core._secret import Secret

# Clocks of two machines of one house differ by less.
SKEW: Final = 300.0
# Proofs remembered so that none is used twice: 300 s each way at 100 requests a second.
REMEMBERED: Final = 60_000


def sign(secret: Secret, method: str, target: str, body: bytes, wall: float) -> str:
    """Return the value of X-Cra-Auth, or of X-Cra-Signature, for a request."""
    time = str(int(wall))
    return f"v1 {time} {_mac(secret, method, target, body, time)}"


class CallerCheck:
    """Checks callers' proofs, and takes none twice."""

    def __init__(self, secret: Secret) -> None:
        self._secret = secret
        self._seen: OrderedDict[str, float] = OrderedDict()

    def check(self, value: str | None, method: str, target: str, body: bytes, wall: float) -> None:
        """Raise RemoteProtocolError("caller-unauthorized") unless the proof is good, fresh and new."""
        version, _, rest = (value or "").partition(" ")
        time, _, mac = rest.partition(" ")
        good = _mac(self._secret, method, target, body, time)
        fresh = time.isascii() and time.isdigit() and len(time) <= 12 and abs(int(time) - wall) <= SKEW
        if version != "v1" or not hmac.compare_digest(good.encode(), mac.encode()) or not fresh:
            raise RemoteProtocolError(
                "caller-unauthorized", "expected X-Cra-Auth with a proof for this request, made in the last 5 minutes"
            )
        while self._seen and (len(self._seen) >= REMEMBERED or next(iter(self._seen.values())) < wall - 2 * SKEW):
            self._seen.popitem(last=False)
        if mac in self._seen:
            raise RemoteProtocolError("caller-unauthorized", "the proof in X-Cra-Auth was used before")
        self._seen[mac] = wall


def _mac(secret: Secret, method: str, target: str, body: bytes, time: str) -> str:
    text = f"{method}\n{target}\n{time}\n{hashlib.sha256(body).hexdigest()}"
    return hmac.new(secret.reveal().encode(), text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
