"""``llink languages``: which languages there are, and all that is known of one."""

from __future__ import annotations

import click

from llink.interfaces import Language


@click.command("languages", short_help="List the languages, or show one.")
@click.argument("code", required=False)
def command(code: str | None) -> None:
    """List the languages, their adapters and where each comes from; with CODE, show one: samples, sources, recipes.

    A language is built in, comes from an installed package, or from the registry: packaged, the user's
    (LLINK_HOME/registry.yaml), the project's (./registry.yaml) or the one that LLINK_REGISTRY names.
    """
    from llink.plugins import language

    click.echo(details(language(code)) if code else listing())


def listing() -> str:
    """A table of all languages, and the plugins that failed."""
    from llink.cli.names import adapters
    from llink.cli.plugins import failed
    from llink.cli.tables import table
    from llink.plugins import language_origin, languages

    rows = [
        [
            code,
            entry.name,
            ", ".join(s.capitalize() for s in entry.scripts),
            ", ".join(adapters(entry)) or "none",
            str(language_origin(code)),
        ]
        for code, entry in sorted(languages().items())
    ]
    return table(("code", "name", "scripts", "adapters", "from"), rows) + failed()


def details(entry: Language) -> str:
    """All that is known of one language."""
    from llink.cli.names import adapters
    from llink.cli.tables import table
    from llink.interfaces import package_folder
    from llink.plugins import language_origin
    from llink.recipe import recipe_files

    facts = {
        "name": " ".join(filter(None, (entry.name, entry.endonym and f"({entry.endonym})"))),
        "codes": f"{entry.code}, {entry.code3}",
        "scripts": ", ".join(s.capitalize() for s in entry.scripts),
        "from": str(language_origin(entry.code)),
        "package": f"{entry.package} in {package_folder(entry.package, '').parent}",
        "adapters": ", ".join(adapters(entry)) or "none",
        "recipes": ", ".join(recipe_files(entry.package)) or "none",
        "samples": str(len(entry.samples)),
    }
    lines = [f"{key:9} {value}" for key, value in facts.items()]
    if entry.samples:
        lines += ["", f"{entry.samples[0].foreign}", f"{entry.samples[0].english}"]
    if entry.sources:
        rows = [(source.name, source.where, source.licence) for source in entry.sources]
        lines += ["", table(("source of text", "where", "licence"), rows)]
    return "\n".join(lines)
