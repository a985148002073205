"""AWS identities, source by source: what is asked where, what an answer that is wrong becomes, and no secret in it."""

from __future__ import annotations

from typing import Any

import pytest
from registry_tools import ANY, Asks, Gives, Outcome, asks, breaks, gives, play, registry

from towline.core import RemoteProtocolError, Secret
from towline.core.http import Url
from towline.core.registry import (
    Registry,
    Role,
    Surroundings,
    TagDetail,
    find_dialect,
    list_details,
    list_repositories,
    list_tags,
    ping,
)
from towline.core.registry.clouds.aws import account_of, machine_keys, role_keys
from towline.core.registry.clouds.sigv4 import AwsKeys, signed_headers

CANARY = "c4n4ry-secret-key"
ROLE = Role("arn:aws:iam::123456789012:role/pull", "eu-west-1", Secret("an-id"))
STS = "https://sts.eu-west-1.amazonaws.com/"
ECR = "https://api.ecr.eu-west-1.amazonaws.com/"
HOST = "https://123456789012.dkr.ecr.eu-west-1.amazonaws.com"
META = "http://169.254.169.254/latest"
PATH = f"{META}/meta-data/iam/security-credentials/"
SOON, LATE = "1970-01-01T00:17:00Z", "1970-01-01T02:00:00Z"
OWN: Any = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": CANARY}


def of(role: Role | None = None, files: dict[str, bytes] | None = None, **variables: str) -> Registry:
    def read_file(path: str) -> bytes:
        return (files or {})[path]

    around = Surroundings({name: Secret(value) for name, value in variables.items()}, read_file)
    dialect = find_dialect("ecr")
    base = HOST if role is None else ""
    return registry(base, anonymous=True, dialect=dialect, role=role, surroundings=around, retries=0, epoch=0.0)


def own(made: Registry, *columns: Asks | Gives, start: float = 1000.0) -> Outcome:
    done = play(machine_keys(made, "eu-west-1", "amazonaws.com"), *columns, start=start)
    assert CANARY not in f"{done.error!r} {done.error and done.error.hint} {done.value!r}"
    return done


def taken(made: Registry, *columns: Asks | Gives, start: float = 1000.0) -> Outcome:
    assert made.role is not None
    done = play(role_keys(made, made.role), *columns, start=start)
    assert CANARY not in f"{done.error!r} {done.error and done.error.hint} {done.value!r}"
    return done


def keys_json(ends: str = LATE, **changes: Any) -> dict[str, Any]:
    return {"AccessKeyId": "ASIA", "SecretAccessKey": CANARY, "Token": "t", "Expiration": ends} | changes


def keys_xml(operation: str = "AssumeRole", ends: str = LATE) -> bytes:
    return (
        f'<{operation}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{operation}Result><Credentials>'
        f"<AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>{CANARY}</SecretAccessKey><SessionToken>t</SessionToken>"
        f"<Expiration>{ends}</Expiration></Credentials></{operation}Result></{operation}Response>"
    ).encode()


def error_xml(code: str) -> bytes:
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>{CANARY}</Message></Error></ErrorResponse>".encode()


def value(done: Outcome) -> tuple[str, str, str | None, float | None]:
    keys = done.value
    assert isinstance(keys, AwsKeys), done.error
    session = None if keys.session_token is None else keys.session_token.reveal()
    return keys.key_id, keys.secret.reveal(), session, keys.expires_at


# ── the machine's own ──────────────────────────────────────────────────────────
def test_keys_of_the_environment_come_first() -> None:
    more: Any = {"AWS_WEB_IDENTITY_TOKEN_FILE": "/t", "AWS_ROLE_ARN": ROLE.arn}
    assert value(own(of(**OWN, **more))) == ("AKID", CANARY, None, None)
    assert value(own(of(**OWN, AWS_SESSION_TOKEN="s"))) == ("AKID", CANARY, "s", None)


