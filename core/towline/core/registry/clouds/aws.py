"""AWS identities: the machine's own, and the roles it may take.

The machine's own comes from the first of these that is there: keys in the environment, a web identity's token,
a container's or a pod's endpoint, the instance's metadata. A role is taken on top of it.

Source:  AWS STS API 2011-06-15; registries-b.md §3, §7
"""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import typed_json
from towline.core._script import Request, Step, clock
from towline.core._secret import Secret
from towline.core.http import Url, redacted
from towline.core.registry._call import FORM, call, form, metadata, refused
from towline.core.registry._moment import date_stamp, seconds_since_1970
from towline.core.registry._send import Reply
from towline.core.registry._session import Registry
from towline.core.registry._surroundings import Role
from towline.core.registry.clouds.sigv4 import AwsKeys, signed_headers

# Renewed this long before they end, so that no request is signed with keys that end on the way.
_EARLY: Final = 300.0
_INSTANCE: Final = "http://169.254.169.254"
_CONTAINER: Final = "http://169.254.170.2"
# Hosts that a container's endpoint may be on without TLS: its own, and the two of ECS and EKS.
_PLAIN_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "::1", "169.254.170.2", "169.254.170.23", "fd00:ec2::23"})
_STS: Final = "2011-06-15"
_SESSION: Final = "towline"
_REGION: Final = re.compile(r"[a-z]{2,3}(-[a-z0-9]{1,12}){1,4}")
_ARN: Final = re.compile(r"arn:(aws[a-z-]{0,12}):(?:iam|sts)::(\d{12}):[\w+=,.@/-]{1,600}", re.ASCII)
_EXTERNAL_ID: Final = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)
_CODE: Final = re.compile(r"[A-Za-z.]{1,64}")
_DOMAINS: Final = {
    "aws": "amazonaws.com",
    "aws-cn": "amazonaws.com.cn",
    "aws-us-gov": "amazonaws.com",
    "aws-eusc": "amazonaws.eu",
    "aws-iso": "c2s.ic.gov",
    "aws-iso-b": "sc2s.sgov.gov",
    "aws-iso-e": "cloud.adc-e.uk",
    "aws-iso-f": "csp.hci.ic.gov",
}


class _Credentials(msgspec.Struct, rename="pascal"):
    access_key_id: str
    secret_access_key: str
    token: str
    expiration: str | None = None


def account_of(role: Role) -> tuple[str, str]:
    """Return a role's account and the domain of its partition.

    Raises:  malformed-credentials
    """
    match = _ARN.fullmatch(role.arn)
    if match is None or match[1] not in _DOMAINS:
        raise RemoteProtocolError(
            "malformed-credentials",
            "expected the ARN of a role, such as arn:aws:iam::123456789012:role/NAME, got something else",
        )
    if not _REGION.fullmatch(role.region):
        raise RemoteProtocolError("malformed-credentials", "expected a region such as eu-west-3, got something else")
    return match[2], _DOMAINS[match[1]]


def role_keys(registry: Registry, role: Role) -> Step[AwsKeys]:
    """Return keys for a role, taken with the machine's own identity, from the cache while they last.

    Raises:  registry-unauthorized with the service's code, malformed-credentials, what a request raises
    """
    cached = yield from recall(registry, "role")
    if cached is not None:
        return cached
    _, domain = account_of(role)
    own = yield from machine_keys(registry, role.region, domain)
    fields: dict[str, str | Secret] = {
        "Action": "AssumeRole",
        "Version": _STS,
        "RoleArn": role.arn,
        "RoleSessionName": _SESSION,
    }
    if role.external_id:
        if not _EXTERNAL_ID.fullmatch(role.external_id.reveal()):
            raise RemoteProtocolError("malformed-credentials", "expected an external id of 2 to 1224 plain characters")
        fields["ExternalId"] = role.external_id
    url = Url.parse(f"https://sts.{role.region}.{domain}/")
    body = form(fields)
    stamp = date_stamp((yield from wall(registry)))
    headers = signed_headers("POST", url, (FORM,), body, own, service="sts", region=role.region, stamp=stamp)
    reply = yield from call(registry, Request("POST", str(url), headers, body))
    return (yield from remember(registry, "role", _from_xml(reply, "the role")))


def machine_keys(registry: Registry, region: str, domain: str) -> Step[AwsKeys]:
    """Return the machine's own keys, from the first source there is."""
    around = registry.surroundings
    key_id, secret = around.variable("AWS_ACCESS_KEY_ID"), around.secret("AWS_SECRET_ACCESS_KEY")
    if key_id and secret:
        return AwsKeys(key_id, secret, around.secret("AWS_SESSION_TOKEN"))
    cached = yield from recall(registry, "machine")
    if cached is not None:
        return cached
    if around.variable("AWS_WEB_IDENTITY_TOKEN_FILE") and around.variable("AWS_ROLE_ARN"):
        keys = yield from _web_identity(registry, region, domain)
    elif full := around.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        keys = yield from _container(registry, full)
    elif relative := around.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        keys = yield from _container(registry, f"{_CONTAINER}{relative if relative.startswith('/') else '/'}")
    else:
        keys = yield from _instance(registry)
    return (yield from remember(registry, "machine", keys))


