"""The script runner under answers in any order: what it asks next is a function of what it was told."""

from __future__ import annotations

from typing import Any

from machines.toys import HEAD, copy_document

from fuzz.harness import Bytes, hold_to_promises
from towline.core import WAKE, Body, Broken, Head, Proved, Refused, RemoteProtocolError, Script, Tail

REFUSED = RemoteProtocolError("digest-mismatch", "expected other bytes")


def run(data: bytes) -> None:
    script = Bytes(data)
    now = 0.0
    facts: list[tuple[float, Any]] = [(now, WAKE)]
    while script:
        match script.byte() % 8:
            case 0:
                now += script.byte() / 16
                facts.append((now, WAKE))
            case 1:
                facts.append((now, HEAD))
            case 2:
                facts.append((now, Head(100 + script.byte() * 2, ())))
            case 3:
                facts.append((now, Body(script.take(script.byte()))))
            case 4:
                facts.append((now, Tail()))
            case 5:
                facts.append((now, Broken("reset")))
            case 6:
                facts.append((now, Proved(script.byte() % 3, script.byte())))
            case _:
                facts.append((now, Refused(script.byte() % 3, REFUSED)))
    hold_to_promises(lambda: Script(copy_document("https://documents.test/one")), facts, splits=False)
