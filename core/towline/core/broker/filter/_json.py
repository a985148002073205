"""The body of a brokered request as JSON that keeps its numbers: read strictly, written compactly."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, TypeAlias, cast

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import strict_json
from towline.core._limits import LIMITS, Limits

Json: TypeAlias = "bool | Decimal | str | list[Json] | dict[str, Json] | None"

_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")


def body_json(body: bytes | str, limits: Limits = LIMITS) -> Json:
    """Return a body's document, numbers as Decimal.

    Raises:  RemoteProtocolError of kind bad-request
    """
    return cast(Json, strict_json(body, "the body", kind="bad-request", limits=limits, exact=True))


def compact_json(document: Json) -> bytes:
    """Return a document as compact UTF-8 JSON.

    Raises:  RemoteProtocolError of kind bad-request, for half a surrogate pair
    """
    try:
        return _ENCODER.encode(document)
    except UnicodeEncodeError:
        raise RemoteProtocolError("bad-request", "the body: expected whole characters, got half a pair") from None
