"""Play vectors of the format `registry-b/1` against the registry's conversations, at the exchange level.

Each vector says in order which request must go out and what is answered; a skippable step may be left out. What is
signed is verified here by means of its own: AWS signatures are computed anew, JSON web tokens are checked with the
key they claim.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import json
import re
import time
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from vectors.transcripts import Mismatch, Player

from towline.core import Body, Entropy, Head, Request, Secret, Step, Tail, TowlineError
from towline.core.http import Url
from towline.core.layer import BlobPlan
from towline.core.registry import (
    DIALECTS,
    Credentials,
    Descriptor,
    Registry,
    Role,
    Surroundings,
    download_blob,
    find_dialect,
    get_manifest,
    list_repositories,
    list_tags,
    ping,
)
from towline.core.registry.clouds.google import read_key, signing_input
from towline.core.registry.clouds.sigv4 import AwsKeys, signed_headers

FORMAT = "registry-b/1"
START = 1000.0

# The vectors' names for the ends of an operation, and our kinds.
ERRORS = {
    "unauthenticated": {"registry-unauthorized"},
    "forbidden": {"registry-forbidden"},
    "not_found": {"not-found", "repository-not-found", "image-not-found"},
    "rate_limited": {"registry-rate-limited"},
    "unsupported": {"catalog-unsupported"},
    "unavailable": {"registry-error", "registry-unreachable"},
    "untrusted_realm": {"realm-blocked"},
    "untrusted_link": {"protocol-error"},
    "protocol": {"protocol-error"},
}
IGNORED_QUERY = {"account", "client_id"}
VIA = {None: "", "registry": "registry", "rest": "api"}


def playable(vector: dict[str, Any]) -> bool:
    """Tell whether there is something to compare: a transcript of a type with a dialect, or a computation."""
    return vector["operation"] in COMPUTED or ("steps" in vector and vector["type"] in DIALECTS)


def play(vector: dict[str, Any]) -> str | None:
    """Play one vector; return None, or what went wrong."""
    if vector["operation"] in COMPUTED:
        got = COMPUTED[vector["operation"]](vector)
        return None if got == vector["result"] else f"expected {vector['result']}, got {got}"
    try:
        player = VectorPlayer(vector)
        outcome = player.run(_operation(vector, _registry(vector)))
        _compare(vector["result"], outcome)
    except Mismatch as mismatch:
        return str(mismatch)
    return None


def wall_clock(text: str) -> float:
    """Return seconds since 1970 of a clock such as 2026-01-15T12:00:00Z."""
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


def sign_rs256(private_key: Secret, data: bytes) -> bytes:
    """Sign with a private key in PEM, as the programs do."""
    key = load_pem_private_key(private_key.reveal().encode(), None)
    assert isinstance(key, RSAPrivateKey)
    return key.sign(data, padding.PKCS1v15(), SHA256())


def compute_signature(vector: dict[str, Any]) -> dict[str, Any]:
    """Sign a request as AWS wants it, and return the vector's own result where the added headers are the same."""
    config, asked, result = vector["config"], vector["request"], vector["result"]
    token = config["session_token"]
    keys = AwsKeys(config["access_key_id"], Secret(config["secret_access_key"]), Secret(token) if token else None)
    given = tuple((name, value) for name, value in asked["headers"])
    split = urlsplit(asked["url"])
    url = Url("https", split.hostname or "", split.port or 443, quote(split.path, safe="/%"), split.query or None)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_clock(config["clock"])))
    made = signed_headers(
        asked["method"],
        url,
        given,
        asked["body"].encode(),
        keys,
        service=config["service"],
        region=config["region"],
        stamp=stamp,
    )
    added = {name.lower(): v.reveal() if isinstance(v, Secret) else v for name, v in made[len(given) :]}
    wanted = {name.lower(): value for name, value in result["headers_to_add"].items()}
    return dict(result) if added == wanted else {"headers_to_add": added}


