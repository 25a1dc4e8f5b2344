"""Comparison of two evaluations: what changed, and is it noise? Paired bootstrap over the examples of both.

Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llink.errors import LlinkError
from llink.evaluation import SUITES, evaluator
from llink.evaluation.results import Evaluation

RESAMPLES = 10_000
SEED = 17
FEWEST = 20
"""Fewer examples make an interval that promises too much."""
_CHUNK = 1000


@dataclass(frozen=True)
class Difference:
    """How one score differs between two evaluations, over the examples that both have.

    Attributes:
        a, b: means. difference: b - a.
        low, high: its 95 % interval.
        p: how often as large a difference comes from the choice of examples alone, both directions.
        lower: whether less is better.
    """

    suite: str
    set: str
    score: str
    examples: int
    a: float
    b: float
    low: float
    high: float
    p: float
    lower: bool = False

    @property
    def difference(self) -> float:
        return self.b - self.a

    @property
    def verdict(self) -> str:
        """In words: ``better, real``, ``worse, real``, ``noise``, ``the same`` or ``too few to tell``."""
        if self.examples < FEWEST:
            return "too few to tell"
        if self.low == self.high == 0:
            return "the same"
        if self.low <= 0 <= self.high:
            return "noise"
        return "better, real" if (self.difference < 0) == self.lower else "worse, real"


def compare(a: Evaluation, b: Evaluation, resamples: int = RESAMPLES, seed: int = SEED) -> list[Difference]:
    """Every score of every example that both evaluations have; E522 where there is none."""
    found = []
    for suite, name in a.examples:
        ours = {row["id"]: row["scores"] for row in a.examples[suite, name]}
        theirs = {row["id"]: row["scores"] for row in b.examples.get((suite, name), [])}
        both = [key for key in ours if key in theirs]
        lower = evaluator(suite).lower if suite in SUITES else frozenset()
        for score in dict.fromkeys(s for key in both for s in ours[key] if s in theirs[key]):
            pairs = [(ours[k][score], theirs[k][score]) for k in both if score in ours[k] and score in theirs[k]]
            found.append(
                Difference(suite, name, score, len(pairs), **bootstrap(pairs, resamples, seed), lower=score in lower)
            )
    if not found:
        raise LlinkError(
            "E522",
            f"{a.folder} and {b.folder} have no example in common.",
            "Evaluate both on the same data and suites.",
        )
    order = {suite: i for i, suite in enumerate(SUITES)}
    return sorted(found, key=lambda d: (order.get(d.suite, len(order)), d.set, d.score))


def bootstrap(pairs: list[tuple[float, float]], resamples: int, seed: int) -> dict[str, Any]:
    """Means, the 95 % interval of their difference and p, by resampling pairs; the same for the same seed."""
    import numpy as np

    values = np.asarray(pairs, dtype=np.float64)
    differences = values[:, 1] - values[:, 0]
    draw = np.random.default_rng(seed)
    means = np.concatenate(
        [
            differences[draw.integers(0, len(differences), (min(_CHUNK, resamples - start), len(differences)))].mean(1)
            for start in range(0, resamples, _CHUNK)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    # One more than was drawn: a p of exactly nought cannot be known from a sample.
    p = 2 * (min((means <= 0).sum(), (means >= 0).sum()) + 1) / (resamples + 1)
    a, b = values.mean(0)
    return {"a": float(a), "b": float(b), "low": float(low), "high": float(high), "p": float(min(p, 1.0))}
