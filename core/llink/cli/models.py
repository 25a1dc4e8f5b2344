"""``llink models``: which models there are, which lie on disk, their sizes and licences."""

from __future__ import annotations

import click


@click.command("models", short_help="List the models, their sizes and licences.")
def command() -> None:
    """List the models of the registry. Nothing is fetched; a model is fetched at its first use.

    A star marks the default pair. The size of a model that is not on disk is that of its download.
    """
    from llink import store
    from llink.cli.tables import size, table

    rows = [
        [
            f"{model.name}{' *' if model.default else ''}",
            model.role,
            "yes" if model.stored else "no",
            size(model.bytes),
            f"{model.licence} ({model.licence_url})" if model.licence_url else model.licence,
        ]
        for model in store.status()
    ]
    click.echo(table(("model", "role", "on disk", "size", "licence"), rows))
    click.echo(f"\n* default pair. Models are kept in {store.models_folder()}")
