"""Pull and verify one large layer from loopback nginx, by towline and by others, interleaved, beside the floor.

    python bench/pull.py                      1 GiB, five rounds
    python bench/pull.py --size 16M --rounds 1        a smoke run
    python bench/pull.py -o json

| way | what it does |
| --- | --- |
| floor | SHA-256 over the layer in memory: no network, no file |
| curl | `curl | openssl dgst -sha256`: receive and hash, in two processes, nothing kept |
| skopeo | `skopeo copy` to a dir: receive, verify, write |
| towline | `towline pull` to an OCI layout: receive, verify, write |

Ratios are of medians. Exit code 1 when a way that was asked for could not be run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nginx
from image import MIB, Image, make_image
from machine import machine, towline_command
from measure import Cost, Failure, run_pipeline

WAYS = ("floor", "curl", "skopeo", "towline")
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_of(text: str) -> int:
    """Return the bytes that `16M` or `1G` means."""
    number = text.rstrip("KMGiB")
    unit = text[len(number) :].removesuffix("iB").removesuffix("B")
    if not number.isdecimal() or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"expected a size such as 16M or 1G, got {text!r}")
    return int(number) * UNITS[unit]


# ── the ways ────────────────────────────────────────────────────────────────────
def floor(image: Image, address: str, out: Path) -> Cost:
    told = json.loads(
        run_pipeline([[sys.executable, str(Path(__file__).with_name("floor.py")), str(image.layer_file)]]).output
    )
    if "sha256:" + told["digest"] != image.layer:
        raise Failure("the floor's digest is not the layer's")
    # The stage's own clock: making a gibibyte of memory is not hashing.
    return Cost(told["wall"], told["cpu"], told["rss"], "")


def curl(image: Image, address: str, out: Path) -> Cost:
    fetch = ["curl", "--silent", "--fail", f"http://{address}/v2/bench/blobs/{image.layer}"]
    cost = run_pipeline([fetch, ["openssl", "dgst", "-sha256"]])
    if image.layer.removeprefix("sha256:") not in cost.output:
        raise Failure(f"expected the layer's digest, got {cost.output.strip()!r}")
    return cost


def skopeo(image: Image, address: str, out: Path) -> Cost:
    command = ["skopeo", "--insecure-policy", "--tmpdir", str(out.parent), "copy", "--quiet", "--src-tls-verify=false"]
    cost = run_pipeline([[*command, f"docker://{address}/bench:latest", f"dir:{out}"]])
    _kept(out / image.layer.removeprefix("sha256:"), image)
    return cost


def towline(image: Image, address: str, out: Path) -> Cost:
    command = [
        *towline_command(),
        "pull",
        "--plain-http",
        "--anonymous",
        "--quiet",
        f"{address}/bench:latest",
        str(out),
    ]
    cost = run_pipeline([command])
    _kept(out / "blobs" / "sha256" / image.layer.removeprefix("sha256:"), image)
    return cost


def _kept(path: Path, image: Image) -> None:
    if not path.exists() or path.stat().st_size != image.size:
        raise Failure(f"expected {image.size} bytes of the layer in {path.parent}, got something else")


RUN: dict[str, Callable[[Image, str, Path], Cost]] = {
    "floor": floor,
    "curl": curl,
    "skopeo": skopeo,
    "towline": towline,
}


# ── the run ─────────────────────────────────────────────────────────────────────
def measure(
    image: Image, address: str, ways: list[str], rounds: int, work: Path
) -> tuple[dict[str, list[Cost]], dict[str, str]]:
    """Return the costs of each way, and why a way has none. Ways alternate, so that a slow minute hits all."""
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    absent: dict[str, str] = {}
    for number in range(rounds):
        for way in ways:
            if way in absent:
                continue
            out = work / f"out-{way}"
            try:
                costs[way].append(RUN[way](image, address, out))
            except (Failure, OSError) as failure:
                absent[way] = str(failure)
                print(f"bench: {way}: {failure}", file=sys.stderr)
            finally:
                shutil.rmtree(out, ignore_errors=True)
            if costs[way]:
                print(f"round {number + 1} {way:8} {costs[way][-1].wall:7.3f} s", file=sys.stderr)
    return {way: kept for way, kept in costs.items() if kept and way not in absent}, absent


def summary(costs: dict[str, list[Cost]], image: Image) -> list[dict[str, Any]]:
    """Return one row for each way: least, median and most of wall and CPU, memory, and the ratios."""
    middle = {
        way: {key: statistics.median(getattr(cost, key) for cost in kept) for key in ("wall", "cpu")}
        for way, kept in costs.items()
    }
    rows = []
    for way, kept in costs.items():
        walls, cpus = [cost.wall for cost in kept], [cost.cpu for cost in kept]
        row: dict[str, Any] = {
            "way": way,
            "wall": [min(walls), middle[way]["wall"], max(walls)],
            "cpu": [min(cpus), middle[way]["cpu"], max(cpus)],
            "rss": max(cost.rss for cost in kept),
            "mib_per_second": image.size / MIB / middle[way]["wall"],
        }
        for other in ("floor", "curl", "skopeo"):
            if other in middle:
                row[f"wall_to_{other}"] = middle[way]["wall"] / middle[other]["wall"]
                row[f"cpu_to_{other}"] = middle[way]["cpu"] / middle[other]["cpu"]
        rows.append(row)
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    others = [other for other in ("floor", "curl", "skopeo") if any(f"wall_to_{other}" in row for row in rows)]
    head = [
        "way",
        "wall s (min med max)",
        "CPU s (min med max)",
        "peak RSS MiB",
        "MiB/s",
        *(f"wall, CPU : {other}" for other in others),
    ]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for row in rows:
        cells = [
            row["way"],
            " ".join(f"{value:.2f}" for value in row["wall"]),
            " ".join(f"{value:.2f}" for value in row["cpu"]),
            f"{row['rss'] / MIB:.0f}",
            f"{row['mib_per_second']:.0f}",
            *(f"{row[f'wall_to_{other}']:.2f}, {row[f'cpu_to_{other}']:.2f}" for other in others),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def work_folder(size: int) -> Path | None:
    """Return shared memory where it has room for the layer and its copies, so that no disk is measured."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 * size:
        return memory
    return None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size_of, default=size_of("1G"), help="bytes of the layer's file (default 1G)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)}")
    parser.add_argument("--work", type=Path, help="folder for the image and the copies (default: shared memory)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    options = parser.parse_args(arguments)
    ways = options.ways.split(",")
    if options.rounds < 1 or not set(ways) <= set(WAYS):
        parser.error(f"expected --rounds of 1 or more and --ways of {', '.join(WAYS)}")
    with tempfile.TemporaryDirectory(prefix="towline-bench-", dir=options.work or work_folder(options.size)) as name:
        work = Path(name)
        image = make_image(work / "image", options.size)
        with nginx.serving(image, work / "nginx") as address:
            costs, absent = measure(image, address, ways, options.rounds, work)
        rows = summary(costs, image)
    on = machine("towline", "curl", "openssl", "skopeo", "nginx")
    if options.output == "json":
        print(
            json.dumps(
                {"layer_bytes": image.size, "rounds": options.rounds, "machine": on, "rows": rows, "absent": absent}
            )
        )
    else:
        print(f"one layer of {image.size / MIB:.0f} MiB from loopback nginx, {options.rounds} rounds, interleaved\n")
        print(table(rows))
        print("\n" + "; ".join(f"{key}: {value}" for key, value in on.items()))
        for way, why in absent.items():
            print(f"{way}: not measured: {why}")
    return 1 if absent else 0


if __name__ == "__main__":
    sys.exit(main())
