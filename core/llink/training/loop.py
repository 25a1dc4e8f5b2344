"""The training loop of every stage: accelerate, schedule, checkpoints, log, and a stop where the loss is no number.

A step's batch has ``batch x accumulation x processes`` rows. It is dealt out in parts, row i to part i modulo their
number, and a part is the same whoever computes it and when: its dropout is seeded by seed, step and part. So one process
that accumulates over two parts trains as two processes do, and a run goes on after a kill as if nothing had been.

Losses are those of the whole batch, not averages over its parts. What depends on this part's rows alone is a sum, divided
by what the whole batch has of it. Where a loss compares rows (InfoNCE), each part computes it for the whole batch, with
the other parts' vectors as constants: the gradients of all parts add up to the gradient of the batch. Other ranks' vectors
are gathered; those of parts that come later on this rank are computed beforehand without a gradient, as in GradCache
(arXiv 2101.06983).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast
from torch import Tensor, nn

from llink.errors import LlinkError
from llink.home import atomic_write
from llink.progress import track
from llink.training.checkpoints import Checkpoint, whole

Log = Callable[[dict[str, Any]], None]
Measure = Callable[[], dict[str, Any]]


def accelerator_for(device: str, **options: Any) -> Accelerator:
    """The accelerator of a run.

    Args:
        device: of the recipe; ``auto`` takes a GPU where there is one.
        options: passed on (trackers).
    """
    # accelerate sees several processes on a machine without a GPU only when it is told that the CPU is meant.
    cpu = device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
    handlers = [
        DistributedDataParallelKwargs(broadcast_buffers=False),  # means and rotary tables never change
        # Rank 0 alone lets the decoder answer the instructions, for hours perhaps, and the others wait.
        InitProcessGroupKwargs(timeout=timedelta(hours=12)),
    ]
    return Accelerator(cpu=cpu, kwargs_handlers=handlers, **options)


@dataclass
class Part:
    """One part of a step's batch.

    Attributes:
        step: from 0.
        batch: row numbers of the whole batch, the same on all ranks.
        number, count: which part of how many.
        exchange: what the parts tell each other.
        beforehand: whether this pass only finds what other parts need to know; it has no gradient.
        only: which of the part's rows, where it goes through the model in pieces.
    """

    step: int
    batch: Any
    number: int
    count: int
    exchange: _Exchange
    beforehand: bool = False
    only: slice = field(default_factory=lambda: slice(None))

    @property
    def rows(self) -> Any:
        """The row numbers of this part."""
        return self.pick(self.batch)

    def pick(self, of_batch: Any) -> Any:
        """This part's share of what there is for each row of the batch.

        In a batch of fewer rows than parts, some go through a row of another with ``weight`` 0: all ranks must do alike.
        """
        return of_batch[self.number :: self.count][self.only] if self.weight else of_batch[:1]

    @property
    def weight(self) -> float:
        """0 where the part has no row of its own, else 1."""
        return float(len(range(self.number, len(self.batch), self.count)[self.only]) > 0)

    def cut(self, most: int) -> list[Part]:
        """This part in pieces of at most so many rows, at least one; as many pieces as every other part of the batch."""
        width, most = -(-len(self.batch) // self.count), max(1, most)
        return [replace(self, only=slice(start, start + most)) for start in range(0, width, most)]

    def join(self, name: str, own: Tensor) -> Tensor:
        """Vectors ``[b, ...]`` of this part's rows -> those of the whole batch ``[B, ...]``, in its order.

        The gradient reaches ``own``. It counts ``count`` times, because the gradients of the parts will be averaged.
        """
        if self.count == 1:
            return own
        width = -(-len(self.batch) // self.count)
        pieces = self._pieces(name, torch.cat([own, own.new_zeros(width - len(own), *own.shape[1:])]))
        return torch.stack(pieces, 1).flatten(0, 1)[: len(self.batch)]

    def total(self, name: str, own: Tensor) -> Tensor:
        """The sum over all parts of a number; gradient as in ``join``."""
        own = own * self.weight
        return own if self.count == 1 else torch.stack(self._pieces(name, own)).sum()

    def known(self, name: str) -> Tensor | None:
        """A ``total`` without gradient, where the parts have exchanged it already."""
        pieces = self.exchange.all.get(name)
        return None if pieces is None else torch.stack(pieces).sum()

    def _pieces(self, name: str, own: Tensor) -> list[Tensor]:
        if self.beforehand:
            self.exchange.keep(name, own)
            return [own] * self.count  # of no meaning yet
        pieces = list(self.exchange(name, own))
        if own.requires_grad:
            own = own.view_as(own)
            own.register_hook(lambda gradient: gradient * self.count)
        pieces[self.number] = own
        return pieces


class _Exchange:
    """What the parts of one step know of each other: by name one tensor a part, without gradient."""

    def __init__(self, accelerator: Accelerator, accumulation: int) -> None:
        self.accelerator, self.accumulation = accelerator, accumulation
        self.all: dict[str, list[Tensor]] = {}
        self._kept: dict[str, list[Tensor]] = {}

    def keep(self, name: str, own: Tensor) -> None:
        """Keep what a pass beforehand found; when all of this rank's parts have said it, the ranks exchange it."""
        kept = self._kept.setdefault(name, [])
        kept.append(own.detach())
        if len(kept) == self.accumulation:
            self._gather(name, kept)

    def __call__(self, name: str, own: Tensor) -> list[Tensor]:
        if name not in self.all:
            if self.accumulation > 1:
                raise KeyError(f"no pass beforehand has found '{name}'")
            self._gather(name, [own.detach()])
        return self.all[name]

    def _gather(self, name: str, kept: list[Tensor]) -> None:
        ranks: Any = self.accelerator.gather(torch.stack(kept).contiguous())
        # Part m * ranks + r is the m-th of rank r.
        by_part = ranks.unflatten(0, (-1, self.accumulation)).transpose(0, 1).flatten(0, 1)
        self.all[name] = list(by_part)


