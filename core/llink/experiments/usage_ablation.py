"""Usage ablation: the weight of the usage contrast against what the slots are worth, quality, and English."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llink.adapter.files import read_manifest
from llink.evaluation.usage import signatures
from llink.experiments.base import Changes, Experiment, Row, Study
from llink.experiments.drawing import lines
from llink.recipe import Recipe
from llink.training.run import Run

WEIGHT = "stage_b.losses.usage_contrast"


class UsageAblation(Experiment):
    """Stage B once a weight, from one stage A and one warm start."""

    name = "usage-ablation"
    kind = float
    values = (0.0, 0.01, 0.05, 0.10)

    def columns(self, recipe: Recipe) -> dict[str, str]:
        return {
            "weight": "g", "dev set": "", "right slots": ".3f", "no slots": ".3f", "another text's": ".3f",
            "usage gap": ".3f", "shuffle gap": ".3f", "chrF++": ".1f", "English perplexity": "+.1%",
        }  # fmt: skip

    def variants(self, study: Study) -> dict[str, Changes]:
        return {f"weight-{value:g}": {WEIGHT: value} for value in study.values or self.values}

    def measure(self, study: Study, run: Run) -> list[Row]:
        study.base.stage_a()
        study.base.warm_start()
        adapter = study.stage_b(run, "stage_a.safetensors", "warm_start.safetensors")
        usage = read_manifest(adapter).metrics["usage"]
        asked = study.ask(run, adapter, {"translate": None, "english": None})
        return [
            {
                "weight": run.recipe.stage_b.losses["usage_contrast"], "dev set": dev, "right slots": usage[dev]["right"],
                "no slots": usage[dev]["zero"], "another text's": usage[dev]["shuffled"],
                "usage gap": usage[dev]["usage_gap"], "shuffle gap": usage[dev]["shuffle_gap"],
                "chrF++": found["translate"].metrics["chrf++"],
                "English perplexity": found["english"].metrics["perplexity change"],
            }
            for dev, found in asked.items()
        ]  # fmt: skip

    def remarks(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        notes = [
            "Losses in nats a token of the English; English perplexity is its change on English prompts while the adapter "
            "is active."
        ]
        warnings = [
            f"weight {row['weight']:g}, {row['dev set']}: {line}"
            for row in rows
            for line in signatures({"usage_gap": row["usage gap"], "shuffle_gap": row["shuffle gap"]})
        ]
        return notes, warnings

    def draw(self, canvas: Any, rows: Sequence[Row]) -> None:
        for place, name in enumerate(("usage gap", "chrF++", "English perplexity")):
            lines(canvas.add_subplot(1, 3, place + 1), rows, "weight", name)


experiment = UsageAblation()
