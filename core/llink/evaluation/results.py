"""Reading an evaluation's folder back, for the report and the comparison."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llink.errors import LlinkError

METRICS, PREDICTIONS = "metrics.json", "predictions.jsonl"


@dataclass(frozen=True)
class Evaluation:
    """What ``llink eval --out`` wrote.

    Attributes:
        folder: where.
        content: of ``metrics.json``.
        examples: (suite, set) -> an object an example.
    """

    folder: Path
    content: dict[str, Any]
    examples: dict[tuple[str, str], list[dict[str, Any]]]

    @property
    def results(self) -> dict[str, dict[str, dict[str, float]]]:
        """Suite -> set -> metric -> value."""
        found: dict[str, dict[str, dict[str, float]]] = self.content["results"]
        return found


def read(folder: Path) -> Evaluation:
    """An evaluation's folder; E522 where there is none, or it is damaged."""
    path = folder / METRICS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        measured = {(suite, name) for suite, sets in content["results"].items() for name in sets}
        examples = {}
        for found in sorted(folder.glob(f"*/*/{METRICS}")):
            place = found.parent.parent.name, json.loads(found.read_text(encoding="utf-8"))["set"]
            if place in measured:
                lines = (found.parent / PREDICTIONS).read_text(encoding="utf-8").splitlines()
                examples[place] = [json.loads(line) for line in lines]
    except FileNotFoundError as error:
        raise LlinkError(
            "E522",
            f"There is no evaluation in {folder}: {error.filename} is missing.",
            "Make one: llink eval CODE --out FOLDER.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise LlinkError(
            "E522", f"The evaluation in {folder} is damaged ({reason}).", "Run llink eval again."
        ) from error
    return Evaluation(folder, content, examples)
