"""``train.png``: how a training run went, drawn from its ``metrics.jsonl`` alone.

``python -m llink.training.plot DIR`` draws it again, also while the run goes on or after it was killed.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from llink.errors import LlinkError
from llink.home import atomic_write
from llink.training.figures import OURS, REST, figure, png

LOG = "metrics.jsonl"
PLOT = "train.png"
COLUMNS = 3
COLOURS = (OURS, *REST[1:])
MEASURES = {"loss": "loss", "right": "loss", "r1": "R@1", "temperature": "temperature", "usage_gap": "usage gap"}
"""Last part of a log's key -> the panel it is drawn in, in their order; ``injector.…`` comes after them."""
SWITCHES = "gate and scale"

Panels = dict[tuple[str, str], dict[str, dict[int, float]]]
"""(stage, measure) -> series -> step -> value."""


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; a line that a kill cut off is left out."""
    path = folder / LOG
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def panels(rows: list[dict[str, Any]]) -> Panels:
    """What there is to draw. A step that was made again after a kill counts as it was made last."""
    found: Panels = {}
    last: dict[str, int] = {}
    for row in rows:
        stage, step = row["stage"], row.get("step")
        last[stage] = step if step is not None else last.get(stage, 0)
        for key, value in row.items():
            # A row without a step is about the end of its stage, on the dev set it names.
            name = key if "dev" not in row else f"{row['dev']}.{key}"
            measure = SWITCHES if key.startswith("injector.") else MEASURES.get(name.rpartition(".")[2])
            if measure and isinstance(value, int | float) and math.isfinite(value):
                found.setdefault((stage, measure), {}).setdefault(name, {})[last[stage]] = value
    order = list(dict.fromkeys([*MEASURES.values(), SWITCHES]))
    stages = list(last)
    return dict(sorted(found.items(), key=lambda item: (stages.index(item[0][0]), order.index(item[0][1]))))


def draw(folder: Path) -> Path | None:
    """Draw ``train.png`` of the run in ``folder``; None where its log has nothing to draw yet.

    Raises:
        LlinkError: E521 when matplotlib is not installed, E112 or E113 when the file cannot be written.
    """
    found = panels(read_log(folder))
    if not found:
        return None
    lines = math.ceil(len(found) / COLUMNS)
    canvas = figure(10, 2.4 * lines)
    grid = canvas.subplots(lines, COLUMNS, squeeze=False).flatten()
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    for axes, ((stage, measure), series) in zip(grid, found.items(), strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        for number, (name, points) in enumerate(series.items()):
            steps = sorted(points)
            axes.plot(
                steps, [points[step] for step in steps], ".-" if len(steps) < 40 else "-",
                color=COLOURS[number % len(COLOURS)], linewidth=1, label=name.removeprefix("injector."),
            )  # fmt: skip
        axes.set_title(f"stage {stage}, {measure}" if len(stage) == 1 else f"{stage.replace('_', ' ')}, {measure}",
                       fontsize=9)  # fmt: skip
        axes.tick_params(labelsize=7)
        if measure == "R@1":
            axes.set_ylim(0, 1)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=7)
    atomic_write(folder / PLOT, png(canvas))
    return folder / PLOT


def main(folders: list[str]) -> int:
    """Draw each run's plot again; returns the exit status."""
    try:
        for folder in folders:
            print(draw(Path(folder)) or f"{folder}: nothing to draw yet")
    except LlinkError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
