"""How many requests the lists of a registry take: towline's, the stock client's and skopeo's, one after the other.

    python bench/registries.py                          1,200 repositories, 2,500 tags
    python bench/registries.py --repositories 30 --tags 40 -o json       a smoke run

docker-registry with token authentication stands behind nginx, whose log counts every request, those for tokens too.
The stock client is @snyk/docker-registry-v2-client by the lock file in bench/npm, with the page sizes it has by
itself; ours has its own as well. skopeo lists no repositories. Exit code 1 when a way could not be run, found
another list, or ours took more requests than another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from machine import machine, towline_command
from measure import Failure
from peers import (
    SOURCE,
    NginxFront,
    Passed,
    TokenServer,
    docker_registry,
    folder_in_memory,
    free_port,
    nginx_front,
    push_many,
    token_server,
)

HERE = Path(__file__).resolve().parent
USER, PASSWORD = "bench", "a-password"
WAYS = ("towline", "stock", "skopeo")
NPM = HERE.parent / ".peers-cache" / "docker-registry-v2-client"
SCRIPT = """
const client = require("@snyk/docker-registry-v2-client");
const [what, base, repository, user, password] = process.argv.slice(1);
const list = what === "tags" ? client.getTags(base, repository, user, password) : client.getRepos(base, user, password);
list.then((found) => console.log(JSON.stringify(found)), (error) => { console.error(error); process.exit(1); });
"""


# ── the ways ────────────────────────────────────────────────────────────────────
def towline(what: str, front: NginxFront) -> list[str]:
    named = ["tags", f"{front.address}/{SOURCE}"] if what == "tags" else ["repos", front.address]
    command = [*towline_command(), *named, "--ca-file", front.ca_file, "--creds-stdin", "-o", "json"]
    told = json.loads(_output(command, {}, f"{USER}:{PASSWORD}\n"))
    if not told["complete"]:
        raise Failure(f"expected all {what}, got an incomplete list: {told['warnings']}")
    return list(told[what])


def stock(what: str, front: NginxFront) -> list[str]:
    node = shutil.which("node")
    if node is None:
        raise Failure("node is not here")
    install_stock()
    command = [node, "-e", SCRIPT, what, front.address, SOURCE, USER, PASSWORD]
    around = {"NODE_PATH": str(NPM / "node_modules"), "NODE_EXTRA_CA_CERTS": front.ca_file}
    return list(json.loads(_output(command, around)))


def skopeo(what: str, front: NginxFront) -> list[str]:
    folder = Path(front.ca_file).parent / "trusted"
    folder.mkdir(exist_ok=True)
    shutil.copy(front.ca_file, folder / "ca.crt")
    command = ["skopeo", "list-tags", "--cert-dir", str(folder), "--creds", f"{USER}:{PASSWORD}"]
    return list(json.loads(_output([*command, f"docker://{front.address}/{SOURCE}"], {}))["Tags"])


RUN: dict[str, Callable[[str, NginxFront], list[str]]] = {"towline": towline, "stock": stock, "skopeo": skopeo}


def install_stock() -> None:
    """Install the stock client by its lock file, where it is not there yet."""
    lock = HERE / "npm" / "package-lock.json"
    there = NPM / "package-lock.json"
    if there.exists() and there.read_bytes() == lock.read_bytes() and (NPM / "node_modules").is_dir():
        return
    npm = shutil.which("npm")
    if npm is None:
        raise Failure("@snyk/docker-registry-v2-client is not here: npm is missing")
    shutil.rmtree(NPM, ignore_errors=True)
    NPM.mkdir(parents=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "npm" / name, NPM / name)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=NPM, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        shutil.rmtree(NPM, ignore_errors=True)
        raise Failure("@snyk/docker-registry-v2-client cannot be installed: npm failed")


def _output(command: list[str], around: dict[str, str], given: str = "") -> str:
    environment = {**os.environ, **around}
    done = subprocess.run(command, input=given, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or [""])[0]
        raise Failure(f"{Path(command[0]).name} ended with {done.returncode}: {said[:300]}")
    return done.stdout


# ── the run ─────────────────────────────────────────────────────────────────────
@contextmanager
def registry(work: Path, repositories: int, tags: int) -> Iterator[tuple[NginxFront, dict[str, list[str]]]]:
    """Serve that many repositories, and tags of one of them; gives the front and what its lists are."""
    with docker_registry(work / "root") as open_registry:
        names, tagged = push_many(open_registry.address, repositories, tags)
    port = free_port()
    tokens = TokenServer(USER, PASSWORD, seen_at=f"https://127.0.0.1:{port}/token")
    with ExitStack() as stack:
        stack.enter_context(token_server(tokens))
        peer = stack.enter_context(docker_registry(work / "root", token=tokens))
        more = f"location = /token {{ proxy_pass http://127.0.0.1:{tokens.port}/token; }}"
        front = stack.enter_context(nginx_front(peer.address, work / "front", strip=False, more=more, port=port))
        yield front, {"repositories": names, "tags": tagged}


def measure(front: NginxFront, lists: dict[str, list[str]], ways: list[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each list and way, and what went wrong."""
    rows: list[dict[str, Any]] = []
    wrong: list[str] = []
    for what, expected in lists.items():
        for way in ways:
            if (what, way) == ("repositories", "skopeo"):
                continue
            before = len(front.passed())
            began = time.monotonic()
            try:
                found = RUN[way](what, front)
            except (Failure, OSError, ValueError) as failure:
                wrong.append(f"{way}: {what}: not measured: {failure}")
                continue
            wall = time.monotonic() - began
            if sorted(found) != expected:
                wrong.append(f"{way}: {what}: expected {len(expected)} names, got {len(found)}, or others")
            rows.append(
                {"list": what, "way": way, "found": len(found), "wall": wall, **counts(front.passed()[before:])}
            )
        wrong += more_than_others([row for row in rows if row["list"] == what])
    return rows, wrong


def counts(passed: list[Passed]) -> dict[str, int]:
    """Return how many requests passed: for tokens, refused for want of one, and all."""
    return {
        "requests": len(passed),
        "tokens": sum(one.target.startswith("/token") for one in passed),
        "refused": sum(one.status == 401 for one in passed),
    }


def more_than_others(rows: list[dict[str, Any]]) -> list[str]:
    """Return where ours took more requests than another way for the same list."""
    ours = next((row for row in rows if row["way"] == "towline"), None)
    return [
        f"towline: {row['list']}: {ours['requests']} requests, {row['way']} has {row['requests']}"
        for row in rows
        if ours is not None and ours["requests"] > row["requests"]
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| list | way | found | requests | of them for tokens | refused | wall s |", "| --- " * 7 + "|"]
    lines += [
        f"| {row['list']} | {row['way']} | {row['found']} | {row['requests']} | {row['tokens']} | {row['refused']} |"
        f" {row['wall']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=1200)
    parser.add_argument("--tags", type=int, default=2500)
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    ways = options.ways.split(",")
    if options.repositories < 1 or options.tags < 1 or not set(ways) <= set(WAYS):
        parser.error(f"expected --repositories and --tags of 1 or more, and --ways of {', '.join(WAYS)}")
    with folder_in_memory() as work, registry(work, options.repositories, options.tags) as (front, lists):
        rows, wrong = measure(front, lists, ways)
    on = machine("towline", "skopeo", "nginx", "node")
    if options.output == "json":
        print(json.dumps({"rows": rows, "wrong": wrong, "machine": on}))
    else:
        print(table(rows))
        print("\n" + "; ".join(f"{key}: {value}" for key, value in on.items()))
        print("".join(f"\n{text}" for text in wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
