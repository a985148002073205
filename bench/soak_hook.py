"""A program of ours as it is installed, and on SIGUSR1 one line about itself: `python soak_hook.py FILE COMMAND...`.

Descriptors, tasks of the loop, threads and objects are counted from inside, because a hardened process lets nobody
but root look at its descriptors, and nobody at its tasks.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import trio

from towline.runtimes.cli import main


def tell_into(path: Path) -> None:
    def tell(*_: Any) -> None:
        # The folder that is being listed has a descriptor of its own.
        descriptors = len(os.listdir("/proc/self/fd")) - 1
        tasks = trio.lowlevel.current_statistics().tasks_living
        told = {"descriptors": descriptors, "tasks": tasks, "threads": threading.active_count()}
        with path.open("a") as out:
            out.write(json.dumps({**told, "objects": len(gc.get_objects())}) + "\n")

    signal.signal(signal.SIGUSR1, tell)


if __name__ == "__main__":
    tell_into(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
