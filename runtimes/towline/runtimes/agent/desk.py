"""The registry operations an agent performs: scripts of the core, driven to their end with a login."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from towline.core import LIMITS, Entropy, RemoteProtocolError, Step, TowlineError, canonical
from towline.core.agent import ImageFound, Job, JobSums, ListQuery, RegistryLogin, page
from towline.core.http import Courier
from towline.core.inventory import ScanOptions
from towline.core.registry import (
    CheckStep,
    Details,
    ImageReference,
    Listing,
    Platform,
    Registry,
    ResolvedImage,
    check,
    find_dialect,
    list_details,
    list_repositories,
    list_tags,
    look_into,
    resolve_image,
    state_identifier,
)
from towline.core.scan import ImagePulled, ImageResolved, ScanOutcome, scan_image
from towline.drivers import Driver
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.agent.registries import Registries

T = TypeVar("T")


class Scanned:
    """What a scan found, in the bytes that are sent; shared by all jobs that were joined.

    `pulled_at` is the wall-clock time when all layers were there.
    """

    __slots__ = ("found", "pulled_at", "results", "size", "sums", "warnings")

    def __init__(
        self,
        found: ImageFound,
        results: tuple[bytes, ...],
        warnings: tuple[str, ...],
        sums: JobSums,
        pulled_at: float,
    ) -> None:
        self.found = found
        self.results = results
        self.warnings = warnings
        self.sums = sums
        self.pulled_at = pulled_at
        self.size = sum(map(len, results))


class _Seen:
    """What a scan says on its way that its job keeps."""

    def __init__(self) -> None:
        self.total_bytes = 0
        self.pulled_at = time.time()

    def take(self, event: Any) -> None:
        if isinstance(event, ImageResolved):
            self.total_bytes = event.total_bytes
        elif isinstance(event, ImagePulled):
            self.pulled_at = time.time()


class RegistryDesk:
    """Performs registry operations for jobs and for the API."""

    def __init__(self, config: AgentConfig, driver: Driver, entropy: Entropy) -> None:
        self._config = config
        self._driver = driver
        self._entropy = entropy
        self._registries = Registries(config, entropy.fork())

    async def systemcheck(self, login: RegistryLogin, *, deep: bool, seconds: float) -> list[CheckStep]:
        """Check the login step by step within a time budget."""
        # Who asks wants to know how it is at this moment, so nothing is tried twice, and no scan is waited for.
        registry = self._registries.registry(login, await self._registries.credentials(login, ""), check=True)
        return await self._perform(login, check(registry, listing=deep), LIMITS.links_per_origin, seconds)

    async def repositories(self, login: RegistryLogin, limit: int | None = None) -> Listing:
        """Return the repositories, or as many as could be had, of those that the agent's own file is about."""
        listing = await self._ask(login, "", lambda registry: list_repositories(registry, limit=limit, partial=True))
        entry, own = self._config.entry_of(login)
        if not own or not (entry.include or entry.exclude):
            return listing
        return msgspec.structs.replace(listing, items=tuple(name for name in listing.items if entry.admits(name)))

    def configured(self, login: RegistryLogin) -> tuple[str, ...]:
        """Return the repositories that the agent's own file names, for where there is no catalogue."""
        entry, own = self._config.entry_of(login)
        return entry.fallback if own else ()

    async def tags(self, login: RegistryLogin, repository: str) -> Listing:
        return await self._ask(login, repository, lambda registry: list_tags(registry, repository, partial=True))

    async def details(
        self, login: RegistryLogin, repository: str, query: ListQuery
    ) -> tuple[Details, list[str], str | None]:
        """Return a page of tags with what is known of each: all at once by the vendor's API, else each is asked for."""
        if find_dialect(login.type).details is not None:
            found = await self._ask(login, repository, lambda of: list_details(of, repository, partial=True))
            shown, cursor = page([item.tag for item in found.items], query)
            return found, shown, cursor
        listed = await self.tags(login, repository)
        shown, cursor = page(listed.items, query)
        items = await self._ask(login, repository, lambda of: look_into(of, repository, shown))
        return Details(tuple(items), listed.complete, listed.warnings), shown, cursor

    async def image(self, login: RegistryLogin, repository: str, reference: str, platform: str | None) -> ResolvedImage:
        wanted = Platform.parse(platform) if platform else None
        return await self._ask(login, repository, lambda of: resolve_image(of, repository, reference, wanted))

    async def state(self, login: RegistryLogin, repository: str, reference: str, platform: str | None) -> str:
        wanted = Platform.parse(platform) if platform else None
        return await self._ask(login, repository, lambda of: state_identifier(of, repository, reference, wanted))

    async def scan(self, login: RegistryLogin, job: Job) -> Scanned:
        """Pull and analyse a job's image."""
        image, asked = job.image, job.options
        limit = self._config.max_image_bytes
        options = ScanOptions(
            include=asked.globs.include,
            exclude=asked.globs.exclude,
            layer_attribution=asked.layer_attribution,
            exclude_base_image_vulns=asked.exclude_base_image_vulns,
            target_reference=asked.target_reference,
            max_image_bytes=min(limit, asked.max_image_bytes or limit),
        )
        separator = "@" if ":" in image.reference else ":"
        host = login.base.partition("/")[0]
        wanted = Platform.parse(image.platform) if image.platform else None
        seen = _Seen()

        def steps(registry: Registry) -> Step[ScanOutcome]:
            name = f"{registry.domain}/{registry.repository(image.repository)}{separator}{image.reference}"
            named = ImageReference.parse(name)
            return scan_image(registry, image.repository, image.reference, wanted, options, named)

        # One link is left to those who list, so that no scan has to end first.
        links = (self._registries.host(login).most - 1) // max(1, self._config.active_operations)
        outcome = await self._ask(login, image.repository, steps, links=links, on_event=seen.take)
        found = ImageFound(
            registry=host,
            repository=image.repository,
            reference=image.reference,
            manifest_digest=outcome.manifest_digest,
            index_digest=outcome.index_digest,
            platform=str(outcome.platform),
        )
        if image.expected_digest not in (None, found.manifest_digest, found.index_digest):
            raise RemoteProtocolError(
                "digest-mismatch", f"expected {image.expected_digest}, {image.reference} is {found.manifest_digest}"
            )
        # Canonical once, here: what is hashed, cut into parts and kept are these bytes.
        results = tuple(canonical(result) for result in outcome.scan_results)
        sums = JobSums(compressed=seen.total_bytes, downloaded=outcome.bytes_downloaded)
        return Scanned(found, results, tuple(outcome.warnings), sums, seen.pulled_at)

    async def _ask(
        self,
        login: RegistryLogin,
        repository: str,
        steps: Callable[[Registry], Step[T]],
        *,
        links: int | None = None,
        on_event: Callable[[Any], None] | None = None,
    ) -> T:
        """Perform an operation; once more with another login, if the agent was given one since this was refused."""
        host = self._registries.host(login)
        credentials = await self._registries.credentials(login, repository)
        async with host.links(max(1, host.most // 2 if links is None else links)) as taken:
            registry = self._registries.registry(login, credentials)
            try:
                return await self._perform(login, steps(registry), taken, on_event=on_event)
            except TowlineError as error:
                if error.kind != "registry-unauthorized":
                    raise
                other = await self._registries.after_refusal(login, credentials, repository)
                if other is None:
                    raise
            except BaseException:
                # Whoever waits for what this operation was getting gets it itself.
                registry.getting.clear()
                raise
            return await self._perform(login, steps(self._registries.registry(login, other)), taken, on_event=on_event)

    async def _perform(
        self,
        login: RegistryLogin,
        steps: Step[T],
        links: int,
        seconds: float | None = None,
        on_event: Callable[[Any], None] | None = None,
    ) -> T:
        limits = msgspec.structs.replace(self._config.limits, links_per_origin=links)
        courier = Courier(steps, entropy=self._entropy.fork(), limits=limits, total=seconds)
        value: T = await self._driver.perform(courier, dialer=self._registries.dialer(login), on_event=on_event)
        return value
