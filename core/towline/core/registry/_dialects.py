"""The registry types side by side: what differs from the common protocol, and nothing else."""

from __future__ import annotations

from typing import Final

from towline.core._errors import RemoteProtocolError
from towline.core.registry._dialect import PLAIN, Dialect
from towline.core.registry._digest import shown
from towline.core.registry.clouds import azure
from towline.core.registry.vendors import (
    acr,
    artifactory,
    digitalocean,
    ecr,
    github,
    gitlab,
    google,
    harbor,
    hub,
    quay,
)

_GOOGLE_LANDINGS: Final = (("cloud.google.com", "catalog-unsupported"),)
_GOOGLE_DENIAL: Final = (
    "give the account the role Artifact Registry Reader; Google answers the same for what is missing"
)
_GOOGLE_LOGIN: Final = "the user is _json_key, the password the whole key file; with _json_key_base64 it is its base64"

_ROWS: Final = (
    PLAIN,
    Dialect(
        "docker-hub",
        "Docker Hub",
        hosts=("docker.io", "registry-1.docker.io", "index.docker.io"),
        default_base="registry-1.docker.io",
        base_aliases=tuple(
            (alias, "registry-1.docker.io")
            for alias in ("docker.io", "index.docker.io", "hub.docker.com", "registry.hub.docker.com")
        ),
        official_prefix="library/",
        api="https://hub.docker.com",
        repositories=hub.list_repositories,
        details=hub.list_details,
        page_most=100,
        catalogue_hint="Docker Hub lists by namespace: give namespaces, or name the repositories",
        denial_hint="Docker Hub answers the same for a missing and for a private repository: check name and login",
        login_hint="use the Docker ID in lower case and a personal access token; with 2FA a password does not work",
    ),
    Dialect(
        "github-cr",
        "GitHub Container Registry",
        hosts=("ghcr.io",),
        default_base="ghcr.io",
        api="https://api.github.com",
        repositories=github.list_repositories,
        details=github.list_details,
        page_most=100,
        catalogue_hint="GitHub lists by owner: give owners as namespaces, and a token with read:packages",
        denial_hint="the token needs read:packages, and to be authorized where an organisation has single sign-on",
        login_hint="use a classic personal access token with read:packages; others are refused, even for public images",
    ),
    Dialect(
        "gitlab-cr",
        "GitLab Container Registry",
        hosts=("registry.gitlab.com",),
        default_base="registry.gitlab.com",
        repositories=gitlab.list_repositories,
        page_most=100,
        catalogue_hint="listing needs a token with read_api beside read_registry; groups as namespaces narrow it",
        denial_hint="the token needs read_registry, and its user to be a member of the project",
        login_hint="use a personal, group, project or deploy token with read_registry; 2FA refuses a password",
    ),
    Dialect(
        "quay-cr",
        "Quay",
        hosts=("quay.io",),
        default_base="quay.io",
        repositories=quay.list_repositories,
        details=quay.list_details,
        page_most=100,
        denial_hint="give the robot account the right to read this repository; Quay does not say which do not exist",
        login_hint="a robot is NAMESPACE+NAME with its token; an OAuth token's user is $oauthtoken",
    ),
    Dialect(
        "harbor-cr",
        "Harbor",
        repositories=harbor.list_repositories,
        details=harbor.list_details,
        page_most=100,
        basic_refusal="right",
        catalogue_hint="Harbor shows its catalogue to administrators only; the API lists the projects of the login",
        denial_hint="Harbor answers a wrong login like a missing right: check both; a robot needs the right to pull",
        login_hint="check the name and the secret; with OIDC use the CLI secret, a robot's name begins with robot$",
    ),
    Dialect(
        "digitalocean-cr",
        "DigitalOcean Container Registry",
        hosts=("registry.digitalocean.com",),
        default_base="registry.digitalocean.com",
        base_path="namespace",
        api="https://api.digitalocean.com",
        repositories=digitalocean.list_repositories,
        details=digitalocean.list_details,
        page_most=200,
        catalogue_hint="the token needs the right registry:read",
        login_hint="use an API token as user name and as password",
    ),
    Dialect(
        "ecr",
        "Amazon ECR",
        knows=ecr.knows,
        derive_base=ecr.derive_base,
        log_in=ecr.log_in,
        expired=ecr.expired,
        repositories=ecr.list_repositories,
        tags=ecr.list_tags,
        details=ecr.list_details,
        link="query",
        catalogue_hint="the role needs ecr:DescribeRepositories",
        denial_hint="the role needs ecr:BatchGetImage and ecr:GetDownloadUrlForLayer on the repository",
        login_hint="check that the role trusts this machine's identity, with this external id",
    ),
    Dialect(
        "gcr",
        "Google Container Registry",
        hosts=("gcr.io", ".gcr.io"),
        default_base="gcr.io",
        base_path="namespace",
        exchange=google.exchange,
        repositories=google.list_repositories,
        details=google.list_details,
        link="query",
        page_size=10_000,
        page_most=10_000,
        landings=_GOOGLE_LANDINGS,
        catalogue_hint="enable the Artifact Registry API and migrate the images, or name the repositories",
        denial_hint=_GOOGLE_DENIAL,
        login_hint=_GOOGLE_LOGIN,
    ),
    Dialect(
        "google-artifact-cr",
        "Google Artifact Registry",
        hosts=("-docker.pkg.dev", ".rep.pkg.dev"),
        base_path="namespace",
        api="https://artifactregistry.googleapis.com",
        exchange=google.exchange,
        repositories=google.list_repositories,
        details=google.list_details,
        link="query",
        page_size=10_000,
        page_most=10_000,
        landings=_GOOGLE_LANDINGS,
        catalogue_hint="give the base as LOCATION-docker.pkg.dev/PROJECT/REPOSITORY, or name the repositories",
        denial_hint=_GOOGLE_DENIAL,
        login_hint=_GOOGLE_LOGIN,
    ),
    Dialect(
        "acr",
        "Azure Container Registry",
        hosts=(".azurecr.io", ".azurecr.cn", ".azurecr.us"),
        exchange=azure.exchange,
        catalogue="acr/v1/_catalog",
        details=acr.list_details,
        link="query",
        catalogue_hint="a token of a scope map lists the catalogue only if it covers all repositories: name them",
        denial_hint="give the identity AcrPull, or the token's scope map content/read and metadata/read here",
        login_hint="check the application's id and secret, the admin user, or the token's name and password",
    ),
    Dialect(
        "artifactory-cr",
        "Artifactory",
        scopes="suffix",
        repositories=artifactory.list_repositories,
        link="query",
        page_most=10_000,
        landings=(("landing.jfrog.com", "registry-error"),),
        landing_hint="the instance was deactivated: its owner can wake it at the page it redirects to",
        catalogue_hint="give the base as HOST/artifactory/api/docker/KEY, or name the repositories",
        denial_hint="give the user the right to read this repository; a missing tag may be answered so as well",
        login_hint="an identity or access token goes as the password of its own user",
    ),
    Dialect(
        "nexus-cr",
        "Nexus",
        scopes="all",
        realm_may_be_plain=True,
        link="query",
        catalogue_hint="path-based routing has no catalogue: give the connector's port or HOST/repository/NAME",
        denial_hint="give the user the privileges to browse and read this repository",
        login_hint="check the user; a user token has its name code as the user and its pass code as the password",
    ),
)

