"""Figures that LLINK draws, through matplotlib (the extra ``report``), without a display."""

from __future__ import annotations

import io
from typing import Any

from llink.errors import LlinkError

OURS, REST = "#0b6e4f", ("#b8b8b8", "#e07a5f", "#3d5a80", "#f2cc8f")


def figure(width: float = 8, height: float = 3.4) -> Any:
    """An empty matplotlib ``Figure`` of so many inches; E521 when it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise LlinkError(
            "E521", "The plots need matplotlib, which is not installed.", 'Run: pip install "llink[report]"'
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def png(canvas: Any) -> bytes:
    """A figure as a file."""
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=144)
    return buffer.getvalue()
