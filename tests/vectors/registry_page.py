"""Writes the table of docs/registries.md: `PYTHONPATH=tests python tests/vectors/registry_page.py --write`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vectors import registry_b, served

from towline.core.registry import DIALECTS

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "registries.md"
BEGIN, END = "<!-- written by tests/vectors/registry_page.py -->", "<!-- end -->"

OPERATIONS = ("check", "repositories", "tags", "details", "manifest", "blob", "state", "expiry")
# The transcripts' words for our operations.
WORDS = {
    "check": "check",
    "connect-check": "check",
    "list-repositories": "repositories",
    "list_repositories": "repositories",
    "probe-catalog": "repositories",
    "list-tags": "tags",
    "list_tags": "tags",
    "get-manifest": "manifest",
    "get_manifest": "manifest",
    "get-blob": "blob",
    "get_blob": "blob",
}
# What runs against docker-registry: tests/interop.
REAL = {"check", "repositories", "tags", "details", "manifest", "blob", "state", "expiry"}


def proofs() -> dict[str, dict[str, str]]:
    """Return for each type and operation how it is proven: the strongest way there is."""
    found: dict[str, dict[str, str]] = {name: dict.fromkeys(OPERATIONS, "documents") for name in DIALECTS}
    found["oci"] = {operation: "server" for operation in OPERATIONS if operation in REAL}
    for path in sorted((HERE / "registry").glob("transcript-*.json")):
        document = json.loads(path.read_text())
        for scenario in document["scenarios"]:
            how = "command" if served.scenario_is_served(scenario) else "machine"
            _note(found[document["type"]], scenario["operation"]["op"], scenario["name"], how)
    for path in sorted((HERE / "registry-b").glob("*.json")):
        for vector in json.loads(path.read_text())["vectors"]:
            if "steps" in vector and registry_b.playable(vector):
                how = "command" if served.vector_is_served(vector) else "machine"
                _note(found[vector["type"]], vector["operation"], vector["name"], how)
    return found


def _note(row: dict[str, str], operation: str, name: str, how: str) -> None:
    what = ["expiry"] if any(word in name for word in ("expir", "revoked", "renewed")) else []
    what += [WORDS[operation]] if operation in WORDS else []
    for each in what:
        if row[each] != "command":
            row[each] = how


def table() -> str:
    """Return the page's generated part."""
    lines = [BEGIN, "", f"| type | {' | '.join(OPERATIONS)} |", "| --- |" + " --- |" * len(OPERATIONS)]
    for name, row in proofs().items():
        lines.append(f"| `{name}` | {' | '.join(row[operation] for operation in OPERATIONS)} |")
    return "\n".join([*lines, "", END])


def page() -> str:
    """Return the page as it should be."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    return before + table() + rest.partition(END)[2]


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("usage: registry_page.py --write")
    PAGE.write_text(page())
