"""A dialect: what one type of registry does differently, as a row of data and the few operations of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeAlias

from towline.core._contract import Record
from towline.core._script import Head, Step

if TYPE_CHECKING:
    from towline.core.registry._pages import Details, Listing, Wanted
    from towline.core.registry._session import Registry, Shown, TokenKey
    from towline.core.registry._surroundings import Role
    from towline.core.registry._token import TokenAnswer

ListRepositories: TypeAlias = "Callable[[Registry, Wanted], Step[Listing]]"
ListTags: TypeAlias = "Callable[[Registry, str, Wanted], Step[Listing]]"
ListDetails: TypeAlias = "Callable[[Registry, str, Wanted], Step[Details]]"
LogIn: TypeAlias = "Callable[[Registry], Step[Shown]]"
Exchange: TypeAlias = "Callable[[Registry, TokenKey], Step[TokenAnswer | None]]"
Expired: TypeAlias = "Callable[[Head, bytes], bool]"
DeriveBase: TypeAlias = "Callable[[Role], str]"


class Dialect(Record, frozen=True):
    """One row. `name` is the type's name in credentials and configuration, `title` what people call it.

    Address: `hosts` are the vendor's own, by which the type is known; one with a dot or a dash before it stands for
    every host that ends so, and `knows` tells others. `base_aliases` are names people write for a server with another
    name; `base_path` says what a path in the base is: a prefix before `/v2/`, or a namespace behind it that narrows
    lists. `derive_base` makes the address of a role, where none is written.

    Login: `realm_hosts` are token hosts that belong to the type although they are on another domain. `log_in` gets
    an Authorization before the first request, instead of answering a challenge. `exchange` gets a token for a
    challenge in the type's own way, or None for the protocol's, GET with Basic. `expired` knows an answer that means
    "renew" beyond the 401 that every token may meet. `basic_refusal` is what a 401 to Basic on a repository means:
    that the login is wrong, or only the right. `scopes` says how far a challenge's scopes are taken
    (`wanted_scopes`), `realm_may_be_plain` that a realm on the registry's own host and port may wrongly lack TLS.

    Lists: `repositories`, `tags` and `details` are the type's own way of listing; None is the protocol's.
    `link` says what of a Link is to be trusted: the address, or its query only. `page_size` is what is asked for
    by default, `page_most` the most that may be asked for. `landings` are hosts of pages for people that a
    registry redirects to, and what kind of error that is.
    """

    name: str
    title: str
    hosts: tuple[str, ...] = ()
    knows: Callable[[str], bool] | None = None
    default_base: str | None = None
    base_aliases: tuple[tuple[str, str], ...] = ()
    base_path: Literal["prefix", "namespace"] = "prefix"
    official_prefix: str | None = None
    api: str | None = None
    derive_base: DeriveBase | None = None

    realm_hosts: tuple[str, ...] = ()
    log_in: LogIn | None = None
    exchange: Exchange | None = None
    expired: Expired | None = None
    basic_refusal: Literal["login", "right"] = "login"
    scopes: Literal["own", "suffix", "all"] = "own"
    realm_may_be_plain: bool = False

    repositories: ListRepositories | None = None
    tags: ListTags | None = None
    details: ListDetails | None = None
    catalogue: str = "v2/_catalog"
    link: Literal["address", "query"] = "address"
    page_size: int = 100
    page_most: int = 1000
    landings: tuple[tuple[str, str], ...] = ()
    landing_hint: str | None = None

    catalogue_hint: str = "name the repositories in the configuration, or use a login that may list them"
    denial_hint: str = "give the login the right to pull this repository, or check its name"
    login_hint: str = "check the user name and the password or token"


PLAIN = Dialect("oci", "OCI registry")
"""What speaks the protocol and nothing else."""
