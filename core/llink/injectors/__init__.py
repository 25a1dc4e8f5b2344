"""Slot injectors: a projected sentence (and its token states) -> K soft tokens."""

from __future__ import annotations

from typing import Any

from llink.errors import unknown_name
from llink.injectors.pooled import PooledInjector
from llink.injectors.resampler import ResamplerInjector

INJECTORS: dict[str, type[PooledInjector] | type[ResamplerInjector]] = {
    "pooled": PooledInjector,
    "resampler": ResamplerInjector,
}


def build_injector(kind: str, **sizes: Any) -> PooledInjector | ResamplerInjector:
    """An injector by its recipe name; E204 for an unknown one."""
    if kind not in INJECTORS:
        raise unknown_name("E204", "slot injector", kind, INJECTORS)
    return INJECTORS[kind](**sizes)
