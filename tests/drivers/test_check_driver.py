"""Every promise of a driver, on both loops."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from drivers.loops import make_certificate

from towline.drivers import on_asyncio, on_trio, testing
from towline.drivers._kit_windows import WINDOW_CHECKS

names = [check.__name__ for check in testing.CHECKS]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("windows"))


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


@pytest.mark.trio
@pytest.mark.parametrize("check", testing.CHECKS, ids=names)
async def test_trio_with_tasks_for_each_link(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a system without epoll."""
    monkeypatch.setattr(on_trio, "PUMP", on_trio.Pump)
    with anyio.fail_after(60):
        await check(on_trio.open_pump)


@pytest.mark.trio
@pytest.mark.parametrize("check", WINDOW_CHECKS, ids=lambda check: check.__name__)
async def test_trio_over_tls(check: Any, certificate: tuple[str, str]) -> None:
    with anyio.fail_after(60):
        await check(on_trio.open_pump, certificate)


@pytest.mark.anyio
@pytest.mark.parametrize("check", WINDOW_CHECKS, ids=lambda check: check.__name__)
async def test_asyncio_over_tls(check: Any, certificate: tuple[str, str]) -> None:
    with anyio.fail_after(60):
        await check(on_asyncio.open_pump, certificate)
