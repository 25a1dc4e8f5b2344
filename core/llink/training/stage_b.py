"""Stage B: slots go into the prompt, LoRA and injector learn to make the frozen decoder read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from llink.adapter.bridge import Bridge
from llink.adapter.prompt import Prompt, beside, build, channel
from llink.adapter.scoring import answer_logits, embedded
from llink.adapter.slots import in_batches, padded, target_logits, target_losses, token_losses
from llink.features.cache import Features
from llink.interfaces import Decoder
from llink.recipe import Injection, Verbatim
from llink.training.batches import Batches
from llink.training.context import Context, Measure
from llink.training.examples import Example
from llink.training.loop import PartLoss, Schedule, fit
from llink.training.objective import Objective
from llink.training.parts import Part
from llink.training.warm_start import SlotTargets, features, slot_inputs, slots_of_step
from llink.training.with_decoder import WithDecoder, schedule_of


def train_stage_b(
    bridge: Bridge,
    decoder: Decoder,
    lora: PeftModel,
    cache: Features,
    examples: Sequence[Example],
    config: Injection,
    context: Context,
    *,
    stage: str = "b",
    verbatim: Verbatim = Verbatim(),  # noqa: B008 (frozen)
    dev: Measure = dict,
    last: Measure = dict,
) -> dict[str, Any]:
    """Train injector and LoRA in place, and the projector where it has a learning rate.

    Logged are the cross-entropy and every other loss by name every 20 steps, and the injector's scale and gate as
    ``injector.<name>``. The tokens of an example are its prompt, slots included, and its target.

    Args:
        stage: ``b``, or ``c`` for joint training; what log and messages say.
        examples: drawn in an order that is new every pass, batches of one task and of like length.
        verbatim: the verbatim channel, of the examples that have values.
        dev: its numbers are plain cross-entropies.
        last: called at the very end, while a decoder that FSDP has sharded can still be run.

    Returns:
        What ``last`` measured.

    Raises:
        LlinkError: E402 when the loss is not finite, E408 when a loss of a plugin cannot be had.
    """
    made = Batches(decoder, examples, verbatim, longest=config.max_target_tokens, seed=context.seed)
    schedule = schedule_of(config, context.accelerator)
    reads = ReadsSlots(stage, bridge, decoder, lora, cache, made, config, schedule, context)
    return fit(reads, context, dev=dev, last=last).measured


class ReadsSlots(WithDecoder):
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
        schedule: Schedule,
        context: Context,
    ) -> None:
        super().__init__(decoder, lora, made.examples, config.lr_lora, schedule, context.seed)
        self.name, self.label = stage, f"Stage {stage.upper()}"
        bridge.projector.requires_grad_(config.lr_projector > 0)
        self.bridge, self.replicated = bridge, [bridge]
        self.cache, self.made, self.config, self.device = cache, made, config, context.accelerator.device
        self.english = [[decoder.tokenize(p.english) for p in e.passages] for e in made.examples]
        self.aims, self.objective = SlotTargets(decoder), Objective(f"stage_{stage}", config.losses)
        self.shares = bool(self.objective.of_batch)

    def train(self, mode: bool = True) -> ReadsSlots:
        super().train(mode)
        self.bridge.projector.train(mode and self.config.lr_projector > 0)
        return self

    def groups(self) -> list[dict[str, Any]]:
        """LoRA, injector, the scales and gates, and the projector where it is trained."""
        bridge, config = self.bridge, self.config
        scales = [p for n, p in bridge.injector.named_parameters() if n in ("scale", "gate")]
        others = [p for n, p in bridge.injector.named_parameters() if n not in ("scale", "gate")]
        groups = [*super().groups(), {"params": others, "lr": config.lr_injector}]
        if scales:
            groups.append({"params": scales, "lr": config.lr_scale})
        if config.lr_projector:
            groups.append({"params": list(bridge.projector.parameters()), "lr": config.lr_projector})
        return groups

    def lengths(self) -> list[int]:
        texts = iter(self.cache.lengths([p.text for e in self.rows for p in e.passages]))
        sizes = [sum(next(texts) for _ in e.passages) for e in self.rows]
        return [len(target) + length for target, length in zip(self.made.targets, sizes, strict=True)]

    def prepare(self, batch: list[int], step: int) -> Any:
        """k, and of each row its example, prompt and target; values are swapped anew in each step."""
        texts = [p.text for i in batch for p in self.rows[i].passages]
        slots = slots_of_step(self.bridge, max(self.cache.lengths(texts)), self.seed, step)
        return slots, *self.made(batch, step, slots)

    def loss(self, part: Part) -> PartLoss:
        count, *made = part.made
        some, prompts, wanted = map(part.pick, made)
        read = features(self.cache, [p.text for e in some for p in e.passages], self.device)
        own_slots = self.bridge(*read, count).unflatten(0, (len(some), -1)).flatten(1, 2)
        slots = part.join("slots", own_slots) if self.shares else own_slots
        contrast = part.step % self.config.usage_every == 0
        compares = self.objective.asks("right", without=() if contrast else ("zero",))
        if part.beforehand and not compares:
            return PartLoss(slots.sum(), {})
        tokens = sum(len(target) + 1 for target in made[2])
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
            return PartLoss(slots.sum(), {})
        extra, terms = self.objective(later, self.objective.of_batch, **inputs)
        loss = right + extra
        if self.objective.of_part:
            later |= slot_inputs(self.aims, own_slots, [self.english[i] for i in part.rows])
            later["teacher_logits"] = partial(_teacher_logits, self.decoder, self.lora, some, labels)
            inputs |= {"slots": own_slots, "logits": logits, "labels": labels, "own": own}
            extra, own_terms = self.objective(later, self.objective.of_part, **inputs)
            share = part.weight * part.count * int(own.sum()) / tokens
            loss, terms = loss + share * extra, terms | {name: share * term for name, term in own_terms.items()}
        return PartLoss(loss, {**terms, "loss": right})

    def _zero(
        self, part: Part, prompts: Sequence[Prompt], wanted: Sequence[Sequence[int]], right: Tensor, tokens: int
    ) -> Tensor:
        """``L_zero``, with the verbatim channel as it was. Where the hinge is closed its gradient is zero, so the graph is
        built only where it is open."""

        def nats() -> Tensor:
            count = part.made[0]
            none = self.bridge.none(len(wanted), count).repeat(1, prompts[0].slots // count, 1)
            return target_losses(self.decoder, prompts, none, wanted).sum() / tokens

        zero = part.known("zero")
        if zero is None:
            with torch.no_grad():
                zero = part.total("zero", nats())
        if part.beforehand or right.detach() <= zero:
            return zero
        return part.total("zero", nats())

    def size(self, part: Part) -> tuple[int, int]:
        _, _, prompts, wanted = part.made
        read = sum(len(prompt.ids) for prompt in part.pick(prompts))
        return len(part.rows), read + sum(len(target) + 1 for target in part.pick(wanted))

    def numbers(self, step: int) -> dict[str, float]:
        scales = {
            f"injector.{n}": float(p.detach()) for n, p in self.bridge.injector.named_parameters() if p.numel() == 1
        }
        return {**scales, **super().numbers(step)}

    def shown(self, part: Part) -> list[Example]:
        return list(part.pick(part.made[1]))


@torch.no_grad()
def _teacher_logits(decoder: Decoder, lora: PeftModel, examples: Sequence[Example], labels: Tensor) -> Tensor:
    """Logits ``[B, L, V]`` of the frozen decoder for ``labels [B, L]``, the English text in the place of the slots."""
    prompts = [build(decoder, e.instruction, text="\n".join(p.english for p in e.passages)) for e in examples]
    with lora.disable_adapter():
        return answer_logits(decoder, embedded(decoder, prompts), labels)


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
