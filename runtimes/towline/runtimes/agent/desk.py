"""The registry operations an agent performs: scripts of the core, driven to their end with a login."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import anyio

from towline.core import Entropy, RemoteProtocolError, Step, canonical
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

    async def systemcheck(self, login: RegistryLogin, *, deep: bool, seconds: float) -> list[CheckStep]:
        """Check the login step by step within a time budget."""
        # Who asks wants to know how it is at this moment, so nothing is tried twice.
        return await self._perform(check(self._registry(login, retries=0), listing=deep), seconds)

    async def repositories(self, login: RegistryLogin, limit: int | None = None) -> Listing:
        """Return the repositories, or as many as could be had."""
        return await self._perform(list_repositories(self._registry(login), limit=limit, partial=True))

    async def tags(self, login: RegistryLogin, repository: str) -> Listing:
        return await self._perform(list_tags(self._registry(login), repository, partial=True))

    async def details(
        self, login: RegistryLogin, repository: str, query: ListQuery
    ) -> tuple[Details, list[str], str | None]:
        """Return a page of tags with what is known of each: all at once by the vendor's API, else each is asked for."""
        registry = self._registry(login)
        if registry.dialect.details is not None:
            found = await self._perform(list_details(registry, repository, partial=True))
            shown, cursor = page([item.tag for item in found.items], query)
            return found, shown, cursor
        listed = await self._perform(list_tags(registry, repository, partial=True))
        shown, cursor = page(listed.items, query)
        items = await self._perform(look_into(registry, repository, shown))
        return Details(tuple(items), listed.complete, listed.warnings), shown, cursor

    async def image(self, login: RegistryLogin, repository: str, reference: str, platform: str | None) -> ResolvedImage:
        wanted = Platform.parse(platform) if platform else None
        return await self._perform(resolve_image(self._registry(login), repository, reference, wanted))

    async def state(self, login: RegistryLogin, repository: str, reference: str, platform: str | None) -> str:
        wanted = Platform.parse(platform) if platform else None
        return await self._perform(state_identifier(self._registry(login), repository, reference, wanted))

    async def scan(self, login: RegistryLogin, job: Job) -> Scanned:
        """Pull and analyse a job's image."""
        registry = self._registry(login)
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
        name = ImageReference.parse(
            f"{registry.domain}/{registry.repository(image.repository)}{separator}{image.reference}"
        )
        wanted = Platform.parse(image.platform) if image.platform else None
        script = scan_image(registry, image.repository, image.reference, wanted, options, name)
        seen = _Seen()
        outcome: ScanOutcome = await self._perform(script, on_event=seen.take)
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

    def _registry(self, login: RegistryLogin, *, retries: int | None = None) -> Registry:
        return Registry(
            login.base,
            entropy=self._entropy.fork(),
            dialect=find_dialect(login.type),
            credentials=login.credentials,
            role=login.role,
            surroundings=self._config.surroundings,
            api=login.api or None,
            namespaces=login.namespaces,
            plain_http=login.scheme == "http",
            allowed_realm_hosts=self._config.realm_hosts,
            retries=retries,
            epoch=time.time() - anyio.current_time(),
            limits=self._config.limits,
        )

    async def _perform(
        self, steps: Step[T], seconds: float | None = None, on_event: Callable[[Any], None] | None = None
    ) -> T:
        courier = Courier(steps, entropy=self._entropy.fork(), limits=self._config.limits, total=seconds)
        value: T = await self._driver.perform(courier, dialer=self._config.dialer, on_event=on_event)
        return value
