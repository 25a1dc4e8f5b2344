"""The method's own slot injectors, one a file, and the plugin that brings them: a projected sentence -> K soft tokens."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from llink.hookspecs import hookimpl
from llink.interfaces import InjectorKind


def _make(module: str, name: str, **sizes: Any) -> Any:
    return getattr(import_module(f"llink.injectors.{module}"), name)(**sizes)


@hookimpl
def llink_injectors() -> list[InjectorKind]:
    return [
        InjectorKind("pooled", partial(_make, "pooled", "PooledInjector"), "the paper's: K slots of one vector"),
        InjectorKind("resampler", partial(_make, "resampler", "ResamplerInjector"),
                     "K learned queries attend to the token states"),
        InjectorKind("linear", partial(_make, "linear", "LinearInjector"),
                     "a slot a stretch of tokens, averaged, and one linear map"),
    ]  # fmt: skip