def test_a_web_identity_is_unsigned_and_its_file_read_each_time() -> None:
    files = {"/t": b"jwt-1\n"}
    made = of(files=files, AWS_WEB_IDENTITY_TOKEN_FILE="/t", AWS_ROLE_ARN=ROLE.arn)
    form = {
        "Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": ROLE.arn,
        "RoleSessionName": "towline", "WebIdentityToken": "jwt-1",
    }  # fmt: skip
    xml = keys_xml("AssumeRoleWithWebIdentity")
    assert value(own(made, asks(STS, form=form), gives(200, None, xml))) == ("ASIA", CANARY, "t", 7200.0)
    # From the cache, until five minutes before its end.
    assert value(own(made, start=6899.0))[0] == "ASIA"
    files["/t"] = b"jwt-2"
    again = asks(STS, form=form | {"WebIdentityToken": "jwt-2"})
    assert value(own(made, again, gives(200, None, xml), start=6901.0))[0] == "ASIA"


def test_a_web_identitys_session_may_have_a_name() -> None:
    made = of(files={"/t": b"j"}, AWS_WEB_IDENTITY_TOKEN_FILE="/t", AWS_ROLE_ARN=ROLE.arn, AWS_ROLE_SESSION_NAME="mine")
    form = {
        "Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "RoleArn": ROLE.arn,
        "RoleSessionName": "mine", "WebIdentityToken": "j",
    }  # fmt: skip
    done = own(made, asks(STS, form=form), gives(400, None, error_xml("ExpiredTokenException")))
    assert done.error is not None
    assert (done.kind, done.error.registry_code) == ("registry-unauthorized", "ExpiredTokenException")


def test_a_containers_endpoint() -> None:
    relative = of(AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="/v2/x")
    asked = asks("http://169.254.170.2/v2/x", purpose="metadata")
    assert value(own(relative, asked, gives(json=keys_json())))[0] == "ASIA"
    pod: Any = {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials"}
    made = of(files={"/f": b"token\n"}, **pod, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE="/f")
    asked = asks("http://169.254.170.23/v1/credentials", "token", purpose="metadata")
    assert value(own(made, asked, gives(json=keys_json())))[1] == CANARY
    given = of(AWS_CONTAINER_CREDENTIALS_FULL_URI="https://vault.example/k", AWS_CONTAINER_AUTHORIZATION_TOKEN="word")
    asked = asks("https://vault.example/k", "word", purpose="configured")
    assert value(own(given, asked, gives(json=keys_json())))[0] == "ASIA"


@pytest.mark.parametrize("address", ["http://evil.example/k", "ftp://x/", "http://169.254.169.254/k", "nonsense"])
def test_a_containers_endpoint_must_be_near_or_have_tls(address: str) -> None:
    assert own(of(AWS_CONTAINER_CREDENTIALS_FULL_URI=address)).kind == "invalid-configuration"


def test_a_relative_address_is_a_path() -> None:
    made = of(AWS_CONTAINER_CREDENTIALS_RELATIVE_URI="@evil.example/")
    assert own(made, asks("http://169.254.170.2/"), gives(404)).kind == "registry-unauthorized"


def test_the_instances_metadata() -> None:
    done = own(
        of(),
        asks(f"{META}/api/token", method="PUT", purpose="metadata", x_aws_ec2_metadata_token_ttl_seconds="21600"),
        gives(200, None, b"word\n"),
        asks(PATH, purpose="metadata", x_aws_ec2_metadata_token="word"), gives(200, None, b"the-role"),
        asks(f"{PATH}the-role", purpose="metadata", x_aws_ec2_metadata_token="word"), gives(json=keys_json()),
    )  # fmt: skip
    assert value(done) == ("ASIA", CANARY, "t", 7200.0)


def test_no_identity_at_all_says_what_to_do() -> None:
    done = own(of(), asks(f"{META}/api/token", method="PUT"), breaks(kind="timeout"))
    assert done.kind == "registry-unauthorized"
    assert done.error is not None
    assert "AWS_ACCESS_KEY_ID" in str(done.error.hint)
    assert "hop limit" in str(done.error.hint)


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ([gives(403)], "registry-unauthorized"),
        ([gives(200, None, b"")], "protocol-error"),
        ([gives(200, None, b"two words")], "protocol-error"),
        ([gives(200, None, b"\xff")], "protocol-error"),
        ([gives(200, None, b"w"), gives(404)], "registry-unauthorized"),
        ([gives(200, None, b"w"), gives(200, None, b"../../x")], "protocol-error"),
        ([gives(200, None, b"w"), gives(200, None, b"r"), gives(200, None, b"<html>")], "protocol-error"),
        ([gives(200, None, b"w"), gives(200, None, b"r"), gives(json={"Code": "Failed"})], "protocol-error"),
        ([gives(200, None, b"w"), gives(200, None, b"r"), gives(500)], "registry-error"),
        ([gives(302, {"location": "http://evil.example/"})], "registry-unauthorized"),
    ],
)
def test_metadata_that_are_wrong(answers: list[Gives], kind: str) -> None:
    wanted = [asks(f"{META}/api/token", method="PUT"), asks(PATH), asks(f"{PATH}r")]
    columns = [column for pair in zip(wanted, answers, strict=False) for column in pair]
    assert own(of(), *columns).kind == kind


