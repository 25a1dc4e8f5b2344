"""``llink experiment``: a question of the method, answered with a table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llink.cli.options import data_option, overrides_option, recipe_option
from llink.errors import LlinkError
from llink.experiments import EXPERIMENTS, check_name, experiment

if TYPE_CHECKING:
    from llink.experiments.base import Experiment


@click.command(
    "experiment",
    short_help="Answer a question of the method with a table and a plot.",
    epilog="\b\nNAME is one of:\n" + "\n".join(f"  {name:<16} {asks}" for name, asks in EXPERIMENTS.items()) + "\n",
)
@click.argument("name")
@click.argument("code")
@recipe_option
@overrides_option
@click.option(
    "--pairs",
    type=click.IntRange(min=2),
    metavar="N",
    help="Train on N pairs at most, and as many sentences of general English.  [default: the recipe's]",
)
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Examples of stage B in each variant.  [default: the recipe's]",
)
@click.option(
    "--sample",
    type=click.IntRange(min=2),
    default=48,
    show_default=True,
    metavar="N",
    help="Pairs of each dev set that stage B is measured on, drawn with the recipe's seed.",
)
@click.option(
    "--values",
    metavar="LIST",
    help="Weights, numbers of slots or layers (-1 is the last) to try, with commas between.  [default: the experiment's]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of what is done and found; what it has is not done again.  [default: runs/experiments/NAME-CODE]",
)
@data_option
def command(
    name: str,
    code: str,
    recipe_name: str,
    overrides: tuple[str, ...],
    pairs: int | None,
    examples: int | None,
    sample: int,
    values: str | None,
    out: Path | None,
    data: Path,
) -> None:
    """Do the experiment NAME with the language CODE.

    Each variant is trained by the recipe, on the same models and features. Writes table.md, table.json and plot.png
    (which needs matplotlib: pip install "llink[report]"). A killed experiment goes on when it is started again.
    """
    check_name(name)
    from llink.cli.names import check_names, recipe_path
    from llink.plugins import language
    from llink.recipe import load_recipe

    entry = language(code)
    path = recipe_path(recipe_name, entry)
    recipe = load_recipe(path, overrides)
    if language(recipe.language) is not entry:
        raise LlinkError(
            "E207",
            f"Recipe {path} is for '{recipe.language}', not for '{entry.code}'.",
            f"Say so with --set language={entry.code}, if its data fits.",
        )
    if not recipe.data.dev:
        raise LlinkError("E520", f"Recipe {path} names no dev set to measure on.", "Add a section data.dev to it.")
    check_names(recipe)

    from llink.cli.tables import table
    from llink.experiments.base import Study, changed, conduct

    bounds: dict[str, Any] = {}
    if pairs:
        bounds |= {"data.max_pairs": pairs, "data.max_english": min(pairs, recipe.data.max_english)}
    if examples:
        bounds["stage_b.examples"] = examples
    chosen = experiment(name)
    out = out or Path("runs") / "experiments" / f"{name}-{entry.code}"
    study = Study(changed(recipe, bounds), data, out, parse_values(values, chosen), sample)
    found = conduct(chosen, study)
    click.echo(table(list(found.columns), found.cells()))
    for note in found.notes:
        click.echo(f"\n{note}")
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"In {out}", err=True)


def parse_values(text: str | None, chosen: Experiment) -> tuple[float, ...]:
    """Values to try, each once; a usage error where they are no numbers of the experiment's kind."""
    if text is None:
        return ()
    if chosen.kind is None:
        raise click.UsageError(f"{chosen.name} has nothing to choose with --values.")
    try:
        return tuple(dict.fromkeys(chosen.kind(part) for part in text.split(",")))
    except ValueError:
        what = "whole numbers" if chosen.kind is int else "numbers"
        raise click.UsageError(f"--values '{text}' is not {what} with commas between.") from None
