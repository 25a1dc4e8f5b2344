"""The parts of a step's batch, and the processes that share them out: what each tells the others.

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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from llink.recipe import Recipe


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


def place_of(recipe: Recipe, accelerator: Accelerator) -> dict[str, Any]:
    """Where, and in which number format, this process holds the frozen models."""
    device = str(accelerator.device) if recipe.device == "auto" else recipe.device
    return {"device": device, "dtype": None if recipe.dtype == "auto" else recipe.dtype}


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
        made: what the stage made of the batch for this step, ``Stage.prepare``; the same for all of its parts.
    """

    step: int
    batch: Any
    number: int
    count: int
    exchange: Exchange
    beforehand: bool = False
    only: slice = field(default_factory=lambda: slice(None))
    made: Any = None

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


class Exchange:
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


def whole_batch(batch: int, accumulation: int, accelerator: Accelerator) -> int:
    """Rows of a step's batch: those of all parts."""
    return batch * accumulation * accelerator.num_processes


def part_seed(seed: int, step: int, number: int) -> int:
    """What randomness begins with in a part of a step."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {number}".encode()).digest()[:7], "big")


def deal(batch: Any, made: Any, step: int, accelerator: Accelerator, accumulation: int) -> list[Part]:
    """The parts of a batch that are this rank's."""
    ranks, exchange = accelerator.num_processes, Exchange(accelerator, accumulation)
    return [
        Part(step, batch, m * ranks + accelerator.process_index, accumulation * ranks, exchange, made=made)
        for m in range(accumulation)
    ]


def average(found: list[Tensor], accelerator: Accelerator) -> list[float]:
    """The average of numbers over all parts of all ranks."""
    averaged: Any = accelerator.reduce(torch.stack(found).mean(0), "mean")
    return averaged.tolist()


def average_replicated(modules: Sequence[nn.Module], accelerator: Accelerator) -> None:
    """The gradients of modules that FSDP leaves whole, and so alone."""
    if accelerator.is_fsdp2:
        for module in modules:
            for parameter in module.parameters():
                if parameter.requires_grad:
                    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                    parameter.grad = accelerator.reduce(gradient, "mean")
