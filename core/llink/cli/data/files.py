"""``llink data stats``, ``dedupe``, ``split`` and ``validate``: look after files of pairs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llink.cli.data.reading import clip, jsonl, pairs_of, read_all, reading, refuse_existing, tracked
from llink.errors import LlinkError

if TYPE_CHECKING:
    from llink.data.pairs import Pair

SHOWN = 20


@click.command("stats", short_help="Sources, lengths, scripts, duplicates, odd pairs.")
@reading
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def stats(files: tuple[str, ...], language: str | None, columns: dict[str, str], as_json: bool) -> None:
    """Say what FILEs hold: sources with licences, lengths, scripts, duplicates, and pairs of odd length."""
    from llink.data.stats import describe

    report = describe(read_all(files, language, columns))
    click.echo(json.dumps(report, ensure_ascii=False, indent=2) if as_json else readable(report))


@click.command("dedupe", short_help="Write each pair once.")
@reading
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), callback=jsonl, metavar="FILE", help="A new file."
)
@click.option(
    "--by",
    type=click.Choice(["pair", "english"]),
    default="pair",
    show_default=True,
    help="english keeps the first translation of each English string.",
)
def dedupe(files: tuple[str, ...], language: str | None, columns: dict[str, str], out: Path, by: str) -> None:
    """Write the pairs of FILEs to a new file, each once, compared without case and runs of white space."""
    from llink.data.pairs import Pairs, write_pairs
    from llink.data.split import key
    from llink.language.text import normalise

    refuse_existing(out)
    counts, seen, kept = Pairs(), set[int](), 0

    def fresh() -> Iterator[Pair]:
        nonlocal kept
        for pair in pairs_of(files, language, columns, counts):
            identity = hash((key(pair.english), "" if by == "english" else normalise(pair.foreign)))
            if identity in seen:
                counts.skip("duplicates")
            else:
                seen.add(identity)
                kept += 1
                yield pair
        if not kept:  # no file, rather than an empty one
            raise LlinkError(
                "E211", f"No pair in {', '.join(files)} ({counts.summary()}).", "Try `llink data validate`."
            )

    write_pairs(out, fresh())
    click.echo(f"{counts.summary(kept)}\nWritten to {out}")


@click.command("split", short_help="Split pairs into train, dev and test.")
@reading
@click.option("--dev", required=True, type=click.IntRange(min=0), metavar="N", help="English strings to hold out.")
@click.option("--test", default=0, type=click.IntRange(min=0), metavar="N", help="As many again, for a test set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder of the new files.")
@click.option(
    "--against", multiple=True, metavar="FILE", help="A dev set whose English strings are taken out. Repeatable."
)
@click.option("--seed", default=17, show_default=True, metavar="N", help="Another seed holds out other strings.")
def split(
    files: tuple[str, ...],
    language: str | None,
    columns: dict[str, str],
    dev: int,
    test: int,
    out: Path,
    against: tuple[str, ...],
    seed: int,
) -> None:
    """Split the pairs of FILEs into train.jsonl.gz, dev.jsonl.gz and, with --test, test.jsonl.gz.

    All pairs of an English string stand on one side, whatever their case and white space. Which strings are held
    out depends on the strings and the seed alone.
    """
    from llink.data.pairs import write_pairs
    from llink.data.split import key, without
    from llink.data.split import split as hold_out

    targets = {name: out / f"{name}.jsonl.gz" for name in ("train", "dev", *(["test"] if test else []))}
    for target in targets.values():
        refuse_existing(target)
    pairs = read_all(files, language, columns)
    if against:
        held_out = {key(pair.english) for pair in read_all(against, language, columns).rows}
        kept = without(pairs.rows, held_out)
        if len(kept) < len(pairs.rows):
            pairs.skipped["in a dev set"] = len(pairs.rows) - len(kept)
        pairs.rows = kept
    rest, tests = hold_out(pairs.rows, test, seed=seed)
    train, devs = hold_out(rest, dev, seed=seed)
    click.echo(pairs.summary())
    sides = {name: rows for name, rows in (("test", tests), ("dev", devs), ("train", train)) if name in targets}
    done: list[Path] = []
    try:
        for name, rows in sides.items():
            write_pairs(targets[name], rows)
            done.append(targets[name])
    except LlinkError:
        for path in done:  # half of a split, which the next try would refuse
            path.unlink(missing_ok=True)
        raise
    for name, rows in sides.items():
        click.echo(f"{name:6}{len(rows):>9} pairs  {targets[name]}")


@click.command("validate", short_help="List what is left out of files, and why.")
@reading
@click.option("--all", "every", is_flag=True, help=f"List every row, not the first {SHOWN} of a file for each reason.")
@click.option("--strict", is_flag=True, help="Exit with status 1 when any row is broken.")
@click.pass_context
def validate(
    ctx: click.Context, files: tuple[str, ...], language: str | None, columns: dict[str, str], every: bool, strict: bool
) -> None:
    """Read FILEs and list the rows that are left out, with place and reason.

    The status is 1 when a file is of no use: damaged, without a pair, or with so many broken rows that training stops.
    """
    from llink.data.pairs import BROKEN, Pair, Pairs, check_sound

    wrong = False
    for file in files:
        counts, good, more = Pairs(), 0, 0
        try:
            for place, row in tracked(file, language, columns):
                if isinstance(row, Pair):
                    good += 1
                    continue
                counts.skip(row.reason, place if row.reason == BROKEN else "")
                if every or counts.skipped[row.reason] <= SHOWN:
                    click.echo(f"{place}: {row.detail}")
                else:
                    more += 1
            check_sound(file, counts, good + sum(counts.skipped.values()))
        except LlinkError as error:
            wrong = True
            click.echo(f"llink: {error}", err=True)
        if more:
            click.echo(f"… and {more} more; --all lists them")
        counts.first_bad.clear()  # they are listed
        click.echo(f"{file}: {counts.summary(good)}")
        wrong = wrong or not good or (strict and counts.skipped.get(BROKEN, 0) > 0)
    ctx.exit(1 if wrong else 0)


def readable(report: dict[str, Any]) -> str:
    """The report of ``llink.data.stats`` for people."""
    from llink.cli.tables import table

    left_out = ", ".join(f"{n} {reason}" for reason, n in report["left_out"].items()) or "none"
    facts = {
        "pairs": report["pairs"],
        "left out": left_out,
        "empty": report["empty"],
        "duplicates": report["duplicates"],
        "English strings": report["english_strings"],
        "with several translations": report["english_with_several_translations"],
        "English scripts": shares(report["english_scripts"]),
        "foreign scripts": shares(report["foreign_scripts"]),
    }
    ratio = report["length_ratio"]
    if ratio:
        facts["foreign by English length"] = f"median {ratio['median']}, usual {ratio['low']} to {ratio['high']}"
        facts["suspicious lengths"] = ratio["suspicious"]
    lines = [f"{name:26} {value}" for name, value in facts.items()]
    sources = [[s["source"], s["licence"], str(s["pairs"])] for s in report["sources"]]
    lines += ["", table(("source", "licence", "pairs"), sources)]
    lengths = [
        [name, *map(str, report[field].values())]
        for name, field in (("English words", "english_words"), ("foreign characters", "foreign_characters"))
    ]
    lines += ["", table(("per cent", *report["english_words"]), lengths)]
    if ratio and ratio["examples"]:
        examples = [[clip(e["english"]), clip(e["foreign"]), e["source"]] for e in ratio["examples"]]
        lines += ["", table(("suspicious: English", "foreign", "source"), examples)]
    return "\n".join(lines)


def shares(scripts: dict[str, float]) -> str:
    """``Khmer 98.1 %, Latin 1.9 %``."""
    seen = (f"{name.capitalize()} {100 * share:.1f} %" for name, share in scripts.items() if share >= 0.0005)
    return ", ".join(seen) or "no letters"
