"""The registries an agent talks to: one for each login, shared by its operations, asked politely.

What a registry has learned (tokens, the way in, that a login is refused) is kept for the next operation. How fast it
is asked, and over how many links at a time, holds for all operations at one host together.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import anyio
import msgspec

from towline.core import Entropy, RemoteProtocolError, Secret
from towline.core.agent import RegistryLogin
from towline.core.registry import NOWHERE, Credentials, Pace, Registry, Surroundings, dialect_of, find_dialect
from towline.drivers import Dialer
from towline.runtimes.agent.config import AgentConfig, RegistryEntry, tls_name

# Logins whose tokens are kept; each is some KiB.
_KEPT: Final = 64
_HOSTS: Final = 256
# A login that was refused is not tried again for so long: some registries lock an account or ban an address.
_REFUSED_FOR: Final = 60.0

_Key: TypeAlias = tuple[RegistryLogin, Credentials | None]


class _Host:
    """What operations at one registry's host share: its pace, and its links, of which each takes some."""

    def __init__(self, pace: Pace, links: int) -> None:
        self.pace = pace
        self.most = links
        self._free = links
        self._news = anyio.Event()

    @asynccontextmanager
    async def links(self, wanted: int) -> AsyncIterator[int]:
        """Take as many links as are free, one at least and `wanted` at most, for as long as the block lasts."""
        while self._free == 0:
            await self._news.wait()
        taken = max(1, min(wanted, self._free))
        self._free -= taken
        try:
            yield taken
        finally:
            self._free += taken
            self._news.set()
            self._news = anyio.Event()


class Registries:
    """Gives operations the registry of a login, and how to reach it."""

    def __init__(self, config: AgentConfig, entropy: Entropy) -> None:
        self._config = config
        self._entropy = entropy
        self._known: OrderedDict[_Key, Registry] = OrderedDict()
        self._refused: OrderedDict[_Key, float] = OrderedDict()
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

    async def credentials(self, login: RegistryLogin, repository: str) -> Credentials | None:
        """Return user and secret of a login, from wherever the agent keeps them. Raises RemoteProtocolError."""
        entry, own = self._config.entry_of(login)
        if own and not entry.admits(repository) and repository:
            raise RemoteProtocolError(
                "registry-forbidden", f"the agent's own registry file leaves {repository} out",
                hint="see repositories.include and repositories.exclude there",
            )  # fmt: skip
        if own and entry.source is not None:
            return await entry.source.login(login.base.partition("/")[0], repository)
        return login.credentials

    def registry(self, login: RegistryLogin, credentials: Credentials | None, *, check: bool = False) -> Registry:
        """Return the registry for a login. One for a check knows nothing, and tries nothing twice."""
        key = (login, credentials)
        refused_at = self._refused.get(key)
        if refused_at is not None and (check or anyio.current_time() - refused_at > _REFUSED_FOR):
            del self._refused[key]
            self._known.pop(key, None)
        found = None if check else self._known.get(key)
        if found is None:
            found = self._new(login, credentials, retries=0 if check else None)
        if not check:
            self._known[key] = found
            self._known.move_to_end(key)
            _drop_oldest(self._known, _KEPT)
        found.epoch = time.time() - anyio.current_time()
        return found

    async def after_refusal(
        self, login: RegistryLogin, credentials: Credentials | None, repository: str
    ) -> Credentials | None:
        """Take note that a login was refused; return another one, if the agent has been given one meanwhile."""
        key = (login, credentials)
        self._refused.setdefault(key, anyio.current_time())
        _drop_oldest(self._refused, _KEPT)
        entry, own = self._config.entry_of(login)
        if not own or entry.source is None or credentials is None:
            return None
        entry.source.refused(credentials)
        other = await self.credentials(login, repository)
        return None if other == credentials else other

    def dialer(self, login: RegistryLogin) -> Dialer:
        """Return how links to a login's registry are opened."""
        entry, _ = self._config.entry_of(login)
        dialer = self._config.dialer
        if entry.ca_file is None and not entry.insecure and entry.server_name is None:
            return dialer
        tls = msgspec.structs.replace(
            dialer.tls,
            ca_files=(*dialer.tls.ca_files, *((entry.ca_file,) if entry.ca_file else ())),
            insecure_hosts=dialer.tls.insecure_hosts | ({tls_name(login)} if entry.insecure else frozenset()),
            server_names={tls_name(login): entry.server_name} if entry.server_name else {},
        )
        return msgspec.structs.replace(dialer, tls=tls)

    def host(self, login: RegistryLogin) -> _Host:
        """Return what operations at a login's host share."""
        name = login.base.partition("/")[0].lower()
        found = self._hosts.get(name)
        if found is None:
            entry, _ = self._config.entry_of(login)
            found = self._hosts[name] = _Host(
                Pace(entry.rate or self._config.registry_rate), entry.concurrency or self._config.registry_concurrency
            )
            _drop_oldest(self._hosts, _HOSTS)
        return found

    def _new(self, login: RegistryLogin, credentials: Credentials | None, retries: int | None) -> Registry:
        entry, own = self._config.entry_of(login)
        return Registry(
            login.base,
            entropy=self._entropy.fork(),
            dialect=find_dialect(login.type),
            credentials=credentials,
            role=login.role,
            surroundings=_around(self._identity(login), entry) if own else self._identity(login),
            api=login.api or None,
            namespaces=login.namespaces,
            plain_http=login.scheme == "http",
            allowed_realm_hosts=(*self._config.realm_hosts, *entry.realm_hosts),
            retries=retries,
            pace=self.host(login).pace,
            limits=self._config.limits,
        )

    def _identity(self, login: RegistryLogin) -> Surroundings:
        """Return what a cloud's login may draw on: this machine's identity, for the cloud's own hosts and those that
        the operator named. A request could send it anywhere else."""
        host = login.base.partition("/")[0]
        dialect = find_dialect(login.type)
        if self._config.names(login) or dialect_of(host).name == dialect.name:
            return self._config.surroundings
        if dialect.log_in is not None:
            raise RemoteProtocolError(
                "bad-request", f"expected a registry of {dialect.title}, got a request for another host",
                hint="list that host in the agent's own registry file, if this machine's identity may go there",
            )  # fmt: skip
        return NOWHERE


def _around(around: Surroundings, entry: RegistryEntry) -> Surroundings:
    """Return the surroundings of an entry: what nobody sets on a cloud's machine is set by naming that cloud."""
    told = {
        "gcp": {"GCE_METADATA_HOST": "metadata.google.internal"},
        "azure": {} if around.variable("AZURE_TENANT_ID") else {"AZURE_USE_MANAGED_IDENTITY": "true"},
    }.get(entry.ambient or "", {})
    if not told:
        return around
    return msgspec.structs.replace(
        around, variables={name: Secret(value) for name, value in told.items()} | dict(around.variables)
    )


def _drop_oldest(held: OrderedDict[Any, Any], most: int) -> None:
    while len(held) > most:
        held.popitem(last=False)
