"""Where the agent's own secrets are kept: in files, in docker's login file, or with a program that gives them.

Each is looked at when a login is needed, so that a secret that was changed is picked up without a restart.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import anyio

from towline.core import RemoteProtocolError, Secret
from towline.core.registry import Credentials
from towline.runtimes import logins
from towline.runtimes.credential_programs import Given, from_program

# A service account's key is 2.3 KiB.
_LARGEST: Final = 64 * 1024
# Asked for anew this share of a login's life before it ends.
_EARLY: Final = 0.1


class LoginSource(Protocol):
    """Something that gives a registry's login."""

    async def login(self, host: str, repository: str) -> Credentials | None:
        """Return the login, None where there is none. Raises RemoteProtocolError."""

    def refused(self, credentials: Credentials) -> None:
        """The registry refused this login; what is kept of it is not to be given again."""


class FromFiles:
    """A user's name, and the files that hold the password or an identity token; one line end is not part of them.

    With `private` off they may be readable by others: what mounts secrets into containers often makes them so.
    """

    def __init__(
        self, username: str, password: str | None, identity_token: str | None = None, *, private: bool = True
    ) -> None:
        self._private = private
        self._username = username
        self._password = password
        self._identity_token = identity_token

    async def login(self, host: str, repository: str) -> Credentials | None:
        password = read_secret(self._password, private=self._private) if self._password else Secret("")
        token = read_secret(self._identity_token, private=self._private) if self._identity_token else None
        return Credentials(self._username, password, token)

    def refused(self, credentials: Credentials) -> None:
        pass


class FromOneFile:
    """A token that is both user name and password, as one type of registry wants it."""

    def __init__(self, token: str, *, private: bool = True) -> None:
        self._token = token
        self._private = private

    async def login(self, host: str, repository: str) -> Credentials | None:
        token = read_secret(self._token, private=self._private)
        return Credentials(token.reveal(), token)

    def refused(self, credentials: Credentials) -> None:
        pass


class FromDockerFile:
    """A login file as docker and podman write it, with its credential helpers."""

    def __init__(self, path: str, environment: Mapping[str, str]) -> None:
        self._path = path
        self._environment = environment

    async def login(self, host: str, repository: str) -> Credentials | None:
        check_private(self._path)
        return await logins.find([Path(self._path)], host, repository, self._environment)

    def refused(self, credentials: Credentials) -> None:
        pass


class FromProgram:
    """A program that prints the login; asked again when that ends or is refused, by one operation at a time."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = tuple(command)
        self._environment = environment
        self._given: Given | None = None
        self._until = 0.0
        self._asking = anyio.Lock()

    async def login(self, host: str, repository: str) -> Credentials | None:
        async with self._asking:
            if self._given is None or anyio.current_time() >= self._until:
                given = await from_program(self._command, self._environment)
                left = float("inf") if given.seconds is None else given.seconds * (1 - _EARLY)
                self._given, self._until = given, anyio.current_time() + left
            return self._given.credentials

    def refused(self, credentials: Credentials) -> None:
        if self._given is not None and self._given.credentials == credentials:
            self._given = None


def read_secret(path: str, *, private: bool = True) -> Secret:
    """Read a secret's file.

    Raises:  RemoteProtocolError("invalid-configuration") for a file that cannot be read, is not this user's alone
             (security.md T13), is too large or is no text
    """
    if private:
        check_private(path)
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    if len(content) > _LARGEST:
        raise RemoteProtocolError("invalid-configuration", f"expected at most {_LARGEST} bytes in {path}, got more")
    return Secret(text.removesuffix("\n").removesuffix("\r"))


def check_private(path: str) -> None:
    """Raise RemoteProtocolError("invalid-configuration") for a file that others than its owner and group may read."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(mode):
        raise RemoteProtocolError("invalid-configuration", f"expected a file, got something else at {path}")
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise RemoteProtocolError(
            "invalid-configuration",
            f"{path} holds a secret and others may read or write it",
            hint=f"chmod 600 {path}; for a Kubernetes secret set defaultMode to 0440",
        )


def _unreadable(path: str, error: Exception) -> RemoteProtocolError:
    why = (error.strerror if isinstance(error, OSError) else None) or "not a text"
    return RemoteProtocolError("invalid-configuration", f"cannot read {path}: {why}")
