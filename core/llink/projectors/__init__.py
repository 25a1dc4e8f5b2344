"""Projectors: sentence vector of the encoder -> hidden space of the decoder."""

from __future__ import annotations

from typing import Any

from llink.errors import unknown_name
from llink.projectors.mlp import MLPProjector

PROJECTORS = {"mlp": MLPProjector}


def build_projector(kind: str, **sizes: Any) -> MLPProjector:
    """A projector by its recipe name; E203 for an unknown one."""
    if kind not in PROJECTORS:
        raise unknown_name("E203", "projector", kind, PROJECTORS)
    return PROJECTORS[kind](**sizes)
