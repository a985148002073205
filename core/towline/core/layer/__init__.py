"""Layers: bytes proven, unpacked, read and put together, without a file being written.

A driver builds a stream with `build(plan)` and feeds it; a LayerPlan's verdict is a LayerContent, a BlobPlan's a
ProvedBlob. `merge` puts contents together into an ImageView.
"""

from __future__ import annotations

from towline.core.layer._content import CONTENT_VERSION, KeptFile, LayerContent, ProvedBlob
from towline.core.layer._digest import Proof
from towline.core.layer._glob import Globs
from towline.core.layer._inflate import Inflater
from towline.core.layer._layer import BlobPlan, BlobStream, LayerPlan, LayerStream, StreamPlan, build
from towline.core.layer._names import normal
from towline.core.layer._overlay import merge
from towline.core.layer._tar import Kind, Members, TarReader
from towline.core.layer._view import ImageView, Missing, ViewFile
from towline.core.layer._wanted import Selector, Wanted

__all__ = [
    "BlobPlan",
    "BlobStream",
    "CONTENT_VERSION",
    "Globs",
    "ImageView",
    "Inflater",
    "KeptFile",
    "Kind",
    "LayerContent",
    "LayerPlan",
    "LayerStream",
    "Members",
    "Missing",
    "Proof",
    "ProvedBlob",
    "Selector",
    "StreamPlan",
    "TarReader",
    "ViewFile",
    "Wanted",
    "build",
    "merge",
    "normal",
]