def _web_identity(registry: Registry, region: str, domain: str) -> Step[AwsKeys]:
    around = registry.surroundings
    # Written anew while we run, so read each time.
    token = around.read_file(around.variable("AWS_WEB_IDENTITY_TOKEN_FILE")).decode("ascii", "replace").strip()
    fields: dict[str, str | Secret] = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": _STS,
        "RoleArn": around.variable("AWS_ROLE_ARN"),
        "RoleSessionName": around.variable("AWS_ROLE_SESSION_NAME") or _SESSION,
        "WebIdentityToken": Secret(token),
    }
    request = Request("POST", f"https://sts.{region}.{domain}/", (FORM,), form(fields))
    reply = yield from call(registry, request)
    return _from_xml(reply, "the web identity's role")


def _container(registry: Registry, address: str) -> Step[AwsKeys]:
    around = registry.surroundings
    url = Url.parse(address, "invalid-configuration")
    if url.scheme == "http" and url.host not in _PLAIN_HOSTS:
        raise RemoteProtocolError(
            "invalid-configuration", f"expected https for the container's credentials at {url.host}, got http"
        )
    token = around.secret("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if path := around.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        token = Secret(around.read_file(path).decode("ascii", "replace").strip())
    headers = (("authorization", token),) if token else ()
    reply = yield from (
        metadata(registry, "GET", str(url), headers)
        if url.scheme == "http"
        else call(registry, Request("GET", str(url), headers))
    )
    return _from_json(reply, "the container's keys")


def _instance(registry: Registry) -> Step[AwsKeys]:
    wanted = (("x-aws-ec2-metadata-token-ttl-seconds", "21600"),)
    try:
        reply = yield from metadata(registry, "PUT", f"{_INSTANCE}/latest/api/token", wanted)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(
            "registry-unauthorized",
            f"expected an AWS identity, got none: the instance's metadata do not answer ({error.kind})",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run with a role; a container may need a hop limit"
            " of 2",
        ) from None
    token = Secret(_word(reply, "a metadata token"))
    headers = (("x-aws-ec2-metadata-token", token),)
    path = f"{_INSTANCE}/latest/meta-data/iam/security-credentials/"
    role = _word((yield from metadata(registry, "GET", path, headers)), "the instance's role")
    if not re.fullmatch(r"[\w+=,.@-]{1,64}", role, re.ASCII):
        raise RemoteProtocolError("protocol-error", "expected a role's name from the instance's metadata")
    return _from_json((yield from metadata(registry, "GET", path + role, headers)), "the instance's keys")


def _word(reply: Reply, what: str) -> str:
    if reply.status != 200:
        raise refused(reply, what)
    text = reply.body.decode("ascii", "replace").strip()
    if not text or not all("!" <= char <= "~" for char in text):
        raise RemoteProtocolError("protocol-error", f"expected {what} from {redacted(reply.url)}, got other text")
    return text


def _from_json(reply: Reply, what: str) -> AwsKeys:
    if reply.status != 200:
        raise refused(reply, what)
    said = typed_json(reply.body, _Credentials, f"{what} {redacted(reply.url)}")
    return AwsKeys(
        said.access_key_id, Secret(said.secret_access_key), Secret(said.token), seconds_since_1970(said.expiration)
    )


def _from_xml(reply: Reply, what: str) -> AwsKeys:
    if reply.status != 200:
        code = _xml(reply).findtext(".//{*}Error/{*}Code") or ""
        raise refused(reply, what, code if _CODE.fullmatch(code) else None)
    said = _xml(reply).find(".//{*}Credentials")
    found = {} if said is None else {child.tag.rpartition("}")[2]: child.text or "" for child in said}
    if not found.get("AccessKeyId") or not found.get("SecretAccessKey"):
        raise RemoteProtocolError("protocol-error", f"expected keys from {redacted(reply.url)}, got none")
    return AwsKeys(
        found["AccessKeyId"],
        Secret(found["SecretAccessKey"]),
        Secret(found.get("SessionToken", "")),
        seconds_since_1970(found.get("Expiration")),
    )


def _xml(reply: Reply) -> ElementTree.Element:
    # No answer of these services has a document type; entities that name each other are how a small one grows.
    if b"<!" in reply.body:
        raise RemoteProtocolError("protocol-error", f"expected plain XML from {redacted(reply.url)}")
    try:
        return ElementTree.fromstring(reply.body)
    except ElementTree.ParseError:
        raise RemoteProtocolError("protocol-error", f"expected XML from {redacted(reply.url)}") from None


def wall(registry: Registry) -> Step[float]:
    """Return seconds since 1970; an identity that is signed by time needs the wall clock.

    Raises:  invalid-configuration when the program gave none
    """
    now = yield from clock()
    if registry.epoch is None:
        raise RemoteProtocolError("invalid-configuration", "expected the wall clock for a signature, got none")
    return now + registry.epoch


def recall(registry: Registry, name: str) -> Step[AwsKeys | None]:
    """Return cached keys that do not end soon."""
    now = yield from clock()
    found = registry.recall(name, now)
    return found if isinstance(found, AwsKeys) else None


def remember(registry: Registry, name: str, keys: AwsKeys) -> Step[AwsKeys]:
    """Cache keys until shortly before they end."""
    now = yield from clock()
    if keys.expires_at is not None and registry.epoch is not None:
        registry.remember(name, keys, keys.expires_at - registry.epoch - _EARLY, now)
    return keys
