"""Judge: whose translation does a judge model prefer, the adapter's or a baseline's? Blind, in both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from llink.adapter.prompt import TASKS
from llink.data.pairs import Pair
from llink.errors import LlinkError
from llink.evaluation.base import Evaluator, Metrics, Result, Skip, Subject, prediction
from llink.evaluation.baselines import baseline_answers
from llink.home import home

if TYPE_CHECKING:
    from llink.evaluation.judging import Judge

PAIRS = 32
"""A judge of 1.5 B parameters takes some seconds a verdict on a CPU, and each pair asks for two a baseline."""
RIVALS = ("raw", "direct-lora")
BIASED = 0.2


class Preference(Evaluator):
    """Share of texts in which the adapter's translation is preferred, ties counting half, with its 95 % interval.

    The judge is tried first: one that cannot tell a reference from another text's, or half of it from the text left
    untranslated, is refused.
    """

    name = "judge"
    primary_metric = "preference over raw"

    def sets(self, subject: Subject, dev: Mapping[str, Sequence[Pair]]) -> Mapping[str, Sequence[Pair]]:
        if not subject.judge:
            raise Skip("no judge model was given (--judge)")
        if not rivals(subject):
            raise Skip("no baseline to compare with: raw, or direct-lora with its folder")
        return dev

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        from llink.evaluation.judging.duel import calibrate, duel, summary

        rows = subject.first(rows, PAIRS)
        references, ours = [p.english for p in rows], subject.answers(rows)
        instruction, folder = TASKS["translate"], home() / "verdicts"
        metrics: Metrics = {"pairs": len(rows)}
        warnings: list[str] = []
        found: list[dict[str, str]] = [{} for _ in rows]
        scores: list[dict[str, float]] = [{} for _ in rows]
        try:
            judge = opened(str(subject.judge))
            sources = [p.foreign for p in rows]
            metrics["calibration"] = calibrate(
                judge, instruction, references, folder, sources=sources, seed=subject.seed
            )
            for rival in rivals(subject):
                theirs = baseline_answers(subject, rival, rows)
                duels = duel(judge, instruction, references, ours, theirs, folder, f"Judging against {rival}")
                numbers = summary(duels, seed=subject.seed)
                metrics |= {named(name, rival): value for name, value in numbers.items()}
                warnings += doubts(numbers, rival)
                for i, one in enumerate(duels):
                    found[i] |= {rival: theirs[i], f"verdicts on {rival}": f"{one.ours_first}, {one.ours_second}"}
                    scores[i] |= {} if one.score is None else {f"preference over {rival}": one.score}
        except LlinkError as error:
            # A judge that is no use says nothing against the adapter; the other suites stand.
            raise Skip(str(error)) from error
        predictions = [
            prediction(pair, score, answer=answer, **rest)
            for pair, answer, score, rest in zip(rows, ours, scores, found, strict=True)
        ]
        return Result(metrics, predictions, warnings, {"judge": judge.name})


def rivals(subject: Subject) -> list[str]:
    """The baselines whose answers are judged beside the adapter's."""
    return [name for name in RIVALS if name in subject.against and (name != "direct-lora" or subject.lora)]


@lru_cache(maxsize=1)
def opened(name: str) -> Judge:
    """The judge, kept for the next set: a local one takes long to load."""
    from llink.evaluation.judging import open_judge

    return open_judge(name)


def named(name: str, rival: str) -> str:
    """A number of ``llink.evaluation.judging.duel.summary`` as a metric."""
    if name in ("low", "high"):
        return f"preference over {rival} {name}"
    return f"{name} over {rival}" if name in ("preference", "wins", "ties", "losses") else f"{name} ({rival})"


def doubts(numbers: Mapping[str, float], rival: str) -> list[str]:
    """What stands against reading much into the numbers."""
    found = []
    if numbers["unclear"] > 0.1:
        found.append(f"The judge gave no clear verdict on {numbers['unclear']:.0%} of the texts (against {rival}).")
    if abs(numbers.get("position bias", 0)) > BIASED:
        first = 0.5 + numbers["position bias"]
        found.append(f"Position bias: {first:.0%} of its verdicts went to the answer shown first (against {rival}).")
    if numbers.get("low", 0) <= 0.5 <= numbers.get("high", 1):
        found.append(f"No preference can be told: the interval against {rival} holds one half.")
    return found


evaluator = Preference()
