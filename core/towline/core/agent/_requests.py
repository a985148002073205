"""The body of POST /scan and POST /discover, read into one record (agent.md §5.2).

Unknown members are ignored; a known member of the wrong type is an error that names it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final, Literal

import msgspec

from towline.core._contract import Data, Record
from towline.core._errors import RemoteProtocolError
from towline.core._json import canonical, decode_as, strict_json
from towline.core._limits import KIB, LIMITS, Limits
from towline.core.agent._routes import image_reference, platform_name, repository_name
from towline.core.http import Url

CONTRACT: Final = "cra/1"
# The opaque context comes back with each message, so it must be small beside one.
CONTEXT_BYTES: Final = 64 * KIB
_GLOBS: Final = 1_000
_SHORT: Final = re.compile(r"[\x21-\x7e]{1,200}")
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e]{0,4096}")

# Where results may be posted (agent.md §4.1, §4.3); all else would let a caller write anywhere behind the broker.
RESULT_PATHS: Final = frozenset(
    {
        "/api/v2/import/result",
        "/v2/import/result",
        "/rest/scan/result",
        "/cra/v1/result",
    }
)
DONE_PATHS: Final = frozenset({"/api/v2/import/done", "/v2/import/done", "/cra/v1/done"})
DISCOVER_PATHS: Final = frozenset(
    {"/api/v1/recurring-tests/dependencies", "/v1/recurring-tests/dependencies", "/v1/import/app"}
)
# Callback headers are kept with the job on disk, so none may hold a secret; the rest is ours or the framing's.
_OWN_HEADERS: Final = ("x-cra-", "x-request-id", "content-", "transfer-", "sec-", "x-towline-")
_SECRET_HEADERS: Final = re.compile(
    r"auth|cookie|token|secret|passw|credential|api-?key|session", re.ASCII | re.IGNORECASE
)


class ImageWanted(Record, frozen=True, rename="camel"):
    """The image a job is about. Without a platform the scan chooses linux/amd64 or the only one there is."""

    repository: str
    reference: str
    platform: str | None = None
    expected_digest: str | None = None


class Callback(Record, frozen=True, rename="camel"):
    """Where the messages of a job go. `context` is opaque JSON and returns unchanged."""

    base_url: str
    result_path: str
    done_path: str
    headers: tuple[tuple[str, str], ...] = ()
    context: msgspec.Raw = msgspec.Raw(b"null")


class Globs(Record, frozen=True):
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class RequestOptions(Record, frozen=True, rename="camel"):
    """What to look for and how long; the names mirror the public analyser's options."""

    max_image_bytes: int | None = None
    exclude_app_vulns: bool = False
    exclude_node_modules: bool = False
    nested_jars_depth: int = 1
    layer_attribution: bool = True
    globs: Globs = Globs()
    include_system_jars: bool = False
    collect_application_files: bool = False
    exclude_base_image_vulns: bool = False
    target_reference: str | None = None
    timeout_seconds: int = 1800
    priority: int = 5
    if_not_state: str | None = None


class JobRequest(Record, frozen=True):
    """A request for a scan, checked. `digest` stands for its body without the credentials."""

    kind: Literal["scan", "discover"]
    request_id: str | None
    image: ImageWanted
    callback: Callback
    options: RequestOptions
    deliver: tuple[Literal["result", "done", "progress"], ...]
    digest: str
    credentials: dict[str, Any]


class _Image(msgspec.Struct, rename="camel"):
    repository: str
    reference: str
    platform: str | None = None
    expected_digest: str | None = None


class _Callback(msgspec.Struct, rename="camel"):
    base_url: str | None = None
    result_path: str | None = None
    done_path: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    context: msgspec.Raw = msgspec.Raw(b"null")


class _Globs(msgspec.Struct):
    include: list[str] = msgspec.field(default_factory=list)
    exclude: list[str] = msgspec.field(default_factory=list)


class _Options(msgspec.Struct, rename="camel"):
    max_image_bytes: int | None = None
    exclude_app_vulns: bool = False
    exclude_node_modules: bool = False
    nested_jars_depth: int = 1
    layer_attribution: bool = True
    globs: _Globs = msgspec.field(default_factory=_Globs)
    include_system_jars: bool = False
    collect_application_files: bool = False
    exclude_base_image_vulns: bool = False
    target_reference: str | None = None
    timeout_seconds: int | None = None
    priority: int | None = None
    if_not_state: str | None = None


