"""Stage B: slots go into the prompt, LoRA and injector learn to make the frozen decoder read them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from llink.bridge import Bridge
from llink.errors import LlinkError
from llink.interfaces import Decoder, Language
from llink.progress import track
from llink.prompt import TASKS, Prompt, beside, build, channel
from llink.reading import in_batches, mean_loss, padded, target_logits, target_losses, token_losses
from llink.recipe import Injection, StageB, Verbatim
from llink.scoring import answer_logits, embedded
from llink.training.checkpoints import Checkpoint
from llink.training.features import Features
from llink.training.objective import Objective
from llink.training.stage_a import warmup_cosine
from llink.training.verbatim import Batches
from llink.training.warm_start import SlotTargets, features, length_batches, slot_inputs
from llink.verbatim import bounded


@dataclass(frozen=True)
class Example:
    """One training example: the text behind the slots, the task, the English target, the English of the text, and what
    the language finds verbatim in the text (None: not looked for)."""

    text: str
    task: str
    """One of ``TASKS``, or a free instruction in the place of one; a batch is of one task."""
    target: str
    english: str
    values: tuple[str, ...] | None = None

    @property
    def instruction(self) -> str:
        """What the prompt says."""
        return TASKS.get(self.task, self.task)


def with_values(examples: Sequence[Example], language: Language, share: float = 0.0) -> list[Example]:
    """The examples with what must not be paraphrased in their texts, for an adapter with the verbatim channel.

    Args:
        share: of examples with a value that stands in their target; where there are fewer, they are repeated.
    """
    found = {text: tuple(language.verbatim(text)) for text in dict.fromkeys(e.text for e in examples)}
    known = [replace(example, values=found[example.text]) for example in examples]
    bearing = [e for e in known if any(bounded(value).search(e.target) for value in e.values or ())]
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
    dev: Callable[[], dict[str, float]] = dict,
    every: int = 500,
    checkpoint: Path | None = None,
    log: Callable[[dict[str, Any]], None] = lambda _: None,
    seen: Callable[[int, int], None] = lambda *_: None,
) -> None:
    """Train injector and LoRA in place, and the projector where it has a learning rate.

    Args:
        stage: ``b``, or ``c`` for joint training; what log and messages say.
        examples: drawn in an order that is new every pass, batches of one task and of like length.
        verbatim: the verbatim channel, of the examples that have values.
        dev: called every ``every`` steps and at the end; its numbers are plain cross-entropies.
        log: gets the cross-entropy, every other loss by name and the injector's scale and gate, as ``injector.<name>``,
            every 20 steps.
        seen: gets how many examples each step took, and their tokens: prompts, slots included, and targets.

    Raises:
        LlinkError: E402 when the loss is not finite, E408 when a loss of a plugin cannot be had.
    """
    device = accelerator.device
    bridge.to(device)
    bridge.projector.requires_grad_(config.lr_projector > 0)
    made = Batches(decoder, bridge.slots, examples, verbatim, longest=config.max_target_tokens, seed=seed)
    english = [decoder.tokenize(e.english) for e in examples]
    aims = SlotTargets(decoder, bridge.slots)
    optimizer = _optimizer(bridge, lora, config)
    rates = [group["lr"] for group in optimizer.param_groups]
    steps = max(1, config.examples // config.batch)
    objective = Objective(f"stage_{stage}", config.losses)
    torch.manual_seed(seed)
    state = Checkpoint({"bridge": bridge, "lora": lora}, {"all": optimizer})
    first = state.load(checkpoint) if checkpoint else 0
    batches = task_batches(examples, [len(t) + cache.length(e.text) for t, e in zip(made.targets, examples, strict=True)],
                           config.batch, seed, first)  # fmt: skip
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    with track(f"Stage {stage.upper()}", total=steps) as bar:
        bar(first)
        for step in range(first, steps):
            bridge.train()
            bridge.projector.train(config.lr_projector > 0)
            lora.train()
            rows = next(batches)
            factor = warmup_cosine(step, steps, config.warmup)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            some, prompts, wanted = made(rows, step)
            slots = bridge(*features(cache, [e.text for e in some], device))
            labels, own = padded(decoder, wanted, device)
            logits = target_logits(decoder, prompts, slots, labels)
            right = mean_loss(token_losses(logits, labels, own), wanted)
            later = slot_inputs(aims, slots, [english[i] for i in rows])
            later["teacher_logits"] = partial(_teacher_logits, decoder, lora, some, labels)
            if step % config.usage_every == 0:
                later["zero"] = partial(_zero_loss, decoder, bridge, prompts, wanted, right)
            extra, terms = objective(later, slots=slots, right=right, logits=logits, labels=labels, own=own)
            loss = right + extra
            del logits  # large, and backward works from copies of its own
            if not torch.isfinite(loss):
                raise LlinkError(
                    "E402", f"Stage {stage.upper()}: the loss is {loss.item()} at step {step}.",
                    "Lower its learning rates.",
                )  # fmt: skip
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trainable, config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            bar(1)
            seen(len(rows), sum(len(p.ids) + len(target) + 1 for p, target in zip(prompts, wanted, strict=True)))
            if step % 20 == 0 or step == steps - 1:
                log({**{name: term.item() for name, term in terms.items()},
                     **{f"injector.{name}": p.item() for name, p in bridge.injector.named_parameters() if p.numel() == 1},
                     "stage": stage, "step": step, "examples": (step + 1) * config.batch, "loss": right.item()})  # fmt: skip
            if (step + 1) % every == 0 and step + 1 < steps:
                if checkpoint:
                    state.save(checkpoint, step + 1)
                bridge.eval()
                lora.eval()
                log({"stage": stage, "step": step, **keep_rng(dev)})
    bridge.eval()
    lora.eval()
    log({"stage": stage, "step": steps - 1, **keep_rng(dev)})


def keep_rng(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run ``work`` without moving the random state, so that measuring does not change training."""
    state = torch.get_rng_state()
    try:
        return work()
    finally:
        torch.set_rng_state(state)