class Stage(nn.Module, ABC):
    """What the loop trains. Its sub-modules are all that the loss runs through, frozen ones included.

    Attributes:
        name: in the log, and of the files.
        label: of the progress bar and in messages.
        cure: what to do when the loss is not finite.
        log_every: steps between rows of the log.
        shares: whether a loss compares rows, so that parts must know of each other.
        state: tensors that a checkpoint keeps beside weights and optimizer.
        replicated: sub-modules that FSDP leaves whole on each rank.
    """

    name: str
    label: str
    cure: str
    log_every = 20
    shares = True
    state: dict[str, Tensor]
    replicated: Sequence[nn.Module] = ()
    # Where FSDP cuts, by the name that accelerate reads it under.
    _no_split_modules: Sequence[str] = ()

    def __init__(self) -> None:
        super().__init__()
        self.state = {}

    def forward(self, work: Part | Callable[[], Any]) -> Any:
        """The loss of a part; or ``work()``: under FSDP the weights are in one piece only within this call."""
        return self.loss(work) if isinstance(work, Part) else work()

    @abstractmethod
    def loss(self, part: Part) -> tuple[Tensor, dict[str, Tensor]]:
        """A part's loss and the numbers to log, such that their *averages over the parts* are those of the batch."""

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """AdamW's parameter groups, each with its highest learning rate."""

    @abstractmethod
    def batches(self, size: int, first: int) -> Iterator[Any]:
        """Endless batches of ``size`` row numbers, from number ``first``; the same on all ranks."""

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

    def numbers(self) -> dict[str, float]:
        """More to log of a step."""
        return {}

    def stepped(self) -> None:
        """Called after each step of the optimizer."""


@dataclass(frozen=True)
class Trained:
    """Steps and seconds of a training over all resumes, and what was measured last."""

    steps: int
    seconds: float
    measured: dict[str, Any]


