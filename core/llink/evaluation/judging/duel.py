"""Two sets of answers before a judge: calibrated first, each pair in both orders, with an interval."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llink.errors import LlinkError
from llink.evaluation.judging import FIRST, SECOND, TIE, UNCLEAR, Comparison, Judge, ask

TRIALS = 40
LEAST = 0.8
"""Accuracy on the trials below which a judge is refused."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Duel:
    """What came of one item: the verdicts as the judge gave them, ours shown first and ours shown second."""

    ours_first: str
    ours_second: str

    @property
    def score(self) -> float | None:
        """1 where ours is preferred, 0 where theirs is, 0.5 for a tie or when the order decides; None if unclear."""
        worth = {FIRST: 1.0, TIE: 0.5, SECOND: 0.0}
        if UNCLEAR in (self.ours_first, self.ours_second):
            return None
        total = worth[self.ours_first] + 1 - worth[self.ours_second]
        return 0.5 if total == 1 else float(total > 1)


def calibrate(
    judge: Judge,
    instruction: str,
    references: Sequence[str],
    folder: Path,
    *,
    sources: Sequence[str] = (),
    seed: int = 17,
) -> float:
    """How often the judge is right where there is no doubt, the worse of two kinds of trial, up to 40 of each.

    It must prefer a reference to another text's, and half of a reference to the foreign text left as it was: a judge
    that takes the source itself for a translation says nothing about decoders that copy. Each order half of the time.

    Args:
        sources: the foreign text of each reference; without any, the first kind alone.

    Raises:
        LlinkError: E525 when either is less than 0.8, or there are no two different references.
    """
    rows = {" ".join(text.split()): at for at, text in enumerate(references) if text.strip()}
    trials = {
        "a reference from another text's": [(right, right, wrong) for right in rows for wrong in rows if right != wrong]
    }
    if not trials["a reference from another text's"]:
        raise LlinkError("E525", "A judge is tried on two different references at least.", "Give more dev data.")
    if sources:
        trials["half a reference from the text left as it was"] = [
            (text, text[: len(text) // 2], sources[at]) for text, at in rows.items()
        ]
    return min(_tried(judge, instruction, told, shown, folder, seed) for told, shown in trials.items())


def _tried(
    judge: Judge, instruction: str, told: str, trials: list[tuple[str, str, str]], folder: Path, seed: int
) -> float:
    """Accuracy over trials of (reference, better, worse); E525 where it is too low."""
    random.Random(seed).shuffle(trials)
    trials = trials[:TRIALS]
    shown = [
        Comparison(instruction, reference, *((better, worse) if number % 2 else (worse, better)))
        for number, (reference, better, worse) in enumerate(trials)
    ]
    verdicts = ask(judge, shown, folder, "Trying the judge")
    wanted = [FIRST if number % 2 else SECOND for number in range(len(trials))]
    accuracy = sum(v == w for v, w in zip(verdicts, wanted, strict=True)) / len(trials)
    if accuracy < LEAST:
        counts = ", ".join(f"{word} {verdicts.count(word)}" for word in (FIRST, SECOND, TIE, UNCLEAR))
        raise LlinkError(
            "E525", f"The judge {judge.name} told {told} in {accuracy:.0%} of {len(trials)} trials ({counts}), and "
            f"{LEAST:.0%} is the least.", "Take a larger model as --judge.",
        )  # fmt: skip
    return accuracy


def duel(
    judge: Judge,
    instruction: str,
    references: Sequence[str],
    ours: Sequence[str],
    theirs: Sequence[str],
    folder: Path,
    label: str = "Judging",
) -> list[Duel]:
    """Each pair of answers before the judge, in both orders; equal answers are a tie unasked."""
    items = list(zip(references, ours, theirs, strict=True))
    shown = []
    for reference, own, other in items:
        if own.split() != other.split():
            shown += [Comparison(instruction, reference, own, other), Comparison(instruction, reference, other, own)]
    verdicts = iter(ask(judge, shown, folder, label))
    return [
        Duel(TIE, TIE) if own.split() == other.split() else Duel(next(verdicts), next(verdicts))
        for _, own, other in items
    ]


def summary(duels: Sequence[Duel], *, seed: int = 17) -> dict[str, float]:
    """The numbers of many duels.

    Returns:
        ``preference``: mean score over the clear items, with ``low`` and ``high``, the bounds of its 95 % interval by
        bootstrap over items; ``wins``, ``ties``, ``losses`` as shares of them; ``unclear``: share of items without a
        verdict; ``position bias``: how much more than half of the verdicts for one side went to the answer shown
        first, from -0.5 to 0.5 (0 is none, 0.5 always the first); ``order decides``: share of items in which the
        two orders name different answers. Without a clear item only ``unclear``.
    """
    scores = [score for duel in duels if (score := duel.score) is not None]
    if not scores:
        return {"unclear": 1.0}
    low, high = bootstrap(scores, seed=seed)
    sides = [verdict for d in duels for verdict in (d.ours_first, d.ours_second) if verdict in (FIRST, SECOND)]
    flips = sum(d.ours_first == d.ours_second != TIE for d in duels if d.score is not None)
    return {
        "preference": sum(scores) / len(scores),
        "low": low,
        "high": high,
        **{name: scores.count(worth) / len(scores) for name, worth in (("wins", 1), ("ties", 0.5), ("losses", 0))},
        "unclear": 1 - len(scores) / len(duels),
        "position bias": sides.count(FIRST) / len(sides) - 0.5 if sides else 0.0,
        "order decides": flips / len(scores),
    }


def bootstrap(values: Sequence[float], *, seed: int = 17, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The bounds of the 95 % interval of a mean, by resampling the values with replacement."""
    import torch

    known, generator = torch.tensor(values, dtype=torch.float64), torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(values), (resamples, len(values)), generator=generator)
    low, high = torch.quantile(known[chosen].mean(1), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
