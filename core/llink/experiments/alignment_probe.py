"""Alignment probe: stage A alone. Does the vector of a text find its translation, and if not, what looks wrong?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llink.evaluation.zero_shot import zero_shot
from llink.experiments.base import Changes, Experiment, Row, Study
from llink.experiments.drawing import bars
from llink.recipe import Recipe
from llink.training.plot import read_log
from llink.training.run import Run

LOW = 0.20
"""R@1 under which the paper says: check initialisation and queue."""
NAMES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mrr": "MRR", "mean_rank": "mean rank"}
DIRECTIONS = {"to English": "", "from English": "back_"}
FIRST = 1024
"""Training pairs that the health is measured on."""
BARE, ALIGNED = "bare encoder", "stage A"


class AlignmentProbe(Experiment):
    """Retrieval after stage A, both directions, beside the bare encoder's; its health where retrieval fails."""

    name = "alignment-probe"

    def columns(self, recipe: Recipe) -> dict[str, str]:
        return {
            "dev set": "",
            "vectors": "",
            "direction": "",
            "candidates": "d",
            **{name: ".1f" if key == "mean_rank" else ".3f" for key, name in NAMES.items()},
        }

    def variants(self, study: Study) -> dict[str, Changes]:
        return {"stage-a": {}}

    def measure(self, study: Study, run: Run) -> list[Row]:
        run.stage_a()
        bridge = run.aligned()
        rows = []
        for dev, found in run.retrieval(bridge).items():
            pairs = run.dev[dev]
            for vectors, metrics in ((BARE, zero_shot(run.cache, pairs)), (ALIGNED, found)):
                for direction, prefix in DIRECTIONS.items():
                    about = {"dev set": dev, "vectors": vectors, "direction": direction, "candidates": len(pairs)}
                    rows.append(about | {name: metrics[f"{prefix}{key}"] for key, name in NAMES.items()})
        rows[-1]["health"] = health(run)
        return rows

    def remarks(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        found = rows[-1]["health"]
        ours = [row for row in rows if row["vectors"] == ALIGNED and row["direction"] == "to English"]
        low = [f"{row['dev set']} {row['R@1']:.3f}" for row in ours if row["R@1"] < LOW]
        notes = [
            f"InfoNCE went from {found['first InfoNCE']:.2f} to {found['last InfoNCE']:.2f} in {found['updates']} updates; "
            f"the median deviation of an input is {found['input deviation']:.2g}; the teachers share "
            f"{found['teachers in common']:.0%} of their length and the projected texts {found['projections in common']:.0%}; "
            f"each text is told from {found['negatives']} others, of batch and queue."
        ]
        if not low:
            return notes, []
        wrong = signs(found) or ["none of the quantities above looks wrong: more pairs, epochs or a better teacher"]
        return notes, [
            f"R@1 is under {LOW:.2f} ({', '.join(low)}). Check initialisation and queue: {'; '.join(wrong)}."
        ]

    def draw(self, canvas: Any, rows: Sequence[Row]) -> None:
        devs = list(dict.fromkeys(row["dev set"] for row in rows))
        for place, direction in enumerate(DIRECTIONS):
            own = [row for row in rows if row["direction"] == direction]
            axes = canvas.add_subplot(1, 2, place + 1)
            bars(axes, devs, {kind: [r["R@1"] for r in own if r["vectors"] == kind] for kind in (BARE, ALIGNED)})
            axes.axhline(LOW, color="#999999", linewidth=0.8, linestyle=":")
            axes.set(ylim=(0, 1.05), ylabel="R@1", title=direction)


def health(run: Run) -> dict[str, float]:
    """What must be right for stage A to learn: loss, input, teachers, projections, queue."""
    rows = read_log(run.out)
    steps = [row for row in rows if row.get("stage") == "a" and "info_nce" in row]
    projector = run.aligned().projector
    first = run.pairs[:FIRST]
    teachers = run.teachers([p.english for p in first]) - projector.teacher_mean
    with torch.inference_mode():
        projected = projector(run.cache.pooled([p.foreign for p in first]))
    return {
        "first InfoNCE": steps[0]["info_nce"],
        "last InfoNCE": steps[-1]["info_nce"],
        "updates": steps[-1]["step"] + 1,
        "input deviation": float(projector.input_std.median()),
        "teachers in common": in_common(teachers),
        "projections in common": in_common(projected),
        "negatives": run.recipe.stage_a.batch - 1 + min(run.recipe.stage_a.queue, run.recipe.stage_a.hardest),
    }


def in_common(vectors: torch.Tensor) -> float:
    """Length of the mean over mean length of ``[N, D]``: 0 for centred vectors, 1 where all are the same."""
    return float(vectors.mean(0).norm() / vectors.norm(dim=1).mean().clamp(min=1e-12))


def signs(found: dict[str, float]) -> list[str]:
    """The quantities of ``health`` that look wrong, and what to do about each."""
    wrong = []
    if not found["last InfoNCE"] < 0.9 * found["first InfoNCE"]:
        wrong.append("the loss does not fall (raise stage_a.lr or stage_a.epochs)")
    if found["input deviation"] < 1e-4:
        wrong.append("the encoder's vectors hardly differ (take another encoder.options.layer)")
    if found["teachers in common"] > 0.5:
        wrong.append("the teachers are not centred (teacher.centre=true)")
    if found["projections in common"] > 0.9:
        wrong.append("the projector puts all texts in one place (lower stage_a.lr)")
    if found["negatives"] < 64:
        wrong.append("a text has too few to be told from (raise stage_a.batch, stage_a.queue or stage_a.hardest)")
    if found["updates"] < 300:
        wrong.append(f"{found['updates']:.0f} updates are few (raise stage_a.epochs)")
    return wrong


experiment = AlignmentProbe()
