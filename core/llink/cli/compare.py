"""``llink compare``: what changed between two evaluations, and whether it is noise."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click


@click.command("compare", short_help="Say what changed between two evaluations, and whether it is noise.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--resamples",
    type=click.IntRange(min=100),
    default=10_000,
    show_default=True,
    metavar="N",
    help="Of the bootstrap.",
)
@click.option("--seed", type=int, default=17, show_default=True, metavar="N", help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a difference.")
def command(a: Path, b: Path, resamples: int, seed: int, as_json: bool) -> None:
    """Compare the evaluations in the folders A and B, which `llink eval --out` wrote.

    A paired bootstrap over the examples that both have: the difference B - A, its 95 % interval and its p.
    """
    from llink.cli.tables import table
    from llink.evaluation.compare import compare
    from llink.evaluation.results import read

    differences = compare(read(a), read(b), resamples, seed)
    if as_json:
        for d in differences:
            click.echo(json.dumps({**asdict(d), "difference": d.difference, "verdict": d.verdict}))
        return
    rows = [
        [
            d.suite,
            d.set,
            d.score,
            str(d.examples),
            f"{d.a:.3f}",
            f"{d.b:.3f}",
            f"{d.difference:+.3f}",
            f"{d.low:+.3f} to {d.high:+.3f}",
            f"{d.p:.4f}",
            d.verdict,
        ]
        for d in differences
    ]
    click.echo(table(["suite", "set", "score", "n", "A", "B", "B - A", "95 % interval", "p", "B is"], rows))
    real = sum(d.verdict.endswith("real") for d in differences)
    click.echo(
        f"\n{real} of {len(differences)} differences are real; of as many without any, "
        f"{len(differences) * 0.05:.1f} would look so by chance."
    )
