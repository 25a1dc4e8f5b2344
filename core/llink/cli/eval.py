"""``llink eval``: measure an adapter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from llink.errors import LlinkError, unknown_name

SUITES = ("retrieval", "usage", "translate")


@click.command("eval", short_help="Measure a language adapter.")
@click.argument("code")
@click.option(
    "--suite",
    "suite_names",
    default=",".join(SUITES),
    show_default=True,
    metavar="NAMES",
    help="What is measured, with commas between.",
)
@click.option(
    "--adapter",
    metavar="DIR_OR_NAME",
    help="Adapter folder, or the name of one that `llink languages` lists.  [default: the one shipped]",
)
@click.option(
    "--recipe",
    "recipe_name",
    default="cpu",
    show_default=True,
    metavar="NAME_OR_PATH",
    help="The recipe that names models and dev sets.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    envvar="LLINK_DATA",
    show_envvar=True,
    metavar="DIR",
    help="Folder of the dev sets.",
)
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="Use the first N pairs of each dev set.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.json", help="Write the numbers as JSON too.")
@click.option("--record", is_flag=True, help="Put the numbers into the adapter's manifest and card.")
def command(
    code: str,
    suite_names: str,
    adapter: str | None,
    recipe_name: str,
    data: Path,
    limit: int | None,
    out: Path | None,
    record: bool,
) -> None:
    """Measure the adapter of the language CODE on the dev sets of a recipe."""
    from llink.cli.names import adapter_path, recipe_path
    from llink.plugins import language
    from llink.recipe import load_recipe

    entry = language(code)
    suites = parse_suites(suite_names)
    path = recipe_path(recipe_name, entry)
    recipe = load_recipe(path)
    folder = adapter_path(adapter, entry) if adapter else None

    from llink.adapter import find_adapter, record_metrics
    from llink.evaluation.run import evaluate

    results = evaluate(entry, suites=suites, adapter=folder, recipe=recipe, data=data, limit=limit)
    click.echo(report(results))
    if record:
        record_metrics(find_adapter(entry, recipe.encoder.name, recipe.decoder.name, folder), results)
    if out:
        rows = {
            "language": entry.code,
            "adapter": str(folder) if folder else None,
            "recipe": path.stem,
            "limit": limit,
            "results": results,
        }
        save(out, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


def parse_suites(names: str) -> list[str]:
    """Suites in the order given, each once; E506 for an unknown one."""
    suites = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in suites:
        if name not in SUITES:
            raise unknown_name("E506", "suite", name, SUITES)
    return suites


def report(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One table a suite: dev sets down, metrics across."""
    from llink.cli.tables import table

    tables = []
    for suite, sets in results.items():
        metrics = list(dict.fromkeys(metric for values in sets.values() for metric in values))
        rows = [[name, *(number(values.get(metric)) for metric in metrics)] for name, values in sets.items()]
        tables.append(table([suite, *metrics], rows))
    return "\n\n".join(tables)


def number(value: float | None) -> str:
    """Counts as they are, measures with three decimals, a dash for what is missing."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def save(path: Path, text: str) -> None:
    """Write the whole file or none of it."""
    from llink.home import atomic_write

    try:
        atomic_write(path, text)
    except LlinkError as error:
        raise LlinkError(error.code, error.message, "Give another --out.") from error
