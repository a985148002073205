"""Logins that another program gives: docker's credential helpers, and a program of the operator's own.

A helper is `docker-credential-NAME`; asked with `get` and a server's address on its standard input it answers
`{"ServerURL", "Username", "Secret"}`. An operator's own program answers `{"username", "password"}`, or an
`identityToken`, and may say in `expiresInSeconds` how long that is good. No shell has a part in it; nothing secret is
in an argument or in the environment that the program gets; what it writes to its standard error is not shown.

Source:  docker/docker-credential-helpers, "Development"
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

import anyio
import msgspec
from anyio.abc import ByteReceiveStream, Process

from towline.core import Record, RemoteProtocolError, Secret
from towline.core.registry import Credentials

SECONDS: Final = 10.0
# A token of Entra ID is some 4 KiB, a service account's key 2.3 KiB.
_LARGEST: Final = 64 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What a helper says, with an exit code of 1, when it has no login for a server.
_NONE: Final = b"credentials not found"
# The user name under which a helper gives an identity token.
_TOKEN_USER: Final = "<token>"


class Given(Record, frozen=True):
    """What a program gave, and for how many seconds it is good, where it said so."""

    credentials: Credentials
    seconds: float | None = None


class _Kept(msgspec.Struct):
    username: str = msgspec.field(default="", name="Username")
    secret: str = msgspec.field(default="", name="Secret")


class _Printed(msgspec.Struct, rename="camel"):
    username: str = ""
    password: str = ""
    identity_token: str = ""
    expires_in_seconds: float | None = None


async def from_helper(name: str, server: str, environment: Mapping[str, str]) -> Credentials | None:
    """Return the login that a credential helper keeps for a server, or None.

    Raises:  RemoteProtocolError("invalid-configuration") for a name that is none and a helper that is not there,
             "missing-credentials" when it fails, "timeout", "malformed-credentials" for another answer
    """
    if not _NAME.fullmatch(name):
        raise RemoteProtocolError(
            "invalid-configuration", "expected a credential helper's name of letters, digits, '.', '_' and '-'"
        )
    program = f"docker-credential-{name}"
    code, answer = await _run([program, "get"], server.encode(), environment)
    if code != 0:
        if _NONE in answer.lower():
            return None
        raise _failed(program, code, f"run `echo {server} | {program} get` to see what it says")
    try:
        kept = msgspec.json.decode(answer, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _malformed(program, "a JSON object with Username and Secret") from None
    if not kept.username and not kept.secret:
        return None
    if kept.username == _TOKEN_USER:
        return Credentials("", Secret(""), Secret(kept.secret))
    return Credentials(kept.username, Secret(kept.secret))


async def from_program(command: Sequence[str], environment: Mapping[str, str]) -> Given:
    """Return the login that an operator's own program prints.

    Raises:  as `from_helper` does
    """
    code, answer = await _run(command, b"", environment)
    program = os.path.basename(command[0])
    if code != 0:
        raise _failed(program, code, "run it by hand, as the user of this program, to see what it says")
    try:
        printed = msgspec.json.decode(answer, type=_Printed)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _malformed(program, "a JSON object with username and password, or identityToken") from None
    token = Secret(printed.identity_token) if printed.identity_token else None
    if not (printed.password or token):
        raise _malformed(program, "a password or an identityToken")
    seconds = printed.expires_in_seconds
    if seconds is not None and not 0 < seconds < 1e9:
        raise _malformed(program, "a number of seconds above 0 as expiresInSeconds")
    return Given(Credentials(printed.username, Secret(printed.password), token), seconds)


async def _run(command: Sequence[str], given: bytes, environment: Mapping[str, str]) -> tuple[int, bytes]:
    """Run a program to its end within SECONDS; return its exit code and what it printed.

    Raises:  as `from_helper` does
    """
    program = os.path.basename(command[0])
    try:
        process = await anyio.open_process(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=dict(environment), start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it cannot be run"
        raise RemoteProtocolError(
            "invalid-configuration",
            f"the credential program {program} cannot be started: {why}",
            hint=f"put {program} where PATH leads, and make it executable",
        ) from None
    try:
        with anyio.fail_after(SECONDS):
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                await process.stdin.send(given)
                await process.stdin.aclose()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
                # It need not read what it is told.
                pass
            answer = await _all_of(process.stdout, program)
            return await process.wait(), answer
    except TimeoutError:
        raise RemoteProtocolError(
            "timeout",
            f"expected an answer of the credential program {program} within {SECONDS:g} s",
            hint="it may be waiting for a person: unlock what it keeps logins in, or use another login",
        ) from None
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)


async def _all_of(stream: ByteReceiveStream, program: str) -> bytes:
    kept = bytearray()
    while True:
        try:
            kept += await stream.receive(8192)
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return bytes(kept)
        if len(kept) > _LARGEST:
            raise _malformed(program, f"at most {_LARGEST} bytes")


async def _end(process: Process) -> None:
    """Leave nothing of a program behind: its children may outlive it, and hold its pipes."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    await process.aclose()


def _failed(program: str, code: int, hint: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        "missing-credentials", f"expected a login of the credential program {program}, got exit code {code}", hint=hint
    )


def _malformed(program: str, wanted: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        "malformed-credentials", f"expected {wanted} from the credential program {program}, got something else"
    )
