"""What an agent is told from outside, and which of its own logins serve a request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

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
from towline.core.layer import Globs
from towline.core.registry import NOWHERE, Surroundings, find_dialect
from towline.drivers import Dialer
from towline.runtimes.agent.sources import LoginSource

# The id of the agent's own login (the CR_* variables) where that has an entry; no request can name it.
OWN: Final = ""
# Requests a second that a registry is asked at most, where nobody says otherwise.
REGISTRY_RATE: Final = 50.0


class RegistryEntry(Record, frozen=True):
    """What the agent's own registry file says of one registry beside its login.

    `source` gives the login, `ambient` names the cloud whose identity of this machine is used. `ca_file`, `insecure`
    and `server_name`, which its certificate is for, hold for links to this registry only. `include` and `exclude` are
    globs of repositories; `fallback` are those that are listed where there is no catalogue. `concurrency` is how many
    links at a time, `rate` how many requests a second.
    """

    source: LoginSource | None = None
    ambient: Literal["aws", "gcp", "azure"] | None = None
    ca_file: str | None = None
    insecure: bool = False
    server_name: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    concurrency: int | None = None
    rate: float | None = None
    realm_hosts: tuple[str, ...] = ()

    def admits(self, repository: str) -> bool:
        """Whether a repository is one of those that the file is about."""
        include, exclude = ([f"/{pattern}" for pattern in side] for side in (self.include or ("**",), self.exclude))
        return Globs(include, exclude).match(repository)


class AgentConfig(Record, frozen=True):
    """One agent's settings. `login` is its own (the CR_* variables), `registries` are those with an id; `entries` has,
    by the same ids, what is said of them beside that, and under OWN of the agent's own login.

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
    entries: Mapping[str, RegistryEntry] = msgspec.field(default_factory=dict)
    max_image_bytes: int = LIMITS.image_scan
    active_operations: int = 1
    disable_list: bool = False
    callback_urls: tuple[str, ...] = ()
    callback_bytes: int = LIMITS.callback_bytes
    delivery_seconds: float = DELIVERY_LIFE
    disk_reserve_bytes: int = 512 * 1024 * 1024
    allow_http: tuple[str, ...] = ()
    realm_hosts: tuple[str, ...] = ()
    registry_concurrency: int = LIMITS.links_per_origin
    registry_rate: float = REGISTRY_RATE
    shared_secret: Secret | None = None
    https_cert: str | None = None
    https_key: str | None = None
    surroundings: Surroundings = NOWHERE
    dialer: Dialer = Dialer()
    drain_seconds: float = LIMITS.drain
    limits: Limits = LIMITS

    def own(self) -> RegistryLogin | None:
        """Return the agent's own login with its place settled, or None."""
        if self.login is None:
            return None
        login = self.settled(self.login)
        return msgspec.structs.replace(login, registry_id=OWN) if OWN in self.entries else login

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
        # Who wrote http into the agent's own file allowed it there.
        plain = plain or (login.scheme == "http" and login in self.registries.values())
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
        return msgspec.structs.replace(self.settled(login), registry_id=registry_id)

    def entry_of(self, login: RegistryLogin) -> tuple[RegistryEntry, bool]:
        """Return what the agent's own file says of a settled login's registry, and whether the login is its own too.

        A login that came with a request has the entry of its host, if there is one.
        """
        if login.registry_id is not None and login.registry_id in self.entries:
            return self.entries[login.registry_id], True
        if login.registry_id is None:
            for name, known in self.registries.items():
                if _host(known) == _host(login):
                    return self.entries.get(name, RegistryEntry()), False
        return RegistryEntry(), False

    @property
    def insecure_hosts(self) -> frozenset[str]:
        """Hosts whose certificates are not verified, which is said at every start."""
        own = (tls_name(login) for name, login in self.registries.items() if self._insecure(name))
        return self.dialer.tls.insecure_hosts.union(own)

    def _insecure(self, name: str) -> bool:
        return name in self.entries and self.entries[name].insecure

    def names(self, login: RegistryLogin) -> bool:
        """Whether the operator, and not only a request, named the host of a settled login's registry."""
        own = () if self.login is None else (self.login,)
        return any(_host(known) == _host(login) for known in (*own, *self.registries.values()))

    def login_of(self, job: Job) -> RegistryLogin | None:
        """Return the agent's own login for a job that is in the store, or None."""
        try:
            own = self.own()
            file = {name: self.by_id(name) for name in self.registries}
        except RemoteProtocolError:
            return None
        return login_for(job.registry, own, file)


def tls_name(login: RegistryLogin) -> str:
    """Return the host that a registry's certificate is for."""
    return Url.parse(f"https://{_host(login)}").host


def _host(login: RegistryLogin) -> str:
    dialect = find_dialect(login.type)
    base = login.base or dialect.default_base or ""
    if not base and login.role is not None and dialect.derive_base is not None:
        base = dialect.derive_base(login.role)
    return base.partition("/")[0].lower()


def place_of(login: RegistryLogin, *, configured: bool, registry_id: str | None = None) -> JobRegistry:
    """Return what a job may keep of a settled login. One of the agent's own file has its secret elsewhere."""
    anonymous = login.anonymous and not (configured and login.registry_id is not None)
    return JobRegistry(
        type=login.type,
        base=login.base,
        scheme=login.scheme,
        login="anonymous" if anonymous else "configured" if configured else "request",
        id=registry_id,
    )
