"""``llink models``: which models there are, which lie on disk, their sizes and licences."""

from __future__ import annotations

import click


@click.command("models", short_help="List the models, their sizes and licences.")
def command() -> None:
    """List the models of the registry. Nothing is fetched; a model is fetched at its first use.

    A star marks the default pair. The size of a model that is not on disk is that of its download. A model is from
    the registry that is packaged with LLINK, the user's (LLINK_HOME/registry.yaml), the project's (./registry.yaml)
    or the one that LLINK_REGISTRY names.
    """
    from llink import store
    from llink.cli.tables import size, table
    from llink.store.registry import origins

    layers = origins("models")
    rows = [
        [
            f"{model.name}{' *' if model.default else ''}",
            model.role,
            "yes" if model.stored else "no",
            size(model.bytes),
            layers[model.name],
            f"{model.licence} ({model.licence_url})" if model.licence_url else model.licence,
        ]
        for model in store.status()
    ]
    click.echo(table(("model", "role", "on disk", "size", "from", "licence"), rows))
    click.echo(f"\n* default pair. Models are kept in {store.models_folder()}")
