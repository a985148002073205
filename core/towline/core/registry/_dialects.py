"""The registry types side by side: what differs from the common protocol, and nothing else."""

from __future__ import annotations

from typing import Final

from towline.core._errors import RemoteProtocolError
from towline.core.registry._dialect import PLAIN, Dialect
from towline.core.registry._digest import shown
from towline.core.registry.vendors import hub

DIALECTS: Final[dict[str, Dialect]] = {
    row.name: row
    for row in (
        PLAIN,
        Dialect(
            "docker-hub",
            "Docker Hub",
            default_base="registry-1.docker.io",
            base_aliases=tuple(
                (alias, "registry-1.docker.io")
                for alias in ("docker.io", "index.docker.io", "hub.docker.com", "registry.hub.docker.com")
            ),
            official_prefix="library/",
            api="https://hub.docker.com",
            repositories=hub.list_repositories,
            page_most=100,
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
