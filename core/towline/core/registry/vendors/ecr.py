"""Amazon ECR: a role is taken, the API gives a password for half a day, and lists.

Source:  Amazon ECR API 2015-09-21; registries-b.md §3
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import typed_json
from towline.core._script import Head, Request, Step, clock, sleep
from towline.core._secret import Secret
from towline.core.http import Url, redacted
from towline.core.registry._alone import once_for_all
from towline.core.registry._call import call
from towline.core.registry._listing import is_tag_name
from towline.core.registry._moment import date_stamp
from towline.core.registry._pages import Collected, Details, Listing, TagDetail, Wanted, gather
from towline.core.registry._reference import is_repository
from towline.core.registry._retry import backoff
from towline.core.registry._send import Reply
from towline.core.registry._session import Registry, Shown
from towline.core.registry._surroundings import Role
from towline.core.registry.clouds.aws import account_of, machine_keys, role_keys, wall
from towline.core.registry.clouds.sigv4 import signed_headers

T = TypeVar("T")

_HOST: Final = re.compile(
    r"(\d{12})\.dkr(?:\.ecr|\.ecr-fips|-ecr)\.([a-z0-9-]{4,30})\."
    r"(amazonaws\.com|amazonaws\.com\.cn|amazonaws\.eu|on\.aws|c2s\.ic\.gov|sc2s\.sgov\.gov)"
)
_TARGET: Final = "AmazonEC2ContainerRegistry_V20150921."
_PASSWORD: Final = "password"
# Renewed so long before it ends.
_EARLY: Final = 300.0
_NO_IDENTITY: Final = frozenset(
    {"UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "IncompleteSignature"}
    | {"MissingAuthenticationToken", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
)
_EXPIRED: Final = frozenset({"ExpiredTokenException", "ExpiredToken"})
_THROTTLED: Final = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded"})


class _Authorization(msgspec.Struct, rename="camel"):
    authorization_token: str
    expires_at: float


class _Authorizations(msgspec.Struct, rename="camel"):
    authorization_data: list[_Authorization]


class _Repository(msgspec.Struct, rename="camel"):
    repository_name: str


class _Repositories(msgspec.Struct, rename="camel"):
    repositories: list[_Repository]
    next_token: str | None = None

    def items(self) -> list[Any]:
        return [found.repository_name for found in self.repositories]


class _ImageId(msgspec.Struct, rename="camel"):
    image_tag: str | None = None


class _ImageIds(msgspec.Struct, rename="camel"):
    image_ids: list[_ImageId]
    next_token: str | None = None

    def items(self) -> list[Any]:
        return [found.image_tag for found in self.image_ids if found.image_tag is not None]


class _Image(msgspec.Struct, rename="camel"):
    image_digest: str | None = None
    image_tags: list[str] | None = None
    image_pushed_at: float | None = None
    image_size_in_bytes: int | None = None
    image_manifest_media_type: str | None = None


class _Images(msgspec.Struct, rename="camel"):
    image_details: list[_Image]
    next_token: str | None = None

    def items(self) -> list[Any]:
        return [
            TagDetail(
                tag,
                image.image_digest,
                image.image_pushed_at,
                image.image_size_in_bytes,
                image.image_manifest_media_type,
            )
            for image in self.image_details
            for tag in image.image_tags or ()
        ]


class _Fault(msgspec.Struct):
    type_: Any = msgspec.field(name="__type", default=None)


def knows(host: str) -> bool:
    """Tell whether a host is a registry of this service."""
    return _HOST.fullmatch(host) is not None


def derive_base(role: Role) -> str:
    """Return the address of the registry of a role's account."""
    account, domain = account_of(role)
    return f"{account}.dkr.ecr.{role.region}.{domain}"


def log_in(registry: Registry) -> Step[Shown]:
    """Return the registry's password, which the API gives for twelve hours, from the cache while it is good."""
    header = yield from once_for_all(
        registry, _PASSWORD, lambda now: registry.recall(_PASSWORD, now), lambda: _new_password(registry)
    )
    return Shown(header)


def _new_password(registry: Registry) -> Step[Secret]:
    answer = yield from _ask(registry, "GetAuthorizationToken", {}, _Authorizations)
    if not answer.authorization_data:
        raise RemoteProtocolError("protocol-error", "expected an authorization token, got none")
    said = answer.authorization_data[0]
    try:
        base64.b64decode(said.authorization_token, validate=True)
    except (binascii.Error, ValueError):
        raise RemoteProtocolError("protocol-error", "expected a token in base64, got something else") from None
    header = Secret("Basic " + said.authorization_token)
    now = yield from clock()
    registry.remember(_PASSWORD, header, said.expires_at - (registry.epoch or 0.0) - _EARLY, now)
    return header


def expired(head: Head, body: bytes) -> bool:
    """Tell whether an answer says that the password has had its time: 403, unlike any other registry."""
    return head.status in (400, 403) and b"authorization token has expired" in body.lower()


def list_repositories(registry: Registry, wanted: Wanted) -> Step[Listing]:
    """List the account's repositories by DescribeRepositories."""
    walk = _walk(registry, wanted, "DescribeRepositories", {}, _Repositories)
    return (yield from gather(registry, "catalogue", is_repository, wanted, walk)).listing()


