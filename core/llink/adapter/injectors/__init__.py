"""The method's own slot injectors, one a file, and the plugin that brings them: a projected sentence -> K soft tokens."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llink.hookspecs import hookimpl
from llink.interfaces import InjectorKind

MAX_WEIGHTS = 1 << 28
"""``depth * width * width``: some 13 GB of resampler."""


class _Options(BaseModel):
    """What bounds an injector's options; it passes over those of another kind, which recipes that extend others leave."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class PooledOptions(_Options):
    width: int = Field(256, ge=1, le=16384)
    gate: float = Field(0.1, ge=-100, le=100)


class ResamplerOptions(_Options):
    width: int = Field(384, ge=1, le=16384)
    depth: int = Field(2, ge=0, le=64)
    heads: int = Field(6, ge=1, le=1024)
    positions: int = Field(256, ge=1, le=65536)

    @model_validator(mode="after")
    def _fits_together(self) -> ResamplerOptions:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be shared out to {self.heads} heads")
        if self.depth * self.width**2 > MAX_WEIGHTS:
            raise ValueError(f"width {self.width} and depth {self.depth} are too many weights")
        return self


def _check(kind: type[_Options], options: Mapping[str, Any]) -> None:
    try:
        kind.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"injector.options.{where}: {message}" if where else message) from None


def _make(module: str, name: str, **sizes: Any) -> Any:
    return getattr(import_module(f"llink.adapter.injectors.{module}"), name)(**sizes)


@hookimpl
def llink_injectors() -> list[InjectorKind]:
    return [
        InjectorKind("pooled", partial(_make, "pooled", "PooledInjector"), "the paper's: K slots of one vector",
                     partial(_check, PooledOptions)),
        InjectorKind("resampler", partial(_make, "resampler", "ResamplerInjector"),
                     "K learned queries attend to the token states", partial(_check, ResamplerOptions)),
        InjectorKind("linear", partial(_make, "linear", "LinearInjector"),
                     "a slot a stretch of tokens, averaged, and one linear map"),
    ]  # fmt: skip
