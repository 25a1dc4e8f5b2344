"""Stage A: the projector learns to put a sentence where the teacher puts its translation.

Works on cached vectors alone: neither frozen model is run here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F

from llink.features.cache import Vectors
from llink.recipe import StageA
from llink.training.loop import Log, Part, Stage, fit, warmup_cosine, whole_batch
from llink.training.objective import Objective


@dataclass
class AlignmentData:
    """Inputs zF ``[N, H]``, centred teachers hE ``[N, D]`` and ids ``[N]`` of the English text behind each row.

    ``texts``, which the encoder read, and ``english`` are only there to be shown.
    """

    inputs: Tensor | Vectors
    teachers: Tensor | Vectors
    groups: Tensor
    texts: Sequence[str] = ()
    english: Sequence[str] = ()


def train_stage_a(
    projector: Any,
    data: AlignmentData,
    config: StageA,
    *,
    seed: int,
    accelerator: Accelerator,
    dev: Callable[[], dict[str, float]] = dict,
    checkpoint: Path | None = None,
    checkpoint_every: int = 500,
    log: Log = lambda _: None,
    seen: Callable[[int], None] = lambda _: None,
) -> Any:
    """Train in place and return ``projector``.

    Args:
        seed: fixes batch order and dropout.
        dev: called every ``checkpoint_every`` steps and at the end, the projector in evaluation mode and with the
            weights that would be kept.
        checkpoint: file; training goes on from it where there is one.
        log: gets ``{"step", "loss", "temperature"}`` and every loss by name every 100 steps, and what ``dev`` measures.
        seen: gets how many examples each step took on this rank.

    Raises:
        LlinkError: E402 when the loss is not finite, E408 when a loss of a plugin cannot be had.
    """
    floor = config.min_lr / config.lr
    size = whole_batch(config.batch, config.accumulation, accelerator)
    steps = max(1, round(config.epochs * math.ceil(len(data.inputs) / size)))
    stage = _Alignment(projector, data, config, steps, seed, accelerator.device)

    def of_kept() -> dict[str, float]:
        with stage.kept():
            return dev()

    fit(
        stage,
        accelerator=accelerator,
        seed=seed,
        size=size,
        accumulation=config.accumulation,
        steps=steps,
        schedule=lambda step, of: floor + (1 - floor) * warmup_cosine(step, of, config.warmup),
        weight_decay=config.weight_decay,
        clip=config.clip,
        every=checkpoint_every,
        checkpoint=checkpoint,
        dev=of_kept,
        log=log,
        seen=seen,
    )
    stage.keep()
    return projector


class _Alignment(Stage):
    """Student vectors of the projector against the teacher's. The queue holds earlier teachers ``[Q, D]``, unit length,
    and their groups: a text comes back while its own teacher is in there still, with its other side or the next epoch.
    What is kept in the end is the trained weights and, for ``config.start_share``, those that training began with.

    References:
        Weights between start and end of a fine-tuning: arXiv 2109.01903.
    """

    name, label, cure, log_every = "a", "Stage A", "Lower stage_a.lr.", 100

    def __init__(
        self, projector: Any, data: AlignmentData, config: StageA, steps: int, seed: int, device: torch.device
    ) -> None:
        super().__init__()
        self.projector, self.replicated = projector, [projector]
        self.data, self.config, self.steps, self.seed, self.device = data, config, steps, seed, device
        self.objective = Objective("stage_a", config.losses)
        self.state = {
            "queue": torch.zeros(0, data.teachers.shape[1]),
            "queue_groups": torch.zeros(0, dtype=torch.long),
        }
        self.start = self._weights() if config.start_share else {}
        self.temperature = config.temperature[0]
        self._new: dict[str, Tensor] = {}

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.projector.parameters()), "lr": self.config.lr}]

    def batches(self, size: int, first: int) -> Iterator[Tensor]:
        return epoch_batches(len(self.data.inputs), size, self.seed, first)

    def loss(self, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        inputs, own = (vectors[part.rows].to(self.device) for vectors in (self.data.inputs, self.data.teachers))
        student, teacher = part.join("student", self.projector(inputs)), part.join("teacher", own)
        if part.beforehand:
            return student.sum(), {}
        groups = self.data.groups[part.batch].to(self.device)
        first, last = self.config.temperature
        self.temperature = first + (last - first) * part.step / max(self.steps - 1, 1)
        self._new = {"queue": F.normalize(teacher, dim=-1), "queue_groups": groups}
        loss, terms = self.objective(
            student=student, teacher=teacher, groups=groups, temperature=self.temperature,
            hardest=self.config.hardest, **self.state,
        )  # fmt: skip
        return loss, terms

    def stepped(self) -> None:
        if self.config.queue:
            # Shifting whole blocks keeps the queue a plain tensor.
            self.state = {
                name: torch.cat([kept, self._new[name]])[-self.config.queue :] for name, kept in self.state.items()
            }

    @contextmanager
    def kept(self) -> Iterator[None]:
        """The projector with the weights that ``keep`` would leave, for as long as this lasts."""
        trained = self._weights()
        self.keep()
        try:
            yield
        finally:
            self._put(trained)

    def keep(self) -> None:
        """Go back ``start_share`` of the way to the weights that training began with."""
        trained, share = self._weights(), self.config.start_share
        self._put({name: trained[name].lerp(value.to(self.device), share) for name, value in self.start.items()})

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.projector.named_parameters()}

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.projector.named_parameters():
            if name in weights:
                parameter.copy_(weights[name])

    def numbers(self) -> dict[str, float]:
        return {"temperature": self.temperature}

    def examples(self, part: Part) -> list[dict[str, str]]:
        rows = part.rows.tolist() if self.data.texts else []
        return [{"text": self.data.texts[i], "target": self.data.english[i]} for i in rows]


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
