"""``llink recipes``: find, read, copy and check recipes."""

from __future__ import annotations

from pathlib import Path

import click

from llink.errors import LlinkError, unknown_name


@click.group("recipes", short_help="Find, read, copy and check recipes.")
def command() -> None:
    """Find, read, copy and check the recipes of training."""


@command.command("ls")
def list_recipes() -> None:
    """List the recipes of all languages."""
    from llink.cli.names import all_recipes
    from llink.cli.tables import table
    from llink.plugins import languages

    recipes = all_recipes()
    if not recipes:
        click.echo("No language brings a recipe.")
        return
    rows = [[name, languages()[name.partition("/")[0]].name, first_comment(path)] for name, path in recipes.items()]
    click.echo(table(("recipe", "language", "about"), rows))


@command.command("cat", short_help="Print a recipe.")
@click.argument("name")
@click.option("--whole", is_flag=True, help="Every setting, with those of the recipe it extends and the defaults.")
def show(name: str, whole: bool) -> None:
    """Print the recipe NAME: km/cpu, cpu where one language has it, or llink_plugins.smollm2/cpu, as in `extends`."""
    from llink.cli.names import named_recipe

    path = named_recipe(name)
    if not whole:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    import yaml

    from llink.recipe import load_recipe

    settings = load_recipe(path).model_dump(mode="json")
    click.echo(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), nl=False)


@command.command("cp", short_help="Copy a recipe to a file.")
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path))
def copy(name: str, file: Path) -> None:
    """Copy the recipe NAME to FILE, to change it there; nothing is overwritten."""
    from llink.cli.names import named_recipe

    source = named_recipe(name)
    target = file / source.name if file.is_dir() else file
    if target.suffix not in (".yaml", ".yml"):
        raise LlinkError(
            "E206", f"A recipe's file name ends in .yaml, not '{target.name}'.", f"Try {target.name}.yaml."
        )
    from llink.home import write_error

    made = False
    try:
        with target.open("xb") as out:
            made = True
            out.write(source.read_bytes())
    except FileExistsError:
        raise LlinkError("E206", f"{target} exists.", "Give another name, or delete it first.") from None
    except OSError as error:
        if made:  # half of it, which the next try would refuse
            target.unlink(missing_ok=True)
        full = write_error(target, error)
        if full.code == "E113":
            raise full from error
        raise LlinkError("E206", f"Cannot write {target}: {error.strerror}.", "Give another place.") from None
    click.echo(f"{target} written; use it with --recipe {target}")


@command.command("validate", short_help="Check recipes.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...]) -> None:
    """Check recipes, as files or by name: keys, values, and that what they name is there."""
    from llink.cli.names import check_names, recipe_path
    from llink.recipe import load_recipe

    wrong = 0
    for file in files:
        try:
            check_names(load_recipe(recipe_path(file)))
            click.echo(f"{file}: ok")
        except LlinkError as error:
            wrong += 1
            click.echo(f"llink: {file}: {error}", err=True)
    ctx.exit(1 if wrong else 0)


@command.command("accelerate", short_help="Where the configs for several processes are.")
@click.argument("name", required=False)
def accelerate(name: str | None) -> None:
    """Print the path of the accelerate config NAME (ddp, fsdp2, cpu), or list them.

    accelerate launch --config_file "$(llink recipes accelerate ddp)" --num_processes 8 -m llink train km
    """
    from llink.cli.names import accelerate_configs
    from llink.cli.tables import table

    configs = accelerate_configs()
    if name is None:
        click.echo(table(("config", "about"), [[known, first_comment(path)] for known, path in configs.items()]))
    elif name in configs:
        click.echo(configs[name])
    else:
        raise unknown_name("E209", "accelerate config", name, configs)


def first_comment(path: Path) -> str:
    """The first comment of a recipe, which says what it is."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return next((line.lstrip("# ").rstrip() for line in lines if line.startswith("#") and line.strip("# ")), "")
