"""What vendors' own lists answer beside the transcripts: details of tags, fallbacks, pages that are wrong.

Source:  the vendors' API references, as registries-a.md and registries-b.md quote them
"""

from __future__ import annotations

from typing import Any

import pytest
from registry_tools import BASIC, Asks, Gives, asks, bearer, gives, play, registry, token_url

from towline.core import Secret
from towline.core.registry import Credentials, TagDetail, dialect_of, find_dialect, list_details, list_repositories

DIGEST = "sha256:" + "a" * 64
JULY = 1751364305.0  # 2025-07-01T10:05:05Z
MOMENT = "2025-07-01T10:05:05Z"


def of(kind: str, base: str = "", user: str = "user", **options: Any) -> Any:
    made = registry(base, dialect=find_dialect(kind), retries=0, **options)
    made.credentials = Credentials(user, Secret("pass-word-canary"))
    return made


# ── details ────────────────────────────────────────────────────────────────────
def test_details_of_docker_hub() -> None:
    hub = "https://hub.docker.com/v2"
    page = {"results": [{"name": "1", "digest": DIGEST, "full_size": 7, "tag_last_pushed": MOMENT, "media_type": "m"}]}
    done = play(
        list_details(of("docker-hub"), "alpine"),
        asks(f"{hub}/auth/token", method="POST"), gives(json={"access_token": "t"}),
        asks(f"{hub}/namespaces/library/repositories/alpine/tags?page_size=100", "Bearer t"), gives(json=page),
    )  # fmt: skip
    assert done.value.items == (TagDetail("1", DIGEST, JULY, 7, "m"),)
    assert done.value.complete


def test_details_of_github_are_its_versions_of_an_organisation_or_a_user() -> None:
    api = "https://api.github.com"
    path = "acme/packages/container/team%2Fapi/versions?per_page=100"
    bearer_of_user = "Bearer pass-word-canary"
    versions = [
        {"name": DIGEST, "created_at": MOMENT, "metadata": {"container": {"tags": ["1", "latest"]}}},
        {"name": DIGEST, "created_at": MOMENT, "metadata": {"package_type": "container"}},
    ]
    done = play(
        list_details(of("github-cr"), "acme/team/api"),
        asks(f"{api}/orgs/{path}", bearer_of_user), gives(404, json={"message": "Not Found"}),
        asks(f"{api}/users/{path}", bearer_of_user), gives(json=versions),
    )  # fmt: skip
    assert done.value.items == (TagDetail("1", DIGEST, JULY), TagDetail("latest", DIGEST, JULY))
    neither = play(
        list_details(of("github-cr"), "acme/team/api"),
        asks(f"{api}/orgs/{path}", bearer_of_user), gives(404),
        asks(f"{api}/users/{path}", bearer_of_user), gives(404),
    )  # fmt: skip
    assert neither.kind == "repository-not-found"


def test_details_of_quay_with_oauth_go_page_by_page() -> None:
    first = "https://quay.io/api/v1/repository/acme/app/tag/?limit=100&page=1&onlyActiveTags=true"
    second = "https://quay.io/api/v1/repository/acme/app/tag/?limit=100&onlyActiveTags=true&page=2"
    tag = {"name": "1", "manifest_digest": DIGEST, "start_ts": int(JULY), "size": 9}
    done = play(
        list_details(of("quay-cr", user="$oauthtoken"), "acme/app"),
        asks(first, "Bearer pass-word-canary"), gives(json={"tags": [tag], "has_additional": True, "page": 1}),
        asks(second, "Bearer pass-word-canary"), gives(json={"tags": [tag | {"name": "2"}], "page": 2}),
    )  # fmt: skip
    assert done.value.items == (TagDetail("1", DIGEST, JULY, 9), TagDetail("2", DIGEST, JULY, 9))
    odd = play(
        list_details(of("quay-cr", user="$oauthtoken"), "acme/app"),
        asks(first, "Bearer pass-word-canary"), gives(json={"tags": [], "has_additional": True, "page": -4}),
    )  # fmt: skip
    assert odd.kind == "protocol-error"


def test_details_of_quay_without_oauth_look_into_each() -> None:
    app = "https://quay.io/v2/acme/app"
    scope = "repository:acme/app:pull"
    known = {"docker-content-digest": DIGEST, "content-type": "m"}
    done = play(
        list_details(of("quay-cr"), "acme/app"),
        asks(f"{app}/tags/list?n=100"), gives(401, bearer(scope, realm="https://quay.io/v2/auth")),
        asks(token_url(scope, realm="https://quay.io/v2/auth"), BASIC), gives(json={"token": "t"}),
        asks(f"{app}/tags/list?n=100", "Bearer t"), gives(json={"tags": ["1", "gone"]}),
        asks(f"{app}/manifests/1", "Bearer t", method="HEAD"), gives(headers=known),
        asks(f"{app}/manifests/gone", "Bearer t", method="HEAD"), gives(404),
    )  # fmt: skip
    assert done.value.items == (TagDetail("1", DIGEST, media_type="m"), TagDetail("gone"))
    assert done.value.warnings == ("1 tags could not be looked into",)


