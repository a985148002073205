"""Measure a broker's server and client as processes: the stock pair, ours, and each of ours with the other's partner.

    python bench/broker.py                       every row, three rounds, about four minutes
    python bench/broker.py --quick               one short round
    python bench/broker.py --only small,stream
    python bench/broker.py --json FILE           the samples as well

| row | what |
| --- | --- |
| start | server up, then client started until the server lists both of its tunnels; then memory at rest |
| small | GET of 14 bytes through server and client, at concurrency 1, 16 and 64 |
| stream | one answer of 256 MiB, beside the same bytes through one nginx proxy |
| idle, idle-tls | 1,000 tunnels on one server of ours, then 2,000 requests/s spread over them |

All ways run in each round, row by row, against one upstream. A ratio is of two medians of this run, ours to the stock
pair's. Exit code 1 when something that was asked for is missing; goals are told, not enforced.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from broker_pairs import HERE, TOKEN, Make, Missing, Pair, Program, proxy, start_pair, upstream
from broker_table import LAST_SMALL, Samples, lines, table, unmet
from machine import machine

MIB = 1 << 20
WAYS: dict[str, tuple[Make, Make]] = {
    "stock": ("stock", "stock"),
    "ours": ("ours", "ours"),
    "our server": ("ours", "stock"),
    "our client": ("stock", "ours"),
}
KINDS = ("start", "small", "stream", "idle", "idle-tls")


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    seconds: float
    warm: float
    levels: tuple[int, ...]
    stream: int
    idle: int
    rate: int
    ways: tuple[str, ...]
    rest: float


FULL = Size(3, 3.0, 1.5, (1, 16, 64), 256 * MIB, 1000, 2000, tuple(WAYS), 1.0)
QUICK = FULL._replace(rounds=1, seconds=1.0, warm=0.7)
TINY = Size(1, 0.2, 0.1, (2,), 4 * MIB, 20, 100, ("ours",), 0.1)


class Bench:
    """One run: its processes, and the samples so far."""

    def __init__(self, size: Size, kinds: tuple[str, ...], work: Path) -> None:
        self.size = size
        self.kinds = kinds
        self.work = work
        self.kept: Samples = {}
        self.missing: dict[str, str] = {}
        self.upstream_port = 0

    def add(self, row: str, way: str, value: float) -> None:
        self.kept.setdefault(row, {}).setdefault(way, []).append(value)

    def run(self) -> None:
        with ExitStack() as stack:
            serving, self.upstream_port = upstream(self.work / "upstream")
            stack.callback(serving.stop)
            for number in range(self.size.rounds):
                if {"start", "small", "stream"} & set(self.kinds):
                    self.round(number)
                for kind in ("idle", "idle-tls"):
                    if kind in self.kinds:
                        self.idle(kind)

    def round(self, number: int) -> None:
        with ExitStack() as stack:
            pairs: dict[str, Pair] = {}
            for way in self.size.ways:
                if way in self.missing:
                    continue
                folder = self.work / f"{way.replace(' ', '-')}-{number}"
                try:
                    pair = start_pair(*WAYS[way], folder, self.upstream_port)
                except Missing as absent:
                    self.missing[way] = str(absent)
                    continue
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                stack.callback(pair.stop)
                pairs[way] = pair
                self.add("start.server", way, pair.server_seconds)
                self.add("start.connected", way, pair.connected_seconds)
                time.sleep(self.size.rest)
                self.add("rss.idle.server", way, pair.server.rss())
                self.add("rss.idle.client", way, pair.client.rss())
            if "small" in self.kinds:
                for pair in pairs.values():
                    self.small(pair, 4, self.size.warm)
                for level in self.size.levels:
                    for way, pair in pairs.items():
                        self.level(way, pair, level)
            if "stream" in self.kinds:
                for way, pair in pairs.items():
                    self.stream(way, pair)
                self.through_nginx(number)
        said = ", ".join(f"{way} {values[-1]:.0f}/s" for way, values in self.kept.get(LAST_SMALL, {}).items())
        print(f"round {number + 1}: {said or 'done'}", file=sys.stderr)

    # ── rows ────────────────────────────────────────────────────────────────────
    def small(self, pair: Pair, level: int, seconds: float) -> dict[str, Any]:
        target = f"/broker/{TOKEN}/small"
        told, self.peaks = load(["small", "127.0.0.1", pair.port, target, level, seconds], pair)
        if told["bad"]:
            raise RuntimeError(f"{told['bad']:.0f} of {told['requests']:.0f} answers were not 200")
        return told

    def level(self, way: str, pair: Pair, level: int) -> None:
        before = pair.server.cpu(), pair.client.cpu()
        told = self.small(pair, level, self.size.seconds)
        each = 1000 / told["requests"]
        server, client = (pair.server.cpu() - before[0]) * each, (pair.client.cpu() - before[1]) * each
        for figure in ("rps", "p50_ms", "p99_ms"):
            self.add(f"small.{level}.{figure}", way, told[figure])
        self.add(f"cpu.{level}.both", way, server + client)
        self.add(f"cpu.{level}.server", way, server)
        self.add(f"cpu.{level}.client", way, client)
        self.add(f"rss.{level}.server", way, self.peaks[0])
        self.add(f"rss.{level}.client", way, self.peaks[1])

    def stream(self, way: str, pair: Pair) -> None:
        self.answer(way, pair, self.size.stream // 4)  # the stock pair compiles as it runs
        before = pair.server.cpu() + pair.client.cpu()
        told, peaks = self.answer(way, pair, self.size.stream)
        self.add("stream.mib_s", way, self.size.stream / MIB / told["seconds"])
        self.add("stream.cpu_s", way, pair.server.cpu() + pair.client.cpu() - before)
        self.add("rss.stream.server", way, peaks[0])
        self.add("rss.stream.client", way, peaks[1])

    def answer(self, way: str, pair: Pair, size: int) -> tuple[dict[str, Any], tuple[float, float]]:
        told, peaks = load(["stream", "127.0.0.1", pair.port, f"/broker/{TOKEN}/bytes/{size}", size], pair)
        if told["bytes"] != size:
            raise RuntimeError(f"{way}: expected {size} bytes, got {told['bytes']}")
        return told, peaks

    def through_nginx(self, number: int) -> None:
        if "nginx" in self.missing:
            return
        try:
            program, port = proxy(self.work / f"nginx-{number}", self.upstream_port)
        except Missing as absent:
            self.missing["nginx"] = str(absent)
            return
        with program:
            before = program.cpu()
            told, _ = load(["stream", "127.0.0.1", port, f"/bytes/{self.size.stream}", self.size.stream])
            self.add("stream.mib_s", "nginx", self.size.stream / MIB / told["seconds"])
            self.add("stream.cpu_s", "nginx", program.cpu() - before)

    def idle(self, kind: str) -> None:
        """The tunnels' far ends are one process of their own, which starts the server and reports."""
        folder = Path(tempfile.mkdtemp(prefix="idle-", dir=self.work))
        command = [sys.executable, str(HERE / "broker_idle.py"), kind, folder, self.size.idle, self.size.rate]
        told = run([*map(str, command), str(max(self.size.seconds, 1.0))])
        if "missing" in told:
            self.missing[kind] = told["missing"]
            return
        for figure, value in told.items():
            self.add(f"{kind}.{figure}", "ours", value)


