"""One registry as the command line describes it."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import trio

from towline.core import LIMITS, Entropy, RemoteProtocolError, Secret, Step
from towline.core.http import Courier
from towline.core.registry import (
    CheckStep,
    Credentials,
    ImageReference,
    Registry,
    Role,
    dialect_of,
    find_dialect,
)
from towline.drivers import BlobStore, Dialer, Guard, TlsSettings, on_trio
from towline.runtimes import logins
from towline.runtimes.logs import plain
from towline.runtimes.output import say
from towline.runtimes.probe import probe
from towline.runtimes.progress import ProgressLines
from towline.runtimes.surroundings import surroundings

T = TypeVar("T")


class Session:
    """One registry as the command line describes it, and a way to run operations on it."""

    def __init__(self, arguments: argparse.Namespace, host: str, repository: str = "") -> None:
        base = without_scheme(host)
        authority, _, _ = base.partition("/")
        self._total = arguments.timeout
        # What the moment of the start is; a test may choose another.
        self._lead = _wall(arguments) - time.time()
        self._remarks = ProgressLines(wanted=False, quiet=False, verbose=arguments.verbose)
        if arguments.tls_verify == "false" and not arguments.plain_http:
            say(f"towline: warning: the certificate of {plain(authority)} is not verified")
        self.registry = Registry(
            base,
            entropy=Entropy(os.urandom(32)),
            dialect=find_dialect(arguments.type) if arguments.type else dialect_of(authority),
            role=_role(arguments),
            surroundings=surroundings(os.environ),
            api=arguments.api,
            namespaces=arguments.namespace,
            credentials=_credentials(arguments, authority, repository),
            plain_http=arguments.plain_http,
            allowed_realm_hosts=arguments.realm_host,
            retries=arguments.retries,
        )
        for warning in self.registry.warnings:
            say(f"towline: warning: {plain(warning)}")
        origin = self.registry.base.origin
        self._dialer = Dialer(
            guard=Guard(
                origins=frozenset({(origin.host, origin.port)}),
                networks=tuple(_network(text) for text in arguments.allow_network),
            ),
            tls=TlsSettings(
                ca_files=tuple(arguments.ca_file),
                insecure_hosts=frozenset({origin.host}) if arguments.tls_verify == "false" else frozenset(),
            ),
            resolve=dict(_resolve(text) for text in arguments.resolve),
        )

    def run(
        self, steps: Step[T], *, on_event: Callable[[Any], None] | None = None, store: BlobStore | None = None,
        total: float = LIMITS.time_operation,
    ) -> T:  # fmt: skip
        """Run one operation to its value, or raise what stopped it."""
        courier = Courier(steps, entropy=Entropy(os.urandom(32)), total=self._total or total)

        async def perform() -> T:
            # A loop's clock begins anywhere, so what it lacks to the wall's is known only inside the loop.
            self.registry.epoch = time.time() + self._lead - trio.current_time()
            value: T = await on_trio.perform(
                courier, dialer=self._dialer, store=store, on_event=on_event or self._remarks.take
            )
            return value

        return trio.run(perform)

    def probe(self) -> list[CheckStep]:
        """Try the way to the registry, before any word of HTTP."""
        origin = self.registry.base.origin
        return trio.run(partial(probe, origin.host, origin.port, tls=origin.scheme == "https", dialer=self._dialer))


def without_scheme(host: str) -> str:
    """Return a host as a registry's base has it."""
    return host.removeprefix("docker://").removeprefix("https://").removeprefix("http://")


def _wall(arguments: argparse.Namespace) -> float:
    if not arguments.wall_clock:
        return time.time()
    return datetime.fromisoformat(arguments.wall_clock).timestamp()


def image_session(arguments: argparse.Namespace, text: str) -> tuple[ImageReference, Session]:
    """Return the image that a person names, and the registry that has it.

    Raises:  invalid-reference, and what a Session raises
    """
    if not arguments.registry:
        image = ImageReference.from_user(without_scheme(text))
        return image, Session(arguments, image.api_host, image.path)
    base = without_scheme(arguments.registry)
    # The name stands for itself: its domain is only there because a reference has one.
    image = ImageReference.from_user(f"{base.partition('/')[0]}/{text}")
    return image, Session(arguments, base, image.path)


def _role(arguments: argparse.Namespace) -> Role | None:
    if not arguments.role_arn:
        return None
    external = os.environ.get("CR_EXTERNAL_ID", "")
    return Role(arguments.role_arn, arguments.region or os.environ.get("AWS_REGION", ""), Secret(external))


def _credentials(arguments: argparse.Namespace, host: str, repository: str) -> Credentials | None:
    if arguments.anonymous or arguments.login is not None:
        login: Credentials | None = arguments.login
        return login
    files = logins.places(os.environ, arguments.authfile)
    return trio.run(logins.find, files, host, repository, os.environ) if files else None


def typed_login(arguments: argparse.Namespace) -> Credentials | None:
    """Return the login that was typed, or is asked for now; None without one."""
    if arguments.anonymous:
        return None
    if arguments.creds_stdin:
        return _user_and_password(sys.stdin.readline(LIMITS.registry_token).rstrip("\r\n"), "standard input")
    if arguments.creds and ":" not in arguments.creds:
        import getpass

        return Credentials(arguments.creds, Secret(getpass.getpass(f"password of {arguments.creds}: ", sys.stderr)))
    if arguments.creds:
        say("towline: warning: a password on the command line is visible to others on this machine; use --creds-stdin")
        return _user_and_password(arguments.creds, "--creds")
    return None


def _user_and_password(text: str, place: str) -> Credentials:
    username, separator, password = text.partition(":")
    if not separator or not username:
        raise RemoteProtocolError("malformed-credentials", f"{place}: expected user:password, got something else")
    return Credentials(username, Secret(password))


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise RemoteProtocolError(
            "bad-request", f"--allow-network: expected a network such as 10.0.0.0/8, got {text!r}"
        ) from None


def _resolve(text: str) -> tuple[tuple[str, int], tuple[str, int]]:
    host, port, address, to = [*text.split(":", 3), "", "", ""][:4]
    if not (host and port.isdecimal() and address and (not to or to.isdecimal())):
        raise RemoteProtocolError("bad-request", f"--resolve: expected HOST:PORT:ADDR[:PORT], got {text!r}")
    return (host, int(port)), (address, int(to or port))
