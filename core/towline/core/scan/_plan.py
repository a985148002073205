"""Putting layers together and taking the inventory, as a stream without bytes, so that it runs beside the loop."""

from __future__ import annotations

from typing import Any

import msgspec

from towline.core._contract import Data, Record
from towline.core._errors import LocalProtocolError
from towline.core._limits import LIMITS, Limits
from towline.core._wire import Stream
from towline.core.inventory import ImageFacts, ScanOptions, Taken, take_inventory, wanted
from towline.core.layer import Globs, ImageView, LayerContent, Missing, StreamPlan, Wanted, merge


class Analysis(Record, frozen=True):
    """Either an inventory, or what a second pass over some layers must bring first."""

    taken: Taken | None
    missing: tuple[Missing, ...] = ()


class InventoryPlan(StreamPlan, frozen=True):
    """Put layers together and take their inventory; Proved with an Analysis.

    Without `final` it may answer with files that only a link makes interesting; with it they are given up and told.
    """

    layers: tuple[LayerContent, ...]
    image: ImageFacts
    options: ScanOptions
    final: bool = False
    limits: Limits = LIMITS

    def stream(self) -> Stream:
        return InventoryStream(self)


class InventoryStream:
    """Takes no bytes; the work is done at the end."""

    def __init__(self, plan: InventoryPlan) -> None:
        self._plan = plan

    def feed(self, data: Data) -> None:
        raise LocalProtocolError(f"expected no bytes for an inventory, got {len(data)}")

    def end(self) -> Any:
        plan = self._plan
        view = merge(plan.layers, plan.limits)
        missing = _missing(view, wanted(plan.options))
        if missing and not plan.final:
            return Analysis(None, tuple(missing))
        image = plan.image
        if missing:
            given_up = tuple(
                f"{ascii('/' + one.path)[1:-1]} is reached by too many links and was not read" for one in missing
            )
            image = msgspec.structs.replace(image, missing=image.missing + given_up)
        return Analysis(take_inventory(view, image, plan.options, plan.limits))


def _missing(view: ImageView, asked: Wanted) -> list[Missing]:
    globs = Globs(asked.include, asked.exclude)
    links = [path for path in view.symlinks() if globs.match(path)] if globs else []
    return view.missing([*asked.databases, *asked.files, *links], asked.folders)
