"""Do one operation of the hostile registry's judge by the real command: `probe.py --op pull --registry HOST:PORT ...`.

The password comes from KIT_PASSWORD and goes to the command by standard input. What the command wrote is passed on;
a failure ends with one line that names its kind by the kit's own word. The exit status is the command's.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

OPERATIONS = {
    "ping": ["check"],
    "list": ["repos"],
    "tags": ["tags"],
    "manifest": ["inspect", "--platform", "all"],
    "pull": ["scan"],
}

# Our error codes by the kit's kinds. One code may be several of them, as the kit has one word for a class of errors
# where it looks from the wire, and we have one where we look from what to do about it.
KINDS: dict[str, set[str]] = {
    "ADDRESS_BLOCKED": {"redirect"},
    "BAD_ARCHIVE": {"archive", "malformed"},
    "BOMB": {"bomb"},
    "CATALOG_UNSUPPORTED": {"unsupported"},
    "DIGEST_MISMATCH": {"digest"},
    "IMAGE_TOO_LARGE": {"too_large"},
    "INVALID_MANIFEST": {"malformed"},
    "LIST_LIMIT": {"pagination", "too_large"},
    "LIST_LOOP": {"pagination"},
    "PROTOCOL_ERROR": {"auth", "malformed", "pagination", "protocol", "too_large", "truncated"},
    "REALM_BLOCKED": {"auth"},
    "REDIRECT_BLOCKED": {"redirect"},
    "REGISTRY_ERROR": {"auth", "network", "server"},
    "REGISTRY_FORBIDDEN": {"auth", "denied"},
    "REGISTRY_RATE_LIMITED": {"rate_limited"},
    "REGISTRY_UNAUTHORIZED": {"auth"},
    "REGISTRY_UNREACHABLE": {"network", "protocol", "truncated"},
    "SIZE_MISMATCH": {"protocol", "size", "truncated"},
    "TIMEOUT": {"protocol", "timeout"},
    "UNSUPPORTED_ARTIFACT": {"unsupported"},
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--op", required=True, choices=sorted(OPERATIONS))
    parser.add_argument("--registry", required=True)
    parser.add_argument("--repo", default="")
    parser.add_argument("--ref", default="latest")
    parser.add_argument("--user", default="")
    given = parser.parse_args()
    target = given.registry if given.op in ("ping", "list") else f"{given.registry}/{given.repo}"
    if given.op in ("manifest", "pull"):
        target += f":{given.ref}"
    command = [
        str(Path(sys.executable).with_name("towline")),
        *OPERATIONS[given.op],
        target,
        "--plain-http",
        "--creds-stdin",
        *("--allow-network", "127.0.0.1/32"),
        *("--allow-network", "127.0.0.2/32"),
        *("-o", "json"),
    ]
    login = f"{given.user}:{os.environ.get('KIT_PASSWORD', '')}\n"
    done = subprocess.run(command, input=login.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    sys.stdout.buffer.write(done.stdout)
    if done.returncode:
        code = code_of(done.stdout.decode("utf-8", "replace"))
        print(f"kind: {' or '.join(sorted(KINDS.get(code, {code.lower()})))} ({code})")
    return done.returncode


def code_of(output: str) -> str:
    """Return the code of an error as each tool writes it: a line, a step of a check, a list's reason."""
    for pattern in (r"^towline: ([A-Z_]+):", r'"code":"([A-Z_]+)"', r"incomplete: ([A-Z_]+):"):
        found = re.search(pattern, output, re.MULTILINE)
        if found:
            return found[1]
    return "NONE"


if __name__ == "__main__":
    sys.exit(main())
