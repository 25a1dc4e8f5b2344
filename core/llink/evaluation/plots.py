"""Plots of an evaluation, as PNG, from its examples."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from llink.evaluation.results import Evaluation
from llink.evaluation.retrieval import bucket
from llink.training.figures import OURS, REST, figure, png

KINDS = {"right": "right slots", "zero": "no slots", "shuffled": "another text's slots"}


def plots(evaluation: Evaluation) -> dict[str, bytes]:
    """Title -> PNG of every plot that the evaluation has examples for; E521 when matplotlib is not installed."""
    found = {}
    for suite, title, draw in _PLOTS:
        sets = {name: rows for (of, name), rows in evaluation.examples.items() if of == suite and rows}
        if sets:
            canvas = figure()
            axes = canvas.add_subplot()
            axes.spines[["top", "right"]].set_visible(False)
            draw(axes, sets)
            found[title] = png(canvas)
    return found


Sets = dict[str, list[dict[str, Any]]]


def _colours(count: int) -> list[str]:
    return [OURS, *REST][:count] if count <= 1 + len(REST) else [OURS] * count


def _ranks(axes: Any, sets: Sets) -> None:
    """How often the translation is at which rank, in buckets that double."""
    edges = [1, 2, 3, 6, 11, 51, 101, 1 << 30]
    names = ["1", "2", "3-5", "6-10", "11-50", "51-100", "over 100"]
    width = 0.8 / len(sets)
    for i, (colour, (name, rows)) in enumerate(zip(_colours(len(sets)), sets.items(), strict=True)):
        shares = [sum(low <= row["rank"] < high for row in rows) / len(rows) for low, high in pairwise(edges)]
        places = [x + (i - (len(sets) - 1) / 2) * width for x in range(len(names))]
        axes.bar(places, shares, width, label=f"{name} ({len(rows)} candidates)", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="rank of the right translation", ylabel="share of the texts", ylim=(0, 1))
    axes.legend(frameon=False)


def _lengths(axes: Any, sets: Sets) -> None:
    """R@1 by length of the text, with the number of texts at each point."""
    buckets = sorted({bucket(len(row["foreign"])) for rows in sets.values() for row in rows})
    for colour, (name, rows) in zip(_colours(len(sets)), sets.items(), strict=True):
        points = []
        for x, of in enumerate(buckets):
            hits = [row["rank"] == 1 for row in rows if bucket(len(row["foreign"])) == of]
            if hits:
                points.append((x, sum(hits) / len(hits), len(hits)))
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", color=colour, label=name)
        for x, y, count in points:
            axes.annotate(
                f"n={count}", (x, y), textcoords="offset points", xytext=(0, 6), ha="center", fontsize=7, color=colour
            )
        axes.axhline(1 / len(rows), color=colour, linewidth=0.7, linestyle=":")
    axes.set_xticks(range(len(buckets)), [re.sub(r"\b0+(?=\d)", "", of) for of in buckets])
    axes.margins(x=0.08)
    axes.set(xlabel="characters of the text (dotted: chance)", ylabel="R@1", ylim=(0, 1.12))
    axes.legend(frameon=False)


def _positions(axes: Any, sets: Sets) -> None:
    """Mean loss at each of the first tokens of the answer."""
    styles = dict(zip(sets, ("-", "--", "-.", ":"), strict=False))
    for name, rows in sets.items():
        kinds = [kind for kind in KINDS if kind in rows[0]["losses"]]
        for colour, kind in zip(_colours(len(kinds)), kinds, strict=True):
            lists = [row["losses"][kind] for row in rows]
            means = []
            for place in range(max(map(len, lists))):
                here = [values[place] for values in lists if place < len(values)]
                means.append(sum(here) / len(here))
            axes.plot(
                range(1, len(means) + 1), means, styles.get(name, "-"), color=colour, label=f"{KINDS[kind]}, {name}"
            )
    axes.set(xlabel="token of the answer", ylabel="loss, nats", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)


def _exact(axes: Any, sets: Sets) -> None:
    """Share of the values that came through, by kind; over all sets, with what the baselines bring through."""
    kinds: dict[str, list[bool]] = {}
    for rows in sets.values():
        for row in rows:
            for value in row["values"]:
                kinds.setdefault(value["kind"], []).append(value["hit"])
                for system, hit in value.get("against", {}).items():
                    kinds.setdefault(f"{value['kind']}\0{system}", []).append(hit)
    names = [kind for kind in kinds if "\0" not in kind]
    systems = ["", *dict.fromkeys(kind.partition("\0")[2] for kind in kinds if "\0" in kind)]
    width = 0.8 / len(systems)
    for i, (colour, system) in enumerate(zip(_colours(len(systems)), systems, strict=True)):
        found = [kinds.get(f"{name}\0{system}" if system else name, []) for name in names]
        shares = [sum(hits) / max(len(hits), 1) for hits in found]
        places = [x + (i - (len(systems) - 1) / 2) * width for x in range(len(names))]
        bars = axes.bar(places, shares, width, color=colour, label=system or "adapter")
        axes.bar_label(bars, [f"{share:.0%}" for share in shares], fontsize=7)
    axes.set_xticks(range(len(names)), [f"{name}\nn={len(kinds[name])}" for name in names])
    axes.set(ylabel="values that came through exactly", ylim=(0, 1.1))
    axes.legend(frameon=False)


def _places(axes: Any, sets: Sets) -> None:
    """What the answer has of the sentence at each place of a page, beside what it has of other pages' there."""
    for colour, (name, rows) in zip(_colours(len(sets)), sets.items(), strict=True):
        places = sorted({row["place"] for row in rows})
        lines: dict[str, tuple[str, Callable[[dict[str, Any]], float]]] = {
            "in one prompt": ("o-", lambda row: row["scores"]["chrf++"]),
            "sentence by sentence": ("--", lambda row: row["against"]["sentence by sentence"]),
            "another page's": (":", lambda row: row["chance"]),
        }
        for label, (style, value) in lines.items():
            means = []
            for place in places:
                here = [value(row) for row in rows if row["place"] == place]
                means.append(sum(here) / len(here))
            axes.plot(places, means, style, color=colour, markersize=4, label=f"{label}, {name}")
    last = max(row["place"] for rows in sets.values() for row in rows)
    axes.set_xticks(range(1, last + 1))
    axes.set(xlabel="place of the sentence on the page", ylabel="chrF++ of the most alike stretch", ylim=(0, None))
    axes.legend(frameon=False, fontsize=8)


