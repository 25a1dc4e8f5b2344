"""The method's own projectors, one a file, and the plugin that brings them: sentence vector -> the decoder's space."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from llink.hookspecs import hookimpl
from llink.interfaces import ProjectorKind


def _make(module: str, name: str, **sizes: Any) -> Any:
    return getattr(import_module(f"llink.adapter.projectors.{module}"), name)(**sizes)


@hookimpl
def llink_projectors() -> list[ProjectorKind]:
    return [ProjectorKind("mlp", partial(_make, "mlp", "MLPProjector"), "the paper's: two layers and GELU")]
