"""``llink data audit``: mark a sample of the training pairs by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llink.cli.data.reading import jsonl, refuse_existing
from llink.cli.options import data_option

if TYPE_CHECKING:
    from llink.interfaces import Language


@click.command("audit", short_help="Mark a sample of the training pairs by hand.")
@click.argument("code")
@data_option
@click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME_OR_PATH",
    help="The recipe that names the data and the encoder.  [default: cpu, if the language has it]",
)
@click.option(
    "--sample", "count", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="How many pairs."
)
@click.option("--seed", default=17, show_default=True, metavar="N", help="Another seed picks other pairs.")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The page to write.  [default: audit-CODE.html]",
)
@click.option("--hints/--no-hints", default=True, show_default=True, help="Show what the encoder thinks of each pair.")
@click.option(
    "--marks", type=click.Path(path_type=Path), metavar="FILE", help="Read the marks back that the page saved."
)
@click.option(
    "--bad", type=click.Path(path_type=Path), callback=jsonl, metavar="FILE", help="With --marks: write the bad pairs."
)
@click.option("--json", "as_json", is_flag=True, help="With --marks: as one JSON object.")
def audit(
    code: str,
    data: Path,
    recipe_name: str | None,
    count: int,
    seed: int,
    html: Path | None,
    hints: bool,
    marks: Path | None,
    bad: Path | None,
    as_json: bool,
) -> None:
    """Put a sample of the training pairs of the language CODE on a local page, to mark them good or bad by hand.

    The page is one file, asks nothing of the network and keeps the marks in the browser until they are saved. With
    --marks, say how much of each source is good.
    """
    from llink import plugins

    language = plugins.language(code)
    if marks:
        marked(marks, language, bad, as_json)
        return
    if bad or as_json:
        raise click.UsageError("--bad and --json go with --marks.")

    from llink.cli.inspect import chosen_recipe
    from llink.data import audit as auditing
    from llink.data.pairs import training_pairs
    from llink.home import atomic_write, home

    html = html or Path(f"audit-{language.code}.html")
    refuse_existing(html, "--html")
    recipe = chosen_recipe(language, recipe_name, None, None)
    pairs = training_pairs(recipe.data, data, language.normalise).rows
    rows, opinions = auditing.sample(pairs, count, seed), None
    if hints:
        from llink.features.cache import FeatureCache
        from llink.store.models import load_encoder

        encoder = load_encoder(recipe.encoder.name, **recipe.encoder.options)
        opinions = auditing.hints(FeatureCache(home() / "features", encoder), rows)
    atomic_write(html, auditing.page(language, rows, pairs, opinions))
    click.echo(f"{len(rows)} of {len(pairs)} pairs: {html}")
    click.echo(f"Next: open it in a browser, mark, save, then llink data audit {language.code} --marks FILE")


def marked(path: Path, language: Language, bad: Path | None, as_json: bool) -> None:
    """Say what the marks of an audit mean, and write the pairs that are bad."""
    from dataclasses import asdict

    from llink.cli.tables import table
    from llink.data.audit import overall, read_marks, shares
    from llink.data.pairs import write_pairs

    marks = read_marks(path, language)
    found = shares(marks)
    if bad:
        refuse_existing(bad, "--bad")
        write_pairs(bad, marks.bad)
    if as_json:
        click.echo(json.dumps({"good": overall(found), "sources": [asdict(s) for s in found]}, ensure_ascii=False))
        return
    rows = [
        [
            s.source,
            str(s.pairs),
            str(s.marked),
            str(s.marked - s.good),
            f"{s.good / s.marked:.2f}",
            f"{s.low:.2f}",
            f"{s.high:.2f}",
        ]
        for s in found
    ]
    click.echo(table(("source", "pairs", "marked", "bad", "good", "low", "high"), rows))
    click.echo(f"About {overall(found):.0%} of the pairs are good (low and high bound 95 % for each source).")
    if bad:
        click.echo(f"{len(marks.bad)} bad pairs written to {bad}")
