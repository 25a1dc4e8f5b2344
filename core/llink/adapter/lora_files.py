"""The LoRA of an adapter as files: the one kind that LLINK serves, and every other refused by name."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llink.bounded import Unfit, read_json
from llink.errors import LlinkError
from llink.interfaces import Decoder
from llink.recipe import MAX_ALPHA, MAX_RANK

if TYPE_CHECKING:
    from torch import Tensor

LORA, LORA_CONFIG = "adapter_model.safetensors", "adapter_config.json"
OF_TRAINING = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "revision",
}
"""Keys that say nothing about what is computed."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian"),  # ways to begin that leave the base as it is
    "peft_type": ("LORA",),
    "qalora_group_size": (16,),
    "task_type": ("CAUSAL_LM",),
}
"""Values that change nothing, of the keys in what PEFT writes."""


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
    for key, value in (served.model_extra or {}).items():
        if value and key not in OF_TRAINING and value not in NEUTRAL.get(key, ()) and value not in _defaults(key):
            raise _other(folder, f"{key[:100]} is {str(value)[:100]}")
    scaling = served.lora_alpha / (served.r**0.5 if served.use_rslora else served.r)
    return LoraShape(served.r, tuple(served.target_modules), scaling)


def _defaults(key: str) -> tuple[Any, ...]:
    """PEFT's own default of a key that we do not know. It takes seconds to import: adapters of our own need it never."""
    from peft import LoraConfig

    return tuple(f.default for f in fields(LoraConfig) if f.name == key and f.default is not MISSING)


def _other(folder: Path, what: str) -> LlinkError:
    return LlinkError(
        "E312",
        f"Adapter {folder}: {what} in {LORA_CONFIG}, which LLINK does not serve.",
        "It serves plain LoRA: one rank, named projections, nothing else trained.",
    )


def lora_weights(folder: Path, decoder: Decoder, wanted: Any) -> dict[str, Tensor]:
    """The LoRA tensors of an adapter, to start training from.

    Args:
        wanted: the ``LoraConfig`` they must fit.

    Raises:
        LlinkError: E407 when the adapter's LoRA has other sizes, E310 when it cannot be read, E312 for another kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_lora_config(folder)
    try:
        tensors = load_file(folder / LORA)
    except (OSError, SafetensorError) as error:
        raise LlinkError("E310", f"Adapter {folder}: {LORA} cannot be read ({error}).") from error
    fits, present = _lora_shapes(decoder, wanted), {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if fits != present:
        raise LlinkError(
            "E407",
            f"The LoRA of {folder} has other sizes than stage_b.lora in the recipe.",
            "Use the same stage_b.lora.r, or leave init_from out.",
        )
    return {name: tensor.float() for name, tensor in tensors.items()}


def read_lora(folder: Path, decoder: Decoder) -> tuple[dict[str, Tensor], float]:
    """The LoRA tensors of an adapter by their PEFT names, and what B is scaled by.

    Raises:
        LlinkError: E310 when they cannot be read, do not fit the decoder or hold values that are not finite, E312 for a
            kind of LoRA that is not served.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    config = read_lora_config(folder)
    try:
        tensors = load((folder / LORA).read_bytes())  # hundreds of small tensors: quicker than from a memory map
    except (OSError, TypeError, ValueError, SafetensorError) as error:
        raise LlinkError("E310", f"Adapter {folder}: {LORA} cannot be read ({error}).") from error
    strangers = sorted(set(config.target_modules) - set(decoder.lora_targets))
    if strangers:
        raise LlinkError("E310", f"Adapter {folder}: LoRA on {', '.join(strangers)}, which '{decoder.name}' has not.")
    fits, present = _lora_shapes(decoder, config), {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if fits != present:
        wrong = min(name for name in fits | present if fits.get(name) != present.get(name))
        raise LlinkError("E310", f"Adapter {folder}: {LORA} does not fit '{decoder.name}' at {wrong}.")
    if not torch.cat([tensor.flatten() for tensor in tensors.values()]).sum().isfinite():
        raise LlinkError("E310", f"Adapter {folder}: {LORA} holds values that are not finite.")
    return tensors, config.scaling


def _lora_shapes(decoder: Decoder, config: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a LoRA of this configuration on this decoder."""
    shapes: dict[str, tuple[int, ...]] = {}
    modules: Any = decoder.model.named_modules()
    for name, module in modules:
        if name.rsplit(".", 1)[-1] in (config.target_modules or ()):
            shapes[f"base_model.model.{name}.lora_A.weight"] = (config.r, module.in_features)
            shapes[f"base_model.model.{name}.lora_B.weight"] = (module.out_features, config.r)
    return shapes
