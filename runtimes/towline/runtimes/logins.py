"""The logins a person already has: what `docker`, `podman`, `skopeo` and `oras` wrote (ecosystem.md §1.3).

Only the hand tools read these; a program reads nothing of its user's home.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from towline.core import RemoteProtocolError, Secret
from towline.core.registry import Credentials

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


def find(files: Iterable[Path], host: str, repository: str = "") -> Credentials | None:
    """Return the login for a repository: the longest path that matches, in the first file that has one.

    Raises RemoteProtocolError("malformed-credentials") that names the file and the entry, never its value.
    """
    for path in files:
        entries = _entries(path)
        for key in _candidates(host, repository):
            # An entry may be empty: its login is kept by a helper program.
            if key in entries and (login := _credentials(path, key, entries[key])) is not None:
                return login
    return None


def _candidates(host: str, repository: str) -> list[str]:
    parts = repository.split("/") if repository else []
    keys = ["/".join([host, *parts[:count]]) for count in range(len(parts), 0, -1)]
    hosts = [*_DOCKER_HUB] if host in _DOCKER_HUB else [host]
    return keys + hosts


def _entries(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
        tree = json.loads(content) if len(content) <= _LARGEST_FILE else None
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) else "not JSON"
        raise RemoteProtocolError("malformed-credentials", f"login file {path}: {why}") from None
    auths = tree.get("auths") if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or (auths is not None and not isinstance(auths, dict)):
        raise RemoteProtocolError("malformed-credentials", f"login file {path}: expected an object with auths")
    plain = {key: value for key, value in (auths or {}).items() if isinstance(value, dict)}
    # docker writes `https://host/v1/`, podman `host`: both forms name the same registry.
    bare = {key.split("://", 1)[1].split("/", 1)[0]: value for key, value in plain.items() if "://" in key}
    return bare | plain


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
    if isinstance(username, str) and isinstance(password, str) and username:
        return Credentials(username, Secret(password.rstrip("\0")))
    return None
