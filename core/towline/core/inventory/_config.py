"""An image's config as the result carries it: fields that are there, cut to their limits, secrets struck out.

The wire form tells a key that is missing from one that is null, so the config is read here once more from its bytes.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from towline.core._errors import RemoteProtocolError
from towline.core.inventory._redact import strike_command, strike_forms, strike_value, strike_variable

T = TypeVar("T")
Maybe: TypeAlias = T | UnsetType | None

# scan.md §1.3
_ITEMS: Final = 500
_HISTORY: Final = 1000
_PORT: Final = 64
_SIGNAL: Final = 128
_AUTHOR: Final = 128
_TEXT: Final = 1024
_COMMAND: Final = 4096


class RawConfig(msgspec.Struct):
    user: Maybe[str] = msgspec.field(default=UNSET, name="User")
    exposed_ports: Maybe[dict[str, Any]] = msgspec.field(default=UNSET, name="ExposedPorts")
    env: Maybe[list[str]] = msgspec.field(default=UNSET, name="Env")
    entrypoint: Maybe[list[str]] = msgspec.field(default=UNSET, name="Entrypoint")
    cmd: Maybe[list[str]] = msgspec.field(default=UNSET, name="Cmd")
    volumes: Maybe[dict[str, Any]] = msgspec.field(default=UNSET, name="Volumes")
    working_dir: Maybe[str] = msgspec.field(default=UNSET, name="WorkingDir")
    stop_signal: Maybe[str] = msgspec.field(default=UNSET, name="StopSignal")
    args_escaped: Maybe[bool] = msgspec.field(default=UNSET, name="ArgsEscaped")
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")


class RawHistory(msgspec.Struct):
    created: Maybe[str] = UNSET
    author: Maybe[str] = UNSET
    created_by: Maybe[str] = UNSET
    comment: Maybe[str] = UNSET
    empty_layer: bool | UnsetType = UNSET


class RawRootFs(msgspec.Struct):
    diff_ids: list[str] = []


class RawImage(msgspec.Struct):
    """The config's members that the result speaks of."""

    config: RawConfig | None = None
    history: list[RawHistory] | None = None
    created: str | None = None
    rootfs: RawRootFs | None = None


class ContainerConfigFact(msgspec.Struct, frozen=True, rename="camel"):
    user: Maybe[str] = UNSET
    exposed_ports: Maybe[list[str]] = UNSET
    env: Maybe[list[str]] = UNSET
    entrypoint: Maybe[list[str]] = UNSET
    cmd: Maybe[list[str]] = UNSET
    volumes: Maybe[list[str]] = UNSET
    working_dir: Maybe[str] = UNSET
    stop_signal: Maybe[str] = UNSET
    args_escaped: Maybe[bool] = UNSET


class HistoryFact(msgspec.Struct, frozen=True, rename="camel"):
    created: str | UnsetType = UNSET
    author: str | UnsetType = UNSET
    created_by: str | UnsetType = UNSET
    comment: str | UnsetType = UNSET
    empty_layer: bool | UnsetType = UNSET


class Truncated(msgspec.Struct, frozen=True, rename="camel"):
    """How much was cut off a fact."""

    type: Literal["array", "string"]
    count_above_limit: int


