"""apk's database from any bytes: packages with a name and a version, or a refusal."""

from __future__ import annotations

import msgspec

from fuzz.harness import refused_or_taken
from towline.core import Limits
from towline.core.inventory import parse_apk

TIGHT = Limits(scan_packages=500)


def run(data: bytes) -> None:
    for package in refused_or_taken(lambda: parse_apk(data, TIGHT)) or ():
        assert package.name
        assert package.version
        assert not any(name.startswith("!") for name in package.depends)
        msgspec.json.encode(package)