def test_details_of_harbor_encode_a_slash_twice() -> None:
    api = "https://harbor.example/api/v2.0/projects/team/repositories/sub%252Fapp/artifacts"
    artifacts = [
        {"digest": DIGEST, "size": 5, "push_time": MOMENT, "manifest_media_type": "m", "tags": [{"name": "1"}]},
        {"digest": DIGEST, "size": 5, "push_time": MOMENT, "tags": None},
    ]
    done = play(
        list_details(of("harbor-cr", "harbor.example"), "team/sub/app"),
        asks(f"{api}?page=1&page_size=100&with_tag=true", BASIC), gives(json=artifacts),
    )  # fmt: skip
    assert done.value.items == (TagDetail("1", DIGEST, JULY, 5, "m"),)


def test_details_of_digitalocean() -> None:
    first = "https://api.digitalocean.com/v2/registries/reg/repositories/svc%2Fapi/tags?per_page=100"
    second = first + "&page=2"
    tag = {"tag": "1", "manifest_digest": DIGEST, "compressed_size_bytes": 5, "updated_at": MOMENT}
    more = {"tags": [tag], "links": {"pages": {"next": second}}}
    done = play(
        list_details(of("digitalocean-cr"), "reg/svc/api"),
        asks(first, "Bearer pass-word-canary"), gives(json=more),
        asks(second, "Bearer pass-word-canary"), gives(json={"tags": [tag | {"tag": "2"}], "links": {}}),
    )  # fmt: skip
    assert [item.tag for item in done.value.items] == ["1", "2"]
    assert done.value.items[0] == TagDetail("1", DIGEST, JULY, 5)


def test_details_of_google_are_in_its_list_of_tags() -> None:
    url = "https://eu.gcr.io/v2/p/app/tags/list?n=10000"
    manifest = {DIGEST: {"tag": ["1"], "imageSizeBytes": "12", "mediaType": "m", "timeUploadedMs": "1751364305000"}}
    done = play(
        list_details(of("gcr", "eu.gcr.io", user="_json_key"), "p/app"),
        asks(url), gives(json={"tags": ["1", "untold", None], "manifest": manifest}),
    )  # fmt: skip
    assert done.value.items == (TagDetail("1", DIGEST, JULY, 12, "m"), TagDetail("untold"))


def test_details_of_azure() -> None:
    url = "https://a.azurecr.io/acr/v1/app/_tags?n=100"
    tags = [{"name": "1", "digest": DIGEST, "lastUpdateTime": MOMENT}]
    done = play(
        list_details(of("acr", "a.azurecr.io"), "app"),
        asks(url), gives(json={"registry": "a.azurecr.io", "imageName": "app", "tags": tags}),
    )  # fmt: skip
    assert done.value.items == (TagDetail("1", DIGEST, JULY),)


# ── lists ──────────────────────────────────────────────────────────────────────
def test_github_gives_up_on_a_page_that_is_missing_behind_a_good_one() -> None:
    first = "https://api.github.com/orgs/acme/packages?package_type=container&per_page=100"
    second = first + "&page=2"
    packages = [{"name": "App", "owner": {"login": "Acme"}}]
    columns: list[Asks | Gives] = [
        asks(first, "Bearer pass-word-canary"),
        gives(json=packages, headers={"link": f'<{second}>; rel="next"'}),
        asks(second, "Bearer pass-word-canary"),
        gives(404),
    ]
    assert play(list_repositories(of("github-cr", namespaces=["acme"])), *columns).kind == "repository-not-found"
    partial = play(list_repositories(of("github-cr", namespaces=["acme"]), partial=True), *columns)
    assert (partial.value.items, partial.value.complete) == (("acme/app",), False)


def test_gitlab_without_a_group_lists_the_projects_of_the_login() -> None:
    api = "https://git.example/api/v4"
    projects = f"{api}/projects?membership=true&simple=true&per_page=100"
    done = play(
        list_repositories(of("gitlab-cr", "registry.git.example")),
        asks("https://registry.git.example/v2/"), gives(401, bearer(realm="https://git.example/jwt/auth")),
        asks(projects), gives(json=[{"id": 3}], headers={"x-next-page": "2"}),
        asks(f"{projects}&page=2"), gives(json=[{"id": 4}], headers={"x-next-page": ""}),
        asks(f"{api}/projects/3/registry/repositories?per_page=100"),
        gives(json=[{"path": "g/p"}, {"path": "g/x", "status": "delete_ongoing"}]),
        asks(f"{api}/projects/4/registry/repositories?per_page=100"), gives(json=[{"path": "g/q"}]),
    )  # fmt: skip
    assert done.value.items == ("g/p", "g/q")