def read_config(raw: bytes) -> RawImage:
    """Read a config; raise "invalid-manifest" if a member is not what it should be."""
    try:
        return msgspec.json.decode(raw, type=RawImage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(
            "invalid-manifest", f"the image's config cannot be read: {str(error)[:200]}"
        ) from None


def strike_config(image: RawImage) -> RawImage:
    """Return the config with what looks like a secret struck out, before anything is made of it."""
    config, history = image.config, image.history
    if config is not None:
        config = msgspec.structs.replace(
            config,
            env=_each(config.env, strike_variable),
            entrypoint=_arguments(config.entrypoint),
            cmd=_arguments(config.cmd),
            labels=None
            if config.labels is None
            else {name: strike_value(name, value) for name, value in config.labels.items()},
        )
    if history is not None:
        history = [
            msgspec.structs.replace(
                entry,
                created_by=_text(entry.created_by),
                comment=_text(entry.comment),
                author=strike_forms(entry.author) if isinstance(entry.author, str) else entry.author,
            )
            for entry in history
        ]
    return msgspec.structs.replace(image, config=config, history=history)


class Cutter:
    """Cuts facts to their limits and remembers what was too long."""

    def __init__(self) -> None:
        self.truncated: dict[str, Truncated] = {}

    def container_config(self, config: RawConfig) -> ContainerConfigFact:
        fact = "containerConfig"
        return ContainerConfigFact(
            user=self._string(f"{fact}.user", config.user, _TEXT),
            exposed_ports=self._array(f"{fact}.exposedPorts", _keys(config.exposed_ports), _PORT),
            env=self._array(f"{fact}.env", config.env, _TEXT),
            entrypoint=self._array(f"{fact}.entrypoint", config.entrypoint, _TEXT),
            cmd=self._array(f"{fact}.cmd", config.cmd, _TEXT),
            volumes=self._array(f"{fact}.volumes", _keys(config.volumes), _TEXT),
            working_dir=self._string(f"{fact}.workingDir", config.working_dir, _TEXT),
            stop_signal=self._string(f"{fact}.stopSignal", config.stop_signal, _SIGNAL),
            args_escaped=config.args_escaped,
        )

    def history(self, entries: list[RawHistory]) -> list[HistoryFact]:
        """Cut the entries; what is null in one is not there, unlike in a container's config."""
        if len(entries) > _HISTORY:
            self.truncated["history"] = Truncated("array", len(entries) - _HISTORY)
        return [
            HistoryFact(
                created=_given(entry.created),
                author=self._cut("history[*].author", _given(entry.author), _AUTHOR),
                created_by=self._cut("history[*].createdBy", _given(entry.created_by), _COMMAND),
                comment=self._cut("history[*].comment", _given(entry.comment), _COMMAND),
                empty_layer=entry.empty_layer,
            )
            for entry in entries[:_HISTORY]
        ]

    def _string(self, path: str, value: Maybe[str], most: int) -> Maybe[str]:
        return value if value is None else self._cut(path, value, most)

    def _cut(self, path: str, value: str | UnsetType, most: int) -> str | UnsetType:
        if isinstance(value, UnsetType) or len(value) <= most:
            return value
        over = len(value) - most
        known = self.truncated.get(path)
        if known is None or known.count_above_limit < over:
            self.truncated[path] = Truncated("string", over)
        return value[:most]

    def _array(self, path: str, values: Maybe[list[str]], most: int) -> Maybe[list[str]]:
        if values is None or isinstance(values, UnsetType):
            return values
        if len(values) > _ITEMS:
            self.truncated[path] = Truncated("array", len(values) - _ITEMS)
        kept: list[str] = []
        for value in values[:_ITEMS]:
            cut = self._cut(f"{path}[*]", value, most)
            assert not isinstance(cut, UnsetType)
            kept.append(cut)
        return kept


def _keys(values: Maybe[dict[str, Any]]) -> Maybe[list[str]]:
    return list(values) if isinstance(values, dict) else values


def _each(values: Maybe[list[str]], strike: Any) -> Maybe[list[str]]:
    return [strike(value) for value in values] if isinstance(values, list) else values


def _arguments(values: Maybe[list[str]]) -> Maybe[list[str]]:
    """Strike a command's arguments: each by itself, and the word after a flag that asks for a secret."""
    if not isinstance(values, list):
        return values
    struck: list[str] = []
    for at, value in enumerate(values):
        before = values[at - 1] if at else ""
        struck.append(
            strike_value(before.lstrip("-"), value)
            if before.startswith("-") and "=" not in before and not value.startswith("-")
            else strike_command(value)
        )
    return struck


def _text(value: Maybe[str]) -> Maybe[str]:
    return strike_command(value) if isinstance(value, str) else value


def _given(value: Maybe[str]) -> str | UnsetType:
    return UNSET if value is None else value