DIALECTS: Final[dict[str, Dialect]] = {row.name: row for row in _ROWS}

TYPES: Final = tuple(DIALECTS)
"""The types' names, as credentials have them."""

ALIASES: Final[dict[str, str]] = {
    "dockerhub": "docker-hub",
    "docker": "docker-hub",
    "elasticcr": "ecr",
    "googlecr": "gcr",
    "googleartifactcr": "google-artifact-cr",
    "azurecr": "acr",
    "artifactorycr": "artifactory-cr",
    "harborcr": "harbor-cr",
    "quaycr": "quay-cr",
    "githubcr": "github-cr",
    "nexuscr": "nexus-cr",
    "digitaloceancr": "digitalocean-cr",
    "gitlabcr": "gitlab-cr",
    "distribution": "oci",
}


def find_dialect(name: str) -> Dialect:
    """Return the row of a type, by its name or an alias, without regard to case.

    Raises:  unsupported-type, naming the types there are
    """
    wanted = name.strip().lower()
    row = DIALECTS.get(ALIASES.get(wanted, wanted))
    if row is not None:
        return row
    raise RemoteProtocolError(
        "unsupported-type",
        f"expected one of the types {', '.join(sorted(DIALECTS))}, got {shown(name)}",
        hint="a registry that speaks the plain protocol can be reached with the type oci",
    )


def dialect_of(host: str) -> Dialect:
    """Return the type that a host is known to have, else the plain protocol. `host` may have a port."""
    name = host.lower().partition(":")[0]
    for row in _ROWS:
        if any(name == known or (known[0] in ".-" and name.endswith(known)) for known in row.hosts):
            return row
        if row.knows is not None and row.knows(name):
            return row
    return PLAIN
