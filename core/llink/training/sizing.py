"""What a recipe takes on a device that need not be at hand: parameters, FLOPs, memory and time, from configs alone.

The models are built on torch's meta device, where they have shapes and no numbers, so every count is that of the real
modules. ``llink.training.estimate`` measures real steps on this machine instead.

FLOPs: a linear layer costs 2 a weight and token, forward; as much again backward for its input, and for its weight
where that is trained. A frozen layer that a gradient passes through costs 4, a trained one 6. Attention costs
``4 * queries * keys * heads * head size`` a layer, forward, three times that with backward (Kaplan et al.,
arXiv 2001.08361, section 2.1; Chowdhery et al., arXiv 2204.02311, appendix B, which also defines the utilisation).
Time is FLOPs by the stated share of the peak, or what launching the kernels takes, or reading the weights for each
generated token, whichever is longer. The last two are rough.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from llink.adapter.bridge import Bridge
from llink.errors import LlinkError, unknown_name
from llink.features.cache import BATCH_TOKENS
from llink.interfaces import ATTENTION_AND_MLP
from llink.recipe import Injection, ModelChoice, Recipe
from llink.store.models import WITH_POOLER
from llink.training.estimate import FINAL_DEV, TRAINED_BYTES
from llink.training.stage_b import add_lora, whole_steps

MFU = 0.35
"""Share of the peak that large matrix products reach in ordinary training code; an assumption."""
LAUNCH = 10e-6
"""Seconds to launch one kernel from Python; an assumption."""
KERNELS = 3
"""Kernels a leaf module runs forward; twice as many backward; an assumption."""
GENERATED = 32
"""Tokens of a self-distilled answer; an assumption."""
DISTIL_BATCH = 16
LOGIT_BYTES = 12
"""Of one logit in the loss, beside the logit itself: as float32, its log-softmax, its gradient."""
CONTEXT = 1.0e9
"""CUDA's own memory and what its allocator leaves unused; an assumption."""


@dataclass(frozen=True)
class Device:
    """Peak FLOP/s in a number format, memory in bytes and its bandwidth in bytes a second."""

    name: str
    about: str
    memory: float
    bandwidth: float
    source: str
    fp32: float
    bf16: float | None = None

    def peak(self, dtype: str) -> float:
        """FLOP/s in ``bfloat16`` or ``float32``."""
        return self.bf16 if dtype == "bfloat16" and self.bf16 else self.fp32

    def dtype(self, wanted: str) -> str:
        """The number format of a recipe's ``dtype`` here."""
        return "bfloat16" if self.bf16 and wanted != "float32" else "float32"


@dataclass(frozen=True)
class Lengths:
    """What configs do not tell: how much text there is, in tokens. Those of the verbatim channel count in memory alone.

    Attributes:
        foreign: encoder tokens of a text.
        english: decoder tokens of its English.
        prefix: decoder tokens of a prompt before the slots, the same for all rows of a batch. suffix: those behind.
        pairs: how many training pairs there are, at most ``data.max_pairs``.
    """

    foreign: float = 48
    english: float = 24
    prefix: int = 32
    suffix: int = 8
    pairs: int = 100_000


@dataclass(frozen=True)
class Part:
    """A part of a run: FLOPs and seconds in all, and which of ``compute``, ``launches`` or ``bandwidth`` bounds it."""

    name: str
    steps: int
    flops: float
    seconds: float
    bound: str


@dataclass(frozen=True)
class Memory:
    """Bytes a device holds at the peak of a stage, and the largest batch a device could have (0: not even one row)."""

    stage: str
    batch: int
    weights: float
    trained: float
    activations: float
    total: float
    fits: bool
    largest: int


@dataclass(frozen=True)
class Sizing:
    """All that is known of a run beforehand."""

    recipe: str
    device: Device
    devices: int
    dtype: str
    mfu: float
    lengths: Lengths
    parameters: dict[str, int]
    """Of encoder (up to the layer that is read), decoder, projector, injector, LoRA."""
    trainable: dict[str, int]
    """By stage."""
    parts: list[Part]
    memory: list[Memory]