# ── a role ─────────────────────────────────────────────────────────────────────
def test_a_role_is_taken_with_its_external_id_and_kept() -> None:
    made = of(ROLE, **OWN)
    form = {
        "Action": "AssumeRole", "Version": "2011-06-15", "RoleArn": ROLE.arn, "RoleSessionName": "towline",
        "ExternalId": "an-id",
    }  # fmt: skip
    asked = asks(STS, ANY, form=form, x_amz_date="19700101T001640Z")
    assert value(taken(made, asked, gives(200, None, keys_xml()))) == ("ASIA", CANARY, "t", 7200.0)
    assert value(taken(made, start=5000.0))[0] == "ASIA"
    # What ends in a moment is used once, and not kept.
    short = of(Role(ROLE.arn, "eu-west-1"), **OWN)
    del form["ExternalId"]
    for _ in range(2):
        assert taken(short, asks(STS, ANY, form=form), gives(200, None, keys_xml(ends=SOON))).value is not None


@pytest.mark.parametrize(
    ("role", "what"),
    [
        (Role("arn:aws:iam::1234:role/x", "eu-west-1"), "ARN"),
        (Role("arn:aws-moon:iam::123456789012:role/x", "eu-west-1"), "ARN"),
        (Role("role/x", "eu-west-1"), "ARN"),
        (Role("", "eu-west-1"), "ARN"),
        (Role(ROLE.arn, ""), "region"),
        (Role(ROLE.arn, "evil.example/"), "region"),
        (Role(ROLE.arn, "EU-WEST-1"), "region"),
    ],
)
def test_roles_that_are_none(role: Role, what: str) -> None:
    with pytest.raises(RemoteProtocolError, match=what) as caught:
        account_of(role)
    assert caught.value.kind == "malformed-credentials"


@pytest.mark.parametrize("external", ["q", "with space", "é" * 5, "a" * 1225, "quo'te"])
def test_external_ids_that_are_none(external: str) -> None:
    done = taken(of(Role(ROLE.arn, "eu-west-1", Secret(external)), **OWN))
    assert done.kind == "malformed-credentials"
    assert external == "q" or external not in str(done.error and done.error.message)


@pytest.mark.parametrize(
    ("arn", "domain"),
    [
        ("arn:aws:iam::123456789012:role/x", "amazonaws.com"),
        ("arn:aws-cn:iam::123456789012:role/path/x", "amazonaws.com.cn"),
        ("arn:aws-us-gov:iam::123456789012:role/x", "amazonaws.com"),
        ("arn:aws-iso:iam::123456789012:role/x", "c2s.ic.gov"),
        ("arn:aws-iso-b:iam::123456789012:role/x", "sc2s.sgov.gov"),
        ("arn:aws-eusc:iam::123456789012:role/x", "amazonaws.eu"),
    ],
)
def test_partitions(arn: str, domain: str) -> None:
    assert account_of(Role(arn, "us-iso-east-1")) == ("123456789012", domain)


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (gives(403, None, error_xml("AccessDenied")), "registry-unauthorized", "AccessDenied"),
        (gives(403, None, error_xml("SignatureDoesNotMatch")), "registry-unauthorized", "SignatureDoesNotMatch"),
        (gives(403, None, error_xml("x <")), "protocol-error", None),
        (gives(403, None, error_xml("with blanks")), "registry-unauthorized", None),
        (gives(403, None, b"not xml"), "protocol-error", None),
        (gives(500, None, error_xml("InternalFailure")), "registry-error", "InternalFailure"),
        (gives(200, None, b"<x/>"), "protocol-error", None),
        (gives(200, None, b"<!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>"), "protocol-error", None),
        (gives(200, None, b"<a><Credentials><AccessKeyId>A</AccessKeyId></Credentials></a>"), "protocol-error", None),
        (gives(307, {"location": "https://evil.example/"}), "redirect-blocked", None),
        (breaks(kind="timeout"), "timeout", None),
    ],
)
def test_a_role_that_is_not_given(answer: Gives, kind: str, code: str | None) -> None:
    done = taken(of(ROLE, **OWN), asks(STS, ANY, method="POST"), answer)
    assert done.kind == kind
    assert (done.error and done.error.registry_code) == code


