"""``llink data instruct``: make instruction data out of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llink.cli.data.reading import jsonl, refuse_existing
from llink.cli.options import data_option
from llink.errors import LlinkError

if TYPE_CHECKING:
    pass


@click.command("instruct", short_help="Make instruction data out of pairs.")
@click.argument("code")
@data_option
@click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME_OR_PATH",
    help="The recipe that names the pairs, the dev sets and the decoder.  [default: cpu, if the language has it]",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Who answers: a decoder that `llink models` lists, a folder, or http://HOST/v1#MODEL of an "
    "OpenAI-compatible endpoint (its key in LLINK_MODEL_KEY).  [default: the recipe's decoder]",
)
@click.option(
    "--model-licence", metavar="TEXT", help="Licence of the model's answers.  [default: the registry's, else unknown]"
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="How many texts to ask about.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="summarize, title, keypoints or qa. Repeatable.  [default: all]",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=4),
    metavar="N",
    help="Longer answers are left out.  [default: what the recipe trains on, stage_b.max_target_tokens]",
)
@click.option(
    "--seed", default=17, show_default=True, metavar="N", help="Another seed picks other texts and questions."
)
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    callback=jsonl,
    metavar="FILE",
    help="A new file.  [default: CODE/instruct.jsonl.gz in the data folder]",
)
def instruct(
    code: str,
    data: Path,
    recipe_name: str | None,
    model: str | None,
    model_licence: str | None,
    count: int,
    tasks: tuple[str, ...],
    max_new_tokens: int | None,
    seed: int,
    device: str,
    out: Path | None,
) -> None:
    """Ask a model about the English of training pairs of the language CODE, and write its answers as targets.

    The recipe's own decoder is the usual author: what it says of the English, it shall say of the slots. Answers
    that are cut off, no English, a refusal, a loop or a copy of the text are left out and counted. Each is kept as
    it comes, so that the same line goes on after a kill. A recipe trains on the file with `data.instructions`.
    """
    from llink import plugins
    from llink.cli.inspect import chosen_recipe
    from llink.cli.tables import table
    from llink.data import instruct as making
    from llink.data.pairs import training_pairs
    from llink.home import home

    language = plugins.language(code)
    out = out or data / language.code / "instruct.jsonl.gz"
    refuse_existing(out)
    tasks = tasks or making.DISTILLED_TASKS
    making.check_tasks(tasks)
    recipe = chosen_recipe(language, recipe_name, None, None)
    max_new_tokens = max_new_tokens or recipe.stage_b.max_target_tokens
    pairs = making.chosen(training_pairs(recipe.data, data, language.normalise).rows, count, seed)
    options = {} if model else recipe.decoder.options
    author = making.open_author(model or recipe.decoder.name, model_licence, device, **options)
    made = making.make(author, pairs, home() / "distilled", tasks=tasks, max_new_tokens=max_new_tokens, seed=seed)
    kept = {task: sum(row.task == task for row in made.rows) for task in made.asked}
    rows = [
        [task, str(asked), str(kept[task]), ", ".join(f"{n} {why}" for why, n in made.left_out.get(task, {}).items())]
        for task, asked in made.asked.items()
    ]
    click.echo(table(("task", "asked", "kept", "left out"), rows))
    if not made.rows:
        raise LlinkError(
            "E230", f"None of the {len(pairs)} answers of {author.name} is of use.", "Take another --model."
        )
    making.write_instructions(out, made.rows)
    click.echo(f"{len(made.rows)} of {len(pairs)} answers by {author.name} ({author.licence})\nWritten to {out}")
    click.echo(
        f"Next: name it in a recipe, data.instructions: [{out if not out.is_relative_to(data) else out.relative_to(data)}]"
    )
