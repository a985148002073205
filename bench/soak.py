"""Reconnect and ask for a long time, and see whether anything stays behind: our server and client as processes.

    python bench/soak.py                                 10,000 reconnects and 100,000 requests, about five minutes
    python bench/soak.py --cycles 500 --requests 5000    a short one

One client process serves many connections, each with two tunnels through a proxy of this process. A round cuts all
tunnels at once, waits until each has come back (the first wait is half a second, whatever their number: that is why
there are many), and sends requests through every connection: most small, one in twenty an upload, one in fifty denied.
A cycle is one tunnel cut and back. Exit code 1 unless

- every request has the answer that it should, and every tunnel comes back,
- descriptors, tasks and threads of both processes are at the end no more than before the first round,
- resident memory of both is within 2 % of where it stood after the first tenth (1,000 cycles, 10,000 requests).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final, NamedTuple

from broker_pairs import STOCK, Program, free_port, get, upstream

HOOK: Final = Path(__file__).with_name("soak_hook.py")
DRIFT: Final = 2.0
# Kept links live a minute without use; what is left after that is counted.
REST: Final = 75.0
PATIENCE: Final = 60.0
UPLOAD_EVERY, DENIED_EVERY = 20, 50
ASKERS: Final = 32


class Figures(NamedTuple):
    """What one process holds."""

    descriptors: int
    tasks: int
    threads: int
    objects: int
    rss: float

    def counted(self) -> tuple[int, int, int]:
        return self.descriptors, self.tasks, self.threads


class Watched:
    """A program of ours, which tells about itself."""

    def __init__(self, role: str, folder: Path, variables: dict[str, str], *arguments: str) -> None:
        folder.mkdir(parents=True)
        self.role = role
        self._told = folder / "told"
        command = [sys.executable, str(HOOK), str(self._told), role, *arguments]
        paths = {"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {}
        self.program = Program(command, folder, {**paths, **variables})

    async def figures(self) -> Figures:
        rss = self.program.rss()
        before = self._lines()
        os.kill(self.program.pid, signal.SIGUSR1)
        end = time.monotonic() + PATIENCE
        while len(lines := self._lines()) == len(before):
            if time.monotonic() > end:
                raise SystemExit(f"soak: the {self.role} does not tell about itself\n{self.program.said()}")
            await asyncio.sleep(0.02)
        return Figures(**json.loads(lines[-1]), rss=rss)

    def _lines(self) -> list[str]:
        return self._told.read_text().splitlines() if self._told.exists() else []


class Cutter:
    """A proxy on loopback that counts the tunnels through it and cuts all connections when told."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._live: set[asyncio.StreamWriter] = set()
        self.tunnels = 0
        self.made = 0
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self) -> None:
        for writer in self._live:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tunnel = False
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._live |= ends
        try:
            first = await reader.read(65536)
            tunnel = first.startswith(b"GET /primus")
            self.tunnels += tunnel
            self.made += tunnel
            far_writer.write(first)
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        except (OSError, asyncio.CancelledError):
            # Cut, or the soak is over.
            pass
        finally:
            self.tunnels -= tunnel
            self._live -= ends
            for end in ends:
                end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.transport.abort()


class Asker:
    """One connection of a caller, kept while the server keeps it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, target: str) -> tuple[int, int]:
        """Return an answer's status and the length of its body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(f"GET {target} HTTP/1.1\r\nHost: soak\r\n\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1]), len(body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
        self._streams = None


