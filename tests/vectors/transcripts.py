"""Play transcript vectors against the registry's conversations, at the exchange level: no socket, no clock.

Each scenario says in order which request must go out and what is answered. The scripts run under `Script`;
bulk streams are built from the core's own plans, so that what is called verified was verified.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from towline.core import (
    WAKE,
    Begin,
    Body,
    Broken,
    End,
    Entropy,
    Failed,
    Feed,
    Fetch,
    Finished,
    Head,
    Proved,
    Read,
    Refused,
    Request,
    Script,
    Secret,
    Sleep,
    Step,
    Tail,
    TowlineError,
)
from towline.core.layer import BlobPlan, build
from towline.core.registry import (
    DIALECTS,
    Credentials,
    Descriptor,
    Platform,
    Registry,
    download_blob,
    find_dialect,
    list_repositories,
    list_tags,
    ping,
    resolve_manifest,
)
from towline.core.registry._access import obtain_with
from towline.core.registry._session import TokenKey

# The vectors' names for the ends of an operation, and our kinds.
ERRORS = {
    "authentication-failed": {"registry-unauthorized"},
    "authentication-required": {"registry-unauthorized"},
    "access-denied": {"registry-forbidden"},
    "not-found": {"not-found", "repository-not-found", "image-not-found"},
    "rate-limited": {"registry-rate-limited"},
    "protocol-error": {"protocol-error"},
    "digest-mismatch": {"digest-mismatch"},
    "blocked-realm": {"realm-blocked"},
    "blocked-redirect": {"redirect-blocked"},
}


class Mismatch(Exception):
    """The script did not do what the scenario says."""


def playable(document: dict[str, Any]) -> bool:
    """Tell whether there is a dialect for a transcript's type."""
    return document.get("type") in DIALECTS


def play_scenario(document: dict[str, Any], scenario: dict[str, Any]) -> str | None:
    """Play one scenario; return None, or what went wrong."""
    try:
        registry = _registry(document, scenario["operation"])
        realm = scenario["steps"][0]["expect"]["url"]
        outcome = Player(scenario["steps"]).run(_operation(registry, scenario["operation"], realm))
        _compare(scenario["result"], outcome)
    except Mismatch as mismatch:
        return str(mismatch)
    return None


def _registry(document: dict[str, Any], operation: dict[str, Any]) -> Registry:
    config = document["config"]
    who = operation.get("credentials", config)
    if who and "oauth_token" in who:
        who = {"username": "$oauthtoken", "password": who["oauth_token"]}
    credentials = Credentials(who["username"], Secret(who["password"])) if who and who.get("password") else None
    named = [operation[name] for name in ("namespace", "group", "registry") if name in operation]
    return Registry(
        config["base_url"],
        dialect=find_dialect(document["type"]),
        entropy=Entropy(b"a transcript's seed"),
        credentials=credentials,
        allowed_realm_hosts=config.get("extra_realm_hosts", ()),
        namespaces=named or config.get("namespaces", ()),
        api=config.get("api_url"),
        retries=0,
    )


def _operation(registry: Registry, operation: dict[str, Any], realm: str) -> Step[dict[str, Any]]:
    # "An operation without page_size sends no n."
    page_size = operation.get("page_size", 0)
    match operation["op"]:
        case "connect-check":
            yield from ping(registry)
            return {"ok": True, "authenticated": True}
        case "list-tags":
            tags = yield from list_tags(registry, operation["repository"], page_size=page_size)
            return {"tags": list(tags.items)}
        case "list-repositories":
            found = yield from list_repositories(registry, page_size=page_size)
            return {"repositories": list(found.items)}
        case "probe-catalog":
            found = yield from list_repositories(registry, page_size=page_size, via="registry")
            return {"repositories": list(found.items)}
        case "get-manifest":
            platform = Platform.parse(operation["platform"])
            image = yield from resolve_manifest(registry, operation["repository"], operation["reference"], platform)
            return {
                "manifest_digest": image.manifest.digest,
                "media_type": image.manifest.media_type,
                "index_digest": image.index_digest,
                "config_digest": image.image.config.digest,
                "layers": [[layer.digest, layer.size] for layer in image.image.layers],
            }
        case "get-blob":
            blob = Descriptor("", operation["digest"], operation["size"])
            plan = BlobPlan(blob.digest, blob.size)
            proved = yield from download_blob(registry, operation["repository"], blob, plan)
            return {"blob_digest": proved.digest, "size": proved.size, "verified": True}
        case "raw-token":
            key = TokenKey(realm, registry.base.host, tuple(operation["scopes"]), registry.username)
            yield from obtain_with(registry, key, registry.credentials)
            return {}
    raise Mismatch(f"no operation of ours for {operation['op']}")


