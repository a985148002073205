"""From settings to what the broker client is made with: one connection from the classic variables, or several."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from towline.core import LIMITS, MIB, Limits, RemoteProtocolError, Secret
from towline.core.broker import (
    DEFAULT_AGENT_RULES,
    AcceptRules,
    BrokerClientConfig,
    ConnectionConfig,
    RulesRead,
)
from towline.runtimes.config import ConfigurationError, Settings
from towline.runtimes.connections import ConnectionSettings, credentials, overlay, type_fault
from towline.runtimes.setup import credential_string, rules

# security.md §3 sets a ceiling for what is held of one message.
_LARGEST_ANSWER: Final = 64 * MIB
# A `\$` is meant as it stands, and `${VAR}` is not for values of the environment.
_OTHER: Final = re.compile(r"(?<!\\)\$([A-Za-z_][A-Za-z0-9_]*)")


def client_config(settings: Settings) -> BrokerClientConfig:
    """Return the broker client's configuration. Raises ConfigurationError with everything that is wrong with it."""
    if settings["client.authenticate"]:
        settings.need("client.oauth_id", "client.oauth_secret")
    if settings.connections:
        own: dict[str, Any] = {"connections": _connections(settings)}
    else:
        own = _classic(settings)
    config = BrokerClientConfig(
        **own,
        deployment_id=settings["client.deployment_id"],
        one_event_answers=settings["client.one_event_answers"],
        polling_first=settings["client.polling_first"],
        insecure_downstream=settings["client.insecure_downstream"],
        substitute_bodies=not settings["client.no_body_substitution"],
        substitute_headers=not settings["client.no_header_substitution"],
        rewritten_url=settings["client.rewritten_url"],
        retries=settings["client.retries"],
        healthcheck_path=settings["client.healthcheck_path"],
        systemcheck_path=settings["client.systemcheck_path"],
        check_seconds=settings["client.validation_timeout"],
        preflight=settings["client.preflight"],
        client_config={
            "privateCa": bool(settings["tls.ca_files"]),
            "tlsReject": not settings["tls.verify"],
            "credPooling": any(name.endswith("_POOL") for name in os.environ),
        },
        tls_here=bool(settings["client.https_cert"]) or settings["client.tls_terminated"],
        api_url=settings["client.api_url"],
        high_availability=settings["client.high_availability"],
        dispatcher_url=settings["client.dispatcher_url"],
        dispatcher_prefix=settings["client.dispatcher_prefix"],
        location=settings["client.location"],
        oauth_id=settings["client.oauth_id"] if settings["client.authenticate"] else None,
        oauth_secret=settings["client.oauth_secret"] if settings["client.authenticate"] else None,
        upload_seconds=settings["client.post_timeout"],
        ping_seconds=settings["client.ping_interval"],
        pong_seconds=settings["client.pong_timeout"],
        connect_seconds=settings["client.connect_timeout"],
    )
    try:
        config.served()
    except RemoteProtocolError as error:
        raise ConfigurationError([error.message]) from None
    return config


def client_limits(settings: Settings) -> Limits:
    """Return the limits as the stock variables move them."""
    return msgspec.structs.replace(LIMITS, tunnel_answer=min(settings["client.answer_bytes"], _LARGEST_ANSWER))


def client_warnings(settings: Settings) -> list[str]:
    """Return what of the configuration has no effect, one line each."""
    told = []
    if settings.warnings:
        told.append("keys of the universal client's file without a meaning here: " + ", ".join(settings.warnings))
    if settings.connections and settings["client.token"]:
        told.append("client.token is not used: each connection has its own")
    return told


def read_rules(settings: Settings) -> RulesRead:
    """Read the accept files again, all of them or none."""
    try:
        if not settings.connections:
            return RulesRead({"": rules(settings["client.accept"]) or DEFAULT_AGENT_RULES})
        slugs = [ConnectionConfig(name=own.name).slug for own in settings.connections]
        read = [_rules(settings, own) for own in settings.connections]
        return RulesRead(dict(zip(slugs, read, strict=True)))
    except ConfigurationError as error:
        return RulesRead(fault=error.message)


def _classic(settings: Settings) -> dict[str, Any]:
    urls = settings["client.server_urls"]
    settings.need("client.token", *([] if urls else ["client.server_url"]), "client.agent_url")
    authorizations = (settings["client.validation_authorization"], *settings["client.validation_authorizations"])
    basics = (settings["client.validation_basic"], *settings["client.validation_basics"])
    return {
        "server_url": settings["client.server_url"] or "",
        "server_urls": urls,
        "token": settings["client.token"],
        "agent_url": settings["client.agent_url"],
        "client_url": settings["client.client_url"],
        "rules": rules(settings["client.accept"]) or DEFAULT_AGENT_RULES,
        "variables": variables(settings),
        "substitutable": settings["client.substitute"],
        "check_url": settings["client.validation_url"],
        "check_method": settings["client.validation_method"].upper(),
        "check_authorizations": tuple(secret for secret in authorizations if secret),
        "check_basics": tuple(secret for secret in basics if secret),
    }


