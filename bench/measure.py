"""Run a pipeline of programs and say what it cost: wall time, CPU of the whole process tree, peak memory.

The pipeline is started by a small process of its own (`python measure.py STAGES`): a child begins with the peak memory
of its parent, and the bench has held an image.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple


class Cost(NamedTuple):
    """`cpu` is user and system seconds of every process of the tree; `rss` is the sum of the stages' peaks in bytes.

    A stage that is smaller than the process that starts it (12 MiB) counts as that.
    """

    wall: float
    cpu: float
    rss: int
    output: str


class Failure(Exception):
    """A stage did not end with 0."""


def run_pipeline(stages: Sequence[Sequence[str]]) -> Cost:
    """Run `a | b | c`, wait for all, and return the cost; the output is that of the last stage."""
    command = [sys.executable, "-I", "-S", __file__, json.dumps(stages)]
    told = subprocess.run(command, capture_output=True, text=True)
    if told.returncode != 0:
        lines = told.stderr.strip().splitlines()
        raise Failure(lines[-1] if lines else f"the starter ended with {told.returncode}")
    measured = json.loads(told.stdout)
    if measured["failed"]:
        raise Failure(f"{'; '.join(measured['failed'])}: {measured['said']}")
    return Cost(measured["wall"], measured["cpu"], measured["rss"], measured["output"])


def started(stages: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Start the stages and wait for each by wait4, whose usage has the stage and every child that it waited for."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.monotonic()
        running: list[tuple[str, subprocess.Popen[bytes]]] = []
        previous: int | None = None
        for stage in stages:
            reader, writer = os.pipe() if stage is not stages[-1] else (None, None)
            stdin = previous if previous is not None else subprocess.DEVNULL
            stdout = writer if writer is not None else out
            running.append((stage[0], subprocess.Popen(stage, stdin=stdin, stdout=stdout, stderr=errors)))
            for end in (previous, writer):
                if end is not None:
                    os.close(end)
            previous = reader
        cpu, rss, failed = 0.0, 0, []
        for name, process in running:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += usage.ru_utime + usage.ru_stime
            rss += usage.ru_maxrss * 1024
            if process.returncode != 0:
                failed.append(f"{os.path.basename(name)} ended with {process.returncode}")
        wall = time.monotonic() - began
        errors.seek(0)
        out.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
        output = out.read().decode(errors="replace")
        said = lines[-1][:300] if lines else ""
        return {"wall": wall, "cpu": cpu, "rss": rss, "output": output, "failed": failed, "said": said}


if __name__ == "__main__":
    print(json.dumps(started(json.loads(sys.argv[1]))))
