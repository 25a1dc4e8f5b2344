"""Teacher: which of the decoder's layers, read where, stage A should aim at. The paper takes the last; is it the best?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from llink.adapter.slots import in_batches
from llink.experiments.base import Changes, Experiment, Row, Study
from llink.experiments.drawing import grid
from llink.features.cache import SHARD, FeatureCache
from llink.features.teacher import TeacherEncoder, depth, teacher_states
from llink.home import home
from llink.interfaces import Decoder, Encoded
from llink.recipe import Recipe, Teacher
from llink.training.run import Run

LAST = -1
POSITIONS = ("mean", "reserved")
PAPER = {"layer": "last", "position": "reserved", "centred": "no"}


class TeacherGrid(Experiment):
    """Stage A once a layer, position and centring; R@1 of each dev set."""

    name = "teacher"
    kind = int

    def columns(self, recipe: Recipe) -> dict[str, str]:
        return {"layer": "", "position": "", "centred": "", **dict.fromkeys(recipe.data.dev, ".3f"), "mean": ".3f"}

    def variants(self, study: Study) -> dict[str, Changes]:
        return {
            f"layer-{_named(layer)}-{position}{'-centred' if centre else ''}": {
                "teacher.layer": layer, "teacher.position": position, "teacher.centre": centre
            }
            for layer, position, centre in product(layers(study), POSITIONS, (True, False))
            # The embedding of the reserved token is the same whatever the text.
            if (layer, position) != (0, "reserved")
        }  # fmt: skip

    def measure(self, study: Study, run: Run) -> list[Row]:
        look_up(study)
        run.stage_a()
        found = {dev: metrics["r1"] for dev, metrics in run.retrieval(run.aligned()).items()}
        teacher = run.recipe.teacher
        return [
            {
                "layer": _named(teacher.layer), "position": teacher.position,
                "centred": "yes" if teacher.centre else "no",
                **found, "mean": sum(found.values()) / len(found),
            }
        ]  # fmt: skip

    def remarks(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        best = max(rows, key=lambda row: row["mean"])
        notes = [f"R@1 after stage A. Best by the mean: {_described(best)}, {best['mean']:.3f}"]
        for row in rows:
            if all(row[key] == value for key, value in PAPER.items()):
                notes[0] += f"; the paper's choice, {_described(row)}: {row['mean']:.3f}"
        return [f"{notes[0]}."], []

    def draw(self, canvas: Any, rows: Sequence[Row]) -> None:
        across = list(dict.fromkeys(row["layer"] for row in rows))
        down = [_kind(position, centred) for position, centred in product(POSITIONS, ("yes", "no"))]
        sets = [name for name in rows[0] if name not in (*PAPER, "mean")]
        for place, name in enumerate(sets):
            axes = canvas.add_subplot(1, len(sets), place + 1)
            values = {(_kind(row["position"], row["centred"]), row["layer"]): row[name] for row in rows}
            grid(axes, down, across, values)
            axes.set(title=f"R@1, {name}", xlabel="layer")


def layers(study: Study) -> list[int]:
    """Those asked for; else the input embeddings, three inner layers, and the last."""
    if study.values:
        return list(study.values)
    count = depth(study.base.decoder)
    inner = {round(count * part / 4) for part in (1, 2, 3)} - {0, count}
    return [0, *sorted(inner), LAST]


def look_up(study: Study) -> None:
    """Put the states of all teachers into the feature cache, from one pass of the decoder over each text."""
    run = study.base
    teachers = [Teacher(layer=layer, position=position) for layer in layers(study) for position in POSITIONS]
    made: dict[str, list[Tensor]] = {}
    caches = [
        FeatureCache(home() / "features", _Together(run.decoder, teachers, n, made)) for n in range(len(teachers))
    ]
    texts = [p.english for p in run.pairs.rows] + run.english + [p.english for rows in run.dev.values() for p in rows]
    texts = list(dict.fromkeys(texts))
    for part in in_batches(len(texts), SHARD):
        for cache in caches:
            cache.ensure(texts[part], "Teacher states")
        made.clear()


class _Together(TeacherEncoder):
    """Teacher ``number`` of several: the first that is asked about a text asks for all."""

    def __init__(
        self, decoder: Decoder, teachers: Sequence[Teacher], number: int, made: dict[str, list[Tensor]]
    ) -> None:
        super().__init__(decoder, teachers[number])
        self.teachers, self.number, self.made = teachers, number, made

    def encode(self, texts: Sequence[str]) -> Encoded:
        if any(text not in self.made for text in texts):
            states = teacher_states(self.decoder, self.teachers, self.tokenize(texts), self.max_tokens)
            self.made.update({text: [of[i] for of in states] for i, text in enumerate(texts)})
        return self.encoded(torch.stack([self.made[text][self.number] for text in texts]))


def _named(layer: int) -> str:
    return "last" if layer == LAST else str(layer)


def _kind(position: str, centred: str) -> str:
    return f"{position}{', centred' if centred == 'yes' else ''}"


def _described(row: Row) -> str:
    return f"layer {row['layer']}, {_kind(row['position'], row['centred'])}"


experiment = TeacherGrid()
