"""A recorded session in both roles, and what came of it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from vectors.broker_player.client import ClientStage
from vectors.broker_player.deviations import misplaced, sorted_out
from vectors.broker_player.recording import Recording
from vectors.broker_player.server import ServerStage
from vectors.broker_player.stage import SEED

HOPS = ("client-server", "caller-server", "client-upstream", "agent-client", "server-platform")


class Played(msgspec.Struct):
    """What came of one role of one recording."""

    session: str
    role: str
    compared: int
    deviations: Counter[tuple[str, str, str]]
    problems: list[str]

    def __str__(self) -> str:
        return (
            f"{self.role}: {self.compared} compared, {sum(self.deviations.values())} deviations, "
            f"{len(self.problems)} differences"
        )


def is_session(path: Path) -> bool:
    """Whether a file begins as a recorded session does."""
    with path.open(encoding="utf-8") as file:
        try:
            head = json.loads(file.readline())
        except ValueError:
            return False
    return isinstance(head, dict) and "vector" in head and "hops" in head


def play(path: Path, seed: bytes = SEED) -> list[Played]:
    """Play a recording: our server if the recorded one was the stock one, our client if that was.

    `seed` is what our machines draw from: ids, keys, and when they come back.
    """
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    recording = Recording(path)
    stages: list[ServerStage | ClientStage] = []
    if recording.real_server:
        stages.append(ServerStage(recording, seed))
    if recording.real_client:
        stages.append(ClientStage(recording, seed))
    return [_played(stage, digest) for stage in stages]


def _played(stage: ServerStage | ClientStage, digest: str) -> Played:
    session = stage.recording.name
    try:
        stage.play()
    except Exception as error:  # whatever it is, it is a machine's answer to recorded bytes, and no reason to stop
        problem = f"{session}: {stage.role}: expected a machine that goes on, got {type(error).__name__}: {error}"
        return Played(session, stage.role, stage.ledger.compared, Counter(), [problem])
    left, listed = sorted_out(stage.ledger.differences)
    problems = [str(one) for one in left] + misplaced(session, digest, stage.role, listed)
    return Played(session, stage.role, stage.ledger.compared, listed, problems)


def places(folder: Path) -> dict[str, Any]:
    """Return where each deviation occurs in a folder's recordings, as places.json has it."""
    out: dict[str, Any] = {}
    for path in sorted(folder.glob("*.jsonl")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        for played in play(path):
            said = out.setdefault(played.session, {"sha256": digest})
            for (role, hop, name), count in sorted(played.deviations.items()):
                said.setdefault(role, {}).setdefault(hop, {})[name] = count
    return out