def test_a_signature_needs_the_wall_clock() -> None:
    made = of(ROLE, **OWN)
    made.epoch = None
    assert taken(made).kind == "invalid-configuration"


# ── the registry's password, and its lists ─────────────────────────────────────
def password(ends: float = 50000.0) -> Gives:
    return gives(json={"authorizationData": [{"authorizationToken": "QVdTOng=", "expiresAt": ends}]})


def call(operation: str) -> Asks:
    return asks(ECR, ANY, method="POST", x_amz_target=f"AmazonEC2ContainerRegistry_V20150921.{operation}")


def test_the_password_goes_as_it_came() -> None:
    made = of(**OWN)
    basic = "Basic QVdTOng="
    assert play(ping(made), call("GetAuthorizationToken"), password(), asks(f"{HOST}/v2/", basic), gives()).kind is None
    assert play(ping(made), asks(f"{HOST}/v2/", basic), gives(), start=40000.0).kind is None
    late = play(
        ping(made), call("GetAuthorizationToken"), password(99999.0), asks(f"{HOST}/v2/", basic), gives(), start=49800.0
    )
    assert late.kind is None


def test_a_password_that_has_ended_is_renewed_once() -> None:
    said = gives(403, None, b'{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Re"}]}')
    done = play(
        ping(of(**OWN)),
        call("GetAuthorizationToken"), password(), asks(f"{HOST}/v2/", ANY), said,
        call("GetAuthorizationToken"), password(), asks(f"{HOST}/v2/", ANY), said,
    )  # fmt: skip
    assert done.kind == "registry-forbidden"


@pytest.mark.parametrize(
    "answer",
    [
        gives(json={"authorizationData": []}),
        gives(json={"authorizationData": [{"authorizationToken": "%", "expiresAt": 1}]}),
        gives(json={}),
        gives(200, None, b"<html>"),
    ],
)
def test_no_password_in_the_answer(answer: Gives) -> None:
    assert play(ping(of(**OWN)), call("GetAuthorizationToken"), answer).kind == "protocol-error"


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "UnrecognizedClientException", "registry-unauthorized"),
        (400, "com.amazonaws.ecr#InvalidSignatureException", "registry-unauthorized"),
        (400, "AccessDeniedException", "registry-forbidden"),
        (400, "RepositoryNotFoundException", "repository-not-found"),
        (400, "ImageNotFoundException", "image-not-found"),
        (400, "ThrottlingException", "registry-rate-limited"),
        (400, "InvalidParameterException", "protocol-error"),
        (500, "ServerException", "registry-error"),
        (400, 5, "protocol-error"),
    ],
)
def test_faults_of_the_api(status: int, code: object, kind: str) -> None:
    done = play(list_tags(of(**OWN), "a/b"), call("ListImages"), gives(status, json={"__type": code}))
    assert done.kind == kind
    if kind in ("registry-unauthorized", "registry-forbidden"):
        assert done.error is not None
        assert done.error.hint


def test_a_fault_may_be_named_in_a_header() -> None:
    answer = gives(400, {"x-amzn-errortype": "RepositoryNotFoundException:http://x"}, b"no json")
    assert play(list_tags(of(**OWN), "a/b"), call("ListImages"), answer).kind == "repository-not-found"


