"""Stage A: the projector learns to put a sentence where the teacher puts its translation.

Works on cached vectors alone: neither frozen model is run here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from llink.errors import LlinkError
from llink.progress import track
from llink.projectors.mlp import MLPProjector
from llink.recipe import StageA
from llink.training.checkpoints import Checkpoint
from llink.training.features import Vectors
from llink.training.objective import Objective


@dataclass
class AlignmentData:
    """Inputs zF ``[N, H]``, centred teachers hE ``[N, D]`` and ids ``[N]`` of the English text behind each row."""

    inputs: Tensor | Vectors
    teachers: Tensor | Vectors
    groups: Tensor


def train_stage_a(
    projector: MLPProjector,
    data: AlignmentData,
    config: StageA,
    *,
    seed: int,
    accelerator: Accelerator,
    dev: Callable[[], dict[str, float]] = dict,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log: Callable[[dict[str, Any]], None] = lambda _: None,
    seen: Callable[[int], None] = lambda _: None,
) -> MLPProjector:
    """Train in place and return ``projector``.

    Args:
        seed: fixes batch order and dropout.
        dev: called every ``checkpoint_every`` steps and at the end, the projector in evaluation mode.
        checkpoint: folder; training goes on from it where it holds a state.
        log: gets ``{"step", "loss", "temperature"}`` and every loss by name every 100 steps, and what ``dev`` measures.
        seen: gets how many examples each step took.

    Raises:
        LlinkError: E402 when the loss is not finite, E408 when a loss of a plugin cannot be had.
    """
    device = accelerator.device
    projector.to(device).train()
    optimizer = torch.optim.AdamW(
        projector.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
    )
    per_epoch = math.ceil(len(data.inputs) / config.batch)
    steps = max(1, round(config.epochs * per_epoch))
    queue = _Queue(config.queue, data.teachers.shape[1], device)
    objective = Objective("stage_a", config.losses)
    torch.manual_seed(seed)
    state = Checkpoint({"projector": projector}, {"projector": optimizer}, queue.state)
    first = state.load(checkpoint) if checkpoint else 0
    queue.take(state.tensors)
    batches = epoch_batches(len(data.inputs), config.batch, seed, first)
    with track("Stage A", total=steps) as bar:
        bar(first)
        for step in range(first, steps):
            rows = next(batches)
            inputs, teacher = data.inputs[rows].to(device), data.teachers[rows].to(device)
            groups = data.groups[rows].to(device)
            progress = step / max(steps - 1, 1)
            temperature = config.temperature[0] + (config.temperature[1] - config.temperature[0]) * progress
            set_lr(optimizer, config.min_lr + (config.lr - config.min_lr) * warmup_cosine(step, steps, config.warmup))
            loss, terms = objective(
                student=projector(inputs), teacher=teacher, groups=groups, temperature=temperature,
                hardest=config.hardest, **queue.state,
            )  # fmt: skip
            if not torch.isfinite(loss):
                raise LlinkError("E402", f"Stage A: the loss is {loss.item()} at step {step}.", "Lower stage_a.lr.")
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(projector.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            queue.push(teacher, groups)
            bar(1)
            seen(len(rows))
            if step % 100 == 0 or step == steps - 1:
                log({**{name: term.item() for name, term in terms.items()},
                     "stage": "a", "step": step, "loss": loss.item(), "temperature": temperature})  # fmt: skip
            if checkpoint and (step + 1) % checkpoint_every == 0 and step + 1 < steps:
                state.tensors = queue.state
                state.save(checkpoint, step + 1)
            if (step + 1) % checkpoint_every == 0 or step == steps - 1:
                projector.eval()
                if measured := dev():
                    log({"stage": "a", "step": step, **measured})
                projector.train()
    return projector.eval()


class _Queue:
    """The last ``size`` teacher vectors, unit length, and their groups; plain tensors that whole blocks shift through.

    The groups are needed because a text comes back while its own teacher is in here still: with its other side, or in
    the next epoch.
    """

    def __init__(self, size: int, dim: int, device: torch.device) -> None:
        self.size = size
        self.state = {
            "queue": torch.zeros(0, dim, device=device),
            "queue_groups": torch.zeros(0, dtype=torch.long, device=device),
        }

    def take(self, state: Mapping[str, Tensor]) -> None:
        self.state = {name: state[name].to(value.device) for name, value in self.state.items()}

    def push(self, teacher: Tensor, groups: Tensor) -> None:
        if self.size:
            new = {"queue": F.normalize(teacher, dim=-1).detach(), "queue_groups": groups}
            self.state = {name: torch.cat([self.state[name], new[name]])[-self.size :] for name in new}


def epoch_batches(count: int, batch: int, seed: int, first: int = 0) -> Iterator[Tensor]:
    """Endless batches of row numbers, reshuffled every epoch; starts at batch number ``first``."""
    per_epoch = math.ceil(count / batch)
    number = first
    while True:
        epoch, start = divmod(number, per_epoch)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        for i in range(start, per_epoch):
            yield order[i * batch : (i + 1) * batch]
        number = (epoch + 1) * per_epoch


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Learning-rate factor: linear from 0 over the warm-up share, then cosine to 0."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group the rate ``lr``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
