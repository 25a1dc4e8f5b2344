"""Stage B: slots go into the prompt, LoRA and injector learn to make the frozen decoder read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from llink.adapter.bridge import Bridge
from llink.adapter.prompt import TASKS, Prompt, beside, build, channel
from llink.adapter.scoring import answer_logits, embedded
from llink.adapter.slots import in_batches, padded, target_logits, target_losses, token_losses
from llink.features.cache import Features
from llink.interfaces import Decoder, Language
from llink.language.values import bounded
from llink.recipe import Injection, StageB, Verbatim
from llink.training.examples import Batches
from llink.training.loop import Log, Measure, Part, Stage, fit, warmup_cosine, whole_batch
from llink.training.objective import Objective
from llink.training.warm_start import SlotTargets, features, length_batches, slot_inputs, slots_of_step


@dataclass(frozen=True)
class Passage:
    """A text behind slots, its English, and what the language finds verbatim in it (None: not looked for)."""

    text: str
    english: str
    values: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Example:
    """One training example: a passage, the task and the English target; ``more`` are further passages of a longer text."""

    text: str
    task: str
    """One of ``TASKS``, or a free instruction in the place of one; a batch is of one task."""
    target: str
    english: str
    values: tuple[str, ...] | None = None
    more: tuple[Passage, ...] = ()

    @property
    def whole(self) -> str:
        """The text of all passages, one a line."""
        return "\n".join(p.text for p in self.passages)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """All of them in order, one at least."""
        return Passage(self.text, self.english, self.values), *self.more

    @property
    def instruction(self) -> str:
        """What the prompt says."""
        return TASKS.get(self.task, self.task)


def with_values(examples: Sequence[Example], language: Language, share: float = 0.0) -> list[Example]:
    """The examples with what must not be paraphrased in their texts, for an adapter with the verbatim channel.

    Args:
        share: of examples with a value that stands in their target; where there are fewer, they are repeated.
    """
    found = {
        text: tuple(language.verbatim(text)) for text in dict.fromkeys(p.text for e in examples for p in e.passages)
    }
    known = [
        replace(e, values=found[e.text], more=tuple(replace(p, values=found[p.text]) for p in e.more)) for e in examples
    ]
    bearing = [e for e in known if any(bounded(v).search(e.target) for p in e.passages for v in p.values or ())]
    wanted = round(share * (len(known) - len(bearing)) / (1 - share))
    return known + list(islice(cycle(bearing), max(0, wanted - len(bearing)) if bearing else 0))


def add_lora(decoder: Decoder, config: StageB) -> PeftModel:
    """Put a fresh LoRA on the decoder's attention and MLP projections, in place."""
    lora = LoraConfig(
        r=config.lora.r,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules=list(decoder.lora_targets),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(decoder.model, lora)


def train_stage_b(
    bridge: Bridge,
    decoder: Decoder,
    lora: PeftModel,
    cache: Features,
    examples: Sequence[Example],
    config: Injection,
    *,
    stage: str = "b",
    seed: int,
    accelerator: Accelerator,
    verbatim: Verbatim = Verbatim(),  # noqa: B008 (frozen)
    dev: Measure = dict,
    last: Measure = dict,
    every: int = 500,
    checkpoint: Path | None = None,
    log: Log = lambda _: None,
    seen: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Train injector and LoRA in place, and the projector where it has a learning rate.

    Args:
        stage: ``b``, or ``c`` for joint training; what log and messages say.
        examples: drawn in an order that is new every pass, batches of one task and of like length.
        verbatim: the verbatim channel, of the examples that have values.
        dev: called every ``every`` steps and at the end; its numbers are plain cross-entropies.
        last: called at the very end, while a decoder that FSDP has sharded can still be run.
        log: gets the cross-entropy and every other loss by name every 20 steps, and the injector's scale and gate as
            ``injector.<name>``.
        seen: gets how many examples each step took on this rank, and their tokens: prompts, slots included, and targets.

    Returns:
        What ``last`` measured.

    Raises:
        LlinkError: E402 when the loss is not finite, E408 when a loss of a plugin cannot be had.
    """
    size = whole_batch(config.batch, config.accumulation, accelerator)
    made = Batches(decoder, examples, verbatim, longest=config.max_target_tokens, seed=seed)
    return fit(
        _WithDecoder(stage, bridge, decoder, lora, cache, made, config, seed, accelerator.device, size),
        accelerator=accelerator,
        seed=seed,
        size=size,
        accumulation=config.accumulation,
        steps=whole_steps(config, size),
        schedule=lambda step, of: warmup_cosine(step, of, config.warmup),
        weight_decay=config.weight_decay,
        clip=config.clip,
        every=every,
        checkpoint=checkpoint,
        dev=dev,
        last=last,
        log=log,
        seen=seen,
    ).measured


def whole_steps(config: Injection, size: int) -> int:
    """Steps of ``size`` examples: as many as there are whole ones, and one at least unless there is no example."""
    return max(1, config.examples // size) if config.examples else 0


class _WithDecoder(Stage):
    """The decoder's cross-entropy given the slots, and what else the recipe weighs."""

    cure = "Lower its learning rates."

    def __init__(
        self,
        stage: str,
        bridge: Bridge,
        decoder: Decoder,
        lora: PeftModel,
        cache: Features,
        made: Batches,
        config: Injection,
        seed: int,
        device: torch.device,
        batch: int,
    ) -> None:
        super().__init__()
        self.name, self.label = stage, f"Stage {stage.upper()}"
        bridge.projector.requires_grad_(config.lr_projector > 0)
        self.bridge, self.lora, self.replicated = bridge, lora, [bridge]
        self._no_split_modules = sharded_blocks(decoder)
        self.decoder, self.cache, self.made, self.config = decoder, cache, made, config
        self.seed, self.device, self.batch = seed, device, batch
        self.english = [[decoder.tokenize(p.english) for p in e.passages] for e in made.examples]
        self.aims, self.objective = SlotTargets(decoder), Objective(f"stage_{stage}", config.losses)
        self.shares = bool(self.objective.of_batch)
        self._step, self._batch, self._slots = -1, made([], 0, 1), 1

    def train(self, mode: bool = True) -> _WithDecoder:
        super().train(mode)
        self.bridge.projector.train(mode and self.config.lr_projector > 0)
        return self

    def groups(self) -> list[dict[str, Any]]:
        """LoRA, injector, the scales and gates, and the projector where it is trained."""
        bridge, config = self.bridge, self.config
        scales = [p for n, p in bridge.injector.named_parameters() if n in ("scale", "gate")]
        others = [p for n, p in bridge.injector.named_parameters() if n not in ("scale", "gate")]
        groups = [
            {"params": [p for p in self.lora.parameters() if p.requires_grad], "lr": config.lr_lora},
            {"params": others, "lr": config.lr_injector},
        ]
        if scales:
            groups.append({"params": scales, "lr": config.lr_scale})
        if config.lr_projector:
            groups.append({"params": list(bridge.projector.parameters()), "lr": config.lr_projector})
        return groups

    def batches(self, size: int, first: int) -> Iterator[list[int]]:
        examples = self.made.examples
        texts = iter(self.cache.lengths([p.text for e in examples for p in e.passages]))
        sizes = [sum(next(texts) for _ in e.passages) for e in examples]
        lengths = [len(target) + length for target, length in zip(self.made.targets, sizes, strict=True)]
        return task_batches(examples, lengths, size, self.seed, first)

    def loss(self, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        if part.step != self._step:  # values are swapped anew in each step
            texts = [p.text for i in part.batch for p in self.made.examples[i].passages]
            self._slots = slots_of_step(self.bridge, max(self.cache.lengths(texts)), self.seed, part.step)
            self._step, self._batch = part.step, self.made(part.batch, part.step, self._slots)
        some, prompts, wanted = map(part.pick, self._batch)
        read = features(self.cache, [p.text for e in some for p in e.passages], self.device)
        own_slots = self.bridge(*read, self._slots).unflatten(0, (len(some), -1)).flatten(1, 2)
        slots = part.join("slots", own_slots) if self.shares else own_slots
        contrast = part.step % self.config.usage_every == 0
        compares = self.objective.asks("right", without=() if contrast else ("zero",))
        if part.beforehand and not compares:
            return slots.sum(), {}
        tokens = sum(len(target) + 1 for target in self._batch[2])
        labels, own = padded(self.decoder, wanted, self.device)
        logits = target_logits(self.decoder, prompts, own_slots, labels)
        nats = token_losses(logits, labels, own).sum() / tokens
        # Each token counts the same, whichever part it is in: the average over the parts is nats per token of the batch.
        right = nats * part.count * part.weight
        inputs = {"slots": slots}
        later = slot_inputs(self.aims, slots, [self.english[i] for i in part.batch])
        if compares:
            inputs["right"] = part.total("right", nats)
            if contrast:
                later["zero"] = partial(self._zero, part, prompts, wanted, inputs["right"], tokens)
        if part.beforehand:
            if contrast and self.objective.asks("zero"):
                later["zero"]()
            return slots.sum(), {}
        extra, terms = self.objective(later, self.objective.of_batch, **inputs)
        loss = right + extra
        if self.objective.of_part:
            later |= slot_inputs(self.aims, own_slots, [self.english[i] for i in part.rows])
            later["teacher_logits"] = partial(_teacher_logits, self.decoder, self.lora, some, labels)
            inputs |= {"slots": own_slots, "logits": logits, "labels": labels, "own": own}
            extra, own_terms = self.objective(later, self.objective.of_part, **inputs)
            share = part.weight * part.count * int(own.sum()) / tokens
            loss, terms = loss + share * extra, terms | {name: share * term for name, term in own_terms.items()}
        return loss, {**terms, "loss": right}

    def _zero(
        self, part: Part, prompts: Sequence[Prompt], wanted: Sequence[Sequence[int]], right: Tensor, tokens: int
    ) -> Tensor:
        """``L_zero``, with the verbatim channel as it was. Where the hinge is closed its gradient is zero, so the graph is
        built only where it is open."""

        def nats() -> Tensor:
            passages = prompts[0].slots // self._slots
            none = self.bridge.none(len(wanted), self._slots).repeat(1, passages, 1)
            return target_losses(self.decoder, prompts, none, wanted).sum() / tokens

        zero = part.known("zero")
        if zero is None:
            with torch.no_grad():
                zero = part.total("zero", nats())
        if part.beforehand or right.detach() <= zero:
            return zero
        return part.total("zero", nats())

    def size(self, part: Part) -> tuple[int, int]:
        _, prompts, wanted = map(part.pick, self._batch)
        return len(part.rows), sum(len(prompt.ids) for prompt in prompts) + sum(len(target) + 1 for target in wanted)

    def numbers(self) -> dict[str, float]:
        scales = {
            f"injector.{n}": float(p.detach()) for n, p in self.bridge.injector.named_parameters() if p.numel() == 1
        }
        return {**scales, "examples": (self._step + 1) * self.batch}

    def examples(self, part: Part) -> list[dict[str, str]]:
        return [{"text": e.whole, "task": e.task, "target": e.target} for e in part.pick(self._batch[0])]


def sharded_blocks(decoder: Decoder) -> list[str]:
    """The classes of a decoder's layers, each of which FSDP shards by itself."""
    model: Any = decoder.model
    present = {type(module).__name__ for module in model.modules()}
    return sorted(present & set(getattr(model, "_no_split_modules", None) or ()))


@torch.no_grad()
def _teacher_logits(decoder: Decoder, lora: PeftModel, examples: Sequence[Example], labels: Tensor) -> Tensor:
    """Logits ``[B, L, V]`` of the frozen decoder for ``labels [B, L]``, the English text in the place of the slots."""
    prompts = [build(decoder, e.instruction, text="\n".join(p.english for p in e.passages)) for e in examples]
    with lora.disable_adapter():
        return answer_logits(decoder, embedded(decoder, prompts), labels)


def task_batches(
    examples: Sequence[Example], lengths: Sequence[int], batch: int, seed: int, first: int = 0
) -> Iterator[list[int]]:
    """Endless batches of one task and one number of passages each, of like length; they come as often as they have
    examples."""
    by_task: dict[tuple[str, int], list[int]] = {}
    for i, example in enumerate(examples):
        by_task.setdefault((example.task, len(example.more)), []).append(i)
    tasks = sorted(by_task)
    sizes = torch.tensor([float(len(by_task[task])) for task in tasks])
    streams = {
        task: length_batches([lengths[i] for i in by_task[task]], batch, seed + n) for n, task in enumerate(tasks)
    }
    generator = torch.Generator().manual_seed(seed)
    number = 0
    while True:
        task = tasks[int(torch.multinomial(sizes, 1, generator=generator))]
        rows = next(streams[task])
        if number >= first:
            yield [by_task[task][i] for i in rows]
        number += 1


@torch.inference_mode()
def dev_losses(
    bridge: Bridge,
    decoder: Decoder,
    cache: Features,
    examples: Sequence[Example],
    batch: int = 16,
    verbatim: int = 0,
) -> dict[str, float]:
    """Plain cross-entropy in nats per token with the right slots, reserved rows (zero) and another text's slots.

    Texts are sorted by number of slots and target length first; "shuffled" gives each text the slots of its neighbour,
    which is then of like length and the harder test. The verbatim channel, of so many tokens, is always the text's own.
    """
    device = bridge.reserved.device
    counts = dict(
        zip([e.text for e in examples], map(bridge.count, cache.lengths([e.text for e in examples])), strict=True)
    )
    order = sorted(examples, key=lambda e: (counts[e.text], len(e.target)))
    totals = {"right": 0.0, "zero": 0.0, "shuffled": 0.0}
    tokens = 0
    for part in in_batches(len(order), batch):
        rows = order[part]
        slots = bridge(*features(cache, [e.text for e in rows], device))
        prompt = build(decoder, rows[0].instruction, slots=slots.shape[1])
        prompts = [prompt if e.values is None else beside(prompt, channel(decoder, e.values, verbatim)) for e in rows]
        wanted = [decoder.tokenize(e.target) for e in rows]
        kinds = {"right": slots, "zero": bridge.none(*slots.shape[:2]), "shuffled": slots.roll(1, 0)}
        for kind, given in kinds.items():
            totals[kind] += float(target_losses(decoder, prompts, given, wanted).sum())
        tokens += sum(map(len, wanted)) + len(wanted)
    losses = {kind: math.nan if not tokens else total / tokens for kind, total in totals.items()}
    return {
        **losses,
        "usage_gap": losses["zero"] - losses["right"],
        "shuffle_gap": losses["shuffled"] - losses["right"],
    }
