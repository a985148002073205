"""`python -m towline`."""

from __future__ import annotations

import sys

from towline.runtimes.cli import main

if __name__ == "__main__":
    sys.exit(main())
