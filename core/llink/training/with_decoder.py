"""What every training with the decoder in the loop has: a LoRA on it, batches of one task, nats per token of the targets.

Stages B and C read a text through slots (``stage_b``), the baseline reads it as the decoder's own tokens
(``direct_lora``); all else is here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from peft import LoraConfig, PeftModel, get_peft_model

from llink.interfaces import Decoder
from llink.recipe import Injection, StageB
from llink.training.examples import Example
from llink.training.loop import Schedule, Stage
from llink.training.parts import Part, whole_batch
from llink.training.warm_start import length_batches


class WithDecoder(Stage):
    """A LoRA on the frozen decoder, trained to give the targets of examples."""

    def __init__(
        self, decoder: Decoder, lora: PeftModel, rows: Sequence[Example], lr: float, schedule: Schedule, seed: int
    ) -> None:
        super().__init__(schedule)
        self.decoder, self.lora, self.rows, self.lr, self.seed = decoder, lora, rows, lr, seed
        self._no_split_modules = sharded_blocks(decoder)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": [p for p in self.lora.parameters() if p.requires_grad], "lr": self.lr}]

    @abstractmethod
    def lengths(self) -> list[int]:
        """Of each example, so that those of like length share a batch."""

    def batches(self, size: int, first: int) -> Iterator[list[int]]:
        return task_batches(self.rows, self.lengths(), size, self.seed, first)

    def numbers(self, step: int) -> dict[str, float]:
        return {"examples": (step + 1) * self.schedule.size}

    def shown(self, part: Part) -> list[Example]:
        """The part's examples as they were read."""
        return [self.rows[i] for i in part.rows]

    def examples(self, part: Part) -> list[dict[str, str]]:
        return [{"text": e.whole, "task": e.task, "target": e.target} for e in self.shown(part)]


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


def schedule_of(config: Injection, accelerator: Accelerator) -> Schedule:
    """The schedule of a stage with the decoder in the loop."""
    size = whole_batch(config.batch, config.accumulation, accelerator)
    return Schedule(
        size,
        whole_steps(config, size),
        config.accumulation,
        config.warmup,
        weight_decay=config.weight_decay,
        clip=config.clip,
    )


def whole_steps(config: Injection, size: int) -> int:
    """Steps of ``size`` examples: as many as there are whole ones, and one at least unless there is no example."""
    return max(1, config.examples // size) if config.examples else 0


def sharded_blocks(decoder: Decoder) -> list[str]:
    """The classes of a decoder's layers, each of which FSDP shards by itself."""
    model: Any = decoder.model
    present = {type(module).__name__ for module in model.modules()}
    return sorted(present & set(getattr(model, "_no_split_modules", None) or ()))


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
