"""The training loop of every stage: schedule, checkpoints, log, and a stop where the loss is no number."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from llink.errors import LlinkError
from llink.home import atomic_write
from llink.progress import track
from llink.training.checkpoints import Checkpoint, whole
from llink.training.context import Context, Measure
from llink.training.parts import Part, average, average_replicated, deal, part_seed


@dataclass(frozen=True)
class Schedule:
    """How long a stage is trained, and how fast.

    Attributes:
        size: rows of a step's batch, over all parts (``whole_batch``). steps: how many.
        accumulation: parts of a batch a rank.
        warmup: share of the steps. least: of every learning rate, as a share of its highest.
    """

    size: int
    steps: int
    accumulation: int = 1
    warmup: float = 0.05
    least: float = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0

    def factor(self, step: int, of: int) -> float:
        """What every learning rate is multiplied with."""
        return self.least + (1 - self.least) * warmup_cosine(step, of, self.warmup)


class PartLoss(NamedTuple):
    """What a stage made of a part.

    Attributes:
        loss: of the part, and ``terms``, numbers to log, such that their *averages over the parts* are those of the batch.
        kept: what the stage takes up once the step is done, see ``Stage.stepped``.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    kept: dict[str, Tensor] = {}  # noqa: RUF012 (never changed)


class Stage(nn.Module, ABC):
    """What the loop trains. Its sub-modules are all that the loss runs through, frozen ones included.

    Attributes:
        name: in the log.
        label: of the progress bar and in messages.
        cure: what to do when the loss is not finite.
        log_every: steps between rows of the log.
        shares: whether a loss compares rows, so that parts must know of each other.
        state: tensors that a checkpoint keeps beside weights and optimizer.
        replicated: sub-modules that FSDP leaves whole on each rank.
        schedule: how long it is trained, and how fast.
    """

    name: str
    label: str
    cure: str
    log_every = 20
    shares = True
    state: dict[str, Tensor]
    schedule: Schedule
    replicated: Sequence[nn.Module] = ()
    # Where FSDP cuts, by the name that accelerate reads it under.
    _no_split_modules: Sequence[str] = ()

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule, self.state = schedule, {}

    def forward(self, work: Part | Callable[[], Any]) -> Any:
        """The loss of a part; or ``work()``: under FSDP the weights are in one piece only within this call."""
        return self.loss(work) if isinstance(work, Part) else work()

    @abstractmethod
    def loss(self, part: Part) -> PartLoss:
        """A part's loss; the stage is as it was before."""

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """AdamW's parameter groups, each with its highest learning rate."""

    @abstractmethod
    def batches(self, size: int, first: int) -> Iterator[Any]:
        """Endless batches of ``size`` row numbers, from number ``first``; the same on all ranks."""

    def prepare(self, batch: Any, step: int) -> Any:
        """What the parts of a batch get as ``Part.made``, made once a step."""

    @abstractmethod
    def examples(self, part: Part) -> list[dict[str, str]]:
        """A part's rows as a person would read them: texts and targets."""

    def pieces(self, part: Part) -> list[Part]:
        """The part as it goes through forward and backward pass: whole, or piece by piece where its activations would not
        fit into memory. For a loss that is a sum over rows alone; all parts have as many pieces."""
        return [part]

    def size(self, part: Part) -> tuple[int, ...]:
        """How many examples a part has, and where that is of interest how many tokens of the decoder."""
        return (len(part.rows),)

    def numbers(self, step: int) -> dict[str, float]:
        """More to log of a step."""
        return {}

    def stepped(self, kept: dict[str, Tensor]) -> None:
        """Called after each step of the optimizer, with what the last part's ``PartLoss`` kept."""


@dataclass(frozen=True)
class Trained:
    """Steps and seconds of a training over all resumes, and what was measured last."""

    steps: int
    seconds: float
    measured: dict[str, Any]


def fit(
    stage: Stage, context: Context, *, dev: Measure = dict, last: Measure = dict, seconds: float | None = None
) -> Trained:
    """Train in place, or go on with it.

    Args:
        dev, last: measure in evaluation mode, on all ranks alike: ``dev`` every ``context.every`` steps and at the end,
            ``last`` only once, when all is done.
        seconds: train for this long instead of the schedule's steps; it then goes by the clock, in thousandths.

    Raises:
        LlinkError: E402 when loss or gradient are not finite.
    """
    accelerator, plan = context.accelerator, stage.schedule
    model, optimizer = _prepare(stage, accelerator)
    rates = [group["lr"] for group in optimizer.param_groups]
    saved = Checkpoint({stage.name: stage}, {stage.name: optimizer}, _state(stage, 0.0))
    step = saved.load(context.checkpoint) if context.checkpoint else 0
    clock = _Clock(accelerator, plan.steps, seconds, float(saved.tensors.pop("seconds")))
    stage.state = {name: value.to(accelerator.device) for name, value in saved.tensors.items()}
    batches = stage.batches(plan.size, step)
    with track(stage.label, total=clock.total, unit=clock.unit) as bar:
        while True:
            here, of = clock.place(step)
            bar(clock.advance())
            if here >= of:
                break
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * plan.factor(here, of)
            numbers = _step(stage, model, optimizer, next(batches), step, context)
            step += 1
            done = seconds is None and step == plan.steps
            if (step - 1) % stage.log_every == 0 or done:
                context.log({**numbers, **stage.numbers(step - 1), "stage": stage.name, "step": step - 1})
            if step % context.every == 0 and not done:
                if context.checkpoint:
                    saved.tensors = _state(stage, clock.spent())
                    saved.save(context.checkpoint, step, write=accelerator.is_main_process)
                _log_dev(stage, step, _measure(model, accelerator, dev), context)
    _log_dev(stage, step, _measure(model, accelerator, dev), context)
    measured, spent = _measure(model, accelerator, last), clock.spent()
    _release(stage, accelerator)
    return Trained(step, spent, measured)


