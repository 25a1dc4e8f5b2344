"""``llink translate``: the English meaning of texts."""

from __future__ import annotations

from typing import Any

import click

from llink.cli.texts import run, text_options


@click.command("translate", short_help="Text in, its English meaning out.")
@text_options
def command(**options: Any) -> None:
    """Translate TEXT to English.

    Without TEXT and --file, texts are read from stdin. One text a line gives one line of output, as soon as it is
    there. What needs no reading (blank lines, numbers, addresses, emoji, text in Latin letters) comes through as it
    is and ends the command with status 3; a line that cannot be read leaves its line empty, is named on stderr, and
    ends it with status 1.
    """
    run(**options, task="translate")
