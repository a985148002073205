"""A broker client and a broker server in one world, with callers before and an upstream behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from worlds.world import Answer, Caller, Party, Upstream, World

from towline.core import LIMITS, WAKE, Entropy, Limits, LinkNumbers, Secret
from towline.core.broker import AcceptRules, BrokerClient, BrokerClientConfig, BrokerServer, BrokerServerConfig
from towline.core.tunnel import (
    Acked,
    Arrived,
    TunnelClient,
    TunnelClosed,
    TunnelConfig,
    TunnelIdentified,
    TunnelOpened,
)

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


class HandMade:
    """A broker client made by hand: one real tunnel, and whatever a test wants to say on it."""

    def __init__(
        self,
        token: str = TOKEN,
        *,
        metadata: Mapping[str, Any] | None = None,
        port: int = SERVER,
        client_id: str = "hand-made",
        **more: Any,
    ) -> None:
        said = {"capabilities": ["post-streams"], "version": "local"} if metadata is None else dict(metadata)
        config = TunnelConfig(
            server_url=f"http://server:{port}",
            token=Secret(token),
            role="primary",
            client_id=client_id,
            version="local",
            metadata=said,
            **more,
        )
        self.tunnel = TunnelClient(config, links=LinkNumbers(), entropy=Entropy(b"hand-made" * 2))
        self.arrived: list[Arrived] = []
        self.acked: list[Acked] = []
        self.closed: list[TunnelClosed] = []
        self._now = 0.0

    def handle(self, fact: Any, now: float) -> None:
        self._now = now
        self.tunnel.handle(fact, now)

    def poll(self) -> Any:
        while (said := self.tunnel.poll()) is not None:
            if isinstance(said, Arrived):
                self.arrived.append(said)
            elif isinstance(said, Acked):
                self.acked.append(said)
            elif isinstance(said, TunnelClosed):
                self.closed.append(said)
            elif not isinstance(said, TunnelOpened | TunnelIdentified):
                return said
        return None

    def deadline(self) -> float | None:
        return self.tunnel.deadline()

    def emit(self, name: str, *args: Any, ack: bool = False) -> int | None:
        return self.tunnel.emit(name, args, ack=ack, now=self._now)

    def acknowledge(self, ack_id: int, *args: Any) -> None:
        self.tunnel.acknowledge(ack_id, args, now=self._now)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The payloads of the requests that came."""
        return [said.args[0] for said in self.arrived if said.name == "request"]


class Serving:
    """A broker server with hand-made clients and callers."""

    def __init__(self, *, world: World | None = None, limits: Limits = LIMITS, **more: Any) -> None:
        self.world = world or World()
        self.machine = make_server(limits, **more)
        self.server = self.world.add("server", self.machine, SERVER)
        self.callers = Caller()
        self.caller = self.world.add("caller", self.callers)

    def client(self, token: str = TOKEN, **more: Any) -> tuple[Party, HandMade]:
        made = HandMade(token, **more)
        party = self.world.add("hand-made", made)
        self.world.run(0.1)
        return party, made

    def ask(self, path: str, method: str = "GET", *, run: float = 0.1, **more: Any) -> Answer:
        answer = self.callers.ask(f"http://host:{SERVER}{path}", method, **more)
        self.world.tell(self.caller, WAKE)
        self.world.run(run)
        return answer

    def relay(self, path: str, method: str = "GET", **more: Any) -> Answer:
        return self.ask(f"/broker/{TOKEN}{path}", method, **more)

    def upload(self, stream: str, upload: bytes, *, token: str = TOKEN, query: str = "", **more: Any) -> Answer:
        return self.ask(f"/response-data/{token}/{stream}{query}", "POST", body=upload, **more)

    def say(self, party: Party) -> None:
        """Let what was emitted out."""
        self.world.tell(party, WAKE)
        self.world.run(0.1)
