"""``llink plugins``: which plugins were loaded, from where, what each brings, and which were left out."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command("plugins", short_help="List the plugins, what they bring, and which failed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """List the plugins: where each comes from, its hooks and what it brings; then those that were left out, and why.

    LLINK_STRICT_PLUGINS=1 raises the first error instead of leaving its plugin out.
    """
    from llink.cli.tables import table
    from llink.plugins import failures, info

    found = info()
    if as_json:
        report = {"plugins": [asdict(plugin) for plugin in found], "failures": [asdict(f) for f in failures()]}
        click.echo(json.dumps(report, ensure_ascii=False, indent=2))
        return
    rows = []
    for plugin in found:
        names = dict.fromkeys(name for brought in plugin.brings.values() for name in brought)
        hooks, brings = ", ".join(plugin.hooks) or "none", ", ".join(names) or "nothing"
        rows.append([plugin.name, plugin.origin.version or "none", str(plugin.origin), hooks, brings])
    click.echo(table(("plugin", "version", "from", "hooks", "brings"), rows) + failed())


def failed() -> str:
    """A line for each plugin, or thing it brought, that was left out; each begins with a line break."""
    from llink.plugins import failures

    return "".join(f"\nplugin '{f.plugin}' ({f.origin}) failed: {f.error}" for f in failures())
