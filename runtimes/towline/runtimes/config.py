"""Configuration from one file and the environment, with every fault reported at once and its place.

Precedence: command line over environment over file over default (agent.md §8.1). The file is TOML, or JSON when its
name ends in `.json`.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from towline.core import Record, TowlineError
from towline.runtimes.connections import ConnectionSettings, Universal, read_connections, read_universal
from towline.runtimes.settings import SETTINGS, Setting

_BY_KEY: Final = {row.key: row for row in SETTINGS}
_OURS: Final = {name for row in SETTINGS for name in row.variables if name.startswith("TOWLINE_")} | {"TOWLINE_CONFIG"}
_LARGEST_SECRET_FILE: Final = 64 * 1024


class ConfigurationError(TowlineError):
    """Everything that is wrong with a configuration; `faults` has one line for each."""

    def __init__(self, faults: list[str]) -> None:
        count = f"{len(faults)} error{'s' if len(faults) != 1 else ''}"
        super().__init__("invalid-configuration", "; ".join(faults))
        self.faults = [*faults, count]


class Settings(Record, frozen=True):
    """The effective values by key, and where each came from; the connections, where several are listed.

    `warnings` name what was read without having an effect.
    """

    values: dict[str, Any]
    sources: dict[str, str]
    connections: tuple[ConnectionSettings, ...] = ()
    warnings: tuple[str, ...] = ()

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def need(self, *keys: str) -> None:
        """Raise one ConfigurationError that names each of these settings that has no value."""
        faults = [
            f"{key} is not set: set {' or '.join(_BY_KEY[key].variables)}, or {key} in the file"
            for key in keys
            if self.values[key] in (None, "", ())
        ]
        if faults:
            raise ConfigurationError(faults)


def load(
    environment: Mapping[str, str],
    path: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    sections: tuple[str, ...] | None = None,
) -> Settings:
    """Read the configuration of one run.

    `path` is the file the command line names; else `TOWLINE_CONFIG`, `./towline.toml` and
    `/etc/towline/towline.toml` are tried. `sections` are those the program uses: a fault elsewhere in the environment
    is not its business, one in the file always is.
    Raises ConfigurationError.
    """
    faults: list[str] = []
    serves = sections is None or "client" in sections
    filed, connections = _from_file(_find(environment, path), environment if serves else None, faults)
    universal = _universal(environment, filed, faults) if serves else Universal()
    if universal.connections and connections:
        faults.append("connections are listed twice: in this program's file and in the stock universal client's")
    environment = {**universal.environment, **environment}
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for row in SETTINGS:
        values[row.key], sources[row.key] = row.default, "default"
        if row.key in filed:
            values[row.key], sources[row.key] = filed[row.key]
        if sections is None or row.key.partition(".")[0] in sections:
            _from_environment(row, environment, values, sources, faults)
        if overrides and overrides.get(row.key) is not None:
            _take(row, overrides[row.key], "command line", values, sources, faults)
    for name in sorted(environment):
        base = name.removesuffix("_FILE")
        if name.startswith("TOWLINE_") and base not in _OURS and name not in _OURS:
            # All begin alike, so what follows is compared.
            ends = [known.removeprefix("TOWLINE_") for known in _OURS]
            near = difflib.get_close_matches(base.removeprefix("TOWLINE_"), ends, 1)
            faults.append(f"unknown variable {name}" + (f"; did you mean TOWLINE_{near[0]}?" if near else ""))
    if faults:
        raise ConfigurationError(faults)
    return Settings(values, sources, connections or universal.connections, universal.warnings)


def _universal(environment: Mapping[str, str], filed: Mapping[str, tuple[Any, str]], faults: list[str]) -> Universal:
    """Read the stock universal client's file where it is asked for. Faults of the asking are told with the others."""
    asked: dict[str, Any] = {}
    for row in (_BY_KEY[f"client.{name}"] for name in ("universal", "skip_remote_config", "universal_config")):
        asked[row.key] = filed[row.key][0] if row.key in filed else row.default
        _from_environment(row, environment, asked, {}, [])
    if not asked["client.universal"]:
        return Universal()
    if not asked["client.skip_remote_config"]:
        faults.append(
            "client.universal: connections are not fetched from the vendor; list them in a file and set "
            "SKIP_REMOTE_CONFIG=true, or list them as [connections.NAME] in this program's own file"
        )
        return Universal()
    known = {name for row in SETTINGS for name in row.variables}
    return read_universal(Path(asked["client.universal_config"]), environment, known, faults)


