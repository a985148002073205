"""The command against moto as STS and ECR, over TLS: what it asks and finds is what botocore asks and finds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from command_tools import Ran, towline
from interop.peers.docker_registry import Login, docker_registry, push_corpus
from interop.peers.moto_server import ACCOUNT, HOSTS, REGION, Amazon, Asked, moto_server
from interop.peers.nginx_front import NginxFront, nginx_front

pytestmark = pytest.mark.interop

STS, ECR = HOSTS
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/registry-reader"
EXTERNAL = "external-id-c4n4ry"
KEY_ID, SECRET = "AKIATOWLINE", "s3cr3t-c4n4ry"
KEYS = {"AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": SECRET}
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REPOSITORIES = [f"team/app-{number}" for number in range(7)]
TAGS = ["latest", *(f"v{number}" for number in range(12))]


class There(NamedTuple):
    amazon: Amazon
    front: NginxFront
    home: Path

    def ask(self, command: str, *arguments: str, **environment: str) -> Ran:
        told = towline(
            command, *arguments, *self.amazon.resolve, "--ca-file", self.amazon.ca_file,
            "--resolve", f"{REGISTRY}:443:{self.front.address}", home=self.home, **environment,
        )  # fmt: skip
        assert "c4n4ry" not in told.out + told.err
        return told

    def as_role(self, command: str, *arguments: str) -> Ran:
        role = ("--role-arn", ROLE, "--region", REGION)
        return self.ask(command, *arguments, *role, **KEYS, CR_EXTERNAL_ID=EXTERNAL)


@pytest.fixture(scope="module")
def there(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[There]:
    """moto for what it has; it has no `/v2/`, so Debian's registry stands there, with the password moto gives."""
    login = Login("AWS", f"{ACCOUNT}-auth-token")
    root = tmp_path_factory.mktemp("elastic")
    with ExitStack() as stack:
        peer = stack.enter_context(docker_registry(root, htpasswd=login))
        push_corpus(peer, corpus, ["layers"])
        amazon = stack.enter_context(moto_server(tmp_path_factory.mktemp("moto"), names=(REGISTRY,)))
        front = stack.enter_context(nginx_front(peer.address, tmp_path_factory.mktemp("front"), keys=amazon.keys))
        fill(amazon.client("ecr"))
        yield There(amazon, front, tmp_path_factory.mktemp("home"))