class _Body(msgspec.Struct, rename="camel"):
    image: _Image
    contract: str | None = None
    request_id: str | None = None
    callback: _Callback = msgspec.field(default_factory=_Callback)
    options: _Options = msgspec.field(default_factory=_Options)
    deliver: list[Literal["result", "done", "progress"]] | None = None


def parse_job(
    kind: Literal["scan", "discover"],
    body: Data,
    *,
    default_callback: str | None = None,
    key: str | None = None,
    limits: Limits = LIMITS,
) -> JobRequest:
    """Read a scan request. `key` is the Idempotency-Key header, `default_callback` is used when no base URL came.

    Raises:  RemoteProtocolError("bad-request" | "invalid-name" | "invalid-reference")
    """
    whole = strict_json(body, "the body", kind="bad-request", limits=limits)
    if not isinstance(whole, dict):
        raise RemoteProtocolError("bad-request", "expected the body to be a JSON object")
    asked = decode_as(body, _Body, "the body", kind="bad-request")
    if asked.contract not in (None, CONTRACT):
        raise RemoteProtocolError("bad-request", f"expected contract {CONTRACT}", hint="GET /capabilities lists them")
    brought = {name: whole.pop(name) for name in ("credentials", "registryId") if name in whole}
    # Nothing that is derived from a secret is kept, so the credentials are no part of the digest.
    digest = hashlib.sha256(canonical([kind, whole, brought.get("registryId")])).hexdigest()
    return JobRequest(
        kind=kind,
        request_id=_short(key, "Idempotency-Key") or _short(asked.request_id, "requestId"),
        image=_image(asked.image),
        callback=_callback(kind, asked.callback, default_callback),
        options=_options(asked.options),
        deliver=tuple(dict.fromkeys(asked.deliver)) if asked.deliver is not None else ("result", "done"),
        digest=digest,
        credentials=brought,
    )


class CallbackPolicy(Record, frozen=True):
    """Which origins callbacks may go to: a list, or else the first one that was asked for.

    A broker client of several connections is called with a path that begins with `/connections/NAME`. An origin in
    the list stands for all of its connections, an address with such a path for that one.
    """

    allowed: tuple[str, ...] = ()
    pinned: str | None = None

    def pin(self, base_url: str) -> str | None:
        """Return the origin to remember, or None when it is known already.

        Raises:  RemoteProtocolError("bad-request") when the URL may not be posted to
        """
        asked = _base(base_url)
        origin = str(asked.origin)
        if self.allowed:
            known = [_base(url) for url in self.allowed]
            if any(url.origin == asked.origin and url.path in ("/", asked.path) for url in known):
                return None
            raise RemoteProtocolError(
                "bad-request",
                "callback.baseUrl is not in the agent's list of callback URLs",
                hint="add it to TOWLINE_CALLBACK_URLS (or set BROKER_CLIENT_URL) of the agent",
            )
        if self.pinned is None:
            return origin
        if origin != self.pinned:
            raise RemoteProtocolError(
                "bad-request",
                "callback.baseUrl differs from the first one that was used, which is pinned",
                hint="list the URLs to allow in TOWLINE_CALLBACK_URLS of the agent",
            )
        return None


def _image(image: _Image) -> ImageWanted:
    if image.expected_digest is not None and ":" not in image_reference(image.expected_digest):
        raise RemoteProtocolError("invalid-reference", "expected image.expectedDigest to be a digest")
    return ImageWanted(
        repository=repository_name(image.repository),
        reference=image_reference(image.reference),
        platform=platform_name(image.platform) if image.platform else None,
        expected_digest=image.expected_digest,
    )


def _callback(kind: str, asked: _Callback, default: str | None) -> Callback:
    base = asked.base_url or default
    if not base:
        raise RemoteProtocolError("bad-request", "expected callback.baseUrl", hint="the address of the broker client")
    if "${" in base:
        raise RemoteProtocolError(
            "bad-request",
            "callback.baseUrl is a placeholder that was not filled in",
            hint="set BROKER_CLIENT_URL at the broker client",
        )
    _base(base)
    results = DISCOVER_PATHS if kind == "discover" else RESULT_PATHS
    result_path = asked.result_path or (
        "/v1/recurring-tests/dependencies" if kind == "discover" else "/api/v2/import/result"
    )
    done_path = asked.done_path or "/api/v2/import/done"
    for path, known, name in ((result_path, results, "resultPath"), (done_path, DONE_PATHS, "donePath")):
        if path not in known:
            raise RemoteProtocolError(
                "bad-request", f"callback.{name} is no callback path", hint="one of " + ", ".join(sorted(known))
            )
    if len(asked.context) > CONTEXT_BYTES:
        raise RemoteProtocolError("bad-request", f"expected callback.context to be at most {CONTEXT_BYTES} bytes")
    # A copy, because a Raw is a view of the whole body.
    context = msgspec.Raw(canonical(msgspec.json.decode(asked.context)))
    return Callback(base.rstrip("/"), result_path, done_path, _headers(asked.headers), context)