class Player:
    """Runs a script against steps, each a request that must go out and its answer."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        self.steps = list(steps)
        self.now = 1000.0
        self.body: list[Body | Tail | Broken] = []
        self.streams: dict[int, Any] = {}

    @property
    def pending(self) -> list[dict[str, Any]]:
        """The steps that must still come."""
        return self.steps

    def run(self, steps: Step[dict[str, Any]]) -> dict[str, Any] | TowlineError:
        script = Script(steps)
        script.handle(WAKE, self.now)
        while True:
            wish = script.poll()
            match wish:
                case Finished(value) if not self.pending:
                    return dict(value)
                case Failed(error) if not self.pending:
                    return error
                case Finished() | Failed():
                    raise Mismatch(f"ended early, with {len(self.pending)} steps left: {wish}")
                case Fetch(request):
                    script.handle(self.answer(request), self.now)
                case Read():
                    script.handle(self.body.pop(0), self.now)
                case Sleep(until):
                    self.now = until
                    script.handle(WAKE, self.now)
                case Begin(stream, plan):
                    self.streams[stream] = build(plan)
                case Feed(stream, data):
                    self.streams[stream].feed(data)
                case End(stream):
                    script.handle(self.verdict(stream), self.now)
                case None:
                    raise Mismatch("the script waits for nothing")
                case _:
                    pass

    def verdict(self, stream: int) -> Proved | Refused:
        try:
            return Proved(stream, self.streams[stream].end())
        except TowlineError as error:
            return Refused(stream, error)

    def answer(self, request: Request) -> Head:
        if not self.steps:
            raise Mismatch(f"expected no more requests, got {request.method} {request.url}")
        step = self.steps.pop(0)
        _compare_request(step["expect"], request)
        give = step["give"]
        body = base64.b64decode(give["body_base64"]) if "body_base64" in give else give.get("body", "").encode()
        cut = give.get("cut_after")
        pieces: list[Body | Tail | Broken] = [Body(body if cut is None else body[:cut])] if body else []
        self.body = [*pieces, Tail() if cut is None else Broken("reset")]
        self.now += step.get("then_advance_clock_s", 0)
        return Head(give["status"], tuple((name.lower(), value) for name, value in give.get("headers", ())))


def _compare_request(expect: dict[str, Any], request: Request) -> None:
    want, got = urlsplit(expect["url"]), urlsplit(request.url)
    if (expect["method"], want[:3]) != (request.method, got[:3]):
        raise Mismatch(f"expected {expect['method']} {expect['url']}, got {request.method} {request.url}")
    wanted = sorted(map(tuple, expect.get("query", parse_qsl(want.query, keep_blank_values=True))))
    may_add = set(expect.get("query_may_add", ()))
    asked = sorted(parse_qsl(got.query, keep_blank_values=True))
    if wanted != [pair for pair in asked if pair in wanted or pair[0] not in may_add]:
        raise Mismatch(f"expected the query {wanted}, got {asked}")
    headers = {n.lower(): v.reveal() if isinstance(v, Secret) else v for n, v in request.headers}
    if "authorization" in expect and headers.get("authorization") != expect["authorization"]:
        raise Mismatch(f"expected authorization {expect['authorization']}, got {headers.get('authorization')}")
    for name, value in expect.get("headers", {}).items():
        if headers.get(name) != value:
            raise Mismatch(f"expected {name}: {value}, got {headers.get(name)}")
    for accepted in expect.get("accept_includes", ()):
        if accepted not in headers.get("accept", ""):
            raise Mismatch(f"expected accept with {accepted}, got {headers.get('accept')}")
    if "json" in expect and json.loads(request.body) != expect["json"]:
        raise Mismatch("expected another JSON body")


def _compare(result: dict[str, Any], outcome: dict[str, Any] | TowlineError) -> None:
    if isinstance(outcome, TowlineError):
        if outcome.kind not in ERRORS.get(result.get("error", ""), ()):
            raise Mismatch(f"expected {result}, got {outcome!r}")
        if "retry_after_s" in result and outcome.retry_after != result["retry_after_s"]:
            raise Mismatch(f"expected a wait of {result['retry_after_s']} s, got {outcome.retry_after}")
    elif any(outcome.get(name) != value for name, value in result.items()):
        raise Mismatch(f"expected {result}, got {outcome}")
