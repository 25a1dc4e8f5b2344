"""A server: OpenAI's API and LibreTranslate's over one engine, as the command ``llink serve``."""

from __future__ import annotations

import click

from llink.hookspecs import hookimpl


@hookimpl
def llink_commands(cli: click.Group) -> None:
    from llink_plugins.serve.command import command

    cli.add_command(command)
