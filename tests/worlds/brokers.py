"""A broker client and a broker server in one world, with callers before and an upstream behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worlds.world import Answer, Caller, Upstream, World

from towline.core import LIMITS, WAKE, Entropy, Limits, Secret
from towline.core.broker import AcceptRules, BrokerClient, BrokerClientConfig, BrokerServer, BrokerServerConfig

TOKEN = "00000000-0000-4000-8000-00000000000A"
SERVER, CLIENT, UPSTREAM, PLATFORM = 7341, 8000, 8081, 9000

CLIENT_RULES = AcceptRules.load(
    {
        "private": [
            {"method": "any", "path": "/*", "origin": "${CR_AGENT_URL}"},
        ],
        "public": [{"method": "POST", "path": "/api/*"}, {"method": "POST", "path": "/other/*"}],
    }
)
SERVER_RULES = AcceptRules.load(
    {
        "public": [{"method": "any", "path": "/*"}],
        "private": [
            {"method": "POST", "path": "/api/*", "origin": "${PLATFORM}"},
            {"method": "POST", "path": "/other/kept"},
        ],
    }
)


def plain(status: int = 200, body: bytes = b'{"ok":true}', *headers: tuple[str, str]) -> Any:
    """Return an upstream's whole answer of known length."""
    return status, [("content-type", "application/json"), ("content-length", str(len(body))), *headers], [body]


def make_server(limits: Limits = LIMITS, **more: Any) -> BrokerServer:
    settings = {"rules": SERVER_RULES, "variables": {"PLATFORM": f"http://platform:{PLATFORM}"}, **more}
    return BrokerServer(BrokerServerConfig(**settings), entropy=Entropy(b"server" * 4), limits=limits)


def make_client(limits: Limits = LIMITS, **more: Any) -> BrokerClient:
    settings = {
        "server_url": f"http://server:{SERVER}",
        "token": Secret(TOKEN),
        "agent_url": f"http://agent:{UPSTREAM}",
        "client_url": f"http://client:{CLIENT}",
        "rules": CLIENT_RULES,
        **more,
    }
    return BrokerClient(BrokerClientConfig(**settings), entropy=Entropy(b"client" * 4), limits=limits)


class Brokers:
    """`answer` is what the upstream says; the platform echoes what it was asked."""

    def __init__(
        self,
        answer: Callable[[Any, bytes], Any] = lambda head, body: plain(),
        *,
        world: World | None = None,
        client: dict[str, Any] | None = None,
        server: dict[str, Any] | None = None,
        limits: Limits = LIMITS,
        watch: Callable[[Any], Any] = lambda machine: machine,
    ) -> None:
        self.world = world or World()
        self.platform = Upstream(lambda head, body: plain(200, b"got " + body))
        self.upstream = Upstream(answer)
        self.server_machine = make_server(limits, **(server or {}))
        self.client_machine = make_client(limits, **(client or {}))
        self.callers = Caller()
        self.platform_party = self.world.add("platform", self.platform, PLATFORM)
        self.upstream_party = self.world.add("agent", self.upstream, UPSTREAM)
        self.server = self.world.add("server", watch(self.server_machine), SERVER)
        self.caller = self.world.add("caller", self.callers)
        self.client = self.world.add("client", watch(self.client_machine), CLIENT)
        self.world.run(2.0)

    def ask(self, path: str, method: str = "GET", *, port: int = SERVER, run: float = 1.0, **more: Any) -> Answer:
        """Ask the server and let the world run."""
        answer = self.callers.ask(f"http://host:{port}{path}", method, **more)
        self.turn()
        self.world.run(run)
        return answer

    def turn(self) -> None:
        """Let the callers' wishes out."""
        self.world.tell(self.caller, WAKE)

    def relay(self, path: str, method: str = "GET", **more: Any) -> Answer:
        """Ask the client's upstream through the server."""
        return self.ask(f"/broker/{TOKEN}{path}", method, **more)
