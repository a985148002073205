"""The version of the distribution, in the one place that says it.

It stands beside the floors, not on one: `towline version` reads it without importing anything else.
"""

from __future__ import annotations

VERSION = "0.1.0"
