"""Retrieval: does the vector of a foreign sentence find its translation among the others? The paper's protocol."""

from __future__ import annotations

from collections.abc import Sequence

from llink.data.pairs import Pair
from llink.evaluation.base import Evaluator, Metrics, Result, Skip, Subject, mean, parts, prediction
from llink.home import home
from llink.recipe import Teacher

CANDIDATES = 1024
FEW = 128
"""Candidates beside the decoder's own vectors: reading raw text takes it minutes."""
LENGTHS = (20, 40, 80, 160)
"""Characters of the foreign text at which a new bucket begins."""


class Retrieval(Evaluator):
    """R@1/5/10, MRR and mean rank in both directions, by source and by length; the bare encoder's beside it.

    A pair counts once, and every translation of a text is a hit; what repeats and ties there were is told.
    """

    name = "retrieval"
    primary_metric = "r1"

    def __call__(self, subject: Subject, rows: Sequence[Pair]) -> Result:
        import torch

        from llink.evaluation.zero_shot import zero_shot
        from llink.features.cache import FeatureCache
        from llink.features.teacher import TeacherEncoder
        from llink.training.ranks import answers, both_directions, chance, retrieval_ranks, ties

        chosen = subject.first(rows, CANDIDATES)
        rows = list({(p.english, p.foreign): p for p in chosen}.values())
        right = answers(rows)
        if bool(right.all()):
            raise Skip("one text has nothing to be told from")
        resident = subject.engine.resident(subject.code)
        teacher = TeacherEncoder(subject.engine.decoder, Teacher(**resident.manifest.recipe["teacher"]))
        states = FeatureCache(home() / "features", teacher)
        subject.cache.ensure([p.foreign for p in rows])
        with subject.engine.using(None):
            states.ensure([p.english for p in rows], "Teacher states")
        bridge, device = resident.bridge, resident.bridge.reserved.device
        pooled = subject.cache.pooled([p.foreign for p in rows]).to(device)
        taught = states.pooled([p.english for p in rows]).to(device)
        guessed = chance(right)
        metrics: Metrics = {"candidates": len(rows), "chance": guessed}
        with torch.inference_mode():
            if bridge.space == "encoder":
                subject.cache.ensure([p.english for p in rows], "Encoding English")
                metrics["r1 through the projector"] = both_directions(
                    bridge.projector(pooled).cpu(), (taught - bridge.projector.teacher_mean).cpu(), right
                )["r1"]
                taught = subject.cache.pooled([p.english for p in rows]).to(device)
            aligned, english = bridge.aligned(pooled).cpu(), bridge.english(taught).cpu()
        metrics |= both_directions(aligned, english, right)
        if "encoder" in subject.against:
            bare = zero_shot(subject.cache, rows)
            metrics |= {f"bare encoder {name}": bare[name] for name in ("r1", "r5", "r10", "mrr", "mean_rank")}
        few = rows[:FEW]
        for name in subject.against:
            if name in ("raw", "direct-lora"):
                metrics[f"r1 of {len(few)} {name}"] = read_by_decoder(subject, name, few)
                metrics[f"r1 of {len(few)}"] = both_directions(aligned[:FEW], english[:FEW], answers(few))["r1"]
        ranks = retrieval_ranks(aligned, english, right).tolist()
        back = retrieval_ranks(english, aligned, right).tolist()
        for name, of_part in parts(zip(rows, ranks, strict=True), lambda row: row[0].source).items():
            metrics[f"r1 [{name}]"] = mean(rank == 1 for _, rank in of_part)
        for name, of_part in parts(zip(rows, ranks, strict=True), lambda row: bucket(len(row[0].foreign))).items():
            metrics[f"r1 [{name} characters]"] = mean(rank == 1 for _, rank in of_part)
        predictions = [
            prediction(pair, {"r1": float(rank == 1), "mrr": 1 / rank, "back_r1": float(other == 1)},
                       rank=rank, back_rank=other)
            for pair, rank, other in zip(rows, ranks, back, strict=True)
        ]  # fmt: skip
        warnings = told(len(chosen), len(rows), int((right.sum(1) > 1).sum()), ties(aligned, english, right))
        if metrics["r1"] < near_chance(guessed):
            warnings.append(f"R@1 {metrics['r1']:.3f} is near chance ({guessed:.3f}): nothing is aligned.")
        return Result(metrics, predictions, warnings)


def near_chance(chance: float) -> float:
    """R@1 below which nothing is aligned: three times what guessing finds, of few candidates half of what is left to find."""
    return min(3 * chance, (1 + chance) / 2)


def told(pairs: int, different: int, several: int, tied: int) -> list[str]:
    """What repeats and ties among the candidates did to the numbers."""
    lines = []
    if different < pairs:
        lines.append(f"{pairs - different} of {pairs} pairs repeat another one: each counts once.")
    if several:
        lines.append(f"{several} of {different} texts stand in several pairs: each of their translations is a hit.")
    if tied:
        lines.append(f"{tied} of {different} texts find another translation exactly as near as their own: no hit.")
    return lines


def read_by_decoder(subject: Subject, name: str, rows: Sequence[Pair]) -> float:
    """R@1 of the vectors that the decoder itself makes of the foreign texts and of the English, each side centred."""
    import torch

    from llink.evaluation.baselines import reading
    from llink.training.direct_lora import vectors
    from llink.training.ranks import answers, retrieval_metrics

    with reading(subject, name), torch.inference_mode():
        sides = [
            vectors(subject.engine.decoder, texts) for texts in ([p.foreign for p in rows], [p.english for p in rows])
        ]
    foreign, english = (side - side.mean(0) for side in sides)
    return retrieval_metrics(foreign, english, answers(rows))["r1"]


def bucket(length: int) -> str:
    """The bucket of a length, named so that names sort by length."""
    starts = (0, *LENGTHS)
    index = max(i for i, start in enumerate(starts) if length >= start)
    return f"{starts[index]:03}-{starts[index + 1] - 1:03}" if index < len(LENGTHS) else f"{starts[index]:03}+"


evaluator = Retrieval()
