"""``llink inspect``: can this encoder read this language, and what would an adapter cost?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llink.cli.options import data_option
from llink.errors import LlinkError
from llink.interfaces import Language

if TYPE_CHECKING:
    from llink.new_language.inspection import Report, SharedReading
    from llink.recipe import Recipe

IDLE = 0.6
"""Share of its cores from which a process has the machine to itself; loading and tokenising use one core."""


@click.command("inspect", short_help="Say whether a language can work, before it is trained.")
@click.argument("code")
@data_option
@click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME_OR_PATH",
    help="The recipe that names models, data and amounts.  [default: cpu, if the language has it]",
)
@click.option("--encoder", metavar="NAME", help="Another encoder than the recipe's.")
@click.option("--decoder", metavar="NAME", help="Another decoder than the recipe's.")
@click.option(
    "--pairs",
    type=click.IntRange(min=2),
    default=200,
    show_default=True,
    metavar="N",
    help="How many dev pairs to look at; without a dev set, the samples.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def command(
    code: str,
    data: Path,
    recipe_name: str | None,
    encoder: str | None,
    decoder: str | None,
    pairs: int,
    as_json: bool,
) -> None:
    """Report on the language CODE before it is trained.

    How finely both tokenizers cut it up, whether the bare encoder puts its sentences near their translations,
    what the shared adapter already makes of them, which training data there is, and what training would take in
    time and memory. Nothing is trained but a few steps to measure this machine. CODE may be any language of ISO 639.
    """
    from llink.cli.names import check_names

    entry = inspected(code)
    recipe = chosen_recipe(entry, recipe_name, encoder, decoder)
    check_names(recipe)

    from llink.new_language.inspection import inspect
    from llink.plugins import language

    try:
        result = inspect(entry, recipe, data, pairs)
    except LlinkError as error:
        if error.code == "E228" and not entry.package:
            language(code)  # no plugin and not a pair: more likely a slip, which this tells
        raise
    click.echo(json.dumps(asdict(result), indent=2, ensure_ascii=False) if as_json else text(result))


def inspected(code: str) -> Language:
    """The language of a plugin, else as ISO 639, CLDR and Unicode know it; E201 where nobody does."""
    from llink.language.generic import generic_language
    from llink.plugins import language

    try:
        return language(code)
    except LlinkError as error:
        try:
            return generic_language(code)
        except LlinkError:
            raise error from None


def chosen_recipe(entry: Language, name: str | None, encoder: str | None, decoder: str | None) -> Recipe:
    """The recipe asked for, else ``cpu``, else the default pair with default amounts; other models laid over it."""
    from llink.adapter.shared import SHARED
    from llink.cli.names import recipe_path
    from llink.recipe import Data, ModelChoice, Recipe, load_recipe, recipe_files
    from llink.store.registry import load_registry

    if name or (entry.package and "cpu" in recipe_files(entry.package)):
        recipe = load_recipe(recipe_path(name or "cpu", entry))
    else:
        default = load_registry().default
        recipe = Recipe(
            name="none",
            language=entry.code if entry.package else SHARED,  # which a text of any language may be read as
            encoder=ModelChoice(name=default.encoder),
            decoder=ModelChoice(name=default.decoder),
            data=Data(train=[f"{entry.code}/train.jsonl.gz"], dev={"dev": f"{entry.code}/dev.jsonl.gz"}),
        )
    # The options (layer, …) are the old model's.
    models = {"encoder": encoder, "decoder": decoder}
    others = {role: ModelChoice(name=wanted) for role, wanted in models.items() if wanted}
    return recipe.model_copy(update=others)


def text(report: Report) -> str:
    """The report for a reader."""
    from llink.cli.tables import table

    shown = report.zero_shot
    rows = [
        [
            model,
            role,
            f"{tokens.tokens:.1f}",
            f"{tokens.english_tokens:.1f}",
            f"{tokens.ratio:.1f}",
            f"{tokens.per_character:.2f}",
            "-" if tokens.unreadable is None else f"{100 * tokens.unreadable:.0f}",
        ]
        for model, role, tokens in (
            (report.encoder, "encoder", report.encoder_tokens),
            (report.decoder, "decoder", report.decoder_tokens),
        )
    ]
    head = ("tokens of a text", "", report.name, "English", "ratio", "a character", "unreadable %")
    scores = [
        [direction, *(f"{shown[prefix + name]:.3f}" for name in ("r1", "r5", "r10", "mrr")), f"{shown['chance']:.3f}"]
        for direction, prefix in ((f"{report.name} to English", ""), (f"English to {report.name}", "back_"))
    ]
    verdict = " ".join(filter(None, (report.verdict.why, report.verdict.advice)))
    return "\n\n".join(
        [
            f"{report.name} ({report.language}), recipe {report.recipe}: {report.pairs} pairs of {report.looked_at}",
            table(head, rows),
            table(("untrained encoder", "R@1", "R@5", "R@10", "MRR", "chance"), scores),
            *([shared_text(report.shared)] if report.shared else []),
            verdict,
            data_text(report),
            estimate_text(report),
        ]
    )


def shared_text(shared: SharedReading) -> str:
    """What a user of the language gets today."""
    lines = [f"  {e['text']}\n    -> {e['answer']}\n     ({e['english']})" for e in shared.examples]
    told = f"The shared adapter reads it already: R@1 {shared.r1:.3f}, chrF++ {shared.chrf:.1f} on {shared.answered} texts."
    return "\n".join([told, *lines])


def data_text(report: Report) -> str:
    """Training pairs by source and licence, or what is missing and how to get it."""
    from llink.cli.tables import table

    data = report.data
    if data.missing:
        return (
            f"No training data: {data.missing}\n"
            f"`llink languages {report.language}` names open sources, `llink data harvest {report.language}` collects "
            "translation catalogues, --data DIR says where the text is."
        )
    rows = [[row["source"], row["licence"], str(row["pairs"])] for row in data.sources]
    rows += [["general English", data.english_licence, str(data.english)]] if data.english else []
    left_out = ", ".join(f"{n} {reason}" for reason, n in sorted(data.left_out.items()))
    total = f"{data.pairs} training pairs" + (f"; left out: {left_out}" if left_out else "")
    return f"{table(('training data', 'licence', 'pairs'), rows)}\n{total}"


def estimate_text(report: Report) -> str:
    """Time by part, memory and disk, as the estimate that it is."""
    from llink.cli.tables import size, table

    guess = report.estimate
    basis = f"an assumed {guess.pairs}" if guess.assumed else f"these {guess.pairs}"
    total = sum(guess.seconds.values())
    rows = [[part, duration(seconds)] for part, seconds in [*guess.seconds.items(), ("together", total)]]
    peak = f", {size(guess.bytes['peak'])} at the peak of this measurement" if guess.bytes["peak"] else ""
    busy = guess.device == "cpu" and guess.cpu_share < IDLE
    note = f"\nThis process got {guess.cpu_share:.0%} of its cores; an idle machine is faster." if busy else ""
    return (
        f"Estimate for {basis} pairs, from a few steps on {guess.device} in {guess.dtype}:\n"
        f"{table(('part', 'time'), rows)}\n"
        f"memory: {size(guess.bytes['weights'])} frozen models, {size(guess.bytes['trained'])} trained numbers with "
        f"their optimiser{peak}\n"
        f"disk: {size(guess.bytes['cache'])} feature cache{note}"
    )


def duration(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