def test_gitlab_is_not_looked_for_at_a_realm_that_is_not_allowed() -> None:
    done = play(
        list_repositories(of("gitlab-cr", "registry.git.example")),
        asks("https://registry.git.example/v2/"), gives(401, bearer(realm="https://evil.example/jwt/auth")),
    )  # fmt: skip
    assert done.kind == "invalid-configuration"


@pytest.mark.parametrize("number", ["2x", "99999999999", "-1"])
def test_gitlab_pages_have_numbers(number: str) -> None:
    first = "https://gitlab.com/api/v4/groups/g/registry/repositories?per_page=100"
    done = play(
        list_repositories(of("gitlab-cr", api="https://gitlab.com", namespaces=["g"])),
        asks(first), gives(json=[], headers={"x-next-page": number}),
    )  # fmt: skip
    assert done.kind == "protocol-error"


def test_harbor_lists_the_configured_projects() -> None:
    api = "https://harbor.example/api/v2.0/projects"
    done = play(
        list_repositories(of("harbor-cr", "harbor.example", namespaces=["a", "b"])),
        asks(f"{api}/a/repositories?page=1&page_size=100", BASIC), gives(json=[{"name": "a/x"}]),
        asks(f"{api}/b/repositories?page=1&page_size=100", BASIC), gives(403),
    )  # fmt: skip
    assert done.kind == "registry-forbidden"


def test_digitalocean_lists_all_registries_of_the_account() -> None:
    api = "https://api.digitalocean.com/v2/registries"
    done = play(
        list_repositories(of("digitalocean-cr")),
        asks(api, "Bearer pass-word-canary"), gives(json={"registries": [{"name": "a"}, {"name": "b"}]}),
        asks(f"{api}/a/repositoriesV2?per_page=100", "Bearer pass-word-canary"),
        gives(json={"repositories": [{"registry_name": "a", "name": "x"}]}),
        asks(f"{api}/b/repositoriesV2?per_page=100", "Bearer pass-word-canary"), gives(json={"repositories": None}),
    )  # fmt: skip
    assert done.value.items == ("a/x",)


def test_artifactory_lists_key_by_key_where_the_host_has_no_catalogue() -> None:
    host = "https://art.example"
    remote = {"key": "hub", "type": "REMOTE", "packageType": "Docker"}
    done = play(
        list_repositories(of("artifactory-cr", "art.example")),
        asks(f"{host}/v2/_catalog?n=100"), gives(404),
        asks(f"{host}/artifactory/api/repositories?packageType=docker", BASIC),
        gives(json=[{"key": "local", "type": "LOCAL"}, remote, {"key": "../x"}]),
        asks(f"{host}/artifactory/api/docker/local/v2/_catalog?n=100", BASIC), gives(json={"repositories": ["app"]}),
        asks(f"{host}/artifactory/api/docker/hub/v2/_catalog?n=100", BASIC), gives(json={"repositories": []}),
    )  # fmt: skip
    assert done.value.items == ("local/app",)
    assert not done.value.complete
    assert "hub" in done.value.warnings[0]


def test_artifactory_behind_a_key_says_that_there_is_no_catalogue() -> None:
    base = "art.example/artifactory/api/docker/local"
    done = play(list_repositories(of("artifactory-cr", base)), asks(f"https://{base}/v2/_catalog?n=100"), gives(404))
    assert done.kind == "catalog-unsupported"


# ── hosts ──────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("docker.io", "docker-hub"),
        ("GHCR.io:443", "github-cr"),
        ("registry.gitlab.com", "gitlab-cr"),
        ("quay.io", "quay-cr"),
        ("registry.digitalocean.com", "digitalocean-cr"),
        ("eu.gcr.io", "gcr"),
        ("gcr.io", "gcr"),
        ("notgcr.io", "oci"),
        ("europe-west1-docker.pkg.dev", "google-artifact-cr"),
        ("docker.europe-west1.rep.pkg.dev", "google-artifact-cr"),
        ("contoso.azurecr.io", "acr"),
        ("azurecr.io.evil.example", "oci"),
        ("123456789012.dkr.ecr.eu-west-3.amazonaws.com", "ecr"),
        ("123456789012.dkr-ecr.eu-west-3.on.aws", "ecr"),
        ("123456789012.dkr.ecr.eu-west-3.amazonaws.com.evil.example", "oci"),
        ("registry.example", "oci"),
    ],
)
def test_a_type_is_known_by_a_vendors_host(host: str, kind: str) -> None:
    assert dialect_of(host).name == kind