@cache
def devices() -> dict[str, Device]:
    """Devices by name."""
    known = yaml.safe_load(Path(__file__).with_name("devices.yaml").read_text(encoding="utf-8"))
    return {name: Device(name=name, **facts) for name, facts in known.items()}


def device(name: str, peak: float | None = None, memory: float | None = None) -> Device:
    """A device by name, its peak FLOP/s (in either number format) and bytes of memory replaced where they are given.

    Raises:
        LlinkError: E231 for an unknown one.
    """
    if name not in devices():
        raise unknown_name("E231", "device", name, devices())
    found = devices()[name]
    if peak:
        found = replace(found, bf16=peak if found.bf16 else None, fp32=peak)
    return replace(found, memory=memory) if memory else found


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
                return dict(json.loads((place / "config.json").read_text(encoding="utf-8"))), layer
            except ValueError as error:
                raise LlinkError("E232", f"{place / 'config.json'} is damaged: {error}.", "Fetch it again.") from error
    if choice.name not in known:
        raise LlinkError(
            "E232", f"The sizes of '{choice.name}' are not known: it is neither stored nor among {', '.join(known)}.",
            "Put its config.json into a folder and name that in the recipe, or fetch the model.",
        )  # fmt: skip
    return dict(known[choice.name]["config"]), layer


def build_blank(choice: ModelChoice, role: str, device: str = "meta", dtype: torch.dtype | None = None) -> nn.Module:
    """The model of a recipe on the meta device, or on another with random weights; an encoder up to the layer that is read.

    Raises:
        LlinkError: E232 when its config is not known, or not to transformers.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    raw, layer = config_of(choice)
    cut = role == "encoder" and layer is not None and layer < raw.get("num_hidden_layers", 0)
    if cut:
        raw |= {"num_hidden_layers": layer}
        if "layer_types" in raw:
            raw["layer_types"] = raw["layer_types"][:layer]
    try:
        config = AutoConfig.for_model(**raw)
        with torch.device(device):
            reads = role == "encoder"
            extra = {"add_pooling_layer": False} if reads and config.model_type in WITH_POOLER else {}
            model: Any = (AutoModel if reads else AutoModelForCausalLM).from_config(config, dtype=dtype, **extra)
    except (TypeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LlinkError("E232", f"No model can be made of the config of '{choice.name}': {reason}.") from error
    if cut and hasattr(model, "norm"):  # it belongs behind the last layer
        model.norm = nn.Identity()
    return model.requires_grad_(False)


@dataclass(frozen=True)
class Shape:
    """What a transformer costs, read off its modules.

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
            **names, fed=fed, adapted=adapted,
            leaves=sum(not list(module.children()) for module in model.modules()),
            layers=config.num_hidden_layers, width=config.hidden_size, attention=heads * size,
            inner=config.intermediate_size,
        )  # fmt: skip

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


