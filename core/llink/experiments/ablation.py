"""Ablation: the recipe, and the recipe with one of its steps left out at a time."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from llink.adapter.files import read_manifest
from llink.experiments.base import Changes, Experiment, Row, Study, changed
from llink.experiments.drawing import across
from llink.experiments.injectors import CHRF, EXACT, over_all
from llink.experiments.slot_sweep import SLOTS
from llink.recipe import Recipe
from llink.training.run import Run

WHOLE = "nothing"
STEPS: dict[str, Changes] = {
    "prose repeated": {"data.repeat": {}},
    "English beside the text": {"stage_a.english_side": False, "stage_b.english_share": 0.0},
    "warm start": {"warm_start.epochs": 0},
    "resampler": {"injector.kind": "pooled", "injector.options": {}},
    "its depth": {"injector.options.depth": 1},
    "slots by length": {SLOTS: 8},
    "verbatim channel": {"verbatim.tokens": 0, "verbatim.share": 0.0},
    "longer texts": {"stage_b.long_share": 0.0},
}
"""What a recipe may do beyond the paper -> what takes it out again; a recipe without a step has no variant for it."""
ALIGNED = ("data", "teacher", "projector", "stage_a")
"""Sections of a recipe that decide what stage A finds."""
WARM = ("injector", "warm_start")
"""Those that decide the warm start, given stage A."""
INVENTED = "invented"


class Ablation(Experiment):
    """Every step that the recipe has is left out once; what a variant has in common with the whole is trained once."""

    name = "ablation"
    size = (11, 6.0)

    def columns(self, recipe: Recipe) -> dict[str, str]:
        devs = recipe.data.dev
        return {
            "left out": "", **{f"R@1, {dev}": ".3f" for dev in devs}, "loss": ".3f", "usage gap": ".3f",
            **{f"{CHRF}, {dev}": ".1f" for dev in devs}, EXACT: ".3f", INVENTED: ".3f",
        }  # fmt: skip

    def variants(self, study: Study) -> dict[str, Changes]:
        return {
            "whole": {},
            **{_folder(step): changes for step, changes in STEPS.items() if _has(study.recipe, changes)},
        }

    def measure(self, study: Study, run: Run) -> list[Row]:
        aligned = study.base if _same(run.recipe, study.recipe, ALIGNED) else run
        aligned.stage_a()
        # Of all candidates: stage B looks at the sample only.
        found = aligned.retrieval(aligned.aligned())
        shared = []
        if aligned is study.base:
            shared.append("stage_a.safetensors")
            if _same(run.recipe, study.recipe, WARM) and run.english_side == study.base.english_side:
                study.base.warm_start()
                shared.append("warm_start.safetensors")
        adapter = study.stage_b(run, *shared)
        usage = read_manifest(adapter).metrics["usage"]
        asked = study.ask(run, adapter, {"translate": None, EXACT: None})
        exact = [suites[EXACT] for suites in asked.values() if EXACT in suites]
        return [
            {
                "left out": next((step for step, changes in STEPS.items() if run.out.name == _folder(step)), WHOLE),
                **{f"R@1, {dev}": found[dev]["r1"] for dev in run.dev},
                "loss": mean(usage[dev]["right"] for dev in run.dev),
                "usage gap": mean(usage[dev]["usage_gap"] for dev in run.dev),
                **{f"{CHRF}, {dev}": asked[dev]["translate"].metrics["chrf++"] for dev in run.dev},
                **over_all(EXACT, exact, EXACT, "values"),
                **over_all(INVENTED, exact, INVENTED, "sentences"),
            }
        ]  # fmt: skip

    def remarks(self, rows: Sequence[Row]) -> tuple[list[str], list[str]]:
        return [
            "R@1 among all candidates of a dev set, the rest on the sample. Loss in nats a token of the English, mean of the dev "
            "sets like the usage gap; exact is the share of values kept, invented that of answers with a value of no source. A "
            "step left out leaves the number of examples as it is, not the time."
        ], []

    def draw(self, canvas: Any, rows: Sequence[Row]) -> None:
        names = [name for name in rows[0] if name != "left out" and any(name in row for row in rows)]
        for place, name in enumerate(names):
            axes = canvas.add_subplot(2, -(-len(names) // 2), place + 1)
            across(axes, {row["left out"]: row[name] for row in rows if name in row}, name)


def _folder(step: str) -> str:
    return f"no-{step.replace(' ', '-')}"


def _has(recipe: Recipe, changes: Changes) -> bool:
    """Whether the recipe takes the step that the changes take out."""
    own = recipe.injector
    if SLOTS in changes:
        return own.slots != own.most  # by length
    inside = any(key.startswith("injector.") for key in changes)
    return changed(recipe, changes) != recipe and (not inside or own.kind == "resampler")


def _same(one: Recipe, other: Recipe, sections: Sequence[str]) -> bool:
    return all(getattr(one, name) == getattr(other, name) for name in sections)


experiment = Ablation()
