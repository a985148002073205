"""The registry types as rows of data: what differs from the common protocol, and nothing else."""

from __future__ import annotations

from typing import Final, Literal

from towline.core._contract import Record
from towline.core._errors import RemoteProtocolError
from towline.core.registry._digest import shown


class Dialect(Record, frozen=True):
    """One row. `name` is the type's name in credentials and configuration.

    `base_aliases` are names people write for a server with another name. `realm_hosts` are token hosts that
    belong to the type although they are on another domain. `catalogue` says where repositories are listed.
    `basic_refusal` is what a 401 to Basic on a repository means: that the login is wrong, or only the right.
    """

    name: str
    default_base: str | None = None
    base_aliases: tuple[tuple[str, str], ...] = ()
    official_prefix: str | None = None
    realm_hosts: tuple[str, ...] = ()
    page_size: int = 100
    catalogue: Literal["v2", "docker-hub"] = "v2"
    api: str | None = None
    basic_refusal: Literal["login", "right"] = "login"
    catalogue_hint: str = "name the repositories in the configuration, or use a login that may list them"
    denial_hint: str = "give the login the right to pull this repository, or check its name"
    login_hint: str = "check the user name and the password or token"


DIALECTS: Final[dict[str, Dialect]] = {
    row.name: row
    for row in (
        Dialect("oci"),
        Dialect(
            "docker-hub",
            default_base="registry-1.docker.io",
            base_aliases=tuple(
                (alias, "registry-1.docker.io")
                for alias in ("docker.io", "index.docker.io", "hub.docker.com", "registry.hub.docker.com")
            ),
            official_prefix="library/",
            catalogue="docker-hub",
            api="https://hub.docker.com",
            catalogue_hint="Docker Hub lists by namespace: give namespaces, or name the repositories",
            denial_hint="Docker Hub answers the same for a missing and for a private repository: check name and login",
            login_hint="use the Docker ID in lower case and a personal access token; with 2FA a password does not work",
        ),
    )
}

TYPES: Final = (
    "docker-hub",
    "gcr",
    "google-artifact-cr",
    "ecr",
    "acr",
    "artifactory-cr",
    "harbor-cr",
    "quay-cr",
    "github-cr",
    "nexus-cr",
    "digitalocean-cr",
    "gitlab-cr",
    "oci",
)
"""Every type there is in credentials, also those without a row."""

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
    wanted = ALIASES.get(wanted, wanted)
    row = DIALECTS.get(wanted)
    if row is not None:
        return row
    known = ", ".join(sorted(DIALECTS))
    if wanted in TYPES:
        raise RemoteProtocolError(
            "unsupported-type",
            f"expected one of the types {known}, got {wanted}, which is not handled",
            hint="a registry that speaks the plain protocol can be reached with the type oci",
        )
    raise RemoteProtocolError("unsupported-type", f"expected one of the types {known}, got {shown(name)}")
