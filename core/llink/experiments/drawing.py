"""What the experiments' plots are made of: bars, lines and a grid of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llink.training.figures import OURS, REST


def bars(axes: Any, places: Sequence[str], groups: Mapping[str, Sequence[float]]) -> None:
    """A bar a place and group, its value on it."""
    axes.spines[["top", "right"]].set_visible(False)
    width = 0.8 / len(groups)
    # The last group is what the experiment is about.
    colours = [*REST[: len(groups) - 1], OURS]
    for i, (colour, (name, values)) in enumerate(zip(colours, groups.items(), strict=True)):
        at = [x + (i - (len(groups) - 1) / 2) * width for x in range(len(places))]
        axes.bar_label(axes.bar(at, values, width, color=colour, label=name), fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(places)), places)
    axes.legend(frameon=False, fontsize=8)


def lines(axes: Any, rows: Sequence[Mapping[str, Any]], x: str, y: str, each: str = "dev set") -> None:
    """A line a dev set, or a value of ``each``: ``y`` at the values of ``x``, evenly spaced; rows without ``y`` are left out."""
    axes.spines[["top", "right"]].set_visible(False)
    ticks = list(dict.fromkeys(row[x] for row in rows))
    names = list(dict.fromkeys(row[each] for row in rows))
    for number, name in enumerate(names):
        own = [(ticks.index(row[x]), row[y]) for row in rows if row[each] == name and row.get(y) is not None]
        colour = (OURS, *REST[1:])[number % 4]
        axes.plot([place for place, _ in own], [value for _, value in own], "o-", color=colour, label=name)
    axes.set_xticks(range(len(ticks)), [f"{tick:g}" for tick in ticks])
    axes.set(xlabel=x, title=y)
    axes.legend(frameon=False, fontsize=7)


def across(axes: Any, values: Mapping[str, float], title: str) -> None:
    """A bar a name, from the top down, the first in the colour of what the experiment is about."""
    axes.spines[["top", "right"]].set_visible(False)
    colours = [OURS, *[REST[0]] * (len(values) - 1)]
    axes.bar_label(axes.barh(list(values), list(values.values()), color=colours), fmt="%.3g", fontsize=7, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.tick_params(axis="y", labelsize=7)
    axes.set_title(title)


def grid(axes: Any, down: Sequence[str], across: Sequence[str], values: Mapping[tuple[str, str], float]) -> None:
    """A heat map from 0 to 1 with its numbers; what is missing stays white."""
    nothing = float("nan")
    axes.imshow([[values.get((a, b), nothing) for b in across] for a in down], vmin=0, vmax=1, cmap="Greens")
    for (a, b), value in values.items():
        colour = "white" if value > 0.6 else "black"
        axes.text(across.index(b), down.index(a), f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down)
