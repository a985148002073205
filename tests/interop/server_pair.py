"""Our server and a client, ours or the real one, before a slow upstream: all as processes."""

from __future__ import annotations

from pathlib import Path

from agent_tools import call
from interop.chain import Program, towline, wait
from interop.slow_upstream import SlowUpstream
from needed import SNYK_BROKER_CACHE, need_peer
from ports import free_port

TOKEN = "00000000-0000-4000-8000-00000000c0de"
RELAY = f"/broker/{TOKEN}"


class Pair:
    """`whose` client it is: "ours" or "stock". `client` and `server` are further variables."""

    def __init__(self, folder: Path, whose: str, client: dict[str, str], **server: str) -> None:
        self.folder = folder
        self.upstream = SlowUpstream()
        self.port, self.client_port = free_port(), free_port()
        given = {"PORT": str(self.port), "TOWLINE_RESULTS": "results.sqlite", **server}
        self.server = towline(folder, "server", **given)
        self._whose, self._more = whose, client
        self._others: list[Program] = []
        self.client = self._client(whose, client)

    def _client(self, whose: str, more: dict[str, str]) -> Program:
        url, agent = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.upstream.port}"
        if whose == "ours":
            given = {"PORT": str(self.client_port), "BROKER_TOKEN": TOKEN, "BROKER_SERVER_URL": url}
            given |= {"BROKER_CLIENT_URL": f"http://127.0.0.1:{self.client_port}", "CR_AGENT_URL": agent}
            return towline(self.folder, "client", **given, **more)
        argv = [need_peer("snyk-broker-client"), "--port", str(self.client_port), "--server", url]
        argv += ["--token", TOKEN, "--cr-agent-url", agent]
        argv += [word for name, value in more.items() for word in ("--env", f"{name}={value}")]
        return Program(self.folder, "stock-client", argv, {"SNYK_BROKER_CACHE": str(SNYK_BROKER_CACHE)})

    def another_client(self, number: int) -> Program:
        """Return one more client for the same token, not started."""
        self.client_port = free_port()
        folder, self.folder = self.folder, self.folder / f"other-{number}"
        made = self._client(self._whose, self._more)
        self.folder = folder
        self._others.append(made)
        return made

    def start(self) -> Pair:
        """Start both and wait until both tunnels stand."""
        self.start_server()
        self.client.start()
        wait(lambda: self.tunnels() == 2, what=self.said)
        return self

    def start_server(self) -> None:
        self.server.start()
        wait(self.answers, what=self.said)

    def answers(self) -> bool:
        try:
            return call(self.port, "GET", "/healthcheck").status == 200
        except OSError:
            assert self.server.running.poll() is None, self.said()
            return False

    def tunnels(self) -> int:
        got = call(self.port, "GET", f"/connection-status/{TOKEN}")
        return len(got.body["clients"]) if got.status == 200 else 0

    def said(self) -> str:
        return "\n".join(f"── {program.name}\n{program.said()[-3000:]}" for program in (self.server, self.client))

    def close(self) -> None:
        for client in (self.client, *self._others):
            client.close()
        self.server.close()
        self.upstream.close()