def compute_assertion(vector: dict[str, Any]) -> dict[str, Any]:
    """Make a JSON web token; bytes are compared where the vector is written as compactly as ours."""
    config, result = vector["config"], vector["result"]
    text = json.dumps(config["service_account_key"])
    key = read_key(Secret(text), encoded=False)
    signed = signing_input(key, config["scope"], int(wall_clock(config["clock"])))
    header, claims = (json.loads(_unpadded(part)) for part in signed.decode().split("."))
    got = {"header": header, "claims": claims}
    if config["serialisation"] == "compact":
        signature = base64.urlsafe_b64encode(sign_rs256(Secret(key.private_key), signed)).rstrip(b"=").decode()
        got |= {"signing_input": signed.decode(), "signature": signature}
    return dict(result) if all(result[name] == value for name, value in got.items()) else got


def compute_basic(vector: dict[str, Any]) -> dict[str, Any]:
    config = vector["config"]
    return {"authorization": Credentials(config["username"], Secret(config["password"])).basic().reveal()}


COMPUTED = {"sign": compute_signature, "jwt_assertion": compute_assertion, "basic_header": compute_basic}


def _registry(vector: dict[str, Any]) -> Registry:
    config = vector["config"]
    files = config.get("files", {})
    extra = config.get("extra", {})
    password = config.get("password", "")
    return Registry(
        config.get("registryBase", ""),
        dialect=find_dialect(vector["type"]),
        entropy=Entropy(b"the seed of a vector"),
        credentials=Credentials(config.get("username", ""), Secret(password)) if password else None,
        role=Role(config["roleArn"], extra["region"], Secret(extra["externalId"])) if "roleArn" in config else None,
        surroundings=Surroundings(
            {name: Secret(value) for name, value in config.get("environment", {}).items()},
            lambda path: str(files[path]).encode(),
            sign_rs256,
        ),
        epoch=wall_clock(vector["clock"]) - START,
    )


def _operation(vector: dict[str, Any], registry: Registry) -> Step[dict[str, Any]]:
    options = vector.get("options") or {}
    asked = vector.get("arguments") or {}
    page_size = options.get("page_size", 0)
    via: Any = VIA[options.get("listing")]
    match vector["operation"]:
        case "check":
            yield from ping(registry)
            return {"value": None}
        case "list_repositories":
            found = yield from list_repositories(registry, page_size=page_size, via=via)
            return {"value": list(found.items)}
        case "list_tags":
            found = yield from list_tags(registry, asked["repository"], page_size=page_size, via=via)
            return {"value": list(found.items)}
        case "get_manifest":
            manifest = yield from get_manifest(registry, asked["repository"], asked["reference"])
            raw = manifest.raw
            return {"value": {"media_type": manifest.media_type, "digest": manifest.digest, "size": len(raw)}}
        case "get_blob":
            size = vector["result"]["value"]["size"]
            blob = Descriptor("", asked["digest"], size)
            proved = yield from download_blob(registry, asked["repository"], blob, BlobPlan(blob.digest, size))
            return {"value": {"digest": proved.digest, "size": proved.size}}
    raise Mismatch(f"no operation of ours for {vector['operation']}")


def _compare(result: dict[str, Any], outcome: dict[str, Any] | TowlineError) -> None:
    if result["ok"]:
        if isinstance(outcome, TowlineError):
            raise Mismatch(f"expected {result}, got {outcome!r}")
        if "value" in result and outcome["value"] != result["value"]:
            raise Mismatch(f"expected {result['value']}, got {outcome['value']}")
        return
    error = result["error"]
    if not isinstance(outcome, TowlineError) or outcome.kind not in ERRORS[error["kind"]]:
        raise Mismatch(f"expected {error}, got {outcome!r}")
    said = {"status": outcome.registry_status, "code": outcome.registry_code}
    wrong = {name: value for name, value in error.items() if name != "kind" and said[name] != value}
    if wrong:
        raise Mismatch(f"expected {wrong}, got {said}")


