"""The report of an evaluation: one HTML page that needs nothing else, and the same as Markdown with its plots."""

from __future__ import annotations

import base64
import re
from html import escape
from pathlib import Path
from typing import Any

from llink.evaluation import SUITES, evaluator
from llink.evaluation.base import whole
from llink.evaluation.plots import plots
from llink.evaluation.results import Evaluation, damage_of
from llink.home import atomic_write, ensure_folder

SHOWN = 8
"""Translations that the page shows of each set."""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1d2b27; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 2px solid #0b6e4f; }
table { border-collapse: collapse; margin: .8rem 0; } td, th { padding: .2rem .7rem; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #999; } tr:nth-child(even) td { background: #f4f7f6; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } tr.first td { font-weight: 600; }
img { max-width: 100%; } .warning { background: #fdf0e3; border-left: 4px solid #e07a5f; padding: .4rem .8rem; margin: .4rem 0; }
.skipped, .notes { color: #666; font-size: .85rem; } details { margin: .6rem 0; }
"""


def write_report(evaluation: Evaluation) -> list[Path]:
    """Write ``report.html``, ``report.md`` and ``plots/*.png`` into an evaluation's folder.

    Raises:
        LlinkError: E521 when matplotlib is not installed, E112/E113 when the folder cannot be written.
    """
    images = plots(evaluation)
    folder = ensure_folder(evaluation.folder / "plots")
    paths = {title: folder / f"{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}.png" for title in images}
    for title, path in paths.items():
        path.write_bytes(images[title])
    pages = {
        evaluation.folder / "report.html": html(evaluation, images),
        evaluation.folder / "report.md": markdown(evaluation, paths),
    }
    for page, text in pages.items():
        atomic_write(page, text)
    return [*pages, *paths.values()]


def html(evaluation: Evaluation, images: dict[str, bytes]) -> str:
    """The page; every text in it is escaped, every plot stands in it."""
    content = evaluation.content
    parts = [f"<h1>{escape(_title(content))}</h1>", f"<p>{escape(_about(content))}</p>"]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in content["warnings"]]
    parts.append(_table(["", "measure", *_sets(evaluation)], _summary(evaluation)))
    for title, png in images.items():
        source = base64.b64encode(png).decode()
        parts.append(f'<h2>{escape(title)}</h2><img alt="{escape(title)}" src="data:image/png;base64,{source}">')
    for suite, sets in _in_order(evaluation):
        primary = evaluator(suite).primary_metric if suite in SUITES else ""
        parts.append(f"<h2>{escape(suite)}</h2>")
        parts.append(_table([suite, *sets], _rows(sets, False), first=primary))
        if by_part := _rows(sets, True):
            parts.append(f"<details><summary>by part</summary>{_table([suite, *sets], by_part)}</details>")
        notes = content["notes"].get(suite, {})
        lines = dict.fromkeys(f"{key}: {text}" for of in notes.values() for key, text in of.items())
        parts += [f'<p class="notes">{escape(line)}</p>' for line in lines]
    for (suite, name), rows in evaluation.examples.items():
        if suite in ("translate", "tasks", "exact", "long"):
            head = ["text", "English", "answer"]
            with damage_of(evaluation.folder):
                shown = [
                    [str(row.get(of, row["english"])) for of in ("foreign", "reference", "answer")]
                    for row in rows[:SHOWN]
                ]
            parts.append(
                f"<details><summary>{escape(suite)}, {escape(name)}: answers</summary>{_table(head, shown)}</details>"
            )
    parts += [f'<p class="skipped">Skipped: {escape(line)}</p>' for line in content["skipped"]]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(_title(content))}</title>\n'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n'
    )


def markdown(evaluation: Evaluation, paths: dict[str, Path]) -> str:
    """The same in Markdown, plots beside it."""
    content = evaluation.content
    lines = [f"# {_title(content)}", "", _about(content), ""]
    lines += [f"> {warning}\n" for warning in content["warnings"]]
    lines += [*_grid(["", "measure", *_sets(evaluation)], _summary(evaluation)), ""]
    for title, path in paths.items():
        lines += [f"## {title}", "", f"![{title}]({path.parent.name}/{path.name})", ""]
    for suite, sets in _in_order(evaluation):
        lines += [f"## {suite}", "", *_grid(["", *sets], _rows(sets, False)), ""]
    lines += [f"- Skipped: {line}" for line in content["skipped"]]
    return "\n".join(lines).rstrip() + "\n"


def _title(content: dict[str, Any]) -> str:
    return (
        f"{content.get('language', '?')} for {content.get('decoder', '?')}, read through {content.get('encoder', '?')}"
    )


def _about(content: dict[str, Any]) -> str:
    limit = f"the first {content['limit']} of each set" if content.get("limit") else "each suite's own number of pairs"
    return f"LLINK {content.get('llink', '?')}, recipe {content.get('recipe', '?')}, seed {content.get('seed', '?')}, {limit}."


def _in_order(evaluation: Evaluation) -> list[tuple[str, dict[str, dict[str, float]]]]:
    known = {suite: i for i, suite in enumerate(SUITES)}
    return sorted(evaluation.results.items(), key=lambda item: known.get(item[0], len(known)))


def _sets(evaluation: Evaluation) -> list[str]:
    return list(dict.fromkeys(name for sets in evaluation.results.values() for name in sets))


def _summary(evaluation: Evaluation) -> list[list[str]]:
    """The one number of each suite, over all that was measured on."""
    rows = []
    for suite, sets in _in_order(evaluation):
        primary = evaluator(suite).primary_metric if suite in SUITES else next(iter(next(iter(sets.values()), {})), "")
        rows.append([suite, primary, *(_number(sets.get(name, {}).get(primary)) for name in _sets(evaluation))])
    return rows


def _rows(sets: dict[str, dict[str, float]], by_part: bool) -> list[list[str]]:
    """A row a metric: those of the whole sets, or those of their parts."""
    names = dict.fromkeys(
        metric for values in sets.values() for metric in values if (metric not in whole(values)) == by_part
    )
    return [[metric, *(_number(values.get(metric)) for values in sets.values())] for metric in names]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _table(head: list[str], rows: list[list[str]], first: str = "") -> str:
    lines = ["<table><tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = "".join(f'<td class="n">{escape(c)}</td>' if _is_number(c) else f"<td>{escape(c)}</td>" for c in row)
        lines.append(f'<tr class="first">{cells}</tr>' if row[0] == first else f"<tr>{cells}</tr>")
    return "\n".join([*lines, "</table>"])


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?[\d,]+(\.\d+)?", cell) is not None


def _grid(head: list[str], rows: list[list[str]]) -> list[str]:
    plain = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in plain)]
