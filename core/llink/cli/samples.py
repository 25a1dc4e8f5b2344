"""``llink samples``: what an adapter says of dev sentences that nobody picked."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from llink.cli.options import adapter_option, data_option, recipe_option

if TYPE_CHECKING:
    from llink.data.pairs import Pair
    from llink.evaluation.base import Subject

TRANSLATIONS, TASKS, SEED = 12, 6, 7


@click.command("samples", short_help="Show answers to dev sentences drawn by seed.")
@click.argument("code", metavar="CODE[@NAME]")
@click.option(
    "--translations", type=click.IntRange(min=0), default=TRANSLATIONS, show_default=True, metavar="N",
    help="How many sentences are translated.",
)  # fmt: skip
@click.option(
    "--tasks", type=click.IntRange(min=0), default=TASKS, show_default=True, metavar="M",
    help="How many others get another task: summarize, title, keypoints, qa in turn.",
)  # fmt: skip
@click.option("--seed", type=int, default=SEED, show_default=True, metavar="N", help="Which sentences are drawn.")
@adapter_option
@recipe_option
@data_option
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Markdown file.  [default: stdout]"
)
@click.pass_context
def command(
    ctx: click.Context,
    code: str,
    translations: int,
    tasks: int,
    seed: int,
    adapter: str | None,
    recipe_name: str,
    data: Path,
    out: Path | None,
) -> None:
    """Show what the adapter of the language CODE, with @NAME another of its adapters, says, good and bad as it falls, as
    Markdown.

    Sentences are drawn by seed from the dev sets of a recipe, from each as many, or from a file given with --data. Beside
    each answer stand the reference and what the same decoder says when it reads the text itself.
    """
    from llink.cli.eval import on_file
    from llink.cli.names import recipe_path, selected
    from llink.plugins import select
    from llink.recipe import load_recipe

    entry = select(code).language
    recipe = load_recipe(recipe_path(recipe_name, entry))
    chosen, folder = selected(code, adapter, recipe.encoder.name, recipe.decoder.name)
    recipe, data = on_file(recipe, data)

    from llink.evaluation.run import Report, dev_sets, under_test
    from llink.home import atomic_write, ensure_folder

    if out:
        ensure_folder(out.parent)  # before the models are at work
    told = Report()
    instead = ctx.get_parameter_source("data") is ParameterSource.DEFAULT
    drawn = draw(dev_sets(entry, recipe, data, instead, told), translations + tasks, seed)
    for line in (*told.skipped, *told.warnings):
        click.echo(line, err=True)
    if len(drawn) < translations + tasks:
        click.echo(f"There are {len(drawn)} sentences, not {translations + tasks}.", err=True)
    with under_test(entry, recipe, folder) as subject:
        page = markdown(subject, str(chosen), drawn[:translations], drawn[translations:], seed)
    if out:
        atomic_write(out, page)
        click.echo(out)
    else:
        click.echo(page, nl=False)


def draw(sets: Mapping[str, Sequence[Pair]], count: int, seed: int) -> list[tuple[str, Pair]]:
    """So many sentences with the names of their sets, which take turns; no text twice."""
    import random

    piles = {name: list({pair.foreign: pair for pair in rows}.values()) for name, rows in sets.items()}
    for name, pile in piles.items():
        random.Random(f"{seed} {name}").shuffle(pile)
    found: dict[str, tuple[str, Pair]] = {}
    for n in range(max(map(len, piles.values()))):
        for name, pile in piles.items():
            if n < len(pile):
                found.setdefault(pile[n].foreign, (name, pile[n]))
    return list(found.values())[:count]


def markdown(
    subject: Subject, code: str, translated: Sequence[tuple[str, Pair]], asked: Sequence[tuple[str, Pair]], seed: int
) -> str:
    """The page: a table a sentence. ``code`` is what the command was called with."""
    from llink import __version__
    from llink.adapter.prompt import TASKS as INSTRUCTIONS
    from llink.data.instruct import DISTILLED_TASKS
    from llink.evaluation.baselines import baseline_answers

    manifest = subject.engine.resident(subject.code).manifest
    name, decoder = subject.language.name, manifest.decoder
    lines = [
        f"# What the {name} adapter says",
        "",
        f"Dev sentences drawn by `llink samples {code} --translations {len(translated)} --tasks {len(asked)} "
        f"--seed {seed}`: none was picked, none left out. LLINK {__version__}, recipe {manifest.recipe.get('name', '?')}; "
        f"{decoder}, reading {name} through {manifest.encoder}. `{decoder} alone` is the same decoder with the text itself "
        "in its prompt.",
    ]
    alone, english = f"{decoder} alone", f"{decoder}, given the reference"
    for title, chosen, tasks in (
        ("Translations", translated, ["translate"]),
        ("Other tasks", asked, list(DISTILLED_TASKS)),
    ):
        lines += ["", f"## {title}"] if chosen else []
        of = [tasks[n % len(tasks)] for n in range(len(chosen))]
        answers: dict[int, dict[str, str]] = {}
        for task in dict.fromkeys(of):
            mine = [n for n, own in enumerate(of) if own == task]
            rows = [chosen[n][1] for n in mine]
            columns = {"LLINK": subject.answers(rows, task), alone: baseline_answers(subject, "raw", rows, task)}
            if task != "translate":
                columns[english] = baseline_answers(subject, "english", rows, task)
            for place, n in enumerate(mine):
                answers[n] = {column: texts[place] for column, texts in columns.items()}
        for n, (found_in, pair) in enumerate(chosen):
            told = "" if of[n] == "translate" else f" {INSTRUCTIONS[of[n]]}"
            lines += [
                "",
                f"### {n + 1}.{told}",
                "",
                f"| {cell(found_in)} | {cell(pair.source)}, {cell(pair.licence)} |",
            ]
            lines += ["|---|---|", *(f"| {cell(label)} | {cell(text)} |" for label, text in
                      {name: pair.foreign, "reference": pair.english, **answers[n]}.items())]  # fmt: skip
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """A text as it is, in a cell of a Markdown table."""
    marked = re.sub(r"([\\`*_~|\[\]])", r"\\\1", escape(text.strip(), quote=False))
    return "<br>".join(" ".join(line.split()) for line in marked.splitlines()) or "*nothing*"