def list_tags(registry: Registry, repository: str, wanted: Wanted) -> Step[Listing]:
    """List the tags by ListImages; untagged images are left out by the service."""
    walk = _walk(registry, wanted, "ListImages", _tagged(repository), _ImageIds)
    return (yield from gather(registry, "tags", is_tag_name, wanted, walk)).listing()


def list_details(registry: Registry, repository: str, wanted: Wanted) -> Step[Details]:
    """List the tags by DescribeImages, with digest, size and time of the push."""
    walk = _walk(registry, wanted, "DescribeImages", _tagged(repository), _Images)
    return (yield from gather(registry, "tags", is_tag_name, wanted, walk)).details()


def _tagged(repository: str) -> dict[str, Any]:
    return {"repositoryName": repository, "filter": {"tagStatus": "TAGGED"}}


def _walk(
    registry: Registry,
    wanted: Wanted,
    operation: str,
    asked: dict[str, Any],
    shape: type[_Repositories] | type[_ImageIds] | type[_Images],
) -> Callable[[Collected], Step[None]]:
    """Return a walk over an operation's pages. A page may be empty and have a successor."""
    api = _api(registry)
    n = registry.page_size(wanted.page_size)
    size = {"maxResults": n} if n else {}

    def walk(collected: Collected) -> Step[None]:
        # The marker stands for the page's address, so that a circle of markers is seen.
        at = api
        while True:
            marker = {} if at.query is None else {"nextToken": at.query}
            page = yield from _ask(registry, operation, asked | size | marker, shape)
            collected.add(page.items(), at)
            if not page.next_token or collected.full:
                return
            at = Url(api.scheme, api.host, api.port, api.path, page.next_token)
            collected.check_next(at)
            if collected.full:
                return

    return walk


def _api(registry: Registry) -> Url:
    region, domain = _place(registry)
    return Url.parse(f"https://api.ecr.{region}.{domain}/")


def _place(registry: Registry) -> tuple[str, str]:
    """Return the region and the domain of its partition, by the role, else by the registry's host."""
    if registry.role is not None:
        return registry.role.region, account_of(registry.role)[1]
    match = _HOST.fullmatch(registry.base.host)
    if match is None:
        raise RemoteProtocolError(
            "malformed-credentials",
            "expected a role and a region, or a registry's host that names its region, for the type ecr",
            hint="set CR_ROLE_ARN and CR_REGION",
        )
    return match[2], "amazonaws.com" if match[3] == "on.aws" else match[3]


def _ask(registry: Registry, operation: str, asked: dict[str, Any], shape: type[T]) -> Step[T]:
    """Ask the API, once more with a new role session if the old one has ended, and again when throttled."""
    renewed = False
    attempt = 0
    while True:
        reply = yield from _call(registry, operation, asked)
        if reply.status == 200:
            return typed_json(reply.body, shape, f"{operation} {redacted(reply.url)}")
        code = _code(reply)
        if code in _EXPIRED and not renewed:
            renewed = True
            registry.drop("role" if registry.role is not None else "machine")
        elif code in _THROTTLED and attempt < registry.retries:
            now = yield from clock()
            yield from sleep(now + backoff(attempt, registry.entropy, registry.limits))
            attempt += 1
        else:
            raise _failure(registry, operation, reply, code)


def _call(registry: Registry, operation: str, asked: dict[str, Any]) -> Step[Reply]:
    region, domain = _place(registry)
    keys = yield from (
        machine_keys(registry, region, domain) if registry.role is None else role_keys(registry, registry.role)
    )
    url = _api(registry)
    body = msgspec.json.encode(asked)
    headers = (("content-type", "application/x-amz-json-1.1"), ("x-amz-target", _TARGET + operation))
    stamp = date_stamp((yield from wall(registry)))
    signed = signed_headers("POST", url, headers, body, keys, service="ecr", region=region, stamp=stamp)
    return (yield from call(registry, Request("POST", str(url), signed, body)))


def _code(reply: Reply) -> str:
    """Return the name of a fault, which comes as `com.amazonaws.ecr#Name`, plain, or in a header."""
    try:
        said = msgspec.json.decode(reply.body, type=_Fault).type_
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = None
    text = said if isinstance(said, str) and said else reply.head.get("x-amzn-errortype") or ""
    name = text.partition(":")[0].rpartition("#")[2]
    return name if name.isascii() and name.isalnum() and len(name) <= 64 else ""


def _failure(registry: Registry, operation: str, reply: Reply, code: str) -> RemoteProtocolError:
    kind = "registry-error" if reply.status >= 500 else "protocol-error"
    hint = None
    if code in _NO_IDENTITY or code in _EXPIRED:
        kind, hint = "registry-unauthorized", registry.dialect.login_hint
    elif code in _THROTTLED:
        kind = "registry-rate-limited"
    elif code == "AccessDeniedException":
        kind, hint = "registry-forbidden", f"the role needs ecr:{operation}"
    elif code == "RepositoryNotFoundException":
        kind = "repository-not-found"
    elif code == "ImageNotFoundException":
        kind = "image-not-found"
    return RemoteProtocolError(
        kind,
        f"expected an answer to {operation} from {redacted(reply.url)}, got {reply.status} {code}".rstrip(),
        hint=hint,
        registry_status=reply.status,
        registry_code=code or None,
    )