def _optimizer(bridge: Bridge, lora: PeftModel, config: Injection) -> torch.optim.Optimizer:
    """One AdamW; its groups are LoRA, injector, the scales and gates, and the projector where it is trained."""
    scales = [p for n, p in bridge.injector.named_parameters() if n in ("scale", "gate")]
    others = [p for n, p in bridge.injector.named_parameters() if n not in ("scale", "gate")]
    groups = [
        {"params": [p for p in lora.parameters() if p.requires_grad], "lr": config.lr_lora},
        {"params": others, "lr": config.lr_injector},
        {"params": scales, "lr": config.lr_scale},
    ]
    if config.lr_projector:
        groups.append({"params": list(bridge.projector.parameters()), "lr": config.lr_projector})
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)


def _zero_loss(
    decoder: Decoder, bridge: Bridge, prompts: Sequence[Prompt], wanted: Sequence[Sequence[int]], right: Tensor
) -> Tensor:
    """``L_zero``, with the verbatim channel as it was. Where the hinge is closed its gradient is zero, so the graph is
    built only where it is open."""
    reserved = bridge.reserved.expand(len(wanted), -1, -1)
    with torch.no_grad():
        zero = mean_loss(target_losses(decoder, prompts, reserved, wanted), wanted)
    if right.detach() <= zero:
        return zero
    return mean_loss(target_losses(decoder, prompts, reserved, wanted), wanted)


@torch.no_grad()
def _teacher_logits(decoder: Decoder, lora: PeftModel, examples: Sequence[Example], labels: Tensor) -> Tensor:
    """Logits ``[B, L, V]`` of the frozen decoder for ``labels [B, L]``, the English text in the place of the slots."""
    prompts = [build(decoder, e.instruction, text=e.english) for e in examples]
    with lora.disable_adapter():
        return answer_logits(decoder, embedded(decoder, prompts), labels)


def task_batches(examples: Sequence[Example], lengths: Sequence[int], batch: int, seed: int, first: int = 0) -> Any:
    """Endless batches of one task each, of like length; tasks come as often as they have examples."""
    by_task: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        by_task.setdefault(example.task, []).append(i)
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

    Texts are sorted by target length first; "shuffled" gives each text the slots of its neighbour, which is
    then of like length and the harder test. The verbatim channel, of so many tokens, is always the text's own.
    """
    device = bridge.reserved.device
    order = sorted(examples, key=lambda e: len(e.target))
    totals = {"right": 0.0, "zero": 0.0, "shuffled": 0.0}
    tokens = 0
    for part in in_batches(len(order), batch):
        rows = order[part]
        prompt = build(decoder, rows[0].instruction, slots=bridge.slots)
        prompts = [prompt if e.values is None else beside(prompt, channel(decoder, e.values, verbatim)) for e in rows]
        wanted = [decoder.tokenize(e.target) for e in rows]
        slots = bridge(*features(cache, [e.text for e in rows], device))
        kinds = {"right": slots, "zero": bridge.reserved.expand_as(slots), "shuffled": slots.roll(1, 0)}
        for kind, given in kinds.items():
            totals[kind] += float(target_losses(decoder, prompts, given, wanted).sum())
        tokens += sum(map(len, wanted)) + len(wanted)
    losses = {kind: math.nan if not tokens else total / tokens for kind, total in totals.items()}
    return {
        **losses,
        "usage_gap": losses["zero"] - losses["right"],
        "shuffle_gap": losses["shuffled"] - losses["right"],
    }
