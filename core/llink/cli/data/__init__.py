"""``llink data``: collect parallel text, look at it, clean it, split it."""

from __future__ import annotations

import click

from llink.cli.data import audit, files, harvest, instruct


@click.group("data", short_help="Collect, inspect, clean and split parallel text.")
def command() -> None:
    """Collect parallel text, look at it, clean it and split it.

    A FILE is JSONL or a JSON array, TSV, Parquet, TMX, .po or .mo, text formats also with .gz, or
    hub:REPO[:CONFIG[:SPLIT]]. Text is UTF-8, UTF-16 or UTF-32, or what the file declares.
    What is written is JSONL, gzipped where the name ends in .gz.
    """


for subcommand in (
    harvest.harvest,
    files.stats,
    files.dedupe,
    files.split,
    files.validate,
    audit.audit,
    instruct.instruct,
):
    command.add_command(subcommand)
