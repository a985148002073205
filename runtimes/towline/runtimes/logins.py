"""The logins a person already has: what `docker`, `podman`, `skopeo` and `oras` wrote (ecosystem.md §1.3).

In each file, for one registry: the credential helper of its host, then its own entries, then the store for all.
Only the hand tools look for these files; a program reads the one that it is told of, and nothing of its user's home.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from towline.core import Record, RemoteProtocolError, Secret
from towline.core.registry import Credentials
from towline.runtimes.credential_programs import from_helper

T = TypeVar("T")

_LARGEST_FILE: Final = 1024 * 1024
# What docker calls its own registry in a login file.
_DOCKER_HUB: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")


def places(environment: Mapping[str, str], authfile: str | None = None) -> list[Path]:
    """Return the login files to look at, first hit wins. A file that was named must exist; the others may not."""
    if authfile:
        return [Path(authfile)]
    if named := environment.get("REGISTRY_AUTH_FILE"):
        return [Path(named)]
    found = []
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        found.append(Path(runtime, "containers", "auth.json"))
    if home := environment.get("HOME"):
        config = environment.get("XDG_CONFIG_HOME") or f"{home}/.config"
        docker = environment.get("DOCKER_CONFIG") or f"{home}/.docker"
        found += [Path(config, "containers", "auth.json"), Path(docker, "config.json")]
    return [path for path in found if path.is_file()]


class _File(Record, frozen=True):
    """One login file: its entries by host, with or without a path, and the helpers that keep logins for it."""

    path: Path
    entries: dict[str, dict[str, Any]]
    helpers: dict[str, str]
    store: str | None


async def find(
    files: Iterable[Path], host: str, repository: str = "", environment: Mapping[str, str] | None = None
) -> Credentials | None:
    """Return the login for a repository: the longest path that matches, in the first file that has one.

    `environment` is what a helper program gets.

    Raises:  RemoteProtocolError("malformed-credentials") that names the file and the entry, never its value;
             what a helper raises
    """
    around = environment or {}
    for path in files:
        file = _read(path)
        if (login := await _in_file(file, host, repository, around)) is not None:
            return login
    return None


async def _in_file(file: _File, host: str, repository: str, environment: Mapping[str, str]) -> Credentials | None:
    names = _DOCKER_HUB if host in _DOCKER_HUB else (host,)
    server = names[0]
    own = next((file.helpers[name] for name in names if name in file.helpers), None)
    if own is not None and (login := await from_helper(own, server, environment)) is not None:
        return login
    for key in _candidates(host, repository):
        # An entry may be empty: its login is kept by a helper program.
        if key in file.entries and (login := _credentials(file.path, key, file.entries[key])) is not None:
            return login
    if file.store is None or file.store == own:
        return None
    try:
        return await from_helper(file.store, server, environment)
    except RemoteProtocolError as error:
        # A store that is not here matters to those alone whose login is in it.
        if error.kind != "invalid-configuration" or any(name in file.entries for name in names):
            raise
        return None


def _candidates(host: str, repository: str) -> list[str]:
    parts = repository.split("/") if repository else []
    keys = ["/".join([host, *parts[:count]]) for count in range(len(parts), 0, -1)]
    hosts = [*_DOCKER_HUB] if host in _DOCKER_HUB else [host]
    return keys + hosts


def _read(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        tree = json.loads(content) if len(content) <= _LARGEST_FILE else None
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "not JSON"
        raise RemoteProtocolError("malformed-credentials", f"login file {path}: {why}") from None
    if not isinstance(tree, dict):
        raise RemoteProtocolError("malformed-credentials", f"login file {path}: expected an object with auths")
    auths, helpers, store = (tree.get(name) for name in ("auths", "credHelpers", "credsStore"))
    for name, value in (("auths", auths), ("credHelpers", helpers)):
        if value is not None and not isinstance(value, dict):
            raise RemoteProtocolError("malformed-credentials", f"login file {path}: expected an object as {name}")
    plain = {key: value for key, value in (auths or {}).items() if isinstance(value, dict)}
    named = {key: value for key, value in (helpers or {}).items() if isinstance(value, str) and value}
    return _File(path, _bare(plain) | plain, _bare(named) | named, store if isinstance(store, str) and store else None)


def _bare(entries: Mapping[str, T]) -> dict[str, T]:
    """Return entries by host alone: docker writes `https://host/v1/`, podman `host`, for the same registry."""
    return {key.split("://", 1)[1].split("/", 1)[0]: value for key, value in entries.items() if "://" in key}


def _credentials(path: Path, key: str, entry: dict[str, Any]) -> Credentials | None:
    username, password, auth = entry.get("username"), entry.get("password"), entry.get("auth")
    if isinstance(auth, str) and auth:
        try:
            username, separator, password = base64.b64decode(auth, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            separator = ""
        if not separator:
            why = f"login file {path}: the auth of {key} is not base64 of user:password"
            raise RemoteProtocolError("malformed-credentials", why)
    token = entry.get("identitytoken")
    identity = Secret(token) if isinstance(token, str) and token else None
    if identity is not None and not isinstance(username, str):
        username, password = "", ""
    if isinstance(username, str) and isinstance(password, str) and (username or identity):
        return Credentials(username, Secret(password.rstrip("\0")), identity)
    return None
