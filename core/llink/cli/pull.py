"""``llink pull``: fetch an adapter that somebody shared."""

from __future__ import annotations

import click


@click.command("pull", short_help="Fetch an adapter that somebody shared.")
@click.argument("source")
@click.option(
    "--name",
    metavar="NAME",
    default="",
    help="Call it CODE@NAME.  [default: CODE if that is free, else as SOURCE is called]",
)
@click.option("--update", is_flag=True, help="Take the newest commit of a repository that was pulled before.")
def command(source: str, name: str, update: bool) -> None:
    """Fetch an adapter from SOURCE: hub:ORG/NAME, hub:ORG/NAME@REVISION, a folder or a zip.

    What arrives is checked before it is used: names, sizes, every hash, and that it holds no pickle. It is put under
    LLINK_HOME, and its commit and hashes are pinned in LLINK_HOME/registry.yaml.
    """
    from llink.adapter.sharing import Address
    from llink.adapter.sharing.install import pull

    found = pull(Address.read(source), name, update)
    click.echo(found.folder)
    at = f" at commit {found.commit[:12]}" if found.commit else ""
    click.echo(f"Pinned{at}. Use it: llink translate --language {found.called} …", err=True)
