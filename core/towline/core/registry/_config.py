"""An image's config: the facts a scan needs, typed; the rest stays in the raw bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from towline.core._errors import RemoteProtocolError
from towline.core._json import strict_json, typed
from towline.core._limits import LIMITS, Limits
from towline.core.registry._digest import Digest
from towline.core.registry._platform import Platform


class RootFs(msgspec.Struct, frozen=True):
    """The layers' digests, uncompressed, base first."""

    diff_ids: tuple[str, ...] = ()
    type: str = "layers"


class HistoryEntry(msgspec.Struct, frozen=True):
    """One instruction of the build."""

    created: str | None = None
    created_by: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class ContainerConfig(msgspec.Struct, frozen=True):
    """How a container of this image starts."""

    user: str | None = msgspec.field(default=None, name="User")
    env: tuple[str, ...] | None = msgspec.field(default=None, name="Env")
    entrypoint: tuple[str, ...] | None = msgspec.field(default=None, name="Entrypoint")
    cmd: tuple[str, ...] | None = msgspec.field(default=None, name="Cmd")
    working_dir: str | None = msgspec.field(default=None, name="WorkingDir")
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")
    exposed_ports: dict[str, Any] | None = msgspec.field(default=None, name="ExposedPorts")


class ImageConfig(msgspec.Struct, frozen=True):
    """An image's config."""

    architecture: str = ""
    os: str = ""
    variant: str | None = None
    os_version: str | None = msgspec.field(default=None, name="os.version")
    created: str | None = None
    config: ContainerConfig | None = None
    rootfs: RootFs = RootFs()
    history: tuple[HistoryEntry, ...] | None = None

    @property
    def platform(self) -> Platform | None:
        """The platform it was built for, where it says one."""
        if not self.os or not self.architecture:
            return None
        return Platform(self.os, self.architecture, self.variant or None, self.os_version or None)


def parse_config(raw: bytes, layers: int, where: str = "config", limits: Limits = LIMITS) -> ImageConfig:
    """Read a config; its diff IDs must be digests, and as many as the manifest has layers.

    Raises:  invalid-manifest
    Source:  OCI image-spec, config.md
    """
    document = strict_json(raw, where, kind="invalid-manifest", limits=limits)
    config = typed(document, ImageConfig, where, kind="invalid-manifest")
    for diff_id in config.rootfs.diff_ids:
        Digest.parse(diff_id, kind="invalid-manifest")
    if len(config.rootfs.diff_ids) != layers:
        raise RemoteProtocolError(
            "invalid-manifest",
            f"{where}: expected a diff ID for each of {layers} layers, got {len(config.rootfs.diff_ids)}",
        )
    return config