class VectorPlayer(Player):
    """Answers each request with the step it fits, and moves the clock where a step says so."""

    def __init__(self, vector: dict[str, Any]) -> None:
        super().__init__(vector["steps"])
        self.config = vector["config"]
        self.epoch = wall_clock(vector["clock"]) - START
        self._move_clock()

    @property
    def pending(self) -> list[dict[str, Any]]:
        """The steps that are left and may not be left out."""
        return [step for step in self.steps if not step.get("skippable")]

    def answer(self, request: Request) -> Head:
        while self.steps:
            step = self.steps.pop(0)
            wrong = self._misfit(step["request"], request)
            if wrong is None:
                return self._give(step["response"])
            if not step.get("skippable"):
                raise Mismatch(wrong)
        raise Mismatch(f"expected no more requests, got {request.method} {request.url}")

    def _give(self, response: dict[str, Any]) -> Head:
        body = _bytes(response.get("body"))
        self.body = [*([Body(body)] if body else []), Tail()]
        self._move_clock()
        return Head(response["status"], tuple((name.lower(), value) for name, value in response["headers"].items()))

    def _move_clock(self) -> None:
        if self.steps and "clock" in self.steps[0]:
            self.now = max(self.now, wall_clock(self.steps[0]["clock"]) - self.epoch)

    def _misfit(self, expect: dict[str, Any], request: Request) -> str | None:
        """Return how a request differs from what a step expects, or None."""
        want, got = urlsplit(expect["url"]), urlsplit(request.url)
        if (expect["method"], want[:3]) != (request.method, got[:3]):
            return f"expected {expect['method']} {expect['url']}, got {request.method} {request.url}"
        optional = IGNORED_QUERY | set(expect.get("optional_query", ()))
        wanted, asked = _pairs(want.query), _pairs(got.query)
        if [pair for pair in asked if pair in wanted or pair[0] not in optional] != wanted:
            return f"expected the query {wanted}, got {asked}"
        headers = {name.lower(): v.reveal() if isinstance(v, Secret) else v for name, v in request.headers}
        headers.setdefault("host", got.netloc)
        for name in expect.get("absent_headers", ()):
            if name in headers:
                return f"expected no {name}, got one at {request.url}"
        for name, value in expect.get("headers", {}).items():
            wrong = self._header_misfit(name, value, headers, request)
            if wrong is not None:
                return wrong
        return self._body_misfit(expect.get("body"), request.body or b"")

    def _header_misfit(self, name: str, value: Any, headers: dict[str, str], request: Request) -> str | None:
        came = headers.get(name)
        if isinstance(value, str):
            fits = came == value
        elif "prefix" in value:
            fits = (came or "").startswith(value["prefix"])
        elif "contains" in value:
            fits = all(part in (came or "") for part in value["contains"])
        else:
            return self._signature_misfit(value["sigv4"], headers, request)
        return None if fits else f"expected {name}: {value}, got {came}"

    def _signature_misfit(self, keys: dict[str, Any], headers: dict[str, str], request: Request) -> str | None:
        match = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, "
            r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
            headers.get("authorization", ""),
        )
        if match is None:
            return f"expected an AWS signature, got {headers.get('authorization')}"
        key_id, day, region, service, signed, signature = match.groups()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now + self.epoch))
        claims = (key_id, day, region, service, headers.get("x-amz-date"))
        wanted = (keys["access_key_id"], stamp[:8], keys["region"], keys["service"], stamp)
        if claims != wanted:
            return f"expected the claims {wanted}, got {claims}"
        missing = set(keys.get("must_sign", ())) - set(signed.split(";"))
        if missing:
            return f"expected signed headers {sorted(missing)} as well, got {signed}"
        if headers.get("x-amz-security-token") != keys["session_token"]:
            return "expected another session token"
        made = aws_signature(request, signed, headers, keys["secret_access_key"], stamp, region, service)
        return None if made == signature else f"expected the signature {made}, got {signature}"

    def _body_misfit(self, expect: dict[str, Any] | None, body: bytes) -> str | None:
        if expect is None:
            return None
        if "json" in expect:
            return None if json.loads(body) == expect["json"] else f"expected {expect['json']}, got {body!r}"
        if "text" in expect:
            return None if body.decode() == expect["text"] else f"expected {expect['text']!r}, got {body!r}"
        form = dict(parse_qsl(body.decode(), keep_blank_values=True))
        extra = set(form) - set(expect["form"]) - set(expect.get("optional_form", ()))
        missing = set(expect["form"]) - set(form)
        if extra or missing:
            return f"expected the form's fields {sorted(expect['form'])}, got {sorted(form)}"
        for name, value in expect["form"].items():
            wrong = self._field_misfit(name, value, form[name])
            if wrong is not None:
                return wrong
        return None

    def _field_misfit(self, name: str, value: Any, came: str) -> str | None:
        if isinstance(value, str):
            return None if came == value else f"expected {name}={value}, got {came}"
        if "match" in value:
            return None if re.search(value["match"], came) else f"expected {name} like {value['match']}, got {came}"
        jwt = value["jwt"]
        header, claims, signature = came.split(".")
        said = (json.loads(_unpadded(header)), json.loads(_unpadded(claims)))
        if said[0] != jwt["header"] or not self._claims_fit(jwt["claims"], said[1]):
            return f"expected {jwt['header']} {jwt['claims']}, got {said}"
        key = load_pem_private_key(json.loads(self.config["password"])["private_key"].encode(), None)
        assert isinstance(key, RSAPrivateKey)
        key.public_key().verify(_unpadded(signature), f"{header}.{claims}".encode(), padding.PKCS1v15(), SHA256())
        return None

    def _claims_fit(self, wanted: dict[str, Any], got: dict[str, Any]) -> bool:
        return wanted == got


