"""Filling in what the far side may ask for without knowing it (broker-protocol.md §3.7, design.md §4).

The established broker fills in any configuration variable. Here the far side can name only a short list, and
the registry's credentials go nowhere but to the agent. A placeholder that may not be filled in stays as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from towline.core._errors import RemoteProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._secret import Secret
from towline.core.broker._headers import VALUE
from towline.core.broker.filter._dotted import parse_dotted
from towline.core.broker.filter._expand import Variables, expand_listed, names_in
from towline.core.broker.filter._json import Json, body_json, compact_json

ALWAYS: Final = frozenset({"BROKER_CLIENT_URL", "CR_AGENT_URL"})
ONLY_TO_AGENT: Final = "CR_CREDENTIALS"
MARKER_HEADER: Final = "x-broker-var-sub"
MARKER_KEY: Final = "BROKER_VAR_SUB"


def substitutable(variables: Variables, listed: Collection[str] = (), *, to_agent: bool) -> dict[str, str | Secret]:
    """Return the variables that may be filled in for one request.

    `listed` are the names that the operator adds; `to_agent` says whether the request goes to the agent's origin.
    """
    names = ALWAYS | frozenset(listed) - {ONLY_TO_AGENT}
    if to_agent:
        names |= {ONLY_TO_AGENT}
    return {name: value for name, value in variables.items() if name in names}


def substitute_headers(headers: Mapping[str, str], variables: Variables) -> dict[str, str | Secret]:
    """Return the headers with those that `x-broker-var-sub` names filled in. The marker stays.

    A header whose filled-in text is empty, or could not stand on the wire, keeps the text it had.
    """
    out: dict[str, str | Secret] = dict(headers)
    marked = next((value for name, value in headers.items() if name.lower() == MARKER_HEADER), "")
    wanted = {name.strip().lower() for name in marked.split(",")} - {""}
    for name, value in headers.items():
        if name.lower() in wanted:
            filled = expand_listed(value, variables)
            if filled and filled != value and VALUE.fullmatch(filled) is not None:
                hidden = any(isinstance(variables.get(variable), Secret) for variable in names_in(value))
                out[name] = Secret(filled) if hidden else filled
    return out


def substitute_body(body: bytes, variables: Variables, limits: Limits = LIMITS) -> bytes:
    """Return a JSON body with the texts filled in whose dotted paths its `BROKER_VAR_SUB` lists, the list removed.

    A body without the list, or that is not strict JSON, is returned as it came.
    """
    if MARKER_KEY.encode() not in body:
        return body
    try:
        document = body_json(body, limits)
        if not isinstance(document, dict) or not isinstance(paths := document.pop(MARKER_KEY, None), list):
            return body
        for path in paths:
            if isinstance(path, str):
                _fill(document, path, variables)
        return compact_json(document)
    except RemoteProtocolError:
        return body


def _fill(document: dict[str, Json], path: str, variables: Variables) -> None:
    try:
        *steps, last = parse_dotted(path)
    except (RemoteProtocolError, ValueError):
        return
    place: Json = document
    for step in steps:
        place = _member(place, step)
    value = _member(place, last)
    if not isinstance(value, str):
        return
    if isinstance(place, dict):
        place[last] = expand_listed(value, variables)
    elif isinstance(place, list):
        place[int(last)] = expand_listed(value, variables)


def _member(place: Json, step: str) -> Json:
    if isinstance(place, dict):
        return place.get(step)
    if isinstance(place, list) and step.isascii() and step.isdigit() and len(step) < 10 and int(step) < len(place):
        return place[int(step)]
    return None