def _headers(asked: dict[str, str]) -> tuple[tuple[str, str], ...]:
    if len(asked) > 32:
        raise RemoteProtocolError("bad-request", f"expected at most 32 callback.headers, got {len(asked)}")
    for name, value in asked.items():
        lowered = name.lower()
        if not _HEADER.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise RemoteProtocolError("bad-request", "callback.headers has a name or value that is no header")
        if _SECRET_HEADERS.search(lowered):
            raise RemoteProtocolError(
                "bad-request",
                "callback.headers has a header that holds a secret; it would have to be kept on disk",
                hint="let the broker client add it",
            )
        if lowered in _FRAMING or lowered.startswith(_OWN_HEADERS):
            raise RemoteProtocolError("bad-request", "callback.headers has a header that the agent sets itself")
    return tuple((name.lower(), value) for name, value in asked.items())


_CONNECTION_PATH: Final = re.compile(r"/connections/[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_FRAMING: Final = frozenset(
    {"host", "connection", "keep-alive", "te", "trailer", "upgrade", "expect", "proxy-connection", "user-agent"}
)


def _options(asked: _Options) -> RequestOptions:
    def between(name: str, value: int, least: int, most: int) -> int:
        if not least <= value <= most:
            raise RemoteProtocolError("bad-request", f"expected options.{name} from {least} to {most}")
        return value

    for name, globs in (("include", asked.globs.include), ("exclude", asked.globs.exclude)):
        if len(globs) > _GLOBS or any(len(glob) > KIB or "\0" in glob for glob in globs):
            raise RemoteProtocolError(
                "bad-request", f"options.globs.{name} has more than {_GLOBS} globs or {KIB} characters"
            )
    if asked.max_image_bytes is not None:
        between("maxImageBytes", asked.max_image_bytes, 1, 1 << 53)
    if asked.if_not_state is not None:
        image_reference(asked.if_not_state)
    if asked.target_reference is not None and len(asked.target_reference) > KIB:
        raise RemoteProtocolError("bad-request", f"expected options.targetReference of at most {KIB} characters")
    timeout = 1800 if asked.timeout_seconds is None else asked.timeout_seconds
    priority = 5 if asked.priority is None else asked.priority
    return RequestOptions(
        max_image_bytes=asked.max_image_bytes,
        exclude_app_vulns=asked.exclude_app_vulns,
        exclude_node_modules=asked.exclude_node_modules,
        nested_jars_depth=between("nestedJarsDepth", asked.nested_jars_depth, 0, 100),
        layer_attribution=asked.layer_attribution,
        globs=Globs(tuple(asked.globs.include), tuple(asked.globs.exclude)),
        include_system_jars=asked.include_system_jars,
        collect_application_files=asked.collect_application_files,
        exclude_base_image_vulns=asked.exclude_base_image_vulns,
        target_reference=asked.target_reference,
        timeout_seconds=between("timeoutSeconds", timeout, 1, 6 * 3600),
        priority=between("priority", priority, 0, 9),
        if_not_state=asked.if_not_state,
    )


def _base(base_url: str) -> Url:
    """Return a callback's base with its path in one spelling: `/`, or `/connections/NAME`."""
    url = Url.parse(base_url, kind="bad-request")
    path = url.path.rstrip("/")
    if url.query is not None or (path and not _CONNECTION_PATH.fullmatch(path)):
        raise RemoteProtocolError(
            "bad-request",
            "expected callback.baseUrl to be scheme://host[:port] or scheme://host[:port]/connections/NAME",
        )
    return Url(url.scheme, url.host, url.port, path or "/")


def _short(text: str | None, name: str) -> str | None:
    if text is None or text == "":
        return None
    if not _SHORT.fullmatch(text):
        raise RemoteProtocolError("bad-request", f"expected {name} to be 1 to 200 printable characters without spaces")
    return text
