"""Each of the files that tell the system, from any bytes; and an image's config, struck and cut."""

from __future__ import annotations

import msgspec

from fuzz.harness import refused_or_taken
from towline.core.inventory import OS_RELEASE, parse_os_release, strike_command
from towline.core.inventory._config import Cutter, read_config, strike_config
from towline.core.inventory._instructions import find_instructions


def run(data: bytes) -> None:
    for path in OS_RELEASE:
        system = parse_os_release(path, data)
        assert system is None or (system.id and system.version_id)
    strike_command(data.decode("utf-8", "replace"))
    image = refused_or_taken(lambda: read_config(data))
    if image is not None:
        image = strike_config(image)
        cutter = Cutter()
        if image.config is not None:
            msgspec.json.encode(cutter.container_config(image.config))
        cutter.history(image.history or [])
        find_instructions(image.history or [])
