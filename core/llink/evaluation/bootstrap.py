"""How sure a mean is: the bootstrap, by resampling values with replacement (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

RESAMPLES = 10_000
CHUNK = 1000
"""Resamples held at a time."""


def resampled_means(values: Sequence[float], resamples: int = RESAMPLES, seed: int = 17) -> np.ndarray:
    """Means ``[resamples]`` of so many samples of the values; the same for the same seed."""
    import numpy as np

    known, draw = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    starts = range(0, resamples, CHUNK)
    sizes = ((min(CHUNK, resamples - start), len(known)) for start in starts)
    return np.concatenate([known[draw.integers(0, len(known), size)].mean(1) for size in sizes])


def interval(means: np.ndarray) -> tuple[float, float]:
    """The bounds of the 95 % interval."""
    import numpy as np

    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
