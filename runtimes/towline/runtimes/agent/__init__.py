"""The agent program: an HTTP API in front, a store behind, workers and the outbox's pump between them.

    stop = anyio.Event()
    await serve(AgentConfig(login=login), on_trio, log=log, stop=stop)

Everything above the machines is anyio, so it runs under trio and inside an asyncio program alike; the driver
module of the same loop is an argument.
"""

from __future__ import annotations

from towline.runtimes.agent.config import AgentConfig
from towline.runtimes.agent.program import Running, serve

__all__ = ["AgentConfig", "Running", "serve"]