def fit(
    stage: Stage,
    *,
    accelerator: Accelerator,
    seed: int,
    size: int,
    accumulation: int,
    steps: int,
    schedule: Callable[[int, int], float],
    weight_decay: float,
    clip: float,
    seconds: float | None = None,
    every: int = 500,
    checkpoint: Path | None = None,
    dev: Measure = dict,
    last: Measure = dict,
    log: Log = lambda _: None,
    seen: Callable[..., None] = lambda *_: None,
) -> Trained:
    """Train in place, or go on with it.

    Args:
        size: rows of a step's batch, over all parts (``whole_batch``).
        schedule: (step, of how many) -> factor of every learning rate.
        seconds: train for this long instead of ``steps``; the schedule then goes by the clock, in thousandths.
        every: steps between checkpoints, and between calls of ``dev``, which is called at the end too.
        checkpoint: file; training goes on from it where there is one. A batch without a finite loss is put beside it.
        dev, last: measure in evaluation mode, on all ranks alike; ``last`` only once, when all is done.
        log: gets rows of numbers, on all ranks.
        seen: gets ``stage.size`` of what this rank went through, part by part.

    Raises:
        LlinkError: E402 when loss or gradient are not finite.
    """
    model, optimizer = _prepare(stage, accelerator, weight_decay, accumulation)
    rates = [group["lr"] for group in optimizer.param_groups]
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    saved = Checkpoint({stage.name: stage}, {stage.name: optimizer}, _kept(stage, 0.0))
    step = saved.load(checkpoint) if checkpoint else 0
    clock = _Clock(accelerator, steps, seconds, float(saved.tensors.pop("seconds")))
    stage.state = {name: value.to(accelerator.device) for name, value in saved.tensors.items()}
    batches = stage.batches(size, step)
    with track(stage.label, total=clock.total, unit=clock.unit) as bar:
        while True:
            here, of = clock.place(step)
            bar(clock.advance())
            if here >= of:
                break
            stage.train()
            factor = schedule(here, of)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            parts = _deal(next(batches), step, accelerator, accumulation)
            if accumulation > 1 and stage.shares:
                with torch.no_grad():
                    for part in parts:
                        torch.manual_seed(part_seed(seed, step, part.number))
                        model(replace(part, beforehand=True))
            found = []
            for part in parts:
                with accelerator.accumulate(model):
                    torch.manual_seed(part_seed(seed, step, part.number))
                    *pieces, last_piece = stage.pieces(part)
                    with accelerator.no_sync(model) if pieces and accelerator.sync_gradients else nullcontext():
                        before = [_through(model, piece, accelerator)[0] for piece in pieces]
                    numbers, terms = _through(model, last_piece, accelerator)
                    found.append(sum(before, numbers))
                    if accelerator.sync_gradients:
                        _average_replicated(stage, accelerator)
                        norm = float(whole(accelerator.clip_grad_norm_(trainable, clip)))
                        values = _average(found, accelerator)
                        if not (math.isfinite(values[0]) and math.isfinite(norm)):
                            raise _stop(stage, part, values[0], norm, seed, accelerator, checkpoint)
                    optimizer.step()
                    optimizer.zero_grad()
                seen(*stage.size(part))
            stage.stepped()
            step += 1
            done = seconds is None and step == steps
            if (step - 1) % stage.log_every == 0 or done:
                row = dict(zip(("loss", *terms), values, strict=True)) | stage.numbers()
                log({**row, "stage": stage.name, "step": step - 1})
            if step % every == 0 and not done:
                if checkpoint:
                    saved.tensors = _kept(stage, clock.spent())
                    saved.save(checkpoint, step, write=accelerator.is_main_process)
                _log_dev(stage, step, _measure(model, accelerator, dev), log)
    _log_dev(stage, step, _measure(model, accelerator, dev), log)
    measured, spent = _measure(model, accelerator, last), clock.spent()
    _release(stage, accelerator)
    return Trained(step, spent, measured)


