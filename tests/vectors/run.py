"""Run a folder of vectors: `python tests/vectors/run.py DIR`.

Takes any folder with files of the format `registry-vectors/1`, told apart by their `kind`; transcripts are played
for the registry types that have a dialect. Recorded broker sessions (`*.jsonl`) are played in both roles, and files
with the established matcher's verdicts decided (broker_player, broker_filters). Prints a line for each
file with what passed and failed, and each failure with what was expected and what came. Ends with 0 when all
passed, 1 when one failed, 2 when there was nothing to run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import towline.core  # noqa: F401
except ModuleNotFoundError:
    # The script is run from a checkout as well, where nothing is installed.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "core"))

from towline.core import RemoteProtocolError
from towline.core.http import Url
from towline.core.registry import (
    BadLink,
    ImageReference,
    InvalidReference,
    TokenRefused,
    next_page,
    parse_challenges,
    parse_error_body,
    parse_token_answer,
    realm_allowed,
    select,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from vectors import broker_filters, broker_run, registry_b, served, transcripts

Vector = dict[str, Any]

FORMAT = "registry-vectors/1"

# The vectors' names for error kinds, and ours.
KIND_ALIASES = {
    "authentication-failed": "registry-unauthorized",
    "rate-limited": "registry-rate-limited",
    "protocol-error": "protocol-error",
}


def run_www_authenticate(vector: Vector) -> Any:
    found = parse_challenges(vector["field_values"])
    chosen = select(found)
    return {
        "challenges": [{"scheme": c.scheme, "params": c.params, "token68": c.token68} for c in found.items],
        "malformed": found.malformed,
        "lenient": found.lenient,
        "select": None if chosen is None else next(at for at, c in enumerate(found.items) if c is chosen),
    }


def run_realm_policy(vector: Vector) -> Any:
    verdict = realm_allowed(vector["registry_base"], vector["realm"], vector["allowed_realm_hosts"])
    return {"send_credentials": verdict.send_credentials, "rule": verdict.rule}


def run_token_response(vector: Vector) -> Any:
    body = vector["body"].encode()
    answer = parse_token_answer(vector["status"], body)
    if isinstance(answer, TokenRefused):
        names = {ours: theirs for theirs, ours in KIND_ALIASES.items()}
        return {"error": names.get(answer.kind, answer.kind), "message": answer.said}
    out = {"token": answer.token.reveal(), "lifetime_s": answer.lifetime}
    if answer.refresh_token is not None:
        out["refresh_token"] = answer.refresh_token.reveal()
    return out


def run_image_reference(vector: Vector) -> Any:
    try:
        found = ImageReference.parse(vector["input"])
    except InvalidReference as error:
        return {"ok": False, "error": error.fault}
    members = ("domain", "path", "tag", "digest", "name", "familiar", "api_host", "default_tag_applies")
    return {"ok": True, **{member: getattr(found, member) for member in members}}


def run_link_header(vector: Vector) -> Any:
    try:
        url = next_page(Url.parse(vector["request_url"]), vector["field_values"])
    except BadLink as error:
        return {"outcome": "error", "reason": error.fault}
    return {"outcome": "none"} if url is None else {"outcome": "next", "url": str(url)}


def run_error_body(vector: Vector) -> Any:
    report = parse_error_body(vector["status"], vector["content_type"], vector["body"].encode())
    return {"codes": list(report.codes), "message": report.message}


RUNNERS: dict[str, Callable[[Vector], Any]] = {
    "www-authenticate": run_www_authenticate,
    "realm-policy": run_realm_policy,
    "token-response": run_token_response,
    "image-reference": run_image_reference,
    "link-header": run_link_header,
    "error-body": run_error_body,
}


def agrees(kind: str, expect: Any, got: Any) -> bool:
    """Compare as the format's README says."""
    if kind == "link-header" and expect.get("url") and got.get("url"):
        # Scheme and host are compared in lower case; a default port that is written out is the same address.
        return bool(expect["outcome"] == got["outcome"] and str(Url.parse(expect["url"])) == got["url"])
    if kind == "token-response":
        # `lenient` marks what may be tolerated; an error's message is compared where the vector has one.
        return all(got.get(name) == value for name, value in expect.items() if name != "lenient")
    if kind == "www-authenticate":
        # An implementation may ignore the flag `lenient`.
        expect = {name: value for name, value in expect.items() if name != "lenient"}
        got = {name: value for name, value in got.items() if name != "lenient"}
    return bool(expect == got)


def check(kind: str, vector: Vector) -> str | None:
    """Run one vector; return None, or what went wrong."""
    try:
        got = RUNNERS[kind](vector)
    except RemoteProtocolError as error:
        got = {"raised": repr(error)}
    if agrees(kind, vector["expect"], got):
        return None
    return f"expected {json.dumps(vector['expect'])}\n      got {json.dumps(got)}"


def load(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the folder's vector files."""
    for path in sorted(folder.glob("*.json")):
        try:
            document = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            print(f"{path.name}: not JSON: {error}")
            continue
        if isinstance(document, dict):
            yield path, document


def main(arguments: list[str]) -> int:
    machine_only = "--machine-only" in arguments
    folders = [Path(text) for text in arguments if text != "--machine-only"]
    if len(folders) != 1 or not folders[0].is_dir():
        print("usage: run.py [--machine-only] DIR", file=sys.stderr)
        return 2
    ran, failures = broker_run.run_sessions(folders[0])
    for path, document in load(folders[0]):
        if broker_filters.is_filters(document):
            compared, differing = broker_run.run_filters(path.name, document)
            ran, failures = ran + compared, failures + differing
            continue
        kind = document.get("kind", document.get("format", "unknown"))
        if document.get("format") == FORMAT and kind == "transcript" and transcripts.playable(document):
            scenarios = document["scenarios"]
            results = [(scenario["name"], transcripts.play_scenario(document, scenario)) for scenario in scenarios]
        elif document.get("format") == FORMAT and kind in RUNNERS and isinstance(document.get("vectors"), list):
            results = [(vector.get("id", "?"), check(kind, vector)) for vector in document["vectors"]]
        elif document.get("format") == registry_b.FORMAT and any(map(registry_b.playable, document["vectors"])):
            playable = filter(registry_b.playable, document["vectors"])
            results = [(vector["name"], registry_b.play(vector)) for vector in playable]
        else:
            of_type = f" of type {document['type']}" if kind == "transcript" and "type" in document else ""
            print(f"{path.name}: not run: kind {kind}{of_type}")
            continue
        failures += tell(f"{path.name}: {{passed}} passed, {{failed}} failed", results)
        ran += len(results)
        transcript = [run for _, run in served.served(path)]
        if transcript and not machine_only:
            results = served.run_all(path)
            alone = transcript.count(None)
            line = f"{path.name}: {{passed}} passed by the command, {{failed}} failed, {alone} have none"
            failures += tell(line, results)
            ran += len(results)
    print(f"{ran - failures} passed, {failures} failed")
    if not ran:
        return 2
    return 1 if failures else 0


def tell(line: str, results: list[tuple[str, str | None]]) -> int:
    """Print a line with how many passed and failed, and each failure; return how many failed."""
    wrong = [(name, problem) for name, problem in results if problem]
    print(line.format(passed=len(results) - len(wrong), failed=len(wrong)), flush=True)
    for name, problem in wrong:
        print(f"  {name}: {problem}")
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
