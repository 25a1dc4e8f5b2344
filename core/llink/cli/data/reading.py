"""What the subcommands of ``llink data`` share: options, how files are read, and how pairs are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llink.errors import LlinkError

if TYPE_CHECKING:
    from llink.data.pairs import LeftOut, Pair, Pairs
    from llink.interfaces import Language

Command = TypeVar("Command", bound=Callable[..., Any])


def reading(command: Command) -> Command:
    """The FILE arguments, and the options that say how they are read."""
    options = (
        click.argument("files", nargs=-1, required=True, metavar="FILE..."),
        click.option("--language", metavar="CODE", help="The foreign side, in files of several languages."),
        click.option(
            "--column",
            "columns",
            multiple=True,
            metavar="SIDE=NAME",
            callback=columns_of,
            help="Where the english or the foreign text stands, such as english=translation.en. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def columns_of(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """``SIDE=NAME`` as a mapping."""
    columns = {}
    for value in values:
        side, _, name = value.partition("=")
        if side not in ("english", "foreign", "source", "licence") or not name:
            raise click.BadParameter(f"'{value}' is not english=NAME or foreign=NAME.", ctx, parameter)
        columns[side] = name
    return columns


def jsonl(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """A file to write, which must be named as what it will be."""
    if path is not None and not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise click.BadParameter(f"'{path.name}' does not end in .jsonl or .jsonl.gz.", ctx, parameter)
    return path


def language_of(code: str) -> Language:
    """An installed language, or what the standards say of one that no plugin brings yet."""
    from llink import plugins
    from llink.interfaces import Language
    from llink.language.iso import lookup

    try:
        return plugins.language(code)
    except LlinkError as unknown:
        try:
            found = lookup(code)
        except LlinkError:
            raise unknown from None
    return Language(
        found.code,
        found.code3,
        found.name,
        found.scripts,
        package="",
        endonym=found.endonym,
        sentence_ends=found.sentence_ends,
        digits=found.digits,
    )


def tracked(file: str, language: str | None, columns: dict[str, str]) -> Iterator[tuple[str, Pair | LeftOut]]:
    """The rows of a file, with a count of them on stderr while they come."""
    from llink.data.pairs import rows
    from llink.progress import track

    with track(f"Reading {Path(file).name}", total=0, unit="row") as bar:
        for place, row in rows(file, Path(), columns, language):
            yield place, row
            bar(1)


def pairs_of(files: tuple[str, ...], language: str | None, columns: dict[str, str], counts: Pairs) -> Iterator[Pair]:
    """The pairs of all files; what is none is counted in ``counts``."""
    from llink.data.pairs import BROKEN, Pair

    for file in files:
        for place, row in tracked(file, language, columns):
            if isinstance(row, Pair):
                yield row
            else:
                counts.skip(row.reason, place if row.reason == BROKEN else "")


def read_all(files: tuple[str, ...], language: str | None, columns: dict[str, str]) -> Pairs:
    """The pairs of all files in memory; E211 when there is none."""
    from llink.data.pairs import Pairs

    pairs = Pairs()
    pairs.rows = list(pairs_of(files, language, columns, pairs))
    if not pairs.rows:
        raise LlinkError("E211", f"No pair in {', '.join(files)} ({pairs.summary()}).", "Try `llink data validate`.")
    return pairs


def refuse_existing(path: Path, option: str = "--out") -> None:
    """What people wrote is never overwritten: E218."""
    if path.exists():
        raise LlinkError("E218", f"{path} exists.", f"Give another {option}, or delete it first.")


def sources_table(pairs: Pairs) -> str:
    """Pairs by source, most first."""
    from collections import Counter

    from llink.cli.tables import table

    counts = Counter((pair.source, pair.licence) for pair in pairs.rows)
    return table(("source", "licence", "pairs"), [[*names, str(n)] for names, n in counts.most_common()])


def clip(text: str, width: int = 40) -> str:
    """One line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