class Soak:
    """One run."""

    def __init__(self, folder: Path, connections: int, drift: float = DRIFT) -> None:
        self.tokens = [f"50a4{at:04x}-0000-4000-8000-000000000001" for at in range(connections)]
        self.outcomes: Counter[str] = Counter()
        self.asked = 0
        self._folder = folder
        self._drift = drift
        self._port = free_port()

    async def run(self, cycles: int, requests: int, rest: float) -> list[str]:
        """Return what is wrong."""
        upstream_program, upstream_port = upstream(self._folder / "upstream")
        server = Watched("server", self._folder / "server", {"PORT": str(self._port), "LOG_LEVEL": "warn"})
        server.program.until(lambda: get(self._port, "/healthcheck")[0] == 200)
        cutter = Cutter(self._port)
        proxying = await cutter.start()
        client = Watched("client", self._folder / "client", *self._client(cutter.port, upstream_port))
        with upstream_program, server.program, client.program:
            async with proxying:
                wrong = await self._soak(cutter, [server, client], cycles, requests, rest)
            cutter.cut()
        return wrong

    def _client(self, server_port: int, upstream_port: int) -> tuple[dict[str, str], str, str]:
        """Return variables and arguments of a client with all connections."""
        rules, here = STOCK / "accept-client-cra.json", free_port()
        common = f'server_url = "http://127.0.0.1:{server_port}"\nagent_url = "http://127.0.0.1:{upstream_port}"\n'
        lines = [f'[client]\naccept = "{rules}"\nport = {here}\nclient_url = "http://127.0.0.1:{here}"\n{common}']
        for at, token in enumerate(self.tokens):
            lines.append(f'[connections.c{at}]\ntoken = "{token}"\n{common}CR_CREDENTIALS = "none"\n')
            lines.append('U_NAME = "user"\nU_PASS = "pass"\n')
        path = self._folder / "client.toml"
        path.write_text("".join(lines))
        return {"LOG_LEVEL": "error"}, "--config", str(path)

    async def _soak(self, cutter: Cutter, watched: list[Watched], cycles: int, requests: int, rest: float) -> list[str]:
        tunnels = 2 * len(self.tokens)
        rounds = max(10, -(-cycles // tunnels))
        each = -(-requests // rounds)
        await self._until_back(cutter, tunnels)
        first = [await one.figures() for one in watched]
        tenth: list[Figures] = []
        figures = first
        began = time.monotonic()
        for at in range(rounds):
            before = cutter.made
            cutter.cut()
            await self._until_back(cutter, before + tunnels)
            await self._ask_all(each)
            if at + 1 in {rounds // 10, *range(0, rounds, max(1, rounds // 10)), rounds}:
                figures = [await one.figures() for one in watched]
                self._say(at + 1, cutter.made - tunnels, time.monotonic() - began, watched, figures)
                if at + 1 == rounds // 10:
                    tenth = figures
        last = figures
        print(f"resting {rest:.0f} s, so that kept links end")
        await asyncio.sleep(rest)
        after = [await one.figures() for one in watched]
        self._say(rounds, cutter.made - tunnels, time.monotonic() - began, watched, after)
        wrong = [f"{count} times {outcome}" for outcome, count in self.outcomes.items() if outcome != "as it should be"]
        for one, begun, early, late, rested in zip(watched, first, tenth, last, after, strict=True):
            drift = 100 * (late.rss / early.rss - 1)
            print(f"{one.role}: {early.rss:.2f} MiB after a tenth, {late.rss:.2f} at the end: {drift:+.2f} %")
            if abs(drift) > self._drift:
                wrong.append(f"the {one.role}'s memory moved by {drift:+.2f} %")
            if any(late > early for early, late in zip(begun.counted(), rested.counted(), strict=True)):
                names = "descriptors, tasks, threads"
                wrong.append(f"the {one.role} had {begun.counted()} {names} at first and {rested.counted()} at the end")
        return wrong

    def _say(self, at: int, cycles: int, seconds: float, watched: list[Watched], figures: list[Figures]) -> None:
        told = "; ".join(
            f"{one.role} {held.rss:.2f} MiB, {held.descriptors} fds, {held.tasks} tasks, {held.objects} objects"
            for one, held in zip(watched, figures, strict=True)
        )
        print(f"{seconds:6.0f} s  round {at}, {cycles} cycles, {self.asked} requests: {told}", flush=True)

    async def _until_back(self, cutter: Cutter, made: int) -> None:
        """Wait until so many tunnels were made, and each connection serves."""
        end = time.monotonic() + PATIENCE
        while cutter.made < made or cutter.tunnels < 2 * len(self.tokens):
            if time.monotonic() > end:
                raise SystemExit(f"soak: {cutter.tunnels} tunnels, {made - cutter.made} did not come back")
            await asyncio.sleep(0.01)
        while not all(get(self._port, f"/connection-status/{token}")[0] == 200 for token in self.tokens):
            if time.monotonic() > end:
                raise SystemExit("soak: a connection has no tunnel that identified itself")
            await asyncio.sleep(0.02)

    async def _ask_all(self, count: int) -> None:
        left = iter(range(count))

        async def ask_some() -> None:
            asker = Asker(self._port)
            for at in left:
                await self._ask(asker, at)
            asker.close()

        await asyncio.gather(*(ask_some() for _ in range(min(ASKERS, count))))

    async def _ask(self, asker: Asker, at: int) -> None:
        self.asked += 1
        token = self.tokens[at % len(self.tokens)]
        target, expected = "/small", (200, 14)
        if at % DENIED_EVERY == 1:
            target, expected = "/nobody/allowed/this", (401, -1)
        elif at % UPLOAD_EVERY == 0:
            size = 40_000 + 997 * (at % 64)
            target, expected = f"/bytes/{size}", (200, size)
        try:
            status, length = await asker.ask(f"/broker/{token}{target}")
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as fault:
            asker.close()
            self.outcomes[f"{target.split('/')[1]}: {type(fault).__name__}"] += 1
            return
        good = status == expected[0] and expected[1] in (-1, length)
        self.outcomes["as it should be" if good else f"{target.split('/')[1]}: {status}"] += 1


def main(argv: list[str] | None = None) -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--connections", type=int, default=25, help="of the one client; each has two tunnels")
    parser.add_argument("--rest", type=float, default=REST, help="seconds of quiet before the last count")
    parser.add_argument("--drift", type=float, default=DRIFT, help="per cent by which memory may move")
    given: Any = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="towline-soak-") as folder:
        soak = Soak(Path(folder), given.connections, given.drift)
        wrong = asyncio.run(soak.run(given.cycles, given.requests, given.rest))
    for fault in wrong:
        print(f"soak: {fault}")
    print("soak: failed" if wrong else "soak: nothing stayed behind, nothing was lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
