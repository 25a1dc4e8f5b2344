"""Stage A: the projector learns to put a sentence where the teacher puts its translation.

Works on cached vectors alone: neither frozen model is run here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llink.features.cache import Vectors
from llink.recipe import StageA
from llink.training.context import Context
from llink.training.loop import PartLoss, Schedule, Stage, fit
from llink.training.objective import Objective
from llink.training.parts import Part, whole_batch


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
    context: Context,
    dev: Callable[[], dict[str, float]] = dict,
) -> Any:
    """Train in place and return ``projector``.

    Logged are temperature and every loss by name every 100 steps, and what ``dev`` measures.

    Args:
        dev: called with the projector in evaluation mode and with the weights that would be kept.

    Raises:
        LlinkError: E402 when the loss is not finite, E408 when a loss of a plugin cannot be had.
    """
    size = whole_batch(config.batch, config.accumulation, context.accelerator)
    steps = max(1, round(config.epochs * math.ceil(len(data.inputs) / size)))
    schedule = Schedule(
        size, steps, config.accumulation, config.warmup, config.min_lr / config.lr, config.weight_decay, config.clip
    )
    stage = _Alignment(projector, data, config, schedule, context)

    def of_kept() -> dict[str, float]:
        with stage.kept():
            return dev()

    fit(stage, context, dev=of_kept)
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
        self, projector: Any, data: AlignmentData, config: StageA, schedule: Schedule, context: Context
    ) -> None:
        super().__init__(schedule)
        self.projector, self.replicated = projector, [projector]
        self.data, self.config, self.seed, self.device = data, config, context.seed, context.accelerator.device
        self.objective = Objective("stage_a", config.losses)
        self.state = {
            "queue": torch.zeros(0, data.teachers.shape[1]),
            "queue_groups": torch.zeros(0, dtype=torch.long),
        }
        self.start = self._weights() if config.start_share else {}

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.projector.parameters()), "lr": self.config.lr}]

    def batches(self, size: int, first: int) -> Iterator[Tensor]:
        return epoch_batches(len(self.data.inputs), size, self.seed, first)

    def temperature(self, step: int) -> float:
        """From the first to the last, step by step."""
        first, last = self.config.temperature
        return first + (last - first) * step / max(self.schedule.steps - 1, 1)

    def loss(self, part: Part) -> PartLoss:
        inputs, own = (vectors[part.rows].to(self.device) for vectors in (self.data.inputs, self.data.teachers))
        student, teacher = part.join("student", self.projector(inputs)), part.join("teacher", own)
        if part.beforehand:
            return PartLoss(student.sum(), {})
        groups = self.data.groups[part.batch].to(self.device)
        loss, terms = self.objective(
            student=student,
            teacher=teacher,
            groups=groups,
            temperature=self.temperature(part.step),
            hardest=self.config.hardest,
            **self.state,
        )
        return PartLoss(loss, terms, {"queue": F.normalize(teacher, dim=-1), "queue_groups": groups})

    def stepped(self, kept: dict[str, Tensor]) -> None:
        if self.config.queue:
            # Shifting whole blocks keeps the queue a plain tensor.
            self.state = {
                name: torch.cat([older, kept[name]])[-self.config.queue :] for name, older in self.state.items()
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

    def numbers(self, step: int) -> dict[str, float]:
        return {"temperature": self.temperature(step)}

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
