"""What the numbers were made on."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from pathlib import Path

import nginx
from measure import Failure

FLAGS = {"openssl": "version", "towline": "version", "nginx": "-v"}


def towline_command() -> list[str]:
    """Return how towline is started here; raise Failure where it cannot be."""
    beside = Path(sys.executable).with_name("towline")
    if beside.exists():
        return [str(beside)]
    if importlib.util.find_spec("towline") and importlib.util.find_spec("towline.__main__"):
        return [sys.executable, "-m", "towline"]
    raise Failure("towline is not installed for this Python (make .venv/.agent)")


def machine(*programs: str) -> dict[str, str]:
    """Return the processor, the system, Python, and the version of each program."""
    processor = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text()
        processor = next(
            (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), processor
        )
    except OSError:
        pass
    return {
        "processor": f"{processor}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{program: version_of(program) for program in programs},
    }


def version_of(program: str) -> str:
    """Return the first line a program says about itself, or that it is not here."""
    try:
        command = towline_command() if program == "towline" else [program]
        if program == "nginx":
            command = [nginx.program() or "nginx"]
        flag = FLAGS.get(program, "--version")
        told = subprocess.run([*command, flag], capture_output=True, text=True, timeout=30)
    except (OSError, Failure, subprocess.TimeoutExpired):
        return "not here"
    lines = (told.stdout + told.stderr).strip().splitlines()
    return lines[0].split(" (")[0] if lines and told.returncode == 0 else "not here"
