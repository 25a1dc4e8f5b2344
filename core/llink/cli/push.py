"""``llink push``: share an adapter."""

from __future__ import annotations

import sys

import click

from llink.errors import LlinkError


@click.command("push", short_help="Share an adapter: on a hub, as a folder, as a zip.")
@click.argument("code", metavar="CODE[@NAME]")
@click.argument("target")
@click.option(
    "--adapter", metavar="DIR_OR_NAME", help="Adapter folder, such as runs/km/adapter.  [default: CODE's own]"
)
@click.option(
    "--licence", metavar="ID", help="Of the adapter, such as apache-2.0 or cc-by-nc-4.0; asked where it is not given."
)
@click.option("--private", is_flag=True, help="Make a new repository of the hub private.")
@click.option("--message", metavar="TEXT", default="", help="Of the commit.")
def command(code: str, target: str, adapter: str | None, licence: str | None, private: bool, message: str) -> None:
    """Share an adapter of the language CODE, with @NAME another of its adapters, at TARGET: hub:ORG/NAME, a folder, or a
    file that ends in .zip.

    It is checked, and gets a card that a hub understands: language, base models, licence, sources of the data, measures. On a
    hub that is one commit; the login is that of `hf auth login`, or HF_TOKEN.
    """
    from llink.adapter.files import find_adapter, read_manifest
    from llink.adapter.sharing import Address
    from llink.adapter.sharing.install import push
    from llink.cli.names import selected
    from llink.store.registry import load_registry

    to = Address.read(target)
    if to.revision:
        raise LlinkError("E320", f"'{target}' names a revision; a push makes one.", f"llink push {code} hub:{to.repo}")
    default = load_registry().default
    chosen, folder = selected(code, adapter, default.encoder, default.decoder)
    folder = folder or find_adapter(chosen.language, default.encoder, default.decoder)
    sources = read_manifest(folder).data
    if licence is None:
        if not sys.stdin.isatty():
            raise LlinkError(
                "E223", "Under which licence is the adapter shared: there is nobody to ask.", "Say it with --licence."
            )
        click.echo("An adapter is a derived work of its data and of both base models:", err=True)
        for source, row in sources.items():
            click.echo(f"  {source}: {row['licence']}", err=True)
        licence = str(
            click.prompt("Licence of the adapter (such as apache-2.0, cc-by-4.0, cc-by-nc-4.0, other)", err=True)
        )
    # Where a repository is there already, it stays as it is.
    click.echo(push(folder, to, licence, private=True if private else None, message=message))