def _connections(settings: Settings) -> tuple[ConnectionConfig, ...]:
    faults: list[str] = []
    made: list[ConnectionConfig] = []
    tokens: dict[str, str] = {}
    for own in settings.connections:
        where = f"{own.place} connections.{own.name}"
        token = own.get("token")
        if not token:
            faults.append(f"{where}: token is not set")
        elif (other := tokens.setdefault(token.reveal().lower(), own.name)) != own.name:
            faults.append(f"{where}: its token is that of {other}")
        elif token.reveal().lower() in own.name.lower():
            # The name stands in paths, in answers and in the log.
            faults.append(f"{own.place} connections: the name of a connection holds its token")
        for key, fallback in (("server_url", "client.server_url"), ("agent_url", "client.agent_url")):
            alone = key == "agent_url" or not (own.get("server_urls") or settings["client.server_urls"])
            if alone and not (own.get(key) or settings[fallback]):
                faults.append(f"{where}: neither {key} nor {fallback} is set")
        for context, values in ((None, {}), *own.contexts.items()):
            wrong = type_fault(own.get("type"), {**own.variables, **values})
            if wrong is not None and not (context is not None and "CR_CREDENTIALS" in values):
                faults.append(f"{where}{'' if context is None else f'.contexts.{context}'}: {wrong}")
        try:
            accepted = _rules(settings, own)
        except ConfigurationError as error:
            faults += [f"{where}: {fault}" for fault in error.faults[:-1]]
            continue
        if not faults:
            made.append(_connection(settings, own, accepted))
    if faults:
        raise ConfigurationError(faults)
    return tuple(made)


def _connection(settings: Settings, own: ConnectionSettings, accepted: AcceptRules) -> ConnectionConfig:
    kind = own.get("type")
    mine = dict(own.variables)
    made = credentials(mine, kind)
    if made is not None:
        mine["CR_CREDENTIALS"] = made
    # What the environment has of a registry is not this connection's.
    elsewhere = ("CR_", "BROKER_TOKEN")
    general = {name: value for name, value in expanded(os.environ).items() if not name.startswith(elsewhere)}
    authorization, basic = own.get("validation_authorization"), own.get("validation_basic")
    return ConnectionConfig(
        name=own.name,
        type=kind,
        token=own.get("token"),
        server_url=own.get("server_url") or settings["client.server_url"] or "",
        server_urls=own.get("server_urls") or (() if own.get("server_url") else settings["client.server_urls"]),
        agent_url=own.get("agent_url") or settings["client.agent_url"],
        client_url=own.get("client_url") or settings["client.client_url"],
        rules=accepted,
        variables=general | mine,
        substitutable=own.get("substitute") or settings["client.substitute"],
        contexts={context: overlay(own.variables, values, kind) for context, values in own.contexts.items()},
        check_url=own.get("validation_url"),
        check_method=(own.get("validation_method") or "GET").upper(),
        check_authorizations=(authorization,) if authorization else (),
        check_basics=(basic,) if basic else (),
    )


def _rules(settings: Settings, own: ConnectionSettings) -> AcceptRules:
    return rules(own.get("accept") or settings["client.accept"]) or DEFAULT_AGENT_RULES


def variables(settings: Settings) -> Mapping[str, Secret]:
    """Return what `${VAR}` in an operator's rules may stand for: the environment, as in the stock programs.

    Which of it is secret only the operator knows, so all of it is.
    """
    known = expanded(os.environ)
    found = credential_string(settings)
    if found is not None:
        known["CR_CREDENTIALS"] = found
    return known


def expanded(environment: Mapping[str, str]) -> dict[str, Secret]:
    """Return an environment with the `$OTHER` in its values filled in once (broker-protocol.md §3.4).

    A value that names a variable with a `_POOL` beside it makes a pool. What is a registry's (`CR_*`) stays as it
    stands: a `$` in a password is one.
    """
    known: dict[str, Secret] = {}
    for name, value in environment.items():
        names = [] if name.startswith("CR_") else _OTHER.findall(value)
        pooled = next((other for other in names if environment.get(f"{other}_POOL")), None)
        filled = _filled(value, environment) if names else value
        known[name] = Secret(filled)
        if pooled is not None:
            entries = (entry.strip() for entry in environment[f"{pooled}_POOL"].split(","))
            each = [_filled(value, {**environment, pooled: entry}) for entry in entries if entry]
            known[f"{name}_POOL"] = Secret(",".join(each))
    return known


def _filled(value: str, environment: Mapping[str, str]) -> str:
    return _OTHER.sub(lambda found: environment.get(found[1]) or found[0], value)
