"""``llink translate``: the English meaning of texts."""

from __future__ import annotations

from typing import Any

import click

from llink.cli.texts import run, text_options


@click.command("translate", short_help="Text in, its English meaning out.")
@text_options
def command(**options: Any) -> None:
    """Translate TEXT to English.

    Without TEXT and --file, texts are read from stdin. One text a line gives one line of output; a blank line
    stays blank.
    """
    run(**options, task="translate")
