"""``llink train``: train the adapter of a language by a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from llink.errors import LlinkError


@click.command("train", short_help="Train a language adapter.")
@click.argument("code")
@click.option(
    "--stage",
    type=click.Choice(["a", "b", "all"]),
    default="all",
    show_default=True,
    help="a aligns the encoder with the decoder, b teaches the decoder to read the slots.",
)
@click.option(
    "--recipe",
    "recipe_name",
    default="cpu",
    show_default=True,
    metavar="NAME_OR_PATH",
    help="A recipe that `llink recipes ls` lists, or a .yaml file.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the recipe, such as stage_b.batch=8. Repeatable.",
)
@click.option("--resume", is_flag=True, help="Go on from what --out holds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the run.  [default: runs/CODE-RECIPE]",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=".",
    show_default=True,
    envvar="LLINK_DATA",
    show_envvar=True,
    metavar="DIR",
    help="Folder of the parallel text.",
)
def command(
    code: str, stage: str, recipe_name: str, overrides: tuple[str, ...], resume: bool, out: Path | None, data: Path
) -> None:
    """Train the adapter of the language CODE."""
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
    out = out or Path("runs") / f"{entry.code}-{path.stem}"
    if not resume and (out / "recipe.yaml").exists():
        # llink.training.run says the same, but only after torch is imported.
        raise LlinkError("E404", f"{out} already holds a run.", "Go on with --resume, or choose another --out.")
    check_names(recipe)

    from llink.training.run import train

    adapter = train(recipe, stage=stage, data=data, out=out, resume=resume)
    same = f"--recipe {shlex.quote(recipe_name)} --data {shlex.quote(str(data))}"
    if stage == "a":
        again = "".join(f" --set {shlex.quote(item)}" for item in overrides)
        click.echo(f"Stage A: {adapter}")
        click.echo(f"Next:    llink train {entry.code} --stage b {same}{again} --out {shlex.quote(str(out))} --resume")
        return
    quoted = shlex.quote(str(adapter))
    sample = entry.samples[0].foreign if entry.samples else "TEXT"
    click.echo(f"Adapter: {adapter}")
    click.echo(f"Next:    llink eval {entry.code} --adapter {quoted} {same}")
    click.echo(f"         llink translate --language {entry.code} --adapter {quoted} {shlex.quote(sample)}")
