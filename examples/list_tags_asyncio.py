"""List a repository's tags from an asyncio program.

    python examples/list_tags_asyncio.py http://127.0.0.1:5000 team/app

The operation is a script of the core; a Courier turns it into links and bytes; the asyncio driver moves them.
"""

from __future__ import annotations

import asyncio
import os
import sys

from towline.core import Entropy
from towline.core.http import Courier
from towline.core.registry import Listing, Registry, list_tags
from towline.drivers.on_asyncio import perform


async def tags_of(base: str, repository: str) -> Listing:
    registry = Registry(base, entropy=Entropy(os.urandom(32)), plain_http=base.startswith("http://"))
    listing: Listing = await perform(Courier(list_tags(registry, repository), total=60.0))
    return listing


async def main(base: str, repository: str) -> None:
    listing = await tags_of(base, repository)
    print("\n".join(listing.items))
    if not listing.complete:
        print("not all of them:", *listing.warnings, file=sys.stderr)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
