"""A registry of each type, as far as a pull meets it, whose tokens end while the pull goes on.

It counts what it gave: tokens, refusals, and every byte of every blob.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from http_tools import Network

from towline.core import (
    Abandon,
    Begin,
    End,
    Entropy,
    Feed,
    Limits,
    Lost,
    Proved,
    Received,
    Refused,
    Secret,
    Store,
    TowlineError,
)
from towline.core.http import Courier, RequestHead
from towline.core.layer import build
from towline.core.registry import Credentials, Registry, Role, Surroundings, find_dialect
from towline.core.scan import PulledImage, pull_image

LAYERS = 40
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EPOCH = 1_767_600_000.0
HALF_A_DAY = 43_200
USER, PASSWORD = "user", "c4n4ry"
BASIC = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

Answer = tuple[int, tuple[tuple[str, str], ...], bytes]


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def made_image() -> tuple[bytes, dict[str, bytes]]:
    """Return a manifest of 40 layers, and its blobs; the bytes are the same each time."""
    dice = random.Random(40)
    layers = [dice.randbytes(3000 + 137 * number) for number in range(LAYERS)]
    diff_ids = [digest_of(layer) for layer in layers]
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    ).encode()
    described = [
        {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(layer), "size": len(layer)}
        for layer in layers
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": described,
    }
    return json.dumps(manifest).encode(), {digest_of(blob): blob for blob in (config, *layers)}


@dataclass
class Vendor:
    """How a type hands out tokens, and how it says that one has ended.

    `challenge` has `{scope}` where the scope stands; None is a registry that is logged in to beforehand. `answer`
    has `{token}`. `ended` is the answer to a token that has had its time: its status, challenge and body.
    `storage` is where blobs are redirected to, with which status; None serves them.
    """

    type: str
    repository: str
    base: str
    challenge: str | None
    token_path: str
    answer: dict[str, Any]
    ended: tuple[int, str | None, str]
    storage: tuple[int, str] | None = None
    anonymous: bool = False
    takes_basic: bool = False
    login: Credentials | None = None
    role: Role | None = None
    variables: dict[str, str] = field(default_factory=dict)

    def client(self, limits: Limits) -> Registry:
        login = self.login or (None if self.anonymous else Credentials(USER, Secret(PASSWORD)))
        return Registry(
            self.base,
            entropy=Entropy(b"a registry whose tokens end"),
            dialect=find_dialect(self.type),
            credentials=login,
            role=self.role,
            surroundings=Surroundings({name: Secret(value) for name, value in self.variables.items()}),
            epoch=EPOCH,
            limits=limits,
        )


class ExpiringRegistry:
    """Answers for a vendor. `end_at` is the number of the request for a blob at which every token ends.

    `given` are the paths of what gave a token; `given_late` those after that moment; `served` is what was sent of
    blobs: digest, from where, how many bytes.
    """

    def __init__(self, vendor: Vendor, end_at: int = 0, *, cut: bool = False, ends_too: bool = False) -> None:
        self.vendor = vendor
        self.manifest, self.blobs = made_image()
        self.end_at = end_at
        self.cut = cut
        self.ends_too = ends_too
        self.over = False
        self.given: list[str] = []
        self.given_late: list[str] = []
        self.refused = 0
        self.served: list[tuple[str, int, int]] = []
        self.cut_next = False
        self.offset: Callable[[], float] = lambda: 0.0
        self._valid: set[str] = set()
        self._sessions: set[str] = set()
        self._asked = 0

    def end_tokens(self) -> None:
        self.over = True
        self._valid.clear()
        if self.ends_too:
            self._sessions.clear()

    def __call__(self, head: RequestHead, body: bytes) -> Answer:
        host = head.get("host") or ""
        path = urlsplit(head.target).path
        registry = self.vendor.base.partition("/")[0]
        if path.startswith("/stored/"):
            assert host == registry or head.get("authorization") is None, "a login went to storage"
            return self._blob(head, path.removeprefix("/stored/"))
        if host == registry and path.endswith(("/manifests/latest", *self.blobs)) and "/v2/" in path:
            return self._resource(head, path)
        return self._service(host, path, head, body)

    # ── the registry ───────────────────────────────────────────────────────────
    def _resource(self, head: RequestHead, path: str) -> Answer:
        digest = path.rpartition("/")[2]
        if digest in self.blobs:
            self._asked += 1
            if self._asked == self.end_at and not self.cut:
                self.end_tokens()
        shown = head.get("authorization")
        if shown not in self._valid and not (self.vendor.takes_basic and shown == BASIC):
            return self._refusal(shown)
        if digest == "latest":
            return 200, (("Content-Type", MANIFEST),), self.manifest
        if self.vendor.storage is None:
            return self._blob(head, digest)
        status, host = self.vendor.storage
        return status, (("Location", f"{host}/stored/{digest}"),), b""

    def _refusal(self, shown: str | None) -> Answer:
        self.refused += shown is not None
        if shown is not None:
            status, challenge, text = self.vendor.ended
        else:
            status, challenge, text = 401, self.vendor.challenge, '{"errors":[{"code":"UNAUTHORIZED"}]}'
        scope = f"repository:{self.vendor.repository}:pull"
        headers = (("WWW-Authenticate", challenge.replace("{scope}", scope)),) if challenge else ()
        return status, headers, text.encode()

    def _blob(self, head: RequestHead, digest: str) -> Answer:
        data = self.blobs[digest]
        wanted = head.get("range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        self.served.append((digest, start, len(data) - start))
        if self.cut and self._asked >= self.end_at and not self.over:
            # The link breaks half-way, and the token that began this download is good no more.
            self.end_tokens()
            self.cut_next = True
        if not start:
            return 200, (), data
        return 206, (("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}"),), data[start:]

    # ── who gives tokens ───────────────────────────────────────────────────────
    def _service(self, host: str, path: str, head: RequestHead, body: bytes) -> Answer:
        target = head.get("x-amz-target") or ""
        form = {name: value[0] for name, value in parse_qs(body.decode()).items()} if head.method == "POST" else {}
        place = f"{host}{path}"
        if target:
            if not any(token in (head.get("x-amz-security-token") or "") for token in self._sessions):
                return 400, (), b'{"__type":"ExpiredTokenException"}'
            token = base64.b64encode(f"AWS:{self._new(target.rpartition('.')[2])}".encode()).decode()
            self._valid.add(f"Basic {token}")
            ends = EPOCH + self.offset() + HALF_A_DAY
            data = [{"authorizationToken": token, "expiresAt": ends}]
            return 200, (), json.dumps({"authorizationData": data}).encode()
        if form.get("Action") == "AssumeRole":
            session = self._new("AssumeRole")
            self._sessions.add(session)
            until = datetime.fromtimestamp(EPOCH + self.offset() + 3600, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            keys = {"AccessKeyId": "ASIA", "SecretAccessKey": "s", "SessionToken": session, "Expiration": until}
            told = "".join(f"<{name}>{value}</{name}>" for name, value in keys.items())
            return 200, (), f"<R><AssumeRoleResult><Credentials>{told}</Credentials></AssumeRoleResult></R>".encode()
        if place.startswith(("login.microsoftonline.com/", "169.254.169.254/", "metadata.google.internal/")):
            token = self._new(host)
            return 200, (("Metadata-Flavor", "Google"),), json.dumps({"access_token": token}).encode()
        if path == "/oauth2/exchange":
            session = self._new(path)
            self._sessions.add(session)
            return 200, (), json.dumps({"refresh_token": session}).encode()
        assert place == self.vendor.token_path, place
        if "refresh_token" in form and form["refresh_token"] not in self._sessions:
            return 401, (), b'{"errors":[{"code":"UNAUTHORIZED"}]}'
        if head.method == "GET" and not self.vendor.anonymous and not self.vendor.variables:
            assert head.get("authorization") == BASIC, "a token was asked for without the login"
        token = self._new(path)
        self._valid.add(f"Bearer {token}")
        answer = {key: token if value == "{token}" else value for key, value in self.vendor.answer.items()}
        return 200, (), json.dumps(answer).encode()

    def _new(self, place: str) -> str:
        (self.given_late if self.over else self.given).append(place)
        return f"t{len(self.given) + len(self.given_late)}"


class Pulling(Network):
    """The network of a pull: streams prove and stores keep, as a driver does it.

    `jump_at` is the number of the blob after whose end the clock moves on by a day, so that every token has ended.
    """

    def __init__(self, site: ExpiringRegistry, jump_at: int = 0) -> None:
        super().__init__(site, cuts=(1000, 700))
        self.registry = site
        self.jump_at = jump_at
        self.kept: dict[str, bytes] = {}
        self._streams: dict[int, Any] = {}
        self._plans: dict[int, Any] = {}
        self._written: dict[int, bytearray] = {}
        site.offset = lambda: self.now

    def pull(self, *, at_once: int = 4) -> PulledImage:
        limits = Limits(layers_at_once=at_once)
        client = self.registry.vendor.client(limits)
        steps = pull_image(client, self.registry.vendor.repository, "latest")
        pulled: PulledImage = self.run(Courier(steps, entropy=Entropy(b"a courier of tests"), limits=limits))
        return pulled

    def _execute(self, wish: Any) -> None:
        if isinstance(wish, Begin):
            self._streams[wish.stream], self._plans[wish.stream] = build(wish.plan), wish.plan
        elif isinstance(wish, Feed):
            self._streams[wish.stream].feed(wish.data)
        elif isinstance(wish, Store):
            self._written.setdefault(wish.stream, bytearray()).extend(wish.data)
        elif isinstance(wish, End):
            self._facts.append(self._verdict(wish.stream))
        elif isinstance(wish, Abandon):
            self._streams.pop(wish.stream, None)
        else:
            super()._execute(wish)

    def _verdict(self, stream: int) -> Proved | Refused:
        try:
            value = self._streams.pop(stream).end()
        except TowlineError as error:
            return Refused(stream, error)
        self.kept[self._plans[stream].digest] = bytes(self._written.pop(stream, b""))
        if len(self.kept) == self.jump_at:
            self.now += 2 * HALF_A_DAY
            self.registry.end_tokens()
        return Proved(stream, value)

    def _serve(self, link: int) -> None:
        before = len(self._facts)
        super()._serve(link)
        if self.registry.cut_next:
            self.registry.cut_next = False
            self._cut(link, before)

    def _cut(self, link: int, before: int) -> None:
        """Let the second half of what was just sent be lost, and count only what arrives."""
        sent = [self._facts.pop() for _ in range(len(self._facts) - before)][::-1]
        arrives = [fact for fact in sent if isinstance(fact, Received)][: len(sent) // 2]
        body = b"".join(bytes(fact.data) for fact in arrives).partition(b"\r\n\r\n")[2]
        digest, start, _ = self.registry.served[-1]
        self.registry.served[-1] = digest, start, len(body)
        self._facts.extend([*arrives, Lost(link, "reset by peer")])
        self._servers.pop(link, None)
