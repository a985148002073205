"""What an agent is told from outside, and which of its own logins serve a request."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from towline.core import LIMITS, Limits, Record, RemoteProtocolError, Secret
from towline.core.agent import (
    DELIVERY_LIFE,
    Job,
    JobRegistry,
    RegistryLogin,
    login_for,
)
from towline.core.http import Url
from towline.core.registry import NOWHERE, Surroundings, find_dialect
from towline.drivers import Dialer


class AgentConfig(Record, frozen=True):
    """One agent's settings. `login` is its own (the CR_* variables), `registries` are those with an id.

    `callback_urls` are the only ones results may be posted to; without any the first that a request names is
    pinned. `surroundings` are what a cloud's login draws on. `allow_http` are registries, as host or host:port, that
    are reached in clear text.
    """

    host: str = "0.0.0.0"
    port: int = 17500
    workdir: str = "towline-agent"
    instance: str = "towline-agent"
    login: RegistryLogin | None = None
    registries: Mapping[str, RegistryLogin] = msgspec.field(default_factory=dict)
    max_image_bytes: int = LIMITS.image_scan
    active_operations: int = 1
    disable_list: bool = False
    callback_urls: tuple[str, ...] = ()
    callback_bytes: int = LIMITS.callback_bytes
    delivery_seconds: float = DELIVERY_LIFE
    disk_reserve_bytes: int = 512 * 1024 * 1024
    allow_http: tuple[str, ...] = ()
    realm_hosts: tuple[str, ...] = ()
    shared_secret: Secret | None = None
    https_cert: str | None = None
    https_key: str | None = None
    surroundings: Surroundings = NOWHERE
    dialer: Dialer = Dialer()
    drain_seconds: float = LIMITS.drain
    limits: Limits = LIMITS

    def own(self) -> RegistryLogin | None:
        """Return the agent's own login with its place settled, or None."""
        return None if self.login is None else self.settled(self.login)

    def settled(self, login: RegistryLogin) -> RegistryLogin:
        """Return a login whose type has a row, whose base is not empty and whose scheme is decided.

        Raises:  TowlineError("unsupported-type" | "bad-request")
        """
        dialect = find_dialect(login.type)
        base = login.base or dialect.default_base or ""
        if not base and login.role is not None and dialect.derive_base is not None:
            base = dialect.derive_base(login.role)
        if not base:
            raise RemoteProtocolError(
                "malformed-credentials",
                "the credentials have no registryBase",
                hint="set CR_BASE to the registry's host",
            )
        authority = base.partition("/")[0].lower()
        plain = authority in self.allow_http or authority.partition(":")[0] in self.allow_http
        if login.scheme == "http" and not plain:
            raise RemoteProtocolError(
                "bad-request",
                "the credentials ask for plain HTTP, which this agent does not allow for that registry",
                hint="list the host in TOWLINE_ALLOW_HTTP if it really has no TLS",
            )
        scheme = login.scheme or ("http" if plain else "https")
        Url.parse(f"{scheme}://{base}", "malformed-credentials")
        return msgspec.structs.replace(login, type=dialect.name, base=base, scheme=scheme)

    def by_id(self, registry_id: str) -> RegistryLogin:
        """Return the agent's own login of this id, settled; raise TowlineError("bad-request")."""
        login = self.registries.get(registry_id)
        if login is None:
            raise RemoteProtocolError(
                "bad-request", "registryId names no registry of this agent", hint="see the agent's own registry file"
            )
        return self.settled(login)

    def login_of(self, job: Job) -> RegistryLogin | None:
        """Return the agent's own login for a job that is in the store, or None."""
        try:
            own = self.own()
            file = {name: self.settled(login) for name, login in self.registries.items()}
        except RemoteProtocolError:
            return None
        return login_for(job.registry, own, file)


def place_of(login: RegistryLogin, *, configured: bool, registry_id: str | None = None) -> JobRegistry:
    """Return what a job may keep of a settled login."""
    return JobRegistry(
        type=login.type,
        base=login.base,
        scheme=login.scheme,
        login="anonymous" if login.anonymous else "configured" if configured else "request",
        id=registry_id,
    )
