"""The processes of one run: which of them speaks, before torch and accelerate are there to be asked."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Whether this is the process that writes and prints: the only one, or rank 0 of those a launcher started."""
    return os.environ.get("RANK", "0") == "0"