class ServedPlayer(VectorPlayer):
    """The same for a command whose clock was set when it began, and has gone on since."""

    SLACK = 30.0

    def _signature_misfit(self, keys: dict[str, Any], headers: dict[str, str], request: Request) -> str | None:
        try:
            stamp = calendar.timegm(time.strptime(headers.get("x-amz-date", ""), "%Y%m%dT%H%M%SZ"))
        except ValueError:
            return f"expected a moment in x-amz-date, got {headers.get('x-amz-date')}"
        if not 0 <= stamp - (self.now + self.epoch) < self.SLACK:
            return f"expected a moment soon after {self.now + self.epoch}, got {stamp}"
        kept, self.now = self.now, stamp - self.epoch
        try:
            return super()._signature_misfit(keys, headers, request)
        finally:
            self.now = kept

    def _claims_fit(self, wanted: dict[str, Any], got: dict[str, Any]) -> bool:
        late = got.get("iat", 0) - wanted["iat"]
        moved = wanted | {"iat": wanted["iat"] + late, "exp": wanted["exp"] + late}
        return 0 <= late < self.SLACK and moved == got


def aws_signature(
    request: Request, signed: str, headers: dict[str, str], secret: str, stamp: str, region: str, service: str
) -> str:
    """Compute a Signature Version 4 from its description, for a path that is `/` and without a query."""
    url = urlsplit(request.url)
    lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in signed.split(";"))
    query = "&".join(sorted(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in _pairs(url.query)))
    body = hashlib.sha256(request.body or b"").hexdigest()
    canonical = f"{request.method}\n{url.path or '/'}\n{query}\n{lines}\n{signed}\n{body}"
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _pairs(query: str) -> list[tuple[str, str]]:
    return sorted(parse_qsl(query, keep_blank_values=True))


def _bytes(body: dict[str, Any] | None) -> bytes:
    if body is None:
        return b""
    if "base64" in body:
        return base64.b64decode(body["base64"])
    return body["text"].encode() if "text" in body else json.dumps(body["json"]).encode()


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
