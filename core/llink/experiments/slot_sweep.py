"""Slot sweep: how many slots a text needs, to answer questions about it and to translate it, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from llink.adapter.files import read_manifest
from llink.evaluation.base import Result
from llink.experiments.base import Changes, Experiment, Row, Study
from llink.experiments.drawing import lines
from llink.recipe import Recipe
from llink.training.run import Run

SLOTS = "injector.slots"
TIMED = 8
"""Pairs of each dev set that the first pass is timed on, beside the raw text, which takes long."""


class SlotSweep(Experiment):
    """Warm start and stage B once a number of slots K, from one stage A."""

    name = "slot-sweep"
    kind = int
    values = (2, 4, 8, 16)

    def columns(self, recipe: Recipe) -> dict[str, str]:
        return {
            "slots": "d", "dev set": "", "loss": ".3f", "usage gap": ".3f", "chrF++": ".1f", "agreement": ".3f",
            "agreement, questions": ".3f", "word F1, questions": ".3f", "prompt tokens": ".0f", "first pass, ms": ".0f",
        }  # fmt: skip

    def variants(self, study: Study) -> dict[str, Changes]:
        return {f"slots-{value}": {SLOTS: value} for value in study.values or self.values}

    def measure(self, study: Study, run: Run) -> list[Row]:
        study.base.stage_a()
        adapter = study.stage_b(run, "stage_a.safetensors")
        usage = read_manifest(adapter).metrics["usage"]
        asked = study.ask(run, adapter, {"translate": None, "tasks": None, "tokens": TIMED})
        return [
            {
                "slots": run.recipe.injector.most, "dev set": dev, "loss": usage[dev]["right"],
                "usage gap": usage[dev]["usage_gap"], "chrF++": found["translate"].metrics["chrf++"],
                **_questions(found.get("tasks")), "prompt tokens": found["tokens"].metrics["prompt tokens"],
                "first pass, ms": 1000 * _first_pass(found["tokens"]),
            }
            for dev, found in asked.items()
        ]  # fmt: skip

    def remarks(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        return [
            "Loss in nats a token of the English. Agreement is with the answers that the bare decoder gives to the English, "
            "over summary, title, key points and question, and over the question alone. The first pass is that of encoder, "
            "bridge and decoder over a prompt, median; it depends on the machine."
        ], []

    def draw(self, canvas: Any, rows: Sequence[Row]) -> None:
        for place, name in enumerate(("chrF++", "agreement", "loss", "first pass, ms")):
            lines(canvas.add_subplot(1, 4, place + 1), rows, "slots", name)


def _questions(tasks: Result | None) -> Row:
    """What the suite ``tasks`` says, where the decoder has answers to compare with."""
    metrics = tasks.metrics if tasks else {}
    names = {"agreement": "agreement", "agreement [qa]": "agreement, questions", "answer match": "word F1, questions"}
    return {name: metrics[key] for key, name in names.items() if key in metrics}


def _first_pass(tokens: Result) -> float:
    """Median seconds from text to the decoder's first token."""
    timed = [row["seconds"] for row in tokens.predictions if "seconds" in row]
    return median(seconds["encoder"] + seconds["slots"] for seconds in timed)


experiment = SlotSweep()
