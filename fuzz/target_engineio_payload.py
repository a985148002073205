"""Polling payloads and handshakes: what is read can be written, and is then read as the same."""

from __future__ import annotations

from typing import Literal

from fuzz.harness import Bytes, refused_or_taken
from towline.core.tunnel._engineio import read_handshake, read_payload, write_handshake, write_payload


def run(data: bytes) -> None:
    script = Bytes(data)
    revision: Literal[3, 4] = 3 if script.byte() & 1 else 4
    rest = script.rest()
    packets = refused_or_taken(lambda: read_payload(rest, revision))
    if packets is not None and packets:
        wire = [packet.encode() for packet in packets]
        assert read_payload(write_payload(wire, revision), revision) == packets
    said = refused_or_taken(lambda: read_handshake(rest))
    if said is not None and abs(said.ping_interval) < 1e9 and abs(said.ping_timeout) < 1e9:
        again = read_handshake(write_handshake(said)[1:])
        assert (again.sid, again.upgrades, again.max_payload) == (said.sid, said.upgrades, said.max_payload)
