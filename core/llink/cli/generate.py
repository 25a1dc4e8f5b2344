"""``llink generate``: a task, or a free instruction, about texts."""

from __future__ import annotations

from typing import Any

import click

from llink.cli.texts import run, text_options


@click.command("generate", short_help="Summary, title, key points or a free instruction about a text.")
@text_options
@click.option(
    "--task",
    metavar="TASK",
    help="translate, summarize, title, keypoints or qa.  [default: translate]",
)
@click.option("--instruction", metavar="TEXT", help="A free instruction in English, in place of a task.")
def command(task: str | None, instruction: str | None, **options: Any) -> None:
    """Answer in English about TEXT.

    Without TEXT and --file, texts are read from stdin. One text a line gives one line of output, as soon as it is
    there. What needs no reading (blank lines, numbers, addresses, emoji, text in Latin letters) comes through as it
    is and ends the command with status 3; a line that cannot be read leaves its line empty, is named on stderr, and
    ends it with status 1. With --json an output keeps its line breaks.
    """
    if task is not None and instruction is not None:
        raise click.UsageError("Give --task or --instruction, not both.")
    if instruction is not None and not instruction.strip():
        raise click.UsageError("--instruction is empty.")
    if instruction is None and task is None:
        task = "translate"
    run(**options, task=task, instruction=instruction)