def _step(stage: Stage, model: Any, optimizer: Any, batch: Any, step: int, context: Context) -> dict[str, float]:
    """One step of the optimizer; the loss and its terms, averaged over all parts."""
    accelerator, accumulation = context.accelerator, stage.schedule.accumulation
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    stage.train()
    parts = deal(batch, stage.prepare(batch, step), step, accelerator, accumulation)
    if accumulation > 1 and stage.shares:
        with torch.no_grad():
            for part in parts:
                torch.manual_seed(part_seed(context.seed, step, part.number))
                model(replace(part, beforehand=True))
    found = []
    for part in parts:
        with accelerator.accumulate(model):
            torch.manual_seed(part_seed(context.seed, step, part.number))
            *pieces, last_piece = stage.pieces(part)
            with accelerator.no_sync(model) if pieces and accelerator.sync_gradients else nullcontext():
                before = [_through(model, piece, accelerator)[0] for piece in pieces]
            numbers, made = _through(model, last_piece, accelerator)
            found.append(sum(before, numbers))
            if accelerator.sync_gradients:
                average_replicated(stage.replicated, accelerator)
                norm = float(whole(accelerator.clip_grad_norm_(trainable, stage.schedule.clip)))
                values = average(found, accelerator)
                if not (math.isfinite(values[0]) and math.isfinite(norm)):
                    raise _stop(stage, part, values[0], norm, context)
            optimizer.step()
            optimizer.zero_grad()
        context.seen(*stage.size(part))
    stage.stepped(made.kept)
    return dict(zip(("loss", *made.terms), values, strict=True))


def _through(model: Any, part: Part, accelerator: Accelerator) -> tuple[Tensor, PartLoss]:
    """Forward and backward pass of a part; its loss and terms as one tensor, and what it made."""
    made: PartLoss = model(part)
    accelerator.backward(made.loss)
    return torch.stack([value.detach().float() for value in (made.loss, *made.terms.values())]), made


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Learning-rate factor: linear from 0 over the warm-up share, then cosine to 0."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


class _Clock:
    """How far a run is: in steps, or in seconds as rank 0 counts them."""

    def __init__(self, accelerator: Accelerator, steps: int, seconds: float | None, before: float) -> None:
        self.accelerator, self.steps, self.seconds, self.before = accelerator, steps, seconds, before
        self.start = time.monotonic()
        self.total, self.unit = (steps, "it") if seconds is None else (round(seconds), "s")
        self._now = self._shown = 0

    def spent(self) -> float:
        """Seconds, over all resumes."""
        return self.before + time.monotonic() - self.start

    def place(self, step: int) -> tuple[int, int]:
        """Where the schedule is, and of how many."""
        if self.seconds is None:
            self._now = step
            return step, self.steps
        spent = self.spent()
        if self.accelerator.num_processes > 1:
            spent = float(broadcast(torch.tensor([spent], device=self.accelerator.device))[0])
        self._now = min(round(spent), self.total)
        return math.floor(1000 * min(spent / self.seconds, 1)), 1000

    def advance(self) -> int:
        """How much further the progress bar is now."""
        further, self._shown = self._now - self._shown, self._now
        return further


def _prepare(stage: Stage, accelerator: Accelerator) -> tuple[Any, Any]:
    stage.to(accelerator.device)
    accelerator.gradient_accumulation_steps, accelerator.step = stage.schedule.accumulation, 0
    if accelerator.is_fsdp2:
        accelerator.state.fsdp_plugin.ignored_modules = list(stage.replicated)
    optimizer = torch.optim.AdamW(stage.groups(), betas=(0.9, 0.98), weight_decay=stage.schedule.weight_decay)
    return accelerator.prepare(stage, optimizer)


def _release(stage: Stage, accelerator: Accelerator) -> None:
    """Leave plain modules behind: what was trained whole on every rank, nothing of it known to accelerate any more."""
    stage.eval()
    if accelerator.is_fsdp2:
        for module in stage.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.requires_grad:
                    setattr(module, name, nn.Parameter(whole(parameter.detach())))
    accelerator.free_memory()


def _measure(model: Any, accelerator: Accelerator, measure: Measure) -> dict[str, Any]:
    model.eval()
    with torch.no_grad():
        found: dict[str, Any] = model(measure)
    if accelerator.is_fsdp2:
        model.reshard()  # which otherwise only a backward pass does
    return found


def _log_dev(stage: Stage, step: int, found: dict[str, Any], context: Context) -> None:
    if found:
        context.log({"stage": stage.name, "step": step - 1, **found})


def _state(stage: Stage, seconds: float) -> dict[str, Tensor]:
    return {**stage.state, "seconds": torch.tensor([seconds], dtype=torch.float64)}


def _stop(stage: Stage, part: Part, loss: float, norm: float, context: Context) -> LlinkError:
    """The error of a step without a finite loss or gradient, its batch saved by rank 0."""
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
    hint = stage.cure
    if context.checkpoint:
        path = context.checkpoint.with_suffix(".batch.json")
        hint += f" The batch is in {path}."
        if context.accelerator.is_main_process:
            parts = [replace(part, number=number) for number in range(part.count)]
            content = {
                "stage": stage.name,
                "step": part.step,
                "loss": str(loss),
                "gradient_norm": str(norm),
                "parts": [
                    {"rng": part_seed(context.seed, p.step, p.number), "examples": stage.examples(p)}
                    for p in parts
                    if p.weight
                ],
            }
            atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return LlinkError("E402", f"{stage.label}: {what} at step {part.step}.", hint)
