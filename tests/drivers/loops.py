"""The loops that driver tests run on, as one parameter: `loop.run(main)` with `loop.open_pump`, `loop.perform`."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import trio

from towline.drivers import on_asyncio, on_trio


class Loop:
    """One loop and the driver for it."""

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name = name
        self.module: Any = module
        self.open_pump = module.open_pump
        self.perform = module.perform

    def run(self, main: Callable[[], Awaitable[Any]], seconds: float = 30.0) -> Any:
        """Run `main` to its end, with a limit."""

        async def limited() -> Any:
            with anyio.fail_after(seconds):
                return await main()

        if self.name == "trio":
            return trio.run(limited)
        return asyncio.run(limited())


LOOPS = [Loop("trio", on_trio), Loop("asyncio", on_asyncio)]


def make_certificate(
    folder: Path, name: str = "localhost", alternatives: str = "DNS:localhost,IP:127.0.0.1"
) -> tuple[str, str]:
    """Make a self-signed certificate and its key; return their paths."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    make = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    where = ["-keyout", str(key), "-out", str(cert)]
    what = ["-subj", f"/O=Towline tests/CN={name}", "-addext", f"subjectAltName={alternatives}"]
    subprocess.run([*make, *where, *what], check=True, capture_output=True)
    return str(cert), str(key)
