"""``llink data harvest``: collect pairs from translation catalogues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from llink.cli.data.reading import jsonl, language_of, sources_table
from llink.errors import LlinkError

if TYPE_CHECKING:
    pass


@click.command("harvest", short_help="Collect pairs from translation catalogues.")
@click.argument("code")
@click.option(
    "--package",
    "packages",
    multiple=True,
    metavar="KIND:NAME",
    help="A package with catalogues: pypi:NAME[==VERSION], debian:NAME, or a file as pypi:FILE.whl. Repeatable.",
)
@click.option("--sources", is_flag=True, help="Also the packages that the language names as sources of text.")
@click.option(
    "--installed/--no-installed", default=True, show_default=True, help="Read the catalogues on this machine."
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Read the catalogues below DIR, not in the machine's usual folders. Repeatable.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    callback=jsonl,
    metavar="FILE",
    help="Where to.  [default: CODE/harvest.jsonl.gz in the data folder]",
)
def harvest(
    code: str, packages: tuple[str, ...], sources: bool, installed: bool, roots: tuple[Path, ...], out: Path | None
) -> None:
    """Collect pairs in the language CODE from gettext catalogues, with source and licence on every one.

    Packages are fetched as files, kept in LLINK_HOME/downloads and only unpacked: nothing in them is installed or
    run. A FILE that exists stays as it is, and the pairs that are new to it are added.
    """
    from llink.data.harvest import add_to
    from llink.data.harvest import harvest as collect
    from llink.home import data_folder

    language = language_of(code)
    named = [source.where for source in language.sources if source.where.startswith(("pypi:", "debian:"))]
    out = out or data_folder() / language.code / "harvest.jsonl.gz"
    wanted = [*packages, *(named if sources else ())]
    found = collect(language, wanted, installed=installed, roots=roots or None)
    if not found.rows and not out.is_file():
        raise LlinkError(
            "E211",
            f"No pair of English and {language.name} was found ({found.summary()}).",
            "Name packages with translations, such as --package pypi:Django.",
        )
    added = add_to(out, found, language)
    found.rows = added.new
    click.echo(sources_table(found))
    click.echo(f"{found.summary()}\nWritten to {out}" + (f", beside the {added.before} it had" if added.before else ""))
    if broken := sum(added.kept.skipped.values()):
        places = ", ".join(added.kept.first_bad)
        click.echo(
            f"{broken} rows in it that are no pairs stay as they are (first: {places}); `llink data validate` says why."
        )
    unknown = sum(pair.licence == "unknown" for pair in found.rows)
    if unknown:
        click.echo(f"The licence of {unknown} pairs is unknown: find it out before you publish what is made of them.")
    if found.failures:
        first = found.failures[0]
        reasons = " ".join(failure.message for failure in found.failures)
        raise LlinkError(
            first.code, f"{len(found.failures)} of {len(wanted)} packages are not in it. {reasons}", first.hint
        )
