"""A far side's body and header are filled in: with the listed variables, and never with another."""

from __future__ import annotations

from fuzz.harness import BrokenPromise, refused_or_taken
from towline.core import Secret
from towline.core.broker import substitutable, substitute_body, substitute_headers

CANARY = "canary-that-may-not-travel"
VARIABLES: dict[str, str | Secret] = {
    "BROKER_CLIENT_URL": "http://client",
    "CR_CREDENTIALS": Secret(CANARY),
    "CR_PASSWORD": Secret(CANARY),
}
ALLOWED = substitutable(VARIABLES, ["CR_CREDENTIALS"], to_agent=False)


def run(data: bytes) -> None:
    if CANARY.encode() in data:
        return
    marker, _, rest = data.partition(b"\n")
    headers = {"x-broker-var-sub": marker.decode("latin-1"), "a": rest.decode("latin-1"), "b": "${CR_CREDENTIALS}"}
    filled = refused_or_taken(lambda: substitute_headers(headers, ALLOWED))
    body = refused_or_taken(lambda: substitute_body(data, ALLOWED))
    said = "" if filled is None else "".join(v.reveal() if isinstance(v, Secret) else v for v in filled.values())
    if CANARY in said or (body is not None and CANARY.encode() in body):
        raise BrokenPromise("a variable was filled in that nobody listed")
