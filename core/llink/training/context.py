"""What all stages of a run share: its processes, its seed, and where and how often it is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

Log = Callable[[dict[str, Any]], None]
Measure = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Context:
    """How a stage is trained, whatever it trains.

    Attributes:
        seed: fixes the order of batches, and dropout.
        every: steps between checkpoints, and between dev measures.
        checkpoint: file; training goes on from it where there is one. A batch without a finite loss is put beside it.
        log: gets rows of numbers, on all ranks.
        seen: gets ``Stage.size`` of what this rank went through, part by part.
    """

    accelerator: Accelerator
    seed: int
    every: int = 500
    checkpoint: Path | None = None
    log: Log = lambda _: None
    seen: Callable[..., None] = lambda *_: None
