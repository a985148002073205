"""Secrets that are random in every run, and the search for them in what programs leave behind."""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interop.peers.docker_registry import Login
from interop.peers.token_server import TokenServer


@dataclass
class Canaries:
    """The secrets of one run. Each holds a random core that no encoding of text changes."""

    core: str = field(default_factory=lambda: secrets.token_hex(12))
    broker_token: str = field(default_factory=lambda: str(uuid.uuid4()))
    # A login that no registry takes.
    wrong: str = field(default_factory=lambda: secrets.token_hex(12))
    results_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    # What a token server gave out.
    issued: list[str] = field(default_factory=list)

    @property
    def login(self) -> Login:
        return Login("scan user+x", f'pä$$ "{self.core}')

    def all(self) -> dict[str, str]:
        """The secrets to search for, by name."""
        issued = {f"registry token {at}": token for at, token in enumerate(self.issued)}
        return {
            "registry password": self.core,
            "wrong password": self.wrong,
            "broker token": self.broker_token,
            "results token": self.results_token,
            **issued,
        }


class RememberingTokens(TokenServer):
    """A token server that notes what it gives out."""

    def remember(self, issued: list[str]) -> RememberingTokens:
        self.issued = issued
        return self

    def answer(self, query: str, authorization: str | None) -> tuple[int, dict[str, Any]]:
        status, body = super().answer(query, authorization)
        if token := body.get("token"):
            self.issued.append(token)
        return status, body


def needles(secret: str) -> list[bytes]:
    """A secret as it may stand in bytes: plain, and in base64 wherever it begins in what was encoded."""
    plain = secret.encode()
    found = [plain]
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + plain)
        found.append(encoded[(before * 8 + 5) // 6 : (before + len(plain)) * 8 // 6])
    return found


def hits(canaries: Canaries, places: Mapping[str, bytes]) -> list[str]:
    """Say which secret stands where."""
    return [
        f"{name} in {place}"
        for place, data in places.items()
        for name, secret in canaries.all().items()
        if any(needle in data for needle in needles(secret))
    ]


def files_below(folders: Iterable[Path]) -> dict[str, bytes]:
    """The bytes of every file below these folders, side files of databases among them."""
    return {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
