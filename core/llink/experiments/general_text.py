"""General text: what helps stage A where training text is of one domain? Ideas beside the recipe, one at a time."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llink import plugins
from llink.data.pairs import Pair, training_pairs
from llink.experiments.base import Changes, Experiment, Row, Study
from llink.experiments.drawing import across
from llink.recipe import Recipe
from llink.training.ranks import answers, both_directions
from llink.training.run import Run

PENALTIES = (0.01, 1.0, 10.0)
"""Of leaving the encoder's own geometry, in units of the mean variance of its dimensions."""
JOINED = 0.3
"""Texts of two pairs, as a share of the pairs."""
WHOLE = "whole"


class GeneralText(Experiment):
    """Retrieval after stage A by the recipe, and with other pairs or means; and after a mere map between languages."""

    name = "general-text"
    size = (11, 3.8)

    def columns(self, recipe: Recipe) -> dict[str, str]:
        return {
            "changed": "", "pairs": ",d", **{f"R@1, {dev}": ".3f" for dev in recipe.data.dev},
            **{f"from English, {dev}": ".3f" for dev in recipe.data.dev},
        }  # fmt: skip

    def variants(self, study: Study) -> dict[str, Changes]:
        means = {"data.match_means": not study.recipe.data.match_means}
        return {WHOLE: {}, "means": means, **{idea: {} for idea in IDEAS}, "map": {}}

    def measure(self, study: Study, run: Run) -> list[Row]:
        name = run.out.name
        if name == "map":
            return mapped(run)
        if name in IDEAS:
            told, rows = IDEAS[name](study, run)
            run.pairs = replace(run.pairs, rows=rows)
        elif name == WHOLE:
            told = "nothing"
        else:
            told = "means matched" if run.recipe.data.match_means else "means as they are"
        run.stage_a()
        return [_row(run, told, run.retrieval(run.aligned()))]

    def remarks(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        return ["R@1 to English, and from English. The penalty of a map is in units of the inputs' mean variance."], []

    def draw(self, canvas: Any, rows: Sequence[Row]) -> None:
        names = [name for name in rows[0] if name.startswith("R@1")]
        for place, name in enumerate(names):
            across(canvas.add_subplot(1, len(names), place + 1), {row["changed"]: row[name] for row in rows}, name)


def least_similar(share: float) -> Callable[[Study, Run], tuple[str, list[Pair]]]:
    """The pairs without those whose two sides the bare encoder, each side centred, puts farthest apart."""

    def chosen(study: Study, run: Run) -> tuple[str, list[Pair]]:
        foreign, english = _sides(run)
        alike = F.cosine_similarity(foreign - foreign.mean(0), english - english.mean(0))
        kept = alike >= alike.quantile(share)
        rows = [pair for pair, keep in zip(run.pairs.rows, kept.tolist(), strict=True) if keep]
        return f"without the {share:.0%} least similar", rows

    return chosen


def joined(study: Study, run: Run) -> tuple[str, list[Pair]]:
    """The pairs and, beside them, texts of two pairs of one source each, within the recipe's length."""
    pick, by_source = random.Random(run.recipe.seed), dict[str, list[Pair]]()
    for pair in run.pairs.rows:
        by_source.setdefault(pair.source, []).append(pair)
    found = []
    for one in pick.choices(run.pairs.rows, k=round(JOINED * len(run.pairs.rows))):
        other = pick.choice(by_source[one.source])
        if len(one.foreign) + len(other.foreign) < run.recipe.data.max_chars:
            both = f"{one.english} {other.english}", f"{one.foreign} {other.foreign}"
            found.append(replace(one, english=both[0], foreign=both[1]))
    return "and texts of two pairs", [*run.pairs.rows, *found]


def others(study: Study, run: Run) -> tuple[str, list[Pair]]:
    """The pairs and, beside them, half as many of every other language that has text in the data folder."""
    rows, codes = list(run.pairs.rows), []
    for code, language in plugins.languages().items():
        file = f"{code}/train.jsonl.gz"
        if code != run.language.code and (study.data / file).exists():
            wanted = {"train": [file], "max_pairs": max(2, len(run.pairs.rows) // 2), "sample": {}, "columns": {}}
            rows += training_pairs(run.recipe.data.model_copy(update=wanted), study.data, language.normalise).rows
            codes.append(code)
    return f"and other languages' pairs ({', '.join(codes) or 'none there'})", rows


IDEAS = {
    "similar-90": least_similar(0.1),
    "similar-70": least_similar(0.3),
    "joined": joined,
    "others": others,
}


def mapped(run: Run) -> list[Row]:
    """Retrieval by the encoder's own vectors after a linear map from the foreign side to the English, learnt by ridge
    regression on the training pairs: its penalty pulls it to the identity. One row a penalty of ``PENALTIES``."""
    foreign, english = _sides(run)
    run.cache.ensure([p.english for pairs in run.dev.values() for p in pairs], "Encoding English")
    means = foreign.mean(0), english.mean(0)
    rows = []
    for penalty in PENALTIES:
        matrix = ridge(foreign - means[0], english - means[1], penalty)
        found = {
            dev: both_directions(
                (run.cache.pooled([p.foreign for p in pairs]) - means[0]) @ matrix,
                run.cache.pooled([p.english for p in pairs]) - means[1],
                answers(pairs),
            )
            for dev, pairs in run.dev.items()
        }
        rows.append(_row(run, f"no stage A: a linear map in encoder space, penalty {penalty:g}", found))
    return rows


def ridge(inputs: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """The ``[H, H]`` map W of centred ``[N, H]`` inputs that minimises ``|XW - Y|^2/N + penalty * v * |W - 1|^2``, v the
    mean variance of an input's dimensions."""
    covariance = inputs.T @ inputs / len(inputs)
    one = torch.eye(len(covariance))
    pull = penalty * covariance.diagonal().mean() * one
    return one + torch.linalg.solve(covariance + pull, inputs.T @ (targets - inputs) / len(inputs))


def _sides(run: Run) -> tuple[Tensor, Tensor]:
    """The bare encoder's vectors ``[N, H]`` of the training pairs."""
    run.encode()
    english = [p.english for p in run.pairs.rows]
    run.cache.ensure(english, "Encoding English")  # whether the recipe wants it or not
    return run.cache.pooled([p.foreign for p in run.pairs.rows]), run.cache.pooled(english)


def _row(run: Run, changed: str, found: dict[str, dict[str, float]]) -> Row:
    return {
        "changed": changed, "pairs": len(run.pairs.rows), **{f"R@1, {dev}": m["r1"] for dev, m in found.items()},
        **{f"from English, {dev}": m["back_r1"] for dev, m in found.items()},
    }  # fmt: skip


experiment = GeneralText()
