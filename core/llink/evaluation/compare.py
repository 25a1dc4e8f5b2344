"""Comparison of two evaluations: what changed, and is it noise? Paired bootstrap over the examples of both.

Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llink.errors import LlinkError
from llink.evaluation import SUITES, evaluator
from llink.evaluation.bootstrap import RESAMPLES, interval, resampled_means
from llink.evaluation.results import Evaluation

SEED = 17
FEWEST = 20
"""Fewer examples make an interval that promises too much."""


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
    means = resampled_means([b - a for a, b in pairs], resamples, seed)
    low, high = interval(means)
    # One more than was drawn: a p of exactly nought cannot be known from a sample.
    p = 2 * (min((means <= 0).sum(), (means >= 0).sum()) + 1) / (resamples + 1)
    a, b = (sum(side) / len(pairs) for side in zip(*pairs, strict=True))
    return {"a": a, "b": b, "low": low, "high": high, "p": float(min(p, 1.0))}
