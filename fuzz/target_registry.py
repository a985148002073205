"""A registry that misbehaves: the first byte chooses a conversation, the rest is what happens on its links."""

from __future__ import annotations

from machines.registry import make_blob, make_check, make_image, make_tags

from fuzz.harness import hold_to_promises, peer_facts
from towline.core import Note, Read
from towline.core.registry import Progress

MAKERS = (make_tags, make_image, make_blob, make_check)


def run(data: bytes) -> None:
    make = MAKERS[data[0] % len(MAKERS)] if data else make_tags
    hold_to_promises(make, peer_facts(data[1:], links=(1, 3)), volatile=(Read, Note, Progress))
