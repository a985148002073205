"""The hostile tunnel kit against the programs: our client at servers that misbehave, our server at clients that do.

    python tests/hostile/tunnel.py serve  [--case NAME]... [--cases FILE]... [--kit FOLDER] [--set NAME=VALUE]...
    python tests/hostile/tunnel.py attack [--case NAME]... [--cases FILE]... [--kit FOLDER] [--set NAME=VALUE]...

One line for each case. Exit 1 when one is not as the kit's README says: the case's outcome in its time, no secret where
it may not be, memory bounded, no traceback, and an honest peer served within 5 s afterwards.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from agent_tools import _Server, call, reply
from interop.chain import Program, towline
from ports import free_port

from towline.core import Record

KIT: Final = Path(__file__).parent / "kit"
MIB: Final = 1024 * 1024
HONEST_SECONDS: Final = 5.0
# Connections of one client in any second: the first two attempts of each tunnel, and its look at the server's health.
MOST_A_SECOND: Final = 10
# What a peer may make a program hold: two tunnel messages of 22 MiB, one of them joined, and what lies about.
GROWTH: Final = 96 * MIB
# Cases at a time: clients each have their own server, hostile clients share one. Those that only wait are not counted.
CLIENTS_AT_ONCE, ATTACKS_AT_ONCE = 10, 5
POISON: Final = "POISON-7c1f"
PROBE: Final = "probe-"
# What the kit's honest request says of itself.
HONEST: Final = "0f0f0f0f-0000-4000-8000-000000000000"


class Case(Record, frozen=True):
    """A case of the kit."""

    name: str
    stage: str
    expect: str
    seconds: float
    why: str


class Verdict(Record, frozen=True):
    """What came of a case. `wrong` is empty when all is as expected."""

    case: str
    expect: str
    seconds: float
    honest: float | None
    growth: int
    wrong: tuple[str, ...]

    def __str__(self) -> str:
        honest = "-" if self.honest is None else f"{self.honest:.1f}"
        told = f"{self.case:30} {self.expect:8} {self.seconds:6.1f} s  honest {honest} s  +{self.growth / MIB:.0f} MiB"
        return "\n     ".join([("BAD  " if self.wrong else "ok   ") + told, *self.wrong])


# ── the kit ──────────────────────────────────────────────────────────────────
class Kit:
    """A copy of the kit's engine with the cases that are wanted beside it."""

    def __init__(self, folder: Path, source: Path = KIT, more: tuple[Path, ...] = ()) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in source.glob("*.py"):
            shutil.copy(path, folder)
        for number, path in enumerate(more):
            known = path.name if path.name.startswith("tunnel_cases_") else f"tunnel_cases_{number}_{path.name}"
            shutil.copy(path, folder / known)
        self.script = folder / "hostile_tunnel.py"

    def cases(self, side: str) -> list[Case]:
        """The cases of a side: "server" ones are met by a client."""
        code = (
            "import json, hostile_tunnel as h; print(json.dumps([dict(name=n, stage=k.stage, expect=k.expect,"
            f"seconds=k.seconds, why=k.why) for n, k in h.K.TC.items() if k.side == {side!r}]))"
        )
        told = subprocess.run([sys.executable, "-c", code], cwd=self.folder, capture_output=True, check=True)
        return [Case(**entry) for entry in json.loads(told.stdout)]

    @contextmanager
    def serving(self, *secrets: str) -> Iterator[dict[str, Any]]:
        """Run the hostile server; yield its addresses."""
        told = [word for secret in secrets for word in ("--secret", secret)]
        with subprocess.Popen([sys.executable, str(self.script), "serve", *told], stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                yield json.loads(process.stdout.readline())
            finally:
                process.terminate()

    def attack(self, case: Case, port: int, token: str, other: str) -> dict[str, Any]:
        """Run one hostile client; return what it saw."""
        command = [sys.executable, str(self.script), "attack", "--port", str(port), "--token", token]
        command += ["--other-token", other, "--case", case.name]
        told = subprocess.run(command, capture_output=True, text=True, timeout=case.seconds + 120)
        assert told.stdout, told.stderr
        saw: dict[str, Any] = json.loads(told.stdout)
        return saw


# ── honest company ───────────────────────────────────────────────────────────
class Upstream(_Server):
    """The agent behind a client: answers everything and keeps the heads that it got."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.bodies: list[str] = []
        super().__init__()

    def serve(self, asked: Any) -> None:
        self.heads.append(f"{asked.requestline}\r\n{asked.headers}")
        self.bodies.append(asked.rfile.read(int(asked.headers.get("content-length", "0"))).decode("latin-1"))
        reply(asked, 200, b'{"ok":true}', Content_Type="application/json")


class Switch:
    """A port whose connections go to one server, and after `turn` to another one."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.turned_at: float | None = None
        self.first_at: float | None = None  # the first connection after the turn
        self._live: set[socket.socket] = set()
        self._closed = False
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def turn(self, target: int) -> None:
        """Lead new connections elsewhere, and cut those that are."""
        self.target, self.turned_at = target, time.monotonic()
        self._cut()

    def close(self) -> None:
        self._closed = True
        _hang_up(self._listening)
        self._listening.close()
        self._cut()

    def _cut(self) -> None:
        for end in list(self._live):
            _hang_up(end)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if self.turned_at is not None and self.first_at is None:
                self.first_at = time.monotonic()
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        """Join one connection to its server until both have ended; whoever opened a socket closes it."""
        with near:
            try:
                far = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                return
            with far:
                far.settimeout(None)
                ends = {near, far}
                self._live |= ends
                if self._closed:
                    return
                back = threading.Thread(target=_copy, args=(far, near), daemon=True)
                back.start()
                _copy(near, far)
                back.join()
                self._live -= ends


def _hang_up(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(256 * 1024):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        _hang_up(source)
        _hang_up(sink)


def wait(holds: Callable[[], Any], seconds: float) -> bool:
    """Whether something comes to hold in the time."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def answers(port: int, target: str) -> int:
    """The status of one GET; 0 when there is none."""
    try:
        return call(port, "GET", target).status
    except OSError:
        return 0


def memory(program: Program, row: str = "VmRSS") -> int:
    """Resident bytes of a process: at present, or with VmHWM its peak."""
    for line in Path(f"/proc/{program.running.pid}/status").read_text().splitlines():
        if line.startswith(row + ":"):
            return int(line.split()[1]) * 1024
    return 0


def descriptors(program: Program) -> int | None:
    """How many files and sockets a process has open; None where only root may look into a hardened one."""
    try:
        return len(list(Path(f"/proc/{program.running.pid}/fd").iterdir()))
    except PermissionError:
        return None


def state_of(program: Program, secrets: tuple[str, ...]) -> Iterator[str]:
    """What must not be after a case, whatever it was."""
    if program.running.poll() is not None:
        yield f"{program.name} ended with {program.running.returncode}"
    said = program.said()
    if "Traceback" in said:
        yield f"a traceback: {said[said.index('Traceback') :][:1500]}"
    if POISON in said:
        yield "the peer's text is in the log"
    yield from (f"a secret is in the log of {program.name}" for secret in secrets if secret in said)


# ── our client at hostile servers ────────────────────────────────────────────
class ServeRun:
    """The kit's server, an honest one, and for each case a client of its own."""

    def __init__(self, folder: Path, info: dict[str, Any], honest_port: int, settings: dict[str, str]) -> None:
        self.folder = folder
        self.info = info
        self.honest_port = honest_port
        self.settings = settings

    def report(self, case: Case) -> Any:
        return call(int(self.info["control"].split(":")[1]), "GET", f"/report?case={case.name}").body

    def run(self, case: Case) -> Verdict:
        with ExitStack() as closing:
            upstream, switch = Upstream(), Switch(self.info["ports"][case.name])
            closing.callback(upstream.close)
            closing.callback(switch.close)
            token, secret = str(uuid.uuid4()), uuid.uuid4().hex
            client_port = free_port()
            client = towline(
                self.folder / case.name,
                "client",
                PORT=str(client_port),
                BROKER_TOKEN=token,
                BROKER_SERVER_URL=f"http://127.0.0.1:{switch.port}",
                BROKER_CLIENT_URL=f"http://127.0.0.1:{client_port}",
                CR_AGENT_URL=f"http://127.0.0.1:{upstream.port}",
                CR_TYPE="oci",
                CR_BASE="registry.test",
                CR_USERNAME="robot",
                CR_PASSWORD=secret,
                LOG_LEVEL="debug",
                **self.settings,
            )
            closing.callback(client.close)
            client.start()
            assert wait(lambda: answers(client_port, "/healthcheck"), 20), client.said()
            before, began = memory(client), time.monotonic()
            wrong = list(self._judge(case, upstream))
            took = time.monotonic() - began
            honest, late = self._honest(case, switch, token)
            wrong += late
            if case.expect in ("alive", "denied", "bounded"):
                wrong += self._probed(case)
            growth = memory(client, "VmHWM") - before
            if growth > GROWTH:
                wrong.append(f"grew by {growth / MIB:.0f} MiB")
            if leaks := self.report(case)["leaks"]:
                wrong.append(f"leaks: {leaks}")
            if any("x-inject" in head.lower() for head in upstream.heads):
                wrong.append("a header was injected into the request to the upstream")
            asked = "".join(upstream.heads + upstream.bodies)
            wrong += [f"the peer had {name} filled in" for name in (token, secret) if name in asked]
            wrong += state_of(client, (token, secret))
            if client.running.poll() is None and client.stop() != 0:
                wrong.append("the client did not end cleanly")
            return Verdict(case.name, case.expect, took, honest, growth, tuple(wrong))

    def _judge(self, case: Case, upstream: Upstream) -> Iterator[str]:
        """Wait for the outcome of a case, and say what is not as expected."""
        report: dict[str, Any] = {}

        def looked(holds: Callable[[dict[str, Any]], Any]) -> bool:
            report.update(self.report(case))
            return bool(holds(report))

        def ended(seen: dict[str, Any]) -> list[Any]:
            return [end for end in seen["ended"] if end["by"] == "peer" and end["secs"] <= case.seconds]

        def probed(seen: dict[str, Any]) -> bool:
            return bool(seen["probe"])

        outcome = {
            "closed": ended,
            "alive": probed,
            "denied": probed,
            "bounded": probed,
            "either": lambda seen: probed(seen) or ended(seen),
            "refused": lambda seen: len(seen["connects"]) >= 8,
            "backoff": lambda seen: len(seen["connects"]) >= 14,
        }[case.expect]
        if not wait(lambda: looked(outcome), case.seconds + 20):
            yield f"it did not come: {json.dumps(report)[:1500]}"
        if case.expect == "denied":
            yield from _denied(report, upstream)
        if case.expect == "refused" and report["events"]:
            yield f"it was accepted: {report['events']}"
        if case.expect in ("backoff", "refused"):
            yield from _backs_off(report["connects"], grows=case.expect == "backoff")

    def _probed(self, case: Case) -> list[str]:
        """Say if an honest request was not answered: by an upload, or by one event, which the kit tells at the end."""

        def answered() -> set[str]:
            seen = self.report(case)
            uploads = {post["sid"] for post in seen["posts"]}
            return {sid for sid in uploads | {str(event[1]) for event in _chunks(seen)} if sid.startswith(PROBE)}

        return [] if wait(answered, 5) else ["an honest request was not answered"]

    def _honest(self, case: Case, switch: Switch, token: str) -> tuple[float | None, list[str]]:
        """Put an honest server in the hostile one's place; return how soon it was served, and what is wrong."""
        switch.turn(self.honest_port)
        # After many failures the next attempt may be far away, and must be.
        patience = 60.0 if case.expect in ("backoff", "refused") else HONEST_SECONDS
        wait(lambda: switch.first_at, patience)
        target = f"/broker/{token}/healthcheck"
        served = wait(lambda: answers(self.honest_port, target) == 200, HONEST_SECONDS)
        since = switch.first_at if case.expect in ("backoff", "refused") else switch.turned_at
        if not served or since is None:
            return None, ["an honest server was not served in time"]
        took = time.monotonic() - since
        return took, [] if took <= HONEST_SECONDS else [f"an honest server was served after {took:.1f} s"]


def _chunks(report: dict[str, Any]) -> list[Any]:
    return [event for event in report["events"] if event[0] == "chunk" and len(event) > 1]


def _denied(report: dict[str, Any], upstream: Upstream) -> Iterator[str]:
    """Each of the case's own requests has an error for an answer, and none went further than the client."""
    for post in report["posts"]:
        if not post["sid"].startswith(PROBE) and not 400 <= (post["status"] or 0) < 500:
            yield f"{post['sid']} was answered with {post['status']}"
    honest = [head for head in upstream.heads if HONEST in head]
    if len(honest) != len(upstream.heads):
        yield f"it was forwarded: {[head for head in upstream.heads if head not in honest][:3]}"


def _backs_off(connects: list[float], *, grows: bool) -> Iterator[str]:
    """Two tunnels call, each at most twice for an attempt: as a websocket, and by polling where that is refused."""
    burst = max(sum(at <= other < at + 1 for other in connects) for at in connects)
    if burst > MOST_A_SECOND:
        yield f"it came {burst} times in a second: {connects}"
    if not grows:
        return
    middle = connects[len(connects) // 2]
    if connects[-1] - middle < 1.5 * (middle - connects[0]):
        yield f"the waits do not grow: {connects}"
    late = [later - earlier for earlier, later in pairwise(connects) if earlier >= middle]
    if len({round(gap, 2) for gap in late}) < len(late) // 2:
        yield f"the waits have no jitter: {connects}"


def serve(
    folder: Path, names: tuple[str, ...] = (), *, kit: Kit, settings: dict[str, str] | None = None
) -> Iterator[Verdict]:
    """Run our client at each of these cases, or at all."""
    cases = _chosen(kit.cases("server"), names)
    port = free_port()
    honest = towline(folder, "server", PORT=str(port))
    with ExitStack() as closing:
        closing.callback(honest.close)
        honest.start()
        assert wait(lambda: answers(port, "/healthcheck") == 200, 20), honest.said()
        info = closing.enter_context(kit.serving())
        yield from _side_by_side(cases, ServeRun(folder, info, port, settings or {}).run, CLIENTS_AT_ONCE)


# ── hostile clients at our server ────────────────────────────────────────────
def attack(
    folder: Path, names: tuple[str, ...] = (), *, kit: Kit, settings: dict[str, str] | None = None
) -> Iterator[Verdict]:
    """Run each of these cases, or all, against one server of ours. What they did to its memory the last line says."""
    cases = _chosen(kit.cases("client"), names)
    port = free_port()
    server = towline(folder, "server", PORT=str(port), LOG_LEVEL="debug", **(settings or {}))
    with ExitStack() as closing:
        closing.callback(server.close)
        server.start()
        assert wait(lambda: answers(port, "/healthcheck") == 200, 20), server.said()
        before, descriptors_before = memory(server), descriptors(server)

        def run(case: Case) -> Verdict:
            token, other = str(uuid.uuid4()), str(uuid.uuid4())
            saw = kit.attack(case, port, token, other)
            wrong = [*_seen(case, saw), *state_of(server, (token, other))]
            honest, took = saw["honest_after"]["secs"], saw["secs"]
            if not saw["honest_after"]["ok"] or honest > HONEST_SECONDS:
                wrong.append(f"an honest client was not served: {saw['honest_after']}")
            growth = memory(server, "VmHWM") - before
            if growth > ATTACKS_AT_ONCE * GROWTH:
                wrong.append(f"the server grew by {growth / MIB:.0f} MiB")
            return Verdict(case.name, case.expect, took, honest, growth, tuple(wrong))

        yield from _side_by_side(cases, run, ATTACKS_AT_ONCE)
        yield _afterwards(server, port, before, descriptors_before)


def _afterwards(server: Program, port: int, before: int, descriptors_before: int | None) -> Verdict:
    """Nothing of all the cases may be left when their clients are gone."""
    began, left = time.monotonic(), []
    if not wait(lambda: call(port, "GET", "/connections-status").body in ([], {}), 60):
        left.append(f"left behind: {call(port, 'GET', '/connections-status').body}")
    if not wait(lambda: (descriptors(server) or 0) <= (descriptors_before or 0), 10):
        left.append(f"{descriptors(server)} descriptors, {descriptors_before} at the start")
    growth = memory(server) - before
    if server.stop() != 0:
        left.append("the server did not end cleanly")
    return Verdict("(the server afterwards)", "empty", time.monotonic() - began, None, growth, tuple(left))


def _seen(case: Case, saw: dict[str, Any]) -> Iterator[str]:
    """Judge what a hostile client saw."""
    end = saw.get("end") or {}
    closed = bool(end.get("closed") or saw.get("ended_early") or saw.get("answer"))
    refused = saw.get("upgrade_status", 101) != 101
    uploads, callers = (_found(saw, name) for name in ("post", "saas"))
    if saw.get("timeout") or saw["secs"] > case.seconds + 15:
        yield f"it did not end: {json.dumps(saw)[:1500]}"
    if saw.get("stolen") or any(caller["poison"] for caller in callers):
        yield f"a caller was given what was not its own: {json.dumps(saw)[:1500]}"
    if case.expect == "closed" and not (closed or refused):
        yield f"it was not closed: {json.dumps(saw)[:1500]}"
    if case.expect == "refused" and not (
        closed or refused or any(upload["status"] is None or upload["status"] >= 400 for upload in uploads)
    ):
        yield f"it was not refused: {json.dumps(saw)[:1500]}"
    if case.expect == "alive" and (closed or refused or any(caller["status"] != 200 for caller in callers)):
        yield f"service did not go on: {json.dumps(saw)[:1500]}"


def _found(saw: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """What a case tells of its exchanges: one, or a list of them, under a name or one that begins so."""
    told = [value for key, value in saw.items() if key.startswith(name)]
    flat = [item for value in told for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, dict) and "status" in item]


# ── by hand ──────────────────────────────────────────────────────────────────
def _chosen(cases: list[Case], names: tuple[str, ...]) -> list[Case]:
    known = {case.name for case in cases}
    if unknown := set(names) - known:
        raise SystemExit(f"no such case: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return [case for case in cases if not names or case.name in names]


def _side_by_side(cases: list[Case], run: Callable[[Case], Verdict], at_once: int) -> Iterator[Verdict]:
    """Run a few cases at a time, and those that only wait beside them from the start."""
    waiting = [case for case in cases if case.seconds > 60]
    with ThreadPoolExecutor(len(waiting) + 1) as beside, ThreadPoolExecutor(at_once) as in_turn:
        running = [beside.submit(run, case) for case in waiting]
        running += [in_turn.submit(run, case) for case in cases if case not in waiting]
        for future in running[len(waiting) :] + running[: len(waiting)]:
            yield future.result()


def main(argv: list[str] | None = None) -> int:
    """Run what the command line names; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("side", choices=["serve", "attack"])
    parser.add_argument("--case", action="append", default=[], help="only this case; may be given again")
    parser.add_argument("--cases", action="append", default=[], type=Path, help="a file with further cases")
    parser.add_argument("--kit", type=Path, default=KIT, help="folder of another kit with the same interface")
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE for the program under test")
    given = parser.parse_args(argv)
    settings = dict(item.split("=", 1) for item in given.set)
    began, count, bad = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        kit = Kit(Path(folder) / "kit", given.kit, tuple(given.cases))
        run = serve if given.side == "serve" else attack
        for verdict in run(Path(folder), tuple(given.case), kit=kit, settings=settings):
            print(verdict, flush=True)
            count, bad = count + 1, bad + bool(verdict.wrong)
    print(f"{count} cases, {bad} not as expected, {time.monotonic() - began:.0f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
