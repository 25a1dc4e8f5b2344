"""Models from their configs alone: which sizes they have, and what a pass through them costs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from llink.bounded import Unfit, read_json
from llink.errors import LlinkError
from llink.recipe import ModelChoice
from llink.store.models import WITH_POOLER


def config_of(choice: ModelChoice) -> tuple[dict[str, Any], int | None]:
    """The ``config.json`` of a model, and the layer its backend stops at; nothing is fetched.

    From a local folder, the store, or the sizes that LLINK knows.

    Raises:
        LlinkError: E232 when none of them has it.
    """
    from llink.store import models_folder

    known = yaml.safe_load(Path(__file__).with_name("sizes.yaml").read_text(encoding="utf-8"))
    layer, pooled = (choice.options.get(key, known.get(choice.name, {}).get(key)) for key in ("layer", "pooled_layer"))
    if layer is not None and pooled is not None:
        layer = max(layer, pooled)
    for place in (Path(choice.name).expanduser(), models_folder() / choice.name):
        if (place / "config.json").is_file():
            try:
                return read_json(place / "config.json"), layer
            except Unfit as error:
                raise LlinkError(
                    "E232", f"{place / 'config.json'} is damaged: it {error}.", error.hint or "Fetch it again."
                ) from error
    if choice.name not in known:
        raise LlinkError(
            "E232",
            f"The sizes of '{choice.name}' are not known: it is neither stored nor among {', '.join(known)}.",
            "Put its config.json into a folder and name that in the recipe, or fetch the model.",
        )
    return dict(known[choice.name]["config"]), layer


def build_blank(choice: ModelChoice, role: str, device: str = "meta", dtype: torch.dtype | None = None) -> nn.Module:
    """The model of a recipe on the meta device, or on another with random weights; an encoder up to the layer that is read.

    Raises:
        LlinkError: E232 when its config is not known, or not to transformers.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    from llink.store import MAX_LAYERS

    raw, layer = config_of(choice)
    try:
        layers = raw.get("num_hidden_layers", 0)
        if not 0 <= layers <= MAX_LAYERS:
            raise ValueError(f"num_hidden_layers is {layers}, and {MAX_LAYERS} is the limit")
        cut = role == "encoder" and layer is not None and layer < layers
        if cut:
            raw |= {"num_hidden_layers": layer}
            if "layer_types" in raw:
                raw["layer_types"] = raw["layer_types"][:layer]
        config = AutoConfig.for_model(**raw)
        with torch.device(device):
            reads = role == "encoder"
            extra = {"add_pooling_layer": False} if reads and config.model_type in WITH_POOLER else {}
            model: Any = (AutoModel if reads else AutoModelForCausalLM).from_config(config, dtype=dtype, **extra)
    except Exception as error:  # whatever transformers does to a config that is none
        reason = " ".join(str(error).split())[:200]
        raise LlinkError("E232", f"No model can be made of the config of '{choice.name}': {reason}.") from error
    if cut and hasattr(model, "norm"):  # it belongs behind the last layer
        model.norm = nn.Identity()
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Shape:
    """What a transformer costs, read off its modules: the one place where FLOPs are counted.

    A linear layer costs 2 a weight and token, forward; as much again backward for its input, and for its weight where
    that is trained. Attention costs ``4 * queries * keys * heads * head size`` a layer, forward, three times that with
    backward (Kaplan et al., arXiv 2001.08361, section 2.1; Chowdhery et al., arXiv 2204.02311, appendix B). Norms and
    activations are left out (under one per cent).

    Attributes:
        linear: weights of the linear layers in its stack. lora: those of its LoRA.
        head: weights of the output matrix.
        leaves: modules without children.
        fed: numbers that go into the layers with a LoRA, a token.
    """

    parameters: int
    trained: int
    linear: int
    lora: int
    head: int
    leaves: int
    fed: int
    adapted: int
    layers: int
    width: int
    attention: int
    inner: int

    @classmethod
    def of(cls, model: Any) -> Shape:
        """The shape of a model of transformers, with or without a LoRA."""
        config = getattr(model, "config", None) or model.base_model.model.config
        names = {"linear": 0, "lora": 0, "head": 0}
        fed = adapted = 0
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and "pooler" not in name:
                kind = "lora" if ".lora_" in name else "head" if name.endswith("lm_head") else "linear"
                names[kind] += module.weight.numel()
                if ".lora_A" in name:
                    fed, adapted = fed + module.in_features, adapted + module.out_features
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            parameters=sum(p.numel() for p in model.parameters()),
            trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
            **names,
            fed=fed,
            adapted=adapted,
            leaves=sum(not list(module.children()) for module in model.modules()),
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            attention=heads * size,
            inner=getattr(config, "intermediate_size", 0),
        )

    def forward(self, tokens: float, keys: float) -> float:
        """FLOPs of ``tokens`` through the stack, each attending to ``keys`` of them, output matrix not counted."""
        return 2 * (self.linear + self.lora) * tokens + 4 * self.layers * self.attention * tokens * keys

    def backward(self, tokens: float, keys: float) -> float:
        """FLOPs of the gradient through a frozen stack to its LoRA."""
        return (2 * self.linear + 4 * self.lora) * tokens + 8 * self.layers * self.attention * tokens * keys

    def saved(self, tokens: float, keys: float, width: int, mask: int) -> float:
        """Bytes that ``tokens`` of one row keep for the gradient, each of which attends to ``keys``.

        A token keeps, a layer, two norms in float32, the float32 input of every LoRA, its dropout mask and what is in
        its middle, a query and an output of attention with a row of the mask, three of the perceptron's inner states;
        and there are keys and values.

        Args:
            width: bytes of a number. mask: bytes of one in the dropout mask, 0 without dropout.
        """
        token: float = 8 * self.width * self.layers + (4 + mask) * self.fed + 4 * self.adapted
        token += width * self.layers * (2 * self.attention + keys + 3 * self.inner)
        return tokens * token + keys * width * self.layers * 2 * self.attention
