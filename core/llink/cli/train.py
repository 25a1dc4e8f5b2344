"""``llink train``: train the adapter of a language by a recipe."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llink.cli.options import data_option, overrides_option, recipe_option
from llink.errors import LlinkError
from llink.progress import is_first

if TYPE_CHECKING:
    from llink.recipe import Recipe


@click.command("train", short_help="Train a language adapter.")
@click.argument("code")
@click.option(
    "--stage",
    type=click.Choice(["a", "b", "c", "all"]),
    default="all",
    show_default=True,
    help="a aligns the encoder with the decoder, b teaches the decoder to read the slots (alone in a new folder it goes on "
    "from the language's adapter that init_from names), c goes on with all of it together, where the recipe has "
    "stage_c.examples.",
)
@recipe_option
@overrides_option
@click.option("--resume", is_flag=True, help="Go on from what --out holds.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of the run.  [default: runs/CODE-RECIPE, and -BASELINE behind it]",
)
@data_option
@click.option(
    "--baseline",
    type=click.Choice(["direct-lora"]),
    help="Train what the adapter is compared with instead: direct-lora reads the raw text, without slots.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Train the baseline for as long, not for stage_b.examples.",
)
@click.option(
    "--track",
    multiple=True,
    metavar="NAME",
    help="Log to this tracker too: tensorboard, wandb, trackio or another that accelerate knows. Repeatable.",
)
@click.option(
    "--install/--no-install",
    default=None,
    help="Make the result the language's adapter for this pair.  [default: when it has none, or that of recipe smoke]",
)
def command(
    code: str,
    stage: str,
    recipe_name: str,
    overrides: tuple[str, ...],
    resume: bool,
    out: Path | None,
    data: Path,
    baseline: str | None,
    minutes: float | None,
    track: tuple[str, ...],
    install: bool | None,
) -> None:
    """Train the adapter of the language CODE."""
    if minutes is not None and not baseline:
        raise click.UsageError("--minutes goes with --baseline.")
    if baseline and (stage != "all" or install is not None):
        raise click.UsageError("A baseline has no stages, and nowhere to be installed.")
    from llink.cli.names import check_names, recipe_path
    from llink.plugins import language
    from llink.recipe import load_recipe
    from llink.training.trackers import check

    check(track)
    entry = language(code)
    path = recipe_path(recipe_name, entry)
    recipe = load_recipe(path, overrides)
    if language(recipe.language) is not entry:
        raise LlinkError(
            "E207",
            f"Recipe {path} is for '{recipe.language}', not for '{entry.code}'.",
            f"Say so with --set language={entry.code}, if its data fits.",
        )
    out = out or Path("runs") / "-".join(filter(None, (entry.code, path.stem, baseline)))
    if not resume and is_first() and (out / "recipe.yaml").exists():
        # llink.training.run says the same, but only after torch is imported.
        raise LlinkError("E404", f"{out} already holds a run.", "Go on with --resume, or choose another --out.")
    check_names(recipe)

    if baseline:
        train_baseline(recipe, recipe_name, data, out, resume, minutes, track)
        return

    from llink.training.run import train

    adapter = train(recipe, stage=stage, data=data, out=out, resume=resume, track=track)
    if not is_first():
        return
    same = f"--recipe {shlex.quote(recipe_name)} --data {shlex.quote(str(data))}"
    if stage == "a":
        again = "".join(f" --set {shlex.quote(item)}" for item in overrides)
        click.echo(f"Stage A: {adapter}")
        click.echo(f"Next:    llink train {entry.code} --stage b {same}{again} --out {shlex.quote(str(out))} --resume")
        return
    click.echo(f"Adapter: {adapter}")

    from llink.adapter.files import install_adapter, pair_name, read_manifest
    from llink.cli.names import adapters

    if install is None:
        present = adapters(entry).get(pair_name(recipe.encoder.name, recipe.decoder.name))
        install = present is None or read_manifest(present).recipe["name"] == "smoke"
    use = f" --adapter {shlex.quote(str(adapter))}"
    if install:
        click.echo(f"         installed in {install_adapter(adapter, entry)}")
        use = ""
    sample = entry.samples[0].foreign if entry.samples else "TEXT"
    click.echo(f"Next:    llink eval {entry.code}{use} {same}")
    click.echo(f"         llink translate --language {entry.code}{use} {shlex.quote(sample)}")


def train_baseline(
    recipe: Recipe,
    recipe_name: str,
    data: Path,
    out: Path,
    resume: bool,
    minutes: float | None,
    track: tuple[str, ...],
) -> None:
    """Train the baseline and say how an adapter is measured against it."""
    from llink.training.direct_lora import NAME, read_about, train

    folder = train(recipe, data=data, out=out, resume=resume, minutes=minutes, track=track)
    if not is_first():
        return
    about = read_about(folder)
    click.echo(f"Baseline: {folder}")
    click.echo(f"          {about['examples']} examples in {about['seconds']:.0f} s")
    for name, losses in about["usage"].items():
        click.echo(f"          {name}: {losses['right']:.2f} nats a token")
    same = f"--recipe {shlex.quote(recipe_name)} --data {shlex.quote(str(data))}"
    click.echo(f"Next:     llink eval {recipe.language} {same} --against raw,{shlex.quote(f'{NAME}={folder}')}")
