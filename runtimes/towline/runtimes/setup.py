"""From settings to the records the programs are made with."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from towline._version import VERSION
from towline.core import LIMITS, Limits, RemoteProtocolError, Secret
from towline.core.broker import (
    AcceptRules,
    BrokerServerConfig,
    ClusterConfig,
    default_server_rules,
)
from towline.core.http import Url
from towline.drivers import Dialer, Guard, Listener, TlsSettings
from towline.runtimes.config import ConfigurationError, Settings
from towline.runtimes.logs import Log

_SHORTEST_CLUSTER_SECRET = 16
_SHORTEST_LEASE = 1.0
_LARGEST_RULES = 1024 * 1024


def strike_secrets(log: Log, settings: Settings) -> None:
    """Register every secret of the configuration with the log's last net."""
    for value in settings.values.values():
        for secret in value if isinstance(value, tuple) else (value,):
            if isinstance(secret, Secret):
                log.strike(secret)
    for connection in settings.connections:
        log.strike(connection.get("token"))
        for secret in connection.secrets():
            log.strike(secret)


def dialer(settings: Settings, log: Log) -> Dialer:
    """Return how this program opens links; say aloud where certificates are not verified."""
    insecure = set(settings["tls.insecure_hosts"])
    if not settings["tls.verify"] and settings["registry.base"]:
        insecure.add(settings["registry.base"].partition("/")[0].partition(":")[0])
    if insecure:
        log.say("warning", "certificates are not verified", hosts=", ".join(sorted(insecure)))
    return Dialer(
        guard=Guard(networks=settings["net.allowed_networks"]),
        tls=TlsSettings(ca_files=settings["tls.ca_files"], insecure_hosts=frozenset(insecure)),
    )


def listener(settings: Settings, section: str) -> Listener:
    """Return where a program listens. Raises ConfigurationError when half of a certificate is set."""
    cert, key = settings[f"{section}.https_cert"], settings[f"{section}.https_key"]
    if bool(cert) != bool(key):
        raise ConfigurationError([f"{section}.https_cert and {section}.https_key are set together or not at all"])
    return Listener(settings[f"{section}.bind"], settings[f"{section}.port"], cert, key)


def metrics_listener(settings: Settings, section: str) -> Listener | None:
    """Return where a program shows its metrics, None where it does not."""
    at = settings[f"{section}.metrics_port"]
    return None if at is None else Listener(settings[f"{section}.metrics_bind"], at)


def rules(path: str | None) -> AcceptRules | None:
    """Read an accept file; None without one. Raises RemoteProtocolError that names the file and the rule."""
    if path is None:
        return None
    try:
        with Path(path).open("rb") as file:
            return AcceptRules.load(file.read(_LARGEST_RULES))
    except OSError as error:
        raise ConfigurationError([f"accept file {path} cannot be read ({error.strerror})"]) from None
    except RemoteProtocolError as error:
        raise ConfigurationError([f"{path}: {error.message}"]) from None


def server_config(settings: Settings) -> BrokerServerConfig:
    """Return the broker server's configuration."""
    if settings["server.mandatory_auth"]:
        settings.need("server.gateway_url")
    host_name = settings["server.host_name"] or socket.gethostname()
    return BrokerServerConfig(
        rules=rules(settings["server.accept"]) or default_server_rules(),
        tokens=settings["server.tokens"] or None,
        version=VERSION,
        ping_interval=settings["server.ping_interval"],
        ping_timeout=settings["server.ping_timeout"],
        minimal_version=settings["server.minimal_version"],
        recommended_version=settings["server.recommended_version"],
        authorization="gateway" if settings["server.mandatory_auth"] else "none",
        gateway_url=settings["server.gateway_url"] or "",
        dispatcher_url=settings["server.dispatcher_url"],
        cluster=cluster_config(settings),
        # Of `broker-server-7` the dispatcher knows the 7.
        server_id=host_name.rpartition("-")[2],
        host_name=host_name,
        variables={name: Secret(value) for name, value in os.environ.items()},
    )


def server_limits(settings: Settings) -> Limits:
    """Return the limits as the stock variables move them."""
    return msgspec.structs.replace(LIMITS, tunnel_payload=settings["server.message_bytes"])


def cluster_config(settings: Settings) -> ClusterConfig | None:
    """Return this server's place among several nodes; None for one alone. Raises ConfigurationError."""
    if not settings["server.redis_url"]:
        return None
    settings.need("server.cluster_secret", "server.node_url")
    secret, lease = settings["server.cluster_secret"], settings["server.node_lease"]
    faults = []
    if len(secret.reveal()) < _SHORTEST_CLUSTER_SECRET:
        faults.append(f"server.cluster_secret has to have {_SHORTEST_CLUSTER_SECRET} characters or more")
    if lease < _SHORTEST_LEASE:
        faults.append(f"server.node_lease has to be {_SHORTEST_LEASE:g} s or more")
    try:
        url = Url.parse(settings["server.node_url"])
    except RemoteProtocolError as error:
        raise ConfigurationError([*faults, f"server.node_url: {error.message}"]) from None
    if url.target != "/":
        faults.append("server.node_url: expected scheme, host and port, got a path as well")
    if faults:
        raise ConfigurationError(faults)
    name = settings["server.node_id"] or socket.gethostname()
    return ClusterConfig(secret, url, name, os.urandom(16).hex(), lease)


def credential_string(settings: Settings) -> Secret | None:
    """Return `CR_CREDENTIALS`: the one that is set, else the one that the other CR_* variables make (agent.md §3.1)."""
    if settings["registry.credentials"] or not settings["registry.type"]:
        found: Secret | None = settings["registry.credentials"]
        return found
    # The agent's room, of which a server and most clients need nothing else.
    from towline.core.agent import encode_credentials

    none = Secret("")
    return encode_credentials(
        settings["registry.type"],
        username=settings["registry.username"] or "",
        password=settings["registry.password"] or none,
        base=settings["registry.base"],
        token=settings["registry.token"] or none,
        role_arn=settings["registry.role_arn"] or "",
        region=settings["registry.region"] or "",
        external_id=settings["registry.external_id"] or none,
    )
