"""From settings to what the agent is made with."""

from __future__ import annotations

import msgspec

from towline.core import LIMITS
from towline.core.agent import decode_credentials
from towline.drivers import Dialer
from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.config import Settings
from towline.runtimes.setup import credential_string, listener


def agent_config(settings: Settings, dialer: Dialer, instance: str) -> AgentConfig:
    """Return the agent's configuration."""
    half = listener(settings, "agent")
    credentials = credential_string(settings)
    return AgentConfig(
        host=half.host,
        port=half.port,
        workdir=settings["agent.workdir"],
        instance=instance,
        login=None if credentials is None else decode_credentials(credentials.reveal(), where="the CR_* variables"),
        max_image_bytes=settings["agent.max_image_bytes"],
        active_operations=max(1, settings["agent.active_operations"]),
        disable_list=settings["agent.disable_list"],
        callback_urls=settings["agent.callback_urls"],
        callback_bytes=settings["agent.callback_max_bytes"],
        delivery_seconds=settings["agent.delivery_ttl"],
        allow_http=settings["agent.allow_http"],
        realm_hosts=settings["registry.realm_hosts"],
        https_cert=half.tls_cert,
        https_key=half.tls_key,
        dialer=dialer,
        limits=msgspec.structs.replace(LIMITS, jobs_queued=settings["agent.max_queue"]),
    )
