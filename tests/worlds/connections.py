"""One broker client with several connections, each with its token and its agent, and one server for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worlds.brokers import CLIENT, CLIENT_RULES, PLATFORM, SERVER, make_server, plain
from worlds.world import Answer, Caller, Party, Upstream, World

from towline.core import LIMITS, WAKE, Entropy, Limits, Secret
from towline.core.broker import BrokerClient, BrokerClientConfig, ConnectionConfig

TOKENS = {"first": "aaaaaaaa-0000-4000-8000-00000000000a", "second": "bbbbbbbb-0000-4000-8000-00000000000b"}
AGENTS = {"first": 8081, "second": 8082}
API = 9100
TYPES = {"first": "docker-hub", "second": "harbor-cr"}


def connection(name: str, **more: Any) -> ConnectionConfig:
    """Return the connection of this name."""
    settings = {
        "name": name,
        "type": TYPES[name],
        "server_url": f"http://server:{SERVER}",
        "token": Secret(TOKENS[name]),
        "agent_url": f"http://agent-{name}:{AGENTS[name]}",
        "client_url": f"http://client:{CLIENT}",
        "rules": CLIENT_RULES,
        "variables": {"CR_CREDENTIALS": Secret(f"canary-of-{name}")},
        **more,
    }
    return ConnectionConfig(**settings)


class Several:
    """`first` and `second` are further settings of the two connections; None leaves the connection out."""

    def __init__(
        self,
        *,
        first: dict[str, Any] | None = {},  # noqa: B006 (read only)
        second: dict[str, Any] | None = {},  # noqa: B006 (read only)
        server: dict[str, Any] | None = None,
        limits: Limits = LIMITS,
        watch: Callable[[Any], Any] = lambda machine: machine,
        api: Callable[[Any, bytes], Any] = lambda head, body: plain(404),
        **more: Any,
    ) -> None:
        self.world = World()
        self.platform = Upstream(lambda head, body: plain(200, b"got " + body))
        self.agents = {name: Upstream(lambda head, body: plain()) for name in AGENTS}
        self.world.add("platform", self.platform, PLATFORM)
        for name, port in AGENTS.items():
            self.world.add(f"agent-{name}", self.agents[name], port)
        self.api = Upstream(api)
        self.world.add("api", self.api, API)
        self.server_machine = make_server(limits, **(server or {}))
        self.server: Party = self.world.add("server", self.server_machine, SERVER)
        made = [connection(name, **own) for name, own in (("first", first), ("second", second)) if own is not None]
        config = BrokerClientConfig(connections=tuple(made), **more)
        self.machine = BrokerClient(config, entropy=Entropy(b"client" * 4), limits=limits)
        self.client: Party = self.world.add("client", watch(self.machine), CLIENT)
        self.callers = Caller()
        self.caller: Party = self.world.add("caller", self.callers)
        self.world.run(2.0)

    def ask(self, path: str, method: str = "GET", *, port: int = SERVER, run: float = 1.0, **more: Any) -> Answer:
        answer = self.callers.ask(f"http://host:{port}{path}", method, **more)
        self.world.tell(self.caller, WAKE)
        self.world.run(run)
        return answer

    def relay(self, name: str, path: str, method: str = "GET", **more: Any) -> Answer:
        """Ask one connection's agent through the server."""
        return self.ask(f"/broker/{TOKENS[name]}{path}", method, **more)

    def call_back(self, path: str, **more: Any) -> Answer:
        """Post to the client as an agent does."""
        return self.ask(path, "POST", port=CLIENT, body=b"{}", **more)

    def called(self) -> list[str | None]:
        """Whose callbacks the platform had, by token, in order."""
        names = {token: name for name, token in TOKENS.items()}
        return [names[head.get("x-broker-token") or ""] for head, _ in self.platform.requests]
