"""``llink eval``: measure an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from llink.cli.options import adapter_option, data_option, recipe_option
from llink.errors import LlinkError, unknown_name
from llink.evaluation import BASELINES, SUITES

if TYPE_CHECKING:
    from llink.recipe import Recipe


@click.command("eval", short_help="Measure a language adapter.")
@click.argument("code", metavar="CODE[@NAME]")
@click.option(
    "--suite",
    "suite_names",
    default=",".join(SUITES),
    show_default=True,
    metavar="NAMES",
    help="What is measured, with commas between.",
)
@adapter_option
@recipe_option
@data_option
@click.option("--limit", type=click.IntRange(min=2), metavar="N", help="Use the first N pairs of each dev set.")
@click.option(
    "--against",
    default="raw,english,encoder",
    show_default=True,
    metavar="NAMES",
    help="Baselines beside it: raw, english, encoder, direct-lora (or direct-lora=DIR); none for none.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of what is found; what it has already is not measured again.  [default: runs/CODE]",
)
@click.option(
    "--judge",
    metavar="NAME",
    help="A decoder that `llink models` lists, a folder, or http://HOST/v1#MODEL of an OpenAI-compatible endpoint.",
)
@click.option(
    "--max-slots",
    type=click.IntRange(1),
    metavar="K",
    help="Give no passage more slots, of an adapter that can do with less.",
)
@click.option("--fresh", is_flag=True, help="Measure again what --out has.")
@click.option("--check", is_flag=True, help="Fail when a number is not as the recipe's `expect` says.")
@click.option("--record", is_flag=True, help="Put the numbers into the adapter's manifest and card.")
@click.pass_context
def command(
    ctx: click.Context,
    code: str,
    suite_names: str,
    adapter: str | None,
    recipe_name: str,
    data: Path,
    limit: int | None,
    against: str,
    out: Path | None,
    judge: str | None,
    max_slots: int | None,
    fresh: bool,
    check: bool,
    record: bool,
) -> None:
    """Measure the adapter of the language CODE, with @NAME another of its adapters, on the dev sets of a recipe, or on a file given with --data.

    A language without dev data is measured on its samples. A killed run goes on when it is started again.
    """
    from llink.cli.names import recipe_path, selected
    from llink.evaluation.gates import failed, gates
    from llink.plugins import select
    from llink.recipe import load_recipe

    entry = select(code).language
    suites = parse_suites(suite_names)
    path = recipe_path(recipe_name, entry)
    recipe = load_recipe(path)
    wanted = gates(recipe.expect, suites) if check else {}
    if check and not wanted:
        raise LlinkError(
            "E524", f"Recipe {path.stem} expects nothing of these suites.", "Add a section `expect` to it."
        )
    baselines, lora = parse_baselines(against, Path("runs") / f"{entry.code}-{path.stem}-direct-lora" / "direct-lora")
    chosen, folder = selected(code, adapter, recipe.encoder.name, recipe.decoder.name)
    recipe, data = on_file(recipe, data)
    out = out or Path("runs") / str(chosen)

    from llink.adapter.files import find_adapter, record_metrics
    from llink.evaluation.base import whole
    from llink.evaluation.run import measure

    found = measure(
        entry, suites, recipe=recipe, data=data, adapter=folder, limit=limit, against=baselines, lora=lora, judge=judge,
        samples=ctx.get_parameter_source("data") is ParameterSource.DEFAULT, max_slots=max_slots,
        out=out, fresh=fresh,
    )  # fmt: skip
    results = {suite: {name: whole(values) for name, values in sets.items()} for suite, sets in found.metrics.items()}
    click.echo(report(results))
    for line in (*(f"skipped: {s}" for s in found.skipped), *(f"warning: {w}" for w in found.warnings)):
        click.echo(line, err=True)
    click.echo(f"In {out}; as a page: llink report {out}", err=True)
    if record:
        record_metrics(find_adapter(entry, recipe.encoder.name, recipe.decoder.name, folder), results)
    if lines := failed(wanted, found.metrics):
        raise LlinkError("E524", f"{len(lines)} not as expected: {'; '.join(lines)}.")


def parse_suites(names: str) -> list[str]:
    """Suites in the order given, each once; E506 for an unknown one."""
    suites = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in suites:
        if name not in SUITES:
            raise unknown_name("E506", "suite", name, SUITES)
    return suites


def parse_baselines(names: str, lora: Path) -> tuple[list[str], Path | None]:
    """Baselines in the order given, and the folder of ``direct-lora`` (``lora`` where none is given); E506."""
    if names.strip() == "none":
        return [], None
    given = [name.strip().partition("=") for name in names.split(",")]
    for name, equals, _ in given:
        if name not in BASELINES or (equals and name != "direct-lora"):
            raise unknown_name("E506", "baseline", name, BASELINES)
    folders = [Path(folder) if folder else lora for name, _, folder in given if name == "direct-lora"]
    return list(dict.fromkeys(name for name, _, _ in given)), folders[0] if folders else None


def on_file(recipe: Recipe, data: Path) -> tuple[Recipe, Path]:
    """The recipe and its data folder; where ``data`` is a file, that file is the only dev set."""
    if not data.is_file():
        return recipe, data
    own = recipe.data.model_copy(update={"dev": {data.name.partition(".")[0]: data.name}})
    return recipe.model_copy(update={"data": own}), data.parent


def report(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One table a suite: metrics down, what was measured on across."""
    from llink.cli.tables import table

    tables = []
    for suite, sets in results.items():
        metrics = list(dict.fromkeys(metric for values in sets.values() for metric in values))
        rows = [[metric, *(number(values.get(metric)) for values in sets.values())] for metric in metrics]
        tables.append(table([suite, *sets], rows))
    return "\n\n".join(tables)


def number(value: float | None) -> str:
    """Counts as they are, measures with three decimals, a dash for what is missing."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.3f}"
