"""From settings to what the agent is made with."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from towline.core import LIMITS
from towline.core.agent import RegistryLogin, decode_credentials
from towline.drivers import Dialer
from towline.runtimes.agent.config import OWN, AgentConfig, RegistryEntry
from towline.runtimes.agent.registry_file import RegistryFile, RegistryFileError, read_registries
from towline.runtimes.agent.sources import FromFiles, FromOneFile, FromProgram, LoginSource
from towline.runtimes.config import ConfigurationError, Settings
from towline.runtimes.settings import without_secrets
from towline.runtimes.setup import credential_string, listener
from towline.runtimes.surroundings import surroundings


def agent_config(
    settings: Settings, dialer: Dialer, instance: str, environment: Mapping[str, str] | None = None
) -> AgentConfig:
    """Return the agent's configuration. Raises ConfigurationError, with all that is wrong with the registry file."""
    around = os.environ if environment is None else environment
    half = listener(settings, "agent")
    file = _registries(settings["agent.registries"], around)
    login = _own_login(settings)
    source = None if login is None else _own_source(settings, around)
    return AgentConfig(
        host=half.host,
        port=half.port,
        workdir=settings["agent.workdir"],
        instance=instance,
        login=login,
        registries=file.logins,
        entries=file.entries | ({} if source is None else {OWN: RegistryEntry(source)}),
        max_image_bytes=settings["agent.max_image_bytes"],
        active_operations=max(1, settings["agent.active_operations"]),
        disable_list=settings["agent.disable_list"],
        callback_urls=settings["agent.callback_urls"],
        callback_bytes=settings["agent.callback_max_bytes"],
        delivery_seconds=settings["agent.delivery_ttl"],
        allow_http=settings["agent.allow_http"],
        realm_hosts=settings["registry.realm_hosts"],
        registry_concurrency=settings["agent.registry_concurrency"],
        registry_rate=settings["agent.registry_rate"],
        shared_secret=settings["agent.shared_secret"],
        https_cert=half.tls_cert,
        https_key=half.tls_key,
        surroundings=surroundings(around),
        dialer=dialer,
        limits=msgspec.structs.replace(LIMITS, jobs_queued=settings["agent.max_queue"]),
    )


def _registries(path: str | None, environment: Mapping[str, str]) -> RegistryFile:
    if path is None:
        return RegistryFile({}, {})
    try:
        return read_registries(path, environment, without_secrets(environment))
    except RegistryFileError as error:
        raise ConfigurationError(error.faults) from None


def _own_login(settings: Settings) -> RegistryLogin | None:
    credentials = credential_string(settings)
    if credentials is None:
        return None
    login = decode_credentials(credentials.reveal(), where="the CR_* variables")
    return msgspec.structs.replace(
        login,
        api=login.api or settings["registry.api"] or "",
        namespaces=login.namespaces or settings["registry.namespaces"],
    )


def _own_source(settings: Settings, environment: Mapping[str, str]) -> LoginSource | None:
    """Return where the agent's own login is looked up each time, where it is not a value that is set for good."""
    if settings["registry.credential_program"]:
        return FromProgram(settings["registry.credential_program"], without_secrets(environment))
    if settings["registry.credentials"] is not None:
        return None
    if settings.sources["registry.password"] == "CR_PASSWORD_FILE" and settings["registry.username"]:
        return FromFiles(settings["registry.username"], environment["CR_PASSWORD_FILE"], private=False)
    if settings.sources["registry.token"] == "CR_TOKEN_FILE" and not settings["registry.username"]:
        return FromOneFile(environment["CR_TOKEN_FILE"], private=False)
    return None
