"""The long-running programs: configuration in, signals honoured, a clean drain out.

Each imports what it runs and no other program's code: a third of a server's start, and 8 MiB of its memory.
"""

from __future__ import annotations

import argparse
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import anyio
import trio

from towline.core import TowlineError
from towline.drivers import on_trio
from towline.runtimes.config import Settings, load
from towline.runtimes.logs import Log
from towline.runtimes.output import first
from towline.runtimes.setup import dialer, listener, metrics_listener, server_config, server_limits, strike_secrets

DONE, INTERRUPTED = 0, 130

_COMMON: Final = ("log", "tls", "net", "drain")
_SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "server": (*_COMMON, "server"),
    "client": (*_COMMON, "client", "registry"),
    "agent": (*_COMMON, "agent", "registry"),
    "up": (*_COMMON, "client", "agent", "registry"),
}

Program = Callable[[anyio.Event], Awaitable[None]]


def run_program(command: str, arguments: argparse.Namespace) -> int:
    """Run a program until a signal stops it; return its exit code. Raises TowlineError before it is up."""
    _harden()
    section = "client" if command == "up" else command
    overrides = {
        "log.level": "debug" if arguments.verbose else None,
        "log.format": arguments.log_format,
        f"{section}.port": arguments.port,
        f"{section}.bind": arguments.bind,
    }
    settings = load(os.environ, arguments.config, overrides, _SECTIONS[command])
    log = Log(settings["log.level"], settings["log.format"])
    strike_secrets(log, settings)
    programs = _programs(command, settings, log)
    # What is loaded by now stays: the collector need not look at a hundred thousand objects again each time, which
    # would hold every request for some 30 ms.
    gc.freeze()
    return trio.run(_run, programs, log)


def _programs(command: str, settings: Settings, log: Log) -> list[Program]:
    """Return what runs. Everything is read before anything starts, so that a fault stops the start."""
    programs: list[Program] = []
    dialing = dialer(settings, log)
    if command == "server":
        from towline.runtimes.server import serve_server

        serving, at, sizes = server_config(settings), listener(settings, "server"), server_limits(settings)
        box, token = Path(settings["server.results"]), settings["server.results_token"]
        shown, drain = metrics_listener(settings, "server"), settings["drain.time"]
        public, redis = settings["server.metrics_public"], settings["server.redis_url"]
        programs.append(
            lambda stop: serve_server(
                serving, on_trio, at, box, token=token, dialer=dialing, log=log, stop=stop,
                metrics=shown, metrics_public=public, drain_seconds=drain, redis=redis, limits=sizes,
            )
        )  # fmt: skip
    if command in ("agent", "up"):
        from towline.runtimes import agent
        from towline.runtimes.agent_setup import agent_config

        agents = agent_config(settings, dialing, socket.gethostname())
        for login in agents.registries.values():
            log.strike(login.secret)
            log.strike(login.external_id)
        programs.append(lambda stop: agent.serve(agents, on_trio, log=log, stop=stop))
    if command in ("client", "up"):
        from towline.runtimes.client import serve_client
        from towline.runtimes.client_setup import client_config, client_limits, client_warnings, read_rules

        calling, here, limits = client_config(settings), listener(settings, "client"), client_limits(settings)
        measured, patience = metrics_listener(settings, "client"), settings["drain.time"]
        for warning in client_warnings(settings):
            log.say("warning", "configuration without effect", what=warning)
        programs.append(
            lambda stop: serve_client(
                calling, on_trio, here, dialer=dialing, log=log, stop=stop, limits=limits,
                reread=lambda: read_rules(settings), metrics=measured, drain_seconds=patience,
            )
        )  # fmt: skip
    return programs


async def _run(programs: list[Program], log: Log) -> int:
    code = DONE
    stop = anyio.Event()
    try:
        async with trio.open_nursery() as nursery:

            async def watch(signals: Any) -> None:
                nonlocal code
                async for number in signals:
                    if stop.is_set():
                        code = INTERRUPTED if number == signal.SIGINT else 128 + number
                        nursery.cancel_scope.cancel()
                        return
                    log.say("info", "stopping", signal=signal.Signals(number).name)
                    stop.set()

            async def all_programs() -> None:
                async with trio.open_nursery() as running:
                    for program in programs:
                        running.start_soon(program, stop)
                nursery.cancel_scope.cancel()

            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                nursery.start_soon(all_programs)
                await watch(signals)
    except* TowlineError as group:
        raise first(group) from None
    return code


def _harden() -> None:
    """Keep secrets in this process: no core dump, no reading by others (security.md §4.5)."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        pr_set_dumpable = 4
        ctypes.CDLL(None).prctl(pr_set_dumpable, 0, 0, 0, 0)
