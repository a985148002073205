"""Where a client's tunnel goes and how each of its HTTP requests looks (broker-protocol.md §1.2)."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias
from urllib.parse import quote, quote_plus

from towline.core._contract import Instant
from towline.core._script import HeaderList
from towline.core.http import Url
from towline.core.tunnel._engineio import Yeast
from towline.core.tunnel._events import TunnelConfig

TransportName: TypeAlias = Literal["polling", "websocket"]

# What the reference's URL library leaves as it stands in a path.
_PATH: Final = "/:@!$&'()*+,;=-._~|[]%"


class Address:
    """The requests of one connection attempt: its URL, its cache busters, its request id."""

    def __init__(self, config: TunnelConfig, request_id: str, now: Instant) -> None:
        self._config = config
        # ws:// and wss:// name the same servers as http:// and https://, which is what the first request speaks.
        given = config.server_url
        self._url = Url.parse(f"http{given[2:]}" if given.lower().startswith("ws") else given, "invalid-configuration")
        self._request_id = request_id
        self._busters = Yeast()
        self._attempt = Yeast().next(self._ms(now))

    def __repr__(self) -> str:
        return f"Address({self._url.origin})"

    @property
    def url(self) -> Url:
        """The configured server; its path is not used."""
        return self._url

    def target(self, transport: TransportName, sid: str | None, now: Instant) -> str:
        """Return the request target; each call makes a fresh cache buster."""
        config = self._config
        pairs = [f"{quote_plus(name)}={quote_plus(value)}" for name, value in config.extra_query]
        if self._url.query:
            pairs.insert(0, self._url.query)
        pairs += [f"connection_role={config.role}", f"_primuscb={self._attempt}", "EIO=4", f"transport={transport}"]
        session = [f"sid={quote_plus(sid)}"] if sid is not None else []
        buster = [f"t={self._busters.next(self._ms(now))}", "b64=1"]
        pairs += [*session, *buster] if transport == "websocket" else [*buster, *session]
        token = quote(config.token.reveal(), safe=_PATH)
        return f"/primus/{token}/?{'&'.join(pairs)}"

    def poll_headers(self, *, posts: bool) -> HeaderList:
        """Return the headers of a poll, in the reference's order."""
        content: HeaderList = (("Content-Type", "text/plain;charset=UTF-8"),) if posts else ()
        return (
            ("User-Agent", "node-XMLHttpRequest"),
            ("Accept", "*/*"),
            *self._broker_headers(),
            *content,
            ("Host", self._url.authority),
            ("Connection", "close"),
        )

    def upgrade_headers(self, key: str) -> HeaderList:
        """Return the headers that ask for a websocket. Compression is not offered: the server declines it."""
        return (
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            *self._broker_headers(),
            ("Origin", str(self._url.origin)),
            ("Host", self._url.authority),
        )

    def _broker_headers(self) -> HeaderList:
        config = self._config
        headers: HeaderList = (
            ("x-snyk-broker-client-id", config.client_id),
            ("x-snyk-broker-client-role", config.role),
            ("x-broker-client-version", config.version),
            ("snyk-request-id", self._request_id),
        )
        return (*headers, ("authorization", config.authorization)) if config.authorization is not None else headers

    def _ms(self, now: Instant) -> int:
        return int((self._config.epoch + now) * 1000)
