"""Injectors: which kind of slot injector, with how many slots, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from llink import plugins
from llink.adapter.files import load_bridge, read_manifest
from llink.evaluation.base import Result
from llink.experiments.base import Changes, Experiment, Row, Study
from llink.experiments.drawing import lines
from llink.experiments.slot_sweep import SLOTS, TIMED
from llink.recipe import Recipe
from llink.training.run import Run

KIND, OPTIONS = "injector.kind", "injector.options"
CHRF, EXACT, ALONE = "chrF++", "exact", "exact, no channel"
BRIDGE, PREFILL = "encoder and bridge, ms", "prefill, ms"


class Injectors(Experiment):
    """Warm start and stage B once a kind and number of slots, from one stage A."""

    name = "injectors"
    kind = int
    values = (4, 8, 16, 32)
    size = (11, 6.4)

    def columns(self, recipe: Recipe) -> dict[str, str]:
        quality = [f"{CHRF}, {dev}" for dev in recipe.data.dev]
        return {
            "kind": "", "slots": "d", "parameters": ",d", "loss": ".3f", "usage gap": ".3f",
            **dict.fromkeys(quality, ".1f"), EXACT: ".3f", **({ALONE: ".3f"} if recipe.verbatim.tokens else {}),
            BRIDGE: ".1f", PREFILL: ".1f",
        }  # fmt: skip

    def variants(self, study: Study) -> dict[str, Changes]:
        own = study.recipe.injector
        return {
            f"{kind}-{count}": {KIND: kind, SLOTS: count, OPTIONS: own.options if kind == own.kind else {}}
            for kind in plugins.injectors()
            for count in study.values or self.values
        }

    def measure(self, study: Study, run: Run) -> list[Row]:
        study.base.stage_a()
        adapter = study.stage_b(run, "stage_a.safetensors")
        manifest = read_manifest(adapter)
        usage = manifest.metrics["usage"]
        asked = study.ask(run, adapter, {"translate": None, "tokens": TIMED, "exact": None})
        seconds = [
            row["seconds"] for dev in run.dev for row in asked[dev]["tokens"].predictions if "seconds" in row
        ]  # fmt: skip
        exact = [found["exact"] for found in asked.values() if "exact" in found]
        weights = load_bridge(adapter, manifest).injector.parameters()
        return [
            {
                "kind": run.recipe.injector.kind, "slots": run.recipe.injector.most,
                "parameters": sum(weight.numel() for weight in weights),
                "loss": mean(usage[dev]["right"] for dev in run.dev),
                "usage gap": mean(usage[dev]["usage_gap"] for dev in run.dev),
                **{f"{CHRF}, {dev}": asked[dev]["translate"].metrics["chrf++"] for dev in run.dev},
                **over_all(EXACT, exact, "exact", "values"),
                **over_all(ALONE, exact, "exact without channel", "values"),
                BRIDGE: 1000 * median(row["encoder"] for row in seconds),
                PREFILL: 1000 * median(row["slots"] for row in seconds),
            }
        ]  # fmt: skip

    def remarks(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        best = max(rows, key=_quality)
        return [
            "Parameters of the injector; loss in nats a token of the English, mean of the dev sets like the usage gap; exact is "
            "the share of values kept. Times are medians for one text, of encoder and bridge and of the decoder's first pass; "
            "they depend on the machine.",
            f"Best by the mean of {CHRF}: {best['kind']} with {best['slots']} slots, {_quality(best):.1f}.",
        ], []

    def draw(self, canvas: Any, rows: Sequence[Row]) -> None:
        across = ["loss", "usage gap", *(name for name in rows[0] if name.startswith(CHRF)), EXACT]
        across += [name for name in (ALONE, "parameters", BRIDGE, PREFILL) if name in rows[0]]
        for place, name in enumerate(across):
            lines(canvas.add_subplot(2, -(-len(across) // 2), place + 1), rows, "slots", name, each="kind")


def _quality(row: Row) -> float:
    """chrF++, mean of the dev sets."""
    return mean(value for name, value in row.items() if name.startswith(CHRF))


def over_all(column: str, found: Sequence[Result], metric: str, of: str) -> Row:
    """A share over all sets that have it, each as heavy as the number ``of`` what it is a share of."""
    counts = [(result.metrics[metric], result.metrics[of]) for result in found if metric in result.metrics]
    return {column: sum(share * n for share, n in counts) / sum(n for _, n in counts)} if counts else {}


experiment = Injectors()
