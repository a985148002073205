"""Every promise of a driver, on both loops."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from towline.drivers import on_asyncio, on_trio, testing

names = [check.__name__ for check in testing.CHECKS]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.trio
@pytest.mark.parametrize("check", testing.CHECKS, ids=names)
async def test_trio(check: Any) -> None:
    with anyio.fail_after(60):
        await check(on_trio.open_pump)


@pytest.mark.anyio
@pytest.mark.parametrize("check", testing.CHECKS, ids=names)
async def test_asyncio(check: Any) -> None:
    with anyio.fail_after(60):
        await check(on_asyncio.open_pump)