def _through(model: Any, part: Part, accelerator: Accelerator) -> tuple[Tensor, list[str]]:
    """Forward and backward pass of a part; its loss and terms as one tensor, and what the terms are called."""
    loss, terms = model(part)
    accelerator.backward(loss)
    return torch.stack([value.detach().float() for value in (loss, *terms.values())]), list(terms)


def whole_batch(batch: int, accumulation: int, accelerator: Accelerator) -> int:
    """Rows of a step's batch: those of all parts."""
    return batch * accumulation * accelerator.num_processes


def warmup_cosine(step: int, steps: int, warmup: float) -> float:
    """Learning-rate factor: linear from 0 over the warm-up share, then cosine to 0."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, steps - ramp)))


def part_seed(seed: int, step: int, number: int) -> int:
    """What randomness begins with in a part of a step."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {number}".encode()).digest()[:7], "big")


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


def _prepare(stage: Stage, accelerator: Accelerator, weight_decay: float, accumulation: int) -> tuple[Any, Any]:
    stage.to(accelerator.device)
    accelerator.gradient_accumulation_steps, accelerator.step = accumulation, 0
    if accelerator.is_fsdp2:
        accelerator.state.fsdp_plugin.ignored_modules = list(stage.replicated)
    optimizer = torch.optim.AdamW(stage.groups(), betas=(0.9, 0.98), weight_decay=weight_decay)
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


def _deal(batch: Any, step: int, accelerator: Accelerator, accumulation: int) -> list[Part]:
    ranks, exchange = accelerator.num_processes, _Exchange(accelerator, accumulation)
    return [
        Part(step, batch, m * ranks + accelerator.process_index, accumulation * ranks, exchange)
        for m in range(accumulation)
    ]


def _average(found: list[Tensor], accelerator: Accelerator) -> list[float]:
    average: Any = accelerator.reduce(torch.stack(found).mean(0), "mean")
    return average.tolist()


def _average_replicated(stage: Stage, accelerator: Accelerator) -> None:
    """What FSDP leaves whole, it leaves alone."""
    if accelerator.is_fsdp2:
        for module in stage.replicated:
            for parameter in module.parameters():
                if parameter.requires_grad:
                    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad = accelerator.reduce(gradient, "mean")


def _measure(model: Any, accelerator: Accelerator, measure: Measure) -> dict[str, Any]:
    model.eval()
    with torch.no_grad():
        found: dict[str, Any] = model(measure)
    if accelerator.is_fsdp2:
        model.reshard()  # which otherwise only a backward pass does
    return found


def _log_dev(stage: Stage, step: int, found: dict[str, Any], log: Log) -> None:
    if found:
        log({"stage": stage.name, "step": step - 1, **found})


def _kept(stage: Stage, seconds: float) -> dict[str, Tensor]:
    return {**stage.state, "seconds": torch.tensor([seconds], dtype=torch.float64)}


def _stop(
    stage: Stage, part: Part, loss: float, norm: float, seed: int, accelerator: Accelerator, checkpoint: Path | None
) -> LlinkError:
    """The error of a step without a finite loss or gradient, its batch saved by rank 0."""
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient is {norm}"
    hint = stage.cure
    if checkpoint:
        path = checkpoint.with_suffix(".batch.json")
        hint += f" The batch is in {path}."
        if accelerator.is_main_process:
            parts = [replace(part, number=number) for number in range(part.count)]
            content = {
                "stage": stage.name,
                "step": part.step,
                "loss": str(loss),
                "gradient_norm": str(norm),
                "parts": [
                    {"rng": part_seed(seed, p.step, p.number), "examples": stage.examples(p)} for p in parts if p.weight
                ],
            }
            atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return LlinkError("E402", f"{stage.label}: {what} at step {part.step}.", hint)