def _tokens(axes: Any, sets: Sets) -> None:
    """Time of the first pass against the tokens it reads, raw and as slots."""
    rows = [row for found in sets.values() for row in found if "seconds" in row]
    axes.scatter(
        [r["tokens_raw"] for r in rows], [1000 * r["seconds"]["raw"] for r in rows], color=REST[1], label="raw text"
    )
    axes.scatter(
        [r["tokens"] for r in rows], [1000 * (r["seconds"]["slots"] + r["seconds"]["encoder"]) for r in rows],
        color=REST[2], marker="^", label="slots, with the encoder",
    )  # fmt: skip
    axes.scatter([r["tokens"] for r in rows], [1000 * r["seconds"]["slots"] for r in rows], color=OURS, label="slots")
    axes.set(xlabel="tokens of the prompt", ylabel="first pass, ms", xlim=(0, None), ylim=(0, None))
    axes.legend(frameon=False)


_PLOTS: tuple[tuple[str, str, Callable[[Any, Sets], None]], ...] = (
    ("retrieval", "Ranks of the right translation", _ranks),
    ("retrieval", "R@1 against length", _lengths),
    ("usage", "Loss with and without slots, by position", _positions),
    ("exact", "Exact values, by kind", _exact),
    ("long", "Quality against position", _places),
    ("tokens", "Tokens against latency", _tokens),
)
