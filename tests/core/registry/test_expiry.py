"""A token ends in the middle of a pull of forty layers, as each type says so: one renewal, no byte twice."""

from __future__ import annotations

import hashlib

import pytest
from expiring_registry import LAYERS, ExpiringRegistry, Pulling, Vendor

from towline.core import Secret, TowlineError
from towline.core.registry import TYPES, Credentials, Role

UNAUTHORIZED = '{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'
INVALID = ',error="invalid_token"'
TOKEN = {"token": "{token}"}
BOTH = {"token": "{token}", "access_token": "{token}", "expires_in": 300}
ROLE = Role("arn:aws:iam::123456789012:role/reader", "eu-west-3", Secret("external-id-c4n4ry"))
KEYS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s-c4n4ry"}
ECR_ENDED = (
    '{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}'
)
ENTRA = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s-c4n4ry"}
NULL_USER = Credentials("00000000-0000-0000-0000-000000000000", Secret("t0"))


def bearer(realm: str, service: str, scope: str = "{scope}") -> str:
    said = [f'Bearer realm="{realm}"', f'service="{service}"' if service else "", f'scope="{scope}"' if scope else ""]
    return ",".join(part for part in said if part)


HUB = bearer("https://auth.docker.io/token", "registry.docker.io")
GITHUB = bearer("https://ghcr.io/token", "ghcr.io")
GITLAB = bearer("https://gitlab.com/jwt/auth", "container_registry")
QUAY = bearer("https://quay.io/v2/auth", "quay.io")
HARBOR = bearer("https://harbor.example.com/service/token", "harbor-registry")
OCEAN = bearer("https://api.digitalocean.com/v2/registry/auth", "registry.digitalocean.com")
GCR = 'Bearer realm="https://eu.gcr.io/v2/token",service=eu.gcr.io'
GAR = bearer("https://europe-west1-docker.pkg.dev/v2/token", "europe-west1-docker.pkg.dev")
ACR = bearer("https://acme.azurecr.io/oauth2/token", "acme.azurecr.io")
JFROG = bearer("https://art.example.com/artifactory/api/docker/key/v2/token", "art.example.com")
NEXUS = bearer("https://nexus.example.com/v2/token", "https://nexus.example.com/v2/token", "repository:*:pull")
PLAIN = bearer("https://registry.example/token", "registry.example")

JSON_401 = (401, None, '{"errors":[{"code":"UNAUTHORIZED","message":"No valid credential was supplied."}]}')
HARBOR_TOKEN = {"token": "{token}", "access_token": "", "expires_in": 1800}
GOOGLE_TOKEN = {"token": "{token}", "expires_in": 43200}
CLOUDFLARE = (307, "https://production.cloudflare.docker.com")
AZURE_BLOBS = (307, "https://acme.blob.core.windows.net")
S3 = (307, "https://prod-eu-west-3-starport-layer-bucket.s3.eu-west-3.amazonaws.com")

VENDORS = {
    "docker-hub": Vendor(
        "docker-hub", "acme/app", "registry-1.docker.io", HUB, "auth.docker.io/token", BOTH,
        (401, HUB + INVALID, UNAUTHORIZED), CLOUDFLARE,
    ),
    "github-cr": Vendor(
        "github-cr", "acme/app", "ghcr.io", GITHUB, "ghcr.io/token", TOKEN,
        (401, GITHUB, UNAUTHORIZED), (307, "https://pkg-containers.githubusercontent.com"),
    ),
    "gitlab-cr": Vendor(
        "gitlab-cr", "acme/app", "registry.gitlab.com", GITLAB, "gitlab.com/jwt/auth", TOKEN,
        (401, GITLAB + INVALID, UNAUTHORIZED), (307, "https://cdn.registry.gitlab-static.net"),
    ),
    "quay-cr": Vendor(
        "quay-cr", "acme/app", "quay.io", QUAY, "quay.io/v2/auth", TOKEN,
        (401, QUAY, UNAUTHORIZED), (302, "https://cdn01.quay.io"),
    ),
    "harbor-cr": Vendor(
        "harbor-cr", "acme/app", "harbor.example.com", HARBOR, "harbor.example.com/service/token", HARBOR_TOKEN,
        (401, 'Basic realm="harbor"', UNAUTHORIZED), takes_basic=True,
    ),
    "harbor-cr, a public project": Vendor(
        "harbor-cr", "acme/app", "harbor.example.com", HARBOR, "harbor.example.com/service/token", HARBOR_TOKEN,
        (401, 'Basic realm="harbor"', UNAUTHORIZED), anonymous=True,
    ),
    "digitalocean-cr": Vendor(
        "digitalocean-cr", "acme/app", "registry.digitalocean.com", OCEAN, "api.digitalocean.com/v2/registry/auth",
        TOKEN, (401, OCEAN, UNAUTHORIZED),
    ),
    "ecr": Vendor(
        "ecr", "acme/app", "123456789012.dkr.ecr.eu-west-3.amazonaws.com", None, "", {},
        (403, None, ECR_ENDED), S3, role=ROLE, variables=KEYS, anonymous=True,
    ),
    "gcr": Vendor(
        "gcr", "acme/app", "eu.gcr.io", GCR, "eu.gcr.io/v2/token", GOOGLE_TOKEN,
        JSON_401, (302, "https://storage.googleapis.com"),
    ),
    "google-artifact-cr": Vendor(
        "google-artifact-cr", "acme/repo/app", "europe-west1-docker.pkg.dev", GAR,
        "europe-west1-docker.pkg.dev/v2/token", GOOGLE_TOKEN, JSON_401, (302, ""),
    ),
    "google-artifact-cr, the machine's identity": Vendor(
        "google-artifact-cr", "acme/repo/app", "europe-west1-docker.pkg.dev", GAR,
        "europe-west1-docker.pkg.dev/v2/token", GOOGLE_TOKEN, JSON_401, (302, ""), anonymous=True,
        variables={"GCE_METADATA_HOST": "metadata.google.internal"},
    ),
    "acr": Vendor(
        "acr", "acme/app", "acme.azurecr.io", ACR, "acme.azurecr.io/oauth2/token", {"access_token": "{token}"},
        (401, ACR + INVALID, UNAUTHORIZED), AZURE_BLOBS,
    ),
    "acr, an application": Vendor(
        "acr", "acme/app", "acme.azurecr.io", ACR, "acme.azurecr.io/oauth2/token", {"access_token": "{token}"},
        (401, ACR + INVALID, UNAUTHORIZED), AZURE_BLOBS, anonymous=True, variables=ENTRA,
    ),
    "artifactory-cr": Vendor(
        "artifactory-cr", "acme/app", "art.example.com/artifactory/api/docker/key", JFROG,
        "art.example.com/artifactory/api/docker/key/v2/token", {"token": "{token}", "expires_in": 9000},
        (401, JFROG.replace(',scope="{scope}"', ""), UNAUTHORIZED),
    ),
    "nexus-cr": Vendor(
        "nexus-cr", "acme/app", "nexus.example.com", NEXUS, "nexus.example.com/v2/token", TOKEN,
        (401, NEXUS, UNAUTHORIZED),
    ),
    "oci": Vendor(
        "oci", "acme/app", "registry.example", PLAIN, "registry.example/token", BOTH,
        (401, PLAIN + INVALID, UNAUTHORIZED),
    ),
}  # fmt: skip

