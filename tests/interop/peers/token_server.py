"""A token server for docker-registry: Basic in, RS256-signed tokens with the certificate in `x5c` out.

Source:  distribution docs, spec/auth/token and spec/auth/jwt
"""

from __future__ import annotations

import base64
import datetime
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID


@dataclass
class TokenServer:
    """A running token server. The user gets what is asked for, everybody else pulls from `public` only.

    `asked` are the scopes of each request; `lifetime` is what the answers say; tokens hold a minute longer.
    `seen_at` is its address where a proxy stands in front. The first of `short_lives` are the seconds that the first
    tokens really hold, whatever the answers say.
    """

    username: str
    password: str
    service: str = "registry.test"
    issuer: str = "token-server.test"
    public: tuple[str, ...] = ()
    lifetime: int | None = 300
    port: int = 0
    seen_at: str = ""
    short_lives: list[float] = field(default_factory=list)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.issuer)])
        today = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(today - datetime.timedelta(days=1))
            .not_valid_after(today + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate_pem = certificate.public_bytes(serialization.Encoding.PEM)
        self._der = certificate.public_bytes(serialization.Encoding.DER)

    @property
    def realm(self) -> str:
        return self.seen_at or f"http://127.0.0.1:{self.port}/token"

    @property
    def login(self) -> Any:
        """The one user, as the registry peer's Login."""
        from interop.peers.docker_registry import Login

        return Login(self.username, self.password)

    def answer(self, query: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        """Answer a token request: status and JSON."""
        asked = parse_qs(query)
        scopes = tuple(scope for text in asked.get("scope", ()) for scope in text.split())
        self.asked.append(scopes)
        if authorization is not None and authorization != self._basic():
            return 401, {"details": "incorrect username or password"}
        if asked.get("service") != [self.service]:
            return 400, {"details": "unknown service"}
        user = self.username if authorization else ""
        access = [granted for scope in scopes if (granted := self._grant(scope, user))]
        token = self._token(user, access)
        body: dict[str, Any] = {"token": token, "access_token": token}
        if self.lifetime is not None:
            body["expires_in"] = self.lifetime
        return 200, body

    def _basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    def _grant(self, scope: str, user: str) -> dict[str, Any] | None:
        kind, _, rest = scope.partition(":")
        name, _, actions = rest.rpartition(":")
        allowed = actions.split(",") if user else ["pull"] if kind == "repository" and name in self.public else []
        return {"type": kind, "name": name, "actions": allowed} if allowed else None

    def _token(self, user: str, access: list[dict[str, Any]]) -> str:
        now = int(time.time())
        # The registry allows for clocks that are a minute apart.
        holds = self.short_lives.pop(0) - 60 if self.short_lives else (self.lifetime or 60) + 60
        header = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(self._der).decode()]}
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.service,
            "exp": int(now + holds),
            "nbf": now - 70,
            "iat": now,
            "jti": str(uuid.uuid4()),
            "access": access,
        }
        signed = b".".join(_url64(json.dumps(part).encode()) for part in (header, claims))
        signature = self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        return (signed + b"." + _url64(signature)).decode()


@contextmanager
def token_server(server: TokenServer) -> Iterator[TokenServer]:
    """Serve on loopback until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body = server.answer(urlsplit(self.path).query, self.headers.get("Authorization"))
            raw = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        server.port = httpd.server_address[1]
        thread = threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


def _url64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