def run(command: list[str], pair: Pair | None = None) -> Any:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[1]).name}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def load(arguments: list[Any], pair: Pair | None = None) -> tuple[dict[str, Any], tuple[float, float]]:
    """Run the load generator; return what it says, and the peaks of both processes' memory in MiB meanwhile."""
    command = [sys.executable, "-I", "-S", str(HERE / "broker_load.py"), *map(str, arguments)]
    peaks = [0.0, 0.0]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while True:
            if pair is not None:
                programs: tuple[Program, Program] = (pair.server, pair.client)
                peaks = [max(peak, program.rss()) for peak, program in zip(peaks, programs)]
            try:
                out, errors = process.communicate(timeout=0.05)
                break
            except subprocess.TimeoutExpired:
                continue
    if process.returncode != 0:
        raise RuntimeError(errors.strip()[-500:] or "the load generator failed")
    return json.loads(out), (peaks[0], peaks[1])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--tiny", action="store_true", help="as little as shows that it runs; no figure means anything")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of load at each level")
    parser.add_argument("--only", default=",".join(KINDS), help=f"of {', '.join(KINDS)}")
    parser.add_argument("--ways", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there; - for the standard output")
    options = parser.parse_args(arguments)
    kinds = tuple(options.only.split(","))
    size = TINY if options.tiny else QUICK if options.quick else FULL
    size = size._replace(
        rounds=options.rounds or size.rounds,
        seconds=options.seconds or size.seconds,
        ways=tuple(options.ways.split(",")) if options.ways else size.ways,
    )
    if size.rounds < 1 or not set(kinds) <= set(KINDS) or not set(size.ways) <= set(WAYS):
        parser.error(f"expected --only of {', '.join(KINDS)}, --ways of {', '.join(WAYS)} and --rounds of 1 or more")
    with tempfile.TemporaryDirectory(prefix="towline-bench-") as name:
        bench = Bench(size, kinds, Path(name))
        try:
            bench.run()
        except RuntimeError as failure:
            print(f"bench: {failure}", file=sys.stderr)
            return 1
    on = machine("towline", "node", "nginx")
    if options.json is not None:
        whole = {"machine": on, "size": size._asdict(), "samples": bench.kept, "missing": bench.missing}
        text = json.dumps(whole | {"unmet": unmet(bench.kept)})
        if str(options.json) == "-":
            print(text)
            return 1 if bench.missing else 0
        options.json.write_text(text)
    print(table(lines(bench.kept)))
    print("\n" + "; ".join(f"{key}: {value}" for key, value in on.items()))
    for what, why in bench.missing.items():
        print(f"missing: {what}: {why}")
    return 1 if bench.missing else 0


if __name__ == "__main__":
    sys.exit(main())
