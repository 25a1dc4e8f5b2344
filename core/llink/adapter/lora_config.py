"""``adapter_config.json`` of an adapter: the one kind of LoRA that LLINK serves, and every other refused by name."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llink.bounded import Unfit, read_json
from llink.errors import LlinkError
from llink.recipe import MAX_ALPHA, MAX_RANK

LORA_CONFIG = "adapter_config.json"
OF_TRAINING = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "lora_dropout", "megatron_core", "peft_version", "revision",
}  # fmt: skip
"""Keys that say nothing about what is computed."""


class _Served(BaseModel):
    """The keys that ``B(A x) * scaling`` is made of."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    r: int = Field(ge=1, le=MAX_RANK)
    lora_alpha: float = Field(gt=0, le=MAX_ALPHA)
    target_modules: list[str] = Field(min_length=1, max_length=1000)
    use_rslora: bool = False


@dataclass(frozen=True)
class LoraShape:
    """Rank, the projections by name, and what B is scaled by."""

    r: int
    target_modules: tuple[str, ...]
    scaling: float


def read_lora_config(folder: Path) -> LoraShape:
    """The LoRA of an adapter folder as its configuration states it; PEFT is not asked.

    Raises:
        LlinkError: E310 when the file cannot be read or a value is missing, of a wrong type or out of bounds; E312 for
            a LoRA that computes something else: DoRA, ranks by layer, whole modules beside it, another method.
    """
    try:
        raw = read_json(folder / LORA_CONFIG)
    except Unfit as error:
        raise LlinkError("E310", f"Adapter {folder}: {LORA_CONFIG} {error}.", error.hint) from error
    kind = raw.get("peft_type")
    if kind != "LORA":
        raise _other(folder, f"peft_type is '{str(kind)[:100]}'")
    try:
        served = _Served.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if where == "target_modules" and isinstance(raw.get(where), str):
            raise _other(folder, "target_modules is a pattern") from None
        raise LlinkError("E310", f"Adapter {folder}: {LORA_CONFIG}: {where}: {first['msg']}.") from None
    neutral = _neutral()
    for key, value in (served.model_extra or {}).items():
        if value and key not in OF_TRAINING and value not in neutral.get(key, ()):
            raise _other(folder, f"{key[:100]} is {str(value)[:100]}")
    scaling = served.lora_alpha / (served.r**0.5 if served.use_rslora else served.r)
    return LoraShape(served.r, tuple(served.target_modules), scaling)


def _neutral() -> dict[str, tuple[Any, ...]]:
    """Values beside none, false and empty that change nothing: PEFT's defaults, and ways to begin that leave the base be."""
    from peft import LoraConfig

    simple = {f.name: (f.default,) for f in fields(LoraConfig) if f.default is not MISSING}
    return {**simple, "peft_type": ("LORA",), "task_type": ("CAUSAL_LM",), "init_lora_weights": (True, "gaussian")}


def _other(folder: Path, what: str) -> LlinkError:
    return LlinkError(
        "E312", f"Adapter {folder}: {what} in {LORA_CONFIG}, which LLINK does not serve.",
        "It serves plain LoRA: one rank, named projections, nothing else trained.",
    )  # fmt: skip
