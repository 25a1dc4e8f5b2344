"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from llink.home import data_folder

recipe_option = click.option(
    "--recipe",
    "recipe_name",
    default="cpu",
    show_default=True,
    metavar="NAME_OR_PATH",
    help="A recipe that `llink recipes ls` lists, or a .yaml file.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=data_folder,
    show_default="$LLINK_DATA, else data in LLINK_HOME",
    metavar="DIR",
    help="Folder of the parallel text; a recipe's paths are relative to it.",
)
adapter_option = click.option(
    "--adapter",
    metavar="DIR_OR_NAME",
    help="Adapter folder, or the name of one that `llink languages` lists.  [default: the one shipped]",
)
overrides_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the recipe, such as stage_b.batch=8. Repeatable.",
)
