"""A stranger's five minutes: what the README prints in `sh` blocks, top to bottom in one shell, works as printed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_tools import environment
from needed import CLONE, need_peer

from towline.runtimes.demo.scene import SERVED

BLOCKS = re.findall(r"^```sh\n(.*?)^```", (CLONE / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def taken() -> list[int]:
    """Return the demo's fixed ports that somebody else listens on."""
    found = []
    for port in (SERVED.registry, SERVED.server, SERVED.client, SERVED.agent):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(port)
    return found


def test_the_commands_of_the_readme_work_as_printed(tmp_path: Path) -> None:
    need_peer("curl")
    if (busy := taken()) and os.environ.get("CI", "").lower() != "true":
        pytest.skip(f"somebody listens on {busy}, where `towline demo --serve` would")
    # The reader stands in the clone, whose .venv `make demo` has made.
    (tmp_path / ".venv").symlink_to(sys.prefix)
    script = [
        # Jobs as in a person's shell; whatever fails ends it, and nothing stays behind.
        "set -em",
        "trap 'kill %1 2>/dev/null || true' EXIT",
    ]
    for number, block in enumerate(BLOCKS):
        script += [f"echo '── block {number}'", block]
    with subprocess.Popen(
        ["bash", "-c", "\n".join(script)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=tmp_path, env=environment(tmp_path),
    ) as shell:  # fmt: skip
        try:
            out, err = shell.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            # Terminated rather than killed, so that it ends what it started.
            shell.terminate()
            out, err = shell.communicate(timeout=20)
    said = f"{out[-3000:]}\n{err[-3000:]}"
    assert shell.returncode == 0, said
    assert "Traceback" not in err, said
    shown = re.split(r"── block \d+\n", out)[1:]
    assert len(shown) == len(BLOCKS) >= 4
    # The demo tells its hops in between.
    by_hand, through, last = (set(text.splitlines()) for text in shown[1:4])
    assert "serving until interrupted" in out.splitlines()
    assert {"demo/this-machine", "latest"} <= by_hand
    assert any("every digest proven" in line for line in by_hand)
    assert any('"demo/this-machine"' in line for line in through)
    assert any('"jobId"' in line for line in through)
    assert any("401" in line or "denied" in line.lower() for line in last)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".venv"] == []
