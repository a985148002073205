"""The embedded registry under any target and header: it answers, and never 500."""

from __future__ import annotations

from fuzz.harness import Bytes, refused_or_taken
from towline.core import Entropy, Secret
from towline.core.http import RequestHead, server_request
from towline.runtimes.demo.image import Repository, StoredManifest
from towline.runtimes.demo.registry import Basic, DemoRegistry, Token

DIGEST = "sha256:" + "0" * 64
IMAGES = {
    "a/b": Repository({"v1": DIGEST}, {DIGEST: StoredManifest("application/json", b"{}")}, {DIGEST: b"0123456789"})
}
HEADERS = ("authorization", "range", "if-range", "if-none-match", "host")


def run(data: bytes) -> None:
    script = Bytes(data)
    auth = script.pick([None, Basic("u", Secret("p")), Token("u", Secret("p"))])
    registry = DemoRegistry(IMAGES, auth, entropy=Entropy(bytes(16)), page_size=2)
    lines = script.rest().decode("latin-1").split("\n")
    headers = tuple(zip(HEADERS, lines[1:]))
    target = "/" + "".join(char for char in lines[0] if "!" <= char <= "~")
    request = refused_or_taken(lambda: server_request(RequestHead(headers, "GET", target), b"", "registry", "peer"))
    if request is not None:
        reply = registry.reply(request, 0.0)
        assert 200 <= reply.status < 500
        assert all(name.isascii() and "\n" not in value and "\r" not in value for name, value in reply.headers)