def _take(
    row: Setting, raw: Any, source: str, values: dict[str, Any], sources: dict[str, str], faults: list[str]
) -> None:
    try:
        values[row.key], sources[row.key] = row.read(raw), source
    except ValueError as error:
        faults.append(f"{source} {row.key}: {error}")


def _from_environment(
    row: Setting, environment: Mapping[str, str], values: dict[str, Any], sources: dict[str, str], faults: list[str]
) -> None:
    for name in row.variables:
        if environment.get(name):
            return _take(row, environment[name], name, values, sources, faults)
        if held := environment.get(f"{name}_FILE"):
            try:
                with open(held, encoding="utf-8") as file:
                    raw = file.read(_LARGEST_SECRET_FILE).rstrip("\r\n")
            except (OSError, UnicodeDecodeError) as error:
                return faults.append(f"{name}_FILE: {held} cannot be read ({_reason(error)})")
            return _take(row, raw, f"{name}_FILE", values, sources, faults)
    return None


def _find(environment: Mapping[str, str], path: str | None) -> Path | None:
    named = path or environment.get("TOWLINE_CONFIG")
    if named:
        return Path(named)
    return next((p for p in (Path("towline.toml"), Path("/etc/towline/towline.toml")) if p.is_file()), None)


def _from_file(
    path: Path | None, environment: Mapping[str, str] | None, faults: list[str]
) -> tuple[dict[str, tuple[Any, str]], tuple[ConnectionSettings, ...]]:
    """Read the file. Without an environment its connections are passed over: nobody serves them."""
    connections: tuple[ConnectionSettings, ...] = ()
    if path is None:
        return {}, ()
    try:
        content = path.read_text(encoding="utf-8")
        tree = json.loads(content) if path.suffix == ".json" else tomllib.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        faults.append(f"{path}: {_reason(error)}")
        return {}, ()
    if not isinstance(tree, dict):
        faults.append(f"{path}: expected a table of settings, got a {type(tree).__name__}")
        return {}, ()
    found: dict[str, tuple[Any, str]] = {}
    for section, table in tree.items():
        if section == "connections":
            if environment is not None:
                connections = read_connections(table, str(path), content, environment, faults)
            continue
        for name, raw in table.items() if isinstance(table, dict) else (("", table),):
            key = f"{section}.{name}" if name else section
            place = f"{path}:{_line(content, section, name)}"
            row = _BY_KEY.get(key)
            if row is None:
                near = difflib.get_close_matches(key, _BY_KEY, 1)
                faults.append(f'{place} unknown key "{key}"' + (f'; did you mean "{near[0]}"?' if near else ""))
                continue
            try:
                found[key] = row.read(raw), place
            except ValueError as error:
                faults.append(f"{place} {key}: {error}")
    return found, connections


def _line(content: str, section: str, name: str) -> int:
    """Find the line of a key, for a message to a person: TOML's and JSON's readers do not tell it."""
    opens = re.compile(rf'\[\s*"?{re.escape(section)}"?\s*\]|"?{re.escape(section)}"?\s*[:=]')
    dotted = re.compile(rf'"?{re.escape(section)}"?\s*\.\s*"?{re.escape(name)}"?\s*=')
    key = re.compile(rf'"?{re.escape(name)}"?\s*[:=]')
    inside = 0
    for number, line in enumerate(content.splitlines(), 1):
        bare = line.strip()
        if name and dotted.match(bare):
            return number
        if opens.match(bare):
            inside = number
            if not name:
                return number
        elif bare.startswith("["):
            inside = 0
        elif inside and key.match(bare):
            return number
    # In the middle of a line: that of its section, else the first.
    return inside or 1


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)[:200]
