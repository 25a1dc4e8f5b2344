"""``llink search``: which adapters others have shared."""

from __future__ import annotations

import click


@click.command("search", short_help="Find adapters that others have shared.")
@click.argument("words", nargs=-1)
@click.option("--language", metavar="CODE", default="", help="Adapters of this language alone.")
@click.option(
    "--limit", type=click.IntRange(1, 100), default=20, show_default=True, metavar="N", help="How many at most."
)
def command(words: tuple[str, ...], language: str, limit: int) -> None:
    """List the language adapters on the hub whose names have WORDS in them; without any, the most downloaded ones."""
    from llink.adapter.sharing.hub import search
    from llink.cli.tables import table

    found = search(" ".join(words), language, limit)
    rows = [
        [
            f"hub:{one.repo}",
            ", ".join(one.languages),
            ", ".join(one.base),
            one.licence or one.closed,
            str(one.downloads),
            one.changed,
        ]
        for one in found
    ]
    click.echo(
        table(("adapter", "languages", "base models", "licence", "downloads", "changed"), rows)
        if rows
        else "None found."
    )
