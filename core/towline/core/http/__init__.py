"""HTTP/1.1 as machines: one link as client or as server, scripts over a pool of links, a small API server.

`ClientConnection` and `ServerConnection` are parts: their owner passes bytes in and sends their output.
`Courier` and `Face` are root machines, driven as they are.
"""

from __future__ import annotations

from towline.core.http._client import CLIENT_TABLE, ClientConnection, ClientEvent
from towline.core.http._courier import USER_AGENT, Courier
from towline.core.http._date import http_date, write_http_date
from towline.core.http._exchange import SERVER_TABLE, RequestHead, ServerEvent, error_body
from towline.core.http._face import (
    Answer,
    AnswerBody,
    AnswerCut,
    AnswerEnd,
    AnswerHead,
    Asked,
    Drain,
    Face,
    FaceCommand,
    Gone,
    ServerRequest,
    server_request,
)
from towline.core.http._headers import CREDENTIAL, FRAMING, HOP_BY_HOP, members, strip_hop_by_hop, without
from towline.core.http._pool import LINK_TABLE
from towline.core.http._redirect import BlockedRedirect, fetch_following
from towline.core.http._server import ServerConnection
from towline.core.http._url import Origin, Url, redacted

__all__ = [
    "http_date",
    "write_http_date",
    "BlockedRedirect",
    "Answer",
    "AnswerBody",
    "AnswerCut",
    "AnswerEnd",
    "AnswerHead",
    "Asked",
    "CLIENT_TABLE",
    "CREDENTIAL",
    "ClientConnection",
    "ClientEvent",
    "Courier",
    "Drain",
    "FRAMING",
    "Face",
    "FaceCommand",
    "Gone",
    "HOP_BY_HOP",
    "LINK_TABLE",
    "Origin",
    "RequestHead",
    "SERVER_TABLE",
    "ServerConnection",
    "ServerEvent",
    "ServerRequest",
    "USER_AGENT",
    "Url",
    "error_body",
    "fetch_following",
    "members",
    "redacted",
    "server_request",
    "strip_hop_by_hop",
    "without",
]
