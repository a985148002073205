"""A registry as we know it: where it is, who we are there, and which tokens we hold."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from towline.core._contract import Instant, Record
from towline.core._entropy import Entropy
from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._secret import Secret
from towline.core.http import Url
from towline.core.registry._dialect import PLAIN, Dialect
from towline.core.registry._digest import shown
from towline.core.registry._pace import Pace
from towline.core.registry._reference import DOCKER_API_HOST, DOCKER_DOMAIN, check_repository
from towline.core.registry._surroundings import NOWHERE, Role, Surroundings
from towline.core.registry._token import Credentials


class StreamNumbers:
    """Numbers for streams, none used twice."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = 1

    def take(self) -> int:
        """Return the next unused number."""
        number, self._next = self._next, self._next + 1
        return number


class TokenKey(Record, frozen=True):
    """What a token is good for."""

    realm: str
    service: str
    scopes: tuple[str, ...]
    username: str | None


class Token(Record, frozen=True):
    value: Secret
    expires_at: Instant


class Shown(Record, frozen=True):
    """What a request presents: Basic when `key` is None, else the token of this key."""

    header: Secret
    key: TokenKey | None = None


class Registry:
    """One registry and one login, shared by every conversation with it.

    `base` is `[scheme://]host[:port][/prefix]`; the scheme is https when it is not written, http only when
    `plain_http` allows it. `epoch` is wall time minus `now`, for waits that a server gives as a date.
    `namespaces` are those a vendor's listing goes through, and `api` is where its API is, if not at the usual place.
    `role` and `surroundings` are what a cloud's login draws on; `pace` is how fast it is asked, without one as
    fast as it answers. `warnings` tell what was mended in `base`.
    """

    def __init__(
        self,
        base: str = "",
        *,
        entropy: Entropy,
        dialect: Dialect = PLAIN,
        credentials: Credentials | None = None,
        role: Role | None = None,
        surroundings: Surroundings = NOWHERE,
        plain_http: bool = False,
        allowed_realm_hosts: Iterable[str] = (),
        namespaces: Iterable[str] = (),
        api: str | None = None,
        retries: int | None = None,
        pace: Pace | None = None,
        epoch: float | None = None,
        streams: StreamNumbers | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        self.dialect = dialect
        self.role = role
        self.surroundings = surroundings
        self.warnings: list[str] = []
        self.base = self._base(base, plain_http)
        anonymous = credentials is None or not (
            credentials.username or credentials.secret or credentials.identity_token
        )
        self.credentials = None if anonymous else credentials
        self.allowed_realm_hosts = tuple(allowed_realm_hosts)
        self.namespaces = tuple(namespaces)
        self._api = api
        self.retries = limits.retries if retries is None else retries
        self.pace = pace
        self.epoch = epoch
        self.entropy = entropy
        self.streams = streams or StreamNumbers()
        self.limits = limits
        # What the registry asked for, by the scope that was needed: None stands for Basic.
        self._ways: dict[str | None, TokenKey | None] = {}
        self._tokens: dict[TokenKey, Token] = {}
        # What a cloud's login got: each thing by its name, and until when it is good.
        self._held: dict[str, tuple[Any, Instant]] = {}
        # What a conversation is getting at this moment, for which the others wait.
        self.getting: set[Hashable] = set()
        self._basic_works = False
        self._refused: RemoteProtocolError | None = None

    def __repr__(self) -> str:
        return f"Registry({self.base}, {self.dialect.name}, user={self.username!r})"

    @property
    def username(self) -> str | None:
        return self.credentials.username if self.credentials else None

    @property
    def domain(self) -> str:
        """Its host as image references have it: docker.io is a name, whose server is another host."""
        return DOCKER_DOMAIN if self.base.authority == DOCKER_API_HOST else self.base.authority

    def url(self, path: str, query: str | None = None) -> Url:
        """Return an address below `<base>/v2/`. Every part of `path` must have been checked."""
        return self.at(f"v2/{path}", query)

    def at(self, path: str, query: str | None = None) -> Url:
        """Return an address below the base. Every part of `path` must have been checked."""
        prefix = self.base.path if self.dialect.base_path == "prefix" else ""
        return Url(self.base.scheme, self.base.host, self.base.port, f"{prefix}/{path}", query)

    @property
    def has_api(self) -> bool:
        """Whether it is known where the vendor's API is."""
        return (self._api or self.dialect.api) is not None

    @property
    def api(self) -> Url:
        """The base address of the vendor's API.

        Raises:  invalid-configuration for a type that needs to be told
        """
        written = self._api or self.dialect.api
        if written is None:
            raise RemoteProtocolError(
                "invalid-configuration",
                f"expected the address of the API of {self.dialect.title}, got none",
                hint="set it beside the registry's address",
            )
        return Url.parse((written if "://" in written else f"https://{written}").rstrip("/"), "invalid-configuration")

    def page_size(self, wanted: int | None) -> int:
        """Return how many items of a list to ask for at once; 0 for no number."""
        n = self.dialect.page_size if wanted is None else wanted
        return min(n, self.dialect.page_most)

    def repository(self, name: str) -> str:
        """Return a repository's name as this registry knows it; raise `invalid-name` if it is none."""
        if self.dialect.official_prefix and "/" not in name:
            name = self.dialect.official_prefix + name
        return check_repository(name)

    # ── logins and tokens ──────────────────────────────────────────────────────
    def way(self, need: str | None) -> TokenKey | None:
        """Return the key of the token that requests of this need took before, or None."""
        return self._ways.get(need)

    def presents_basic(self, need: str | None) -> bool:
        """Tell whether a request of this need goes with Basic at once, because the registry took that before."""
        return self.credentials is not None and (self._basic_works and self._ways.get(need) is None)

    def basic(self) -> Shown:
        assert self.credentials is not None
        return Shown(self.credentials.basic())

    def cached(self, key: TokenKey, now: Instant) -> Shown | None:
        """Return a token that has not expired."""
        token = self._tokens.get(key)
        if token is None or token.expires_at <= now:
            return None
        return Shown(token.value, key)

    def keep(self, key: TokenKey, token: Secret, lifetime: float, now: Instant) -> Shown:
        """Cache a token from its reception on, a little shorter than it lives."""
        header = Secret("Bearer " + token.reveal())
        self._tokens.pop(key, None)
        self._tokens[key] = Token(header, now + lifetime - min(10.0, lifetime / 10))
        _drop_oldest(self._tokens, self.limits.registry_tokens)
        return Shown(header, key)

    def remember(self, name: str, value: Any, until: Instant, now: Instant) -> None:
        """Keep something that a cloud's login got until then."""
        if until > now:
            self._held[name] = value, until

    def recall(self, name: str, now: Instant) -> Any | None:
        """Return what is kept under a name and still good."""
        value, until = self._held.get(name, (None, now))
        return value if until > now else None

    def drop(self, name: str) -> None:
        """Forget what is kept under a name."""
        self._held.pop(name, None)

    def forget(self, shown: Shown) -> None:
        """Drop what was shown and refused, unless something newer took its place."""
        if shown.key is not None and (token := self._tokens.get(shown.key)) and token.value == shown.header:
            del self._tokens[shown.key]
        for name in [name for name, (value, _) in self._held.items() if value == shown.header]:
            del self._held[name]

    def worked(self, need: str | None, shown: Shown) -> None:
        """Remember what a request of this need was let in with."""
        self._ways[need] = shown.key
        _drop_oldest(self._ways, self.limits.registry_tokens)
        if shown.key is None:
            self._basic_works = True

    def refuse(self, error: RemoteProtocolError) -> RemoteProtocolError:
        """Remember that the login was refused: asking again could lock the account or ban the address."""
        self._refused = error
        return error

    def check_not_refused(self) -> None:
        if self._refused is not None:
            raise self._refused

    def strike_out(self, text: str | None) -> str | None:
        """Return a peer's text without our own secrets, in case it echoes them."""
        if text is None:
            return None
        secrets = [token.value.reveal().removeprefix("Bearer ") for token in self._tokens.values()]
        if self.credentials is not None:
            secrets += [self.credentials.secret.reveal(), self.credentials.pair()]
            secrets += [token.reveal()] if (token := self.credentials.identity_token) is not None else []
        for secret in secrets:
            text = text.replace(secret, "***") if secret else text
        return text

    # ── the base address ───────────────────────────────────────────────────────
    def _base(self, text: str, plain_http: bool) -> Url:
        written = text.strip()
        if not written and self.role is not None and self.dialect.derive_base is not None:
            written = self.dialect.derive_base(self.role)
        if not written and self.dialect.default_base is None:
            raise RemoteProtocolError(
                "invalid-configuration",
                f"expected the registry's address for the type {self.dialect.name}, got nothing",
            )
        written = written or self.dialect.default_base or ""
        scheme, separator, rest = written.partition("://")
        if not separator:
            scheme, rest = ("http" if plain_http else "https"), written
        if scheme.lower() == "http" and not plain_http:
            raise RemoteProtocolError(
                "invalid-configuration",
                f"expected an https address, got {shown(written)}",
                hint="list this registry as one to be reached without TLS, if it really has none",
            )
        rest = rest.rstrip("/")
        if rest.endswith("/v2"):
            rest = rest.removesuffix("/v2").rstrip("/")
            self.warnings.append("the address of the registry ends in /v2, which is added anyway; it was left out")
        rest = dict(self.dialect.base_aliases).get(rest.lower(), rest)
        url = Url.parse(f"{scheme}://{rest}", "invalid-configuration")
        if url.query is not None or "#" in rest:
            raise RemoteProtocolError("invalid-configuration", "expected an address without '?' and '#', got one with")
        return Url(url.scheme, url.host, url.port, url.path.rstrip("/"))


def _drop_oldest(held: dict[Any, Any], most: int) -> None:
    while len(held) > most:
        del held[next(iter(held))]
