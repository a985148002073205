"""Keep a broker tunnel open from an asyncio program, and say what comes down it.

    BROKER_TOKEN=... python examples/tunnel_client_asyncio.py http://127.0.0.1:7341 http://127.0.0.1:17500

The machine is the one that `towline client` runs on trio; only the driver differs.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from towline.core import Entropy, Note, Secret
from towline.core.broker import BrokerClient, BrokerClientConfig
from towline.drivers import Listener
from towline.drivers.on_asyncio import open_pump


async def main(server_url: str, agent_url: str) -> None:
    config = BrokerClientConfig(
        server_url=server_url,
        token=Secret(os.environ["BROKER_TOKEN"]),
        agent_url=agent_url,
        epoch=time.time() - time.monotonic(),
    )
    client = BrokerClient(config, entropy=Entropy(os.urandom(32)))
    async with open_pump(client, listeners={"client": Listener("127.0.0.1", 0)}) as pump:
        print(f"callbacks are taken on port {pump.ports['client']}", flush=True)
        async for event in pump.events:
            if isinstance(event, Note):
                print(event.event, event.fields, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
