"""Our pair under load while the way between client and server is spoiled: `python tests/interop/chaos.py --seconds 60`.

Every second or two something else happens to all links: latency, a slow wire, bytes cut into crumbs, links ended in
order or reset, connections refused or never taken up, a network that goes away and comes back with every link dead.
An answer may fail, clearly; none may be wrong, none may stay away, and afterwards everything works.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent_tools import call
from interop.brokers import Brokers, Took
from interop.chain import wait
from interop.peers.broker_upstream import Random
from ports import free_port

PROXY: Final = Path(__file__).resolve().parents[1] / "hostile" / "kit" / "chaos_proxy.py"
# Requests that a fault catches end when it is found: two heartbeats, or at once.
HEARTBEAT: Final = {"SOCKET_PING_INTERVAL": "1000", "SOCKET_PONG_TIMEOUT": "1500", "SOCKET_PING_TIMEOUT": "1500"}
LONGEST: Final = 30.0
CALLERS: Final = 8
SIZES: Final = (14, 900, 20_000, 300_000, 3_000_000)
# What a caller may be told of a link that failed.
CLEAR: Final = frozenset({502, 503, 504, 404})
FAULTS: Final[dict[str, dict[str, Any]]] = {
    "latency": {"latency_ms": 150, "jitter_ms": 120},
    "slow": {"rate_up": 400_000, "rate_down": 400_000},
    "crumbs": {"slice": 7, "slice_delay_ms": 0},
    "refused": {"refuse": True},
    "hanging": {"hang_connect": True},
    "limited": {"limit_up": 150_000},
    "vanished": {"drop_up": True, "drop_down": True},
}


class Chaos:
    """The proxy, steered."""

    def __init__(self, control: int) -> None:
        self._control = control

    def do(self, what: str, **settings: Any) -> None:
        told = call(self._control, "POST", f"/{what}", json.dumps({"route": "tunnel", **settings}).encode())
        assert told.status == 200, told.data

    def spoil(self, name: str, seconds: float) -> None:
        """Let one thing happen for a while, and have a clean wire again."""
        if name in ("fin", "rst"):
            self.do("cut", how=name)
            time.sleep(seconds)
            return
        self.do("set", **FAULTS[name])
        time.sleep(seconds)
        if name == "vanished":
            # Bytes that were swallowed are not sent again here, so no link may live on.
            self.do("cut", how="rst")
        self.do("clear")


@contextmanager
def proxy(target: int, seed: int) -> Iterator[tuple[int, Chaos]]:
    """Run the spoiling proxy; yield its port and its control."""
    port = free_port()
    command = [sys.executable, str(PROXY), "--route", f"tunnel={port}:127.0.0.1:{target}", "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield port, Chaos(int(json.loads(process.stdout.readline())["control"].split(":")[1]))
        finally:
            process.terminate()


class Load:
    """Callers that ask without end, and what they were told."""

    def __init__(self, pair: Brokers, seed: int) -> None:
        self._pair = pair
        self._over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0
        self._threads = [threading.Thread(target=self._ask, args=(seed + at,), daemon=True) for at in range(CALLERS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self._over.is_set():
            size = draw.choice(SIZES)
            target = f"/{draw.choice(('bytes', 'chunked'))}/{size}"
            began = time.monotonic()
            outcome = self._judge(target, size, self._pair.ask(target))
            self.longest = max(self.longest, time.monotonic() - began)
            self.outcomes[outcome] += 1
            if outcome not in ("good", "200", "cut"):
                time.sleep(0.1)

    def _judge(self, target: str, size: int, told: Took) -> str:
        if not told.whole:
            return "cut"
        if told.status in CLEAR:
            return str(told.status)
        if (told.status, told.length, told.digest) == (200, size, Random(size).digest()):
            return "good"
        self.wrong.append(f"{target}: {told.status}, {told.length} bytes, {told.body[:100]!r}")
        return "wrong"

    def end(self) -> None:
        """Stop asking; nobody may be left waiting."""
        self._over.set()
        end = time.monotonic() + LONGEST
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        stuck = sum(thread.is_alive() for thread in self._threads)
        if stuck:
            self.wrong.append(f"{stuck} callers are still waiting after {LONGEST:g} s")


def run(folder: Path, seconds: float, seed: int) -> Load:
    """Spoil for so many seconds; return what the callers were told. Raises AssertionError when service does not return.

    Every kind of fault comes, in an order that the seed draws.
    """
    draw = random.Random(seed)
    server_port = free_port()
    with proxy(server_port, seed) as (port, chaos):
        pair = Brokers(folder, server_more=HEARTBEAT, client_more=HEARTBEAT, via=port, server_port=server_port)
        try:
            pair.start()
            load = Load(pair, seed)
            began = time.monotonic()
            faults: list[str] = []
            while time.monotonic() - began < seconds:
                if not faults:
                    faults = [*FAULTS, "fin", "rst"]
                    draw.shuffle(faults)
                chaos.spoil(faults.pop(), draw.uniform(0.3, 2.0))
                time.sleep(draw.uniform(0.0, 0.7))
            load.end()
            pair.await_ready()
            wait(lambda: pair.ask("/bytes/3000000").digest == Random(3_000_000).digest(), 15, pair.said)
            for program in pair.ours:
                assert "Traceback" not in program.said(), program.said()
        finally:
            pair.close()
    return load


def main() -> int:
    """Run it from the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        load = run(Path(folder), given.seconds, given.seed)
    print(f"{sum(load.outcomes.values())} requests: {dict(load.outcomes)}; the longest took {load.longest:.1f} s")
    for wrong in load.wrong:
        print(f"BAD  {wrong}")
    return 1 if load.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