class Plan:
    """A recipe with its models as blank shapes, to be asked for FLOPs and bytes.

    Args:
        device: where it is to run. count: how many of them, each with its share of the batch.
        lengths: of the text.
    """

    def __init__(self, recipe: Recipe, device: Device, count: int = 1, lengths: Lengths | None = None) -> None:
        self.recipe, self.device, self.count, self.lengths = recipe, device, count, lengths or Lengths()
        self.dtype = device.dtype(recipe.dtype)
        self.width = 2 if self.dtype == "bfloat16" else 4
        self.encoder = Shape.of(build_blank(recipe.encoder, "encoder"))
        decoder = build_blank(recipe.decoder, "decoder")
        present = {name.rsplit(".", 1)[-1] for name, _ in decoder.named_modules()}
        targets = tuple(name for name in ATTENTION_AND_MLP if name in present)
        self.bare = Shape.of(decoder)
        blank: Any = SimpleNamespace(model=decoder, lora_targets=targets)
        self.decoder = Shape.of(add_lora(blank, recipe.stage_b))
        with torch.device("meta"):
            self.bridge = Bridge(self.encoder.width, self.decoder.width, recipe.projector, recipe.injector, 1.0)
        self.slots = recipe.injector.most
        self.pairs = min(self.lengths.pairs, recipe.data.max_pairs or self.lengths.pairs)
        shares = [config.english_share for config in self.injections.values()]
        self.with_english = recipe.stage_a.english_side or max(shares) > 0
        self.inputs = self.pairs * (2 if recipe.stage_a.english_side else 1) + self._general

    @property
    def injections(self) -> dict[str, Injection]:
        """Stage B, and stage C where the recipe has one."""
        joint = self.recipe.stage_c
        return {"B": self.recipe.stage_b, **({"C": joint} if joint.examples else {})}

    @property
    def _general(self) -> int:
        return self.recipe.data.max_english if self.with_english and self.recipe.data.english else 0

    def bridge_flops(self, rows: int, part: str = "injector") -> float:
        """FLOPs of a forward pass of the projector or the injector, counted by torch on the meta device."""
        module = getattr(self.bridge, part)
        with torch.device("meta"), torch.no_grad():
            inputs = [torch.empty(rows, self.encoder.width if part == "projector" else self.decoder.width)]
            if part == "injector":
                tokens = max(1, round(self.lengths.foreign))
                mask = torch.ones(rows, tokens, dtype=torch.bool)
                inputs += [torch.empty(rows, tokens, self.encoder.width), mask]
            with FlopCounterMode(display=False) as counter:
                module(*inputs)
        return float(counter.get_total_flops())

    def encode_flops(self) -> float:
        """One pass of the frozen encoder over every text."""
        texts = [
            (self.pairs, self.lengths.foreign),
            (self.pairs * self.with_english + self._general, self.lengths.english),
        ]
        return sum(count * self.encoder.forward(tokens + 2, tokens + 2) for count, tokens in texts)

    def teacher_flops(self) -> float:
        """One pass of the frozen decoder over every English text; none where the teacher is its input embeddings."""
        if self.recipe.teacher.layer == 0:
            return 0.0
        tokens = self.lengths.english + (self.recipe.teacher.position == "reserved")
        return (self.pairs + self._general * self.recipe.stage_a.english_side) * self.bare.forward(tokens, tokens)

    def stage_a_step(self) -> float:
        """FLOPs of one step of stage A: the projector, the batch's own negatives and the queue."""
        config, size = self.recipe.stage_a, self.decoder.width
        # The projector's own input needs no gradient.
        unused = 2 * config.batch * self.encoder.width * self.recipe.projector.hidden
        projector = 3 * self.bridge_flops(config.batch, "projector") - unused
        return projector + 4 * config.batch * size * (config.batch + config.queue)

    def warm_step(self) -> float:
        """FLOPs of one step of the warm start, the decoder not in it."""
        batch = self.recipe.warm_start.batch
        return self.bridge_flops(batch, "projector") + 3 * self.bridge_flops(batch)

    def row_tokens(self, target: float) -> float:
        """Decoder tokens of a row behind the shared prefix, for a target of so many."""
        return self.slots + self.lengths.suffix + target

    def _decoder(self, rows: int, target: float, gradient: bool) -> float:
        """FLOPs of the decoder on a batch whose prefix is run once."""
        own, prefix = self.row_tokens(target), self.lengths.prefix
        passes = [self.decoder.forward, *([self.decoder.backward] if gradient else [])]
        stack = sum(run(rows * own, prefix + own) + run(prefix, prefix) for run in passes)
        return stack + 2 * len(passes) * self._head * rows * (target + 1)

    @property
    def _head(self) -> int:
        return self.decoder.head

    def injection_step(self, config: Injection) -> float:
        """FLOPs of one step of stage B or C, the usage contrast at its share; the auxiliary losses are not counted."""
        target = min(self.lengths.english, config.max_target_tokens)
        step = self._decoder(config.batch, target, gradient=True)
        step += _contrast(config) * self._decoder(config.batch, target, gradient=False)
        if config.losses.get("self_distillation_kl"):
            whole = self.lengths.prefix + self.lengths.suffix + self.lengths.english + target
            step += config.batch * (self.bare.forward(whole, whole) + 2 * self._head * (target + 1))
        passes = 3 if config.lr_projector else 1
        return step + passes * self.bridge_flops(config.batch, "projector") + 3 * self.bridge_flops(config.batch)

    def parts(self, mfu: float) -> list[Part]:
        """Every part of the run, in order."""
        recipe, peak = self.recipe, self.device.peak(self.dtype) * self.count
        leaves = sum(not list(m.children()) for m in self.bridge.modules())
        small, large = leaves, leaves + self.decoder.leaves

        def part(name: str, steps: int, flops: float, launches: float, reads: float = 0.0) -> Part:
            bounds = {
                "compute": flops / (peak * mfu),
                "launches": steps * launches * KERNELS * LAUNCH,
                "bandwidth": reads / (self.device.bandwidth * self.count),
            }
            bound = max(bounds, key=bounds.__getitem__)
            return Part(name, steps, flops, bounds[bound], bound)

        def epochs(count: float, batch: int) -> int:
            return round(count * math.ceil(self.inputs / batch))

        found = [
            part(
                "encoding",
                math.ceil(self.inputs * self.lengths.foreign / BATCH_TOKENS),
                self.encode_flops(),
                self.encoder.leaves,
            )
        ]
        if flops := self.teacher_flops():
            found.append(
                part(
                    "teacher states",
                    math.ceil(self.pairs * self.lengths.english / BATCH_TOKENS),
                    flops,
                    self.bare.leaves,
                )
            )
        steps = max(1, epochs(recipe.stage_a.epochs, recipe.stage_a.batch))
        # Losses, clipping and AdamW are some forty kernels more.
        found.append(part("stage A", steps, steps * self.stage_a_step(), 3 * small + 40))
        if recipe.warm_start.epochs:
            steps = epochs(recipe.warm_start.epochs, recipe.warm_start.batch)
            found.append(part("warm start", steps, steps * self.warm_step(), 3 * small + 40))
        if recipe.stage_b.distilled and recipe.stage_b.examples and not recipe.data.instructions:
            count = recipe.stage_b.distilled
            prompt = self.lengths.prefix + self.lengths.suffix + self.lengths.english
            flops = count * (self.bare.forward(prompt + GENERATED, prompt) + 2 * self._head * GENERATED)
            steps = math.ceil(count / DISTIL_BATCH) * GENERATED
            found.append(
                part("self-distillation", steps, flops, self.bare.leaves, steps * self.bare.parameters * self.width)
            )
        for name, config in self.injections.items():
            steps = whole_steps(config, config.batch)
            if not steps:
                continue
            dev = len(recipe.data.dev) * (FINAL_DEV + recipe.dev_examples * (1 + steps // recipe.checkpoint_every))
            target = min(self.lengths.english, config.max_target_tokens)
            flops = steps * self.injection_step(config) + 3 * dev * self._decoder(1, target, gradient=False)
            found.append(part(f"stage {name}", steps, flops, (3 + _contrast(config)) * large + 100))
        return found

    def stage_a_bytes(self, batch: int) -> Memory:
        """Memory of stage A with so many rows on a device."""
        config, size = self.recipe.stage_a, self.decoder.width
        projector = sum(p.numel() for p in self.bridge.projector.parameters())
        rows = 4.0 * batch * (self.encoder.width + 4 * self.recipe.projector.hidden + 6 * size)
        # The queue is held twice while it moves on; similarities, and their gradient.
        queue = 8.0 * config.queue * size + 12.0 * batch * config.queue
        return self._memory("A", batch, TRAINED_BYTES * projector, rows + queue)

    def injection_bytes(self, batch: int, config: Injection | None = None, stage: str = "B") -> Memory:
        """Memory of stage B, or of another like it, with so many rows of the greatest length on a device."""
        config = config or self.recipe.stage_b
        bridge = sum(p.numel() for p in self.bridge.parameters())
        still = 0 if config.lr_projector else sum(p.numel() for p in self.bridge.projector.parameters())
        trained = TRAINED_BYTES * (bridge - still + self.decoder.trained) + 4 * still
        target = config.max_target_tokens
        logits = batch * (target + 1) * (self._head / self.decoder.width) * (LOGIT_BYTES + self.width)
        return self._memory(stage, batch, trained, self.kept(batch, target) + logits)

    def kept(self, batch: int, target: float) -> float:
        """Bytes that the decoder keeps for the gradient of a batch with targets of so many tokens, logits not counted."""
        # torch's fused dropout on a GPU keeps a byte a number, that of a CPU a float32.
        mask = 0 if not self.recipe.stage_b.lora.dropout else 4 if self.device.name == "cpu" else 1
        own, prefix = self.row_tokens(target) + self.recipe.verbatim.tokens, self.lengths.prefix
        rows = batch * self.decoder.saved(own, prefix + own, self.width, mask)
        return rows + self.decoder.saved(prefix, prefix, self.width, mask)

    def _memory(self, stage: str, batch: int, trained: float, activations: float) -> Memory:
        weights = float(self.width * (self.encoder.parameters + self.bare.parameters))
        total = weights + trained + activations + (0 if self.device.name == "cpu" else CONTEXT)
        return Memory(stage, batch, weights, trained, activations, total, total <= self.device.memory, 0)

    def memory(self) -> list[Memory]:
        """Every stage, each with the largest batch that a device could have."""
        found = []
        stages: list[tuple[int, Callable[[int], Memory]]] = [(self.recipe.stage_a.batch, self.stage_a_bytes)]
        for name, config in self.injections.items():
            stages.append((config.batch, partial(self.injection_bytes, config=config, stage=name)))
        for batch, bytes_of in stages:
            asked = bytes_of(math.ceil(batch / self.count))
            found.append(replace(asked, largest=_largest(bytes_of)))
        return found


def _contrast(config: Injection) -> float:
    """Share of the steps that compute the loss without slots."""
    return 1 / config.usage_every if config.losses.get("usage_contrast") else 0.0


def _largest(bytes_of: Callable[[int], Memory]) -> int:
    """The largest batch that fits, by bisection; 0 when no row does."""
    low, high = 0, 1
    while bytes_of(high).fits and high < 2**24:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if bytes_of(middle).fits else (low, middle)
    return low


def size(recipe: Recipe, where: Device, *, count: int = 1, mfu: float = MFU, lengths: Lengths | None = None) -> Sizing:
    """Everything about a run of a recipe on ``count`` devices.

    Raises:
        LlinkError: E232 when a model's sizes are not known, E203 or E204 for an unknown projector or injector.
    """
    plan = Plan(recipe, where, count, lengths)
    parts = {
        name: sum(p.numel() for p in getattr(plan.bridge, name).parameters()) for name in ("projector", "injector")
    }
    lora = plan.decoder.trained
    parameters = {"encoder": plan.encoder.parameters, "decoder": plan.bare.parameters, **parts, "LoRA": lora}
    trainable = {
        "A": parts["projector"],
        **{
            name: parts["injector"] + lora + (parts["projector"] if config.lr_projector else 0)
            for name, config in plan.injections.items()
        },
    }
    return Sizing(
        recipe.name, where, count, plan.dtype, mfu, plan.lengths, parameters, trainable, plan.parts(mfu), plan.memory()
    )


def as_json(found: Sizing) -> Mapping[str, Any]:
    """The same as plain data, with the sums."""
    from dataclasses import asdict

    return {**asdict(found), "seconds": sum(p.seconds for p in found.parts), "flops": sum(p.flops for p in found.parts)}