# What gives a new login, where it is not one token of the server that the challenge names.
AGAIN = {
    # Its refusal asks for the name and the password, which it takes everywhere.
    "harbor-cr": [],
    "ecr": ["GetAuthorizationToken"],
}


def test_every_type_is_here() -> None:
    assert {vendor.type for vendor in VENDORS.values()} == set(TYPES)


def check_whole(network: Pulling) -> None:
    """Every blob arrived, proven, and no byte of one was sent twice."""
    site = network.registry
    assert {digest: network.kept[digest] for digest in site.blobs} == site.blobs
    assert all("sha256:" + hashlib.sha256(data).hexdigest() == digest for digest, data in network.kept.items())
    for digest, data in site.blobs.items():
        spans = sorted((start, size) for wanted, start, size in site.served if wanted == digest)
        assert [start for start, _ in spans] == [sum(size for _, size in spans[:at]) for at in range(len(spans))]
        assert sum(size for _, size in spans) == len(data)


def token_path(vendor: Vendor) -> str:
    return "/" + vendor.token_path.partition("/")[2]


@pytest.mark.parametrize("at_once", [1, 4])
@pytest.mark.parametrize("name", VENDORS)
def test_the_registry_says_so(name: str, at_once: int) -> None:
    vendor = VENDORS[name]
    site = ExpiringRegistry(vendor, end_at=17)
    network = Pulling(site)
    pulled = network.pull(at_once=at_once)
    assert pulled.blobs == LAYERS + 2
    check_whole(network)
    assert site.given_late == AGAIN.get(name, [token_path(vendor)])
    # Each download that was under way is refused once, and no other.
    assert 1 <= site.refused <= at_once


@pytest.mark.parametrize("name", VENDORS)
def test_a_link_breaks_as_the_token_ends(name: str) -> None:
    vendor = VENDORS[name]
    site = ExpiringRegistry(vendor, end_at=17, cut=True)
    network = Pulling(site)
    network.pull()
    check_whole(network)
    assert len(site.served) == LAYERS + 2
    assert site.given_late == AGAIN.get(name, [token_path(vendor)])


@pytest.mark.parametrize("name", VENDORS)
def test_the_clock_says_so(name: str) -> None:
    """What is known to have ended is not shown: it is renewed before the next request, without a refusal."""
    vendor = VENDORS[name]
    site = ExpiringRegistry(vendor)
    network = Pulling(site, jump_at=17)
    network.pull(at_once=1)
    check_whole(network)
    assert site.refused == 0
    # A day later what the token was got for has ended as well.
    again = {
        "ecr": ["AssumeRole", "GetAuthorizationToken"],
        "google-artifact-cr, the machine's identity": ["metadata.google.internal", "/v2/token"],
        "acr, an application": ["login.microsoftonline.com", "/oauth2/exchange", "/oauth2/token"],
    }
    assert site.given_late == again.get(name, [token_path(vendor)])


def test_what_the_login_was_got_for_has_ended_as_well() -> None:
    """A role's session, and an application's refresh token: both links of the chain are made anew, once."""
    for name, again in (
        ("ecr", ["AssumeRole", "GetAuthorizationToken"]),
        ("acr, an application", ["login.microsoftonline.com", "/oauth2/exchange", "/oauth2/token"]),
    ):
        site = ExpiringRegistry(VENDORS[name], end_at=17, ends_too=True)
        network = Pulling(site)
        network.pull()
        check_whole(network)
        assert site.given_late == again


def test_a_refresh_token_of_the_configuration_that_has_ended_is_final() -> None:
    """Nobody but its owner has another, and the server is not asked a second time."""
    vendor = VENDORS["acr"]
    site = ExpiringRegistry(Vendor(**{**vars(vendor), "login": NULL_USER, "anonymous": True}))
    network = Pulling(site)
    with pytest.raises(TowlineError) as caught:
        network.pull()
    assert caught.value.kind == "registry-unauthorized"
    assert [head.target for head in network.requests if head.method == "POST"] == ["/oauth2/token"]