def fill(ecr: Any) -> None:
    for name in REPOSITORIES:
        ecr.create_repository(repositoryName=name)
    for at, tag in enumerate(TAGS):
        layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{at // 2:064x}", "size": 100}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": layer, "layers": [layer]}
        ecr.put_image(
            repositoryName=REPOSITORIES[0], imageTag=tag, imageManifest=json.dumps(manifest),
            imageManifestMediaType=MANIFEST,
        )  # fmt: skip


def signed_as_botocore_signs(asked: Asked, service: str, key_id: str, secret: str) -> bool:
    """Tell whether a request has the signature that botocore puts on one with these headers at that time."""
    scheme, _, rest = asked.headers["authorization"].partition(" ")
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    names = parts["SignedHeaders"].split(";")
    request = AWSRequest("POST", f"https://{asked.host}/", {name: asked.headers[name] for name in names}, asked.body)
    request.context["timestamp"] = asked.headers["x-amz-date"]
    auth = SigV4Auth(Credentials(key_id, secret), service, REGION)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    assert scheme == "AWS4-HMAC-SHA256"
    assert parts["Credential"] == auth.scope(request)
    return bool(parts["Signature"] == auth.signature(text, request))


def test_repositories(there: There) -> None:
    told = there.as_role("repos", REGISTRY, "-o", "json")
    assert (told.code, told.err) == (0, "")
    found = json.loads(told.out)
    theirs = [one["repositoryName"] for one in there.amazon.client("ecr").describe_repositories()["repositories"]]
    assert (sorted(found["repositories"]), found["complete"]) == (sorted(theirs), True)
    assert sorted(theirs) == REPOSITORIES


def test_tags(there: There) -> None:
    told = there.as_role("tags", f"{REGISTRY}/{REPOSITORIES[0]}")
    assert (told.code, told.err) == (0, "")
    asked = {"repositoryName": REPOSITORIES[0], "filter": {"tagStatus": "TAGGED"}}
    theirs = [one["imageTag"] for one in there.amazon.client("ecr").list_images(**asked)["imageIds"]]
    assert sorted(told.out.split()) == sorted(theirs) == sorted(TAGS)


def test_tags_with_digest_size_and_time(there: There) -> None:
    told = there.as_role("tags", "--long", f"{REGISTRY}/{REPOSITORIES[0]}", "-o", "json")
    assert (told.code, told.err) == (0, "")
    details = there.amazon.client("ecr").describe_images(repositoryName=REPOSITORIES[0])["imageDetails"]
    theirs = {
        tag: (one["imageDigest"], one["imageSizeInBytes"], int(one["imagePushedAt"].timestamp()))
        for one in details
        for tag in one["imageTags"]
    }
    ours = {
        one["tag"]: (one["digest"], one["sizeBytes"], int(datetime.fromisoformat(one["lastPushed"]).timestamp()))
        for one in json.loads(told.out)["items"]
    }
    assert ours == theirs
    assert sorted(ours) == sorted(TAGS)


def test_what_is_asked_is_what_botocore_asks(there: There) -> None:
    """The form of AssumeRole with its external id, the API's calls, and signatures with the keys of each step."""
    amazon = there.amazon
    amazon.record()
    session = amazon.client("sts").assume_role(RoleArn=ROLE, RoleSessionName="towline", ExternalId=EXTERNAL)
    amazon.client("ecr").get_authorization_token()
    theirs = amazon.recorded()
    amazon.record()
    assert there.as_role("inspect", f"{REGISTRY}/corpus/layers:latest").code == 0
    ours = amazon.recorded()
    assert ours[0].host == STS
    assert parse_qs(ours[0].body.decode()) == parse_qs(theirs[0].body.decode())
    assert parse_qs(ours[0].body.decode())["ExternalId"] == [EXTERNAL]
    assert signed_as_botocore_signs(ours[0], "sts", KEY_ID, SECRET)
    assert ours[1].host == ECR
    for name in ("x-amz-target", "content-type"):
        assert ours[1].headers[name] == theirs[1].headers[name]
    assert json.loads(ours[1].body) == json.loads(theirs[1].body) == {}
    # The role's keys sign the second step, beside its session token; moto made them up anew.
    assert ours[1].headers["x-amz-security-token"]
    assert KEY_ID not in ours[1].headers["authorization"]
    assert session["Credentials"]["AccessKeyId"] not in ours[1].headers["authorization"]


def test_the_keys_of_the_machine_alone_sign_as_botocore_does(there: There) -> None:
    there.amazon.record()
    told = there.ask("repos", REGISTRY, **KEYS)
    assert (told.code, sorted(told.out.split())) == (0, REPOSITORIES)
    (asked,) = there.amazon.recorded()
    assert asked.headers["x-amz-target"].endswith(".DescribeRepositories")
    assert signed_as_botocore_signs(asked, "ecr", KEY_ID, SECRET)


@pytest.mark.parametrize("then_a_role", [False, True])
def test_web_identity(there: There, then_a_role: bool, tmp_path: Path) -> None:
    """The token's file stands for an identity without a signature; a role may be taken with it."""
    (tmp_path / "token").write_text("web-identity-c4n4ry\n")
    own = f"arn:aws:iam::{ACCOUNT}:role/pod"
    around = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "token"), "AWS_ROLE_ARN": own}
    role = ("--role-arn", ROLE, "--region", REGION) if then_a_role else ()
    there.amazon.record()
    told = there.ask("tags", f"{REGISTRY}/{REPOSITORIES[0]}", *role, **around)
    assert (told.code, sorted(told.out.split())) == (0, sorted(TAGS))
    ours = there.amazon.recorded()
    there.amazon.record()
    there.amazon.client("sts").assume_role_with_web_identity(
        RoleArn=own, RoleSessionName="towline", WebIdentityToken="web-identity-c4n4ry"
    )
    (theirs,) = there.amazon.recorded()
    assert "authorization" not in ours[0].headers
    assert "authorization" not in theirs.headers
    assert parse_qs(ours[0].body.decode()) == parse_qs(theirs.body.decode())
    actions = [parse_qs(one.body.decode())["Action"][0] for one in ours if one.host == STS]
    assert actions == ["AssumeRoleWithWebIdentity", *(["AssumeRole"] if then_a_role else [])]
    assert ours[-1].headers["x-amz-security-token"]


def test_the_password_of_the_api_opens_the_registry(there: There, tmp_path: Path) -> None:
    told = there.as_role("check", REGISTRY)
    assert [line.split()[:2] for line in told.out.splitlines()][:5] == [
        [step, "ok"] for step in ("resolve", "tcp", "tls", "v2", "token")
    ]
    told = there.as_role("pull", f"{REGISTRY}/corpus/layers:latest", str(tmp_path / "layout"), "-o", "json")
    assert (told.code, told.err) == (0, "")
    assert json.loads(told.out)["complete"] is True


def test_what_is_not_there(there: There) -> None:
    told = there.as_role("tags", f"{REGISTRY}/team/none")
    assert told.code == 1
    assert told.err.startswith("towline: REPOSITORY_NOT_FOUND: ")
    assert "400 RepositoryNotFoundException" in told.err