def test_a_role_session_that_ends_between_two_pages_is_taken_again() -> None:
    made = of(ROLE, **OWN)
    sts = asks(STS, ANY, method="POST")
    done = play(
        list_repositories(made),
        sts, gives(200, None, keys_xml()),
        call("DescribeRepositories"), gives(json={"repositories": [{"repositoryName": "a"}], "nextToken": "n"}),
        call("DescribeRepositories"), gives(400, json={"__type": "ExpiredTokenException"}),
        sts, gives(200, None, keys_xml()),
        call("DescribeRepositories"), gives(json={"repositories": [{"repositoryName": "b"}]}),
    )  # fmt: skip
    assert done.value.items == ("a", "b")
    again = play(
        list_repositories(made),
        call("DescribeRepositories"), gives(400, json={"__type": "ExpiredTokenException"}),
        sts, gives(200, None, keys_xml()),
        call("DescribeRepositories"), gives(400, json={"__type": "ExpiredTokenException"}),
    )  # fmt: skip
    assert again.kind == "registry-unauthorized"


def test_throttling_is_waited_for() -> None:
    made = of(**OWN)
    made.retries = 1
    done = play(
        list_tags(made, "a/b"),
        call("ListImages"), gives(400, json={"__type": "ThrottlingException"}),
        call("ListImages"), gives(json={"imageIds": [{"imageTag": "1"}, {"imageDigest": "sha256:x"}]}),
    )  # fmt: skip
    assert done.value.items == ("1",)
    assert len(done.sleeps) == 1


@pytest.mark.parametrize(
    ("host", "api"),
    [
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "https://api.ecr.cn-north-1.amazonaws.com.cn/"),
        ("123456789012.dkr-ecr.eu-west-1.on.aws", "https://api.ecr.eu-west-1.amazonaws.com/"),
        ("123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu", "https://api.ecr.eusc-de-east-1.amazonaws.eu/"),
    ],
)
def test_where_the_api_is(host: str, api: str) -> None:
    around = Surroundings({name: Secret(text) for name, text in OWN.items()})
    made = registry(f"https://{host}", anonymous=True, dialect=find_dialect("ecr"), surroundings=around, epoch=0.0)
    done = play(list_tags(made, "a"), asks(api, ANY, method="POST"), gives(json={"imageIds": []}))
    assert done.value.complete


def test_a_host_without_a_region_needs_a_role() -> None:
    made = registry("https://cr.example", anonymous=True, dialect=find_dialect("ecr"), epoch=0.0)
    done = play(list_tags(made, "a"))
    assert done.kind == "malformed-credentials"
    assert done.error is not None
    assert "CR_ROLE_ARN" in str(done.error.hint)


def test_details_of_all_pages_though_one_is_empty() -> None:
    digest = "sha256:" + "a" * 64
    image = {"imageDigest": digest, "imageTags": ["1", "latest"], "imagePushedAt": 7.5, "imageSizeInBytes": 9}
    done = play(
        list_details(of(**OWN), "a/b"),
        call("DescribeImages"), gives(json={"imageDetails": [], "nextToken": "n1"}),
        call("DescribeImages"), gives(json={"imageDetails": [image], "nextToken": "n2"}),
        call("DescribeImages"), gives(json={"imageDetails": [{"imageDigest": digest}]}),
    )  # fmt: skip
    assert done.value.items == (TagDetail("1", digest, 7.5, 9), TagDetail("latest", digest, 7.5, 9))
    assert done.value.complete


def test_a_marker_that_comes_again_is_no_end() -> None:
    page = gives(json={"imageIds": [{"imageTag": "1"}], "nextToken": "same"})
    done = play(list_tags(of(**OWN), "a/b"), call("ListImages"), page, call("ListImages"), page)
    assert done.kind == "list-loop"


def test_a_query_is_signed_in_its_order() -> None:
    keys = AwsKeys("AKID", Secret(CANARY))
    proofs = {
        dict(
            signed_headers(
                "GET", Url.parse(f"https://h.example/?{query}"), (), b"", keys, service="s", region="r",
                stamp="20260101T000000Z",
            )
        )["authorization"]
        for query in ("a=1&b=2", "b=2&a=1")
    }  # fmt: skip
    assert len(proofs) == 1
