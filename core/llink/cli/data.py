"""``llink data``: collect parallel text, look at it, clean it, split it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from llink.cli.options import data_option
from llink.errors import LlinkError

if TYPE_CHECKING:
    from llink.data.pairs import LeftOut, Pair, Pairs
    from llink.interfaces import Language

SHOWN = 20
Command = TypeVar("Command", bound=Callable[..., Any])


@click.group("data", short_help="Collect, inspect, clean and split parallel text.")
def command() -> None:
    """Collect parallel text, look at it, clean it and split it.

    A FILE is JSONL or a JSON array, TSV, Parquet, TMX, .po or .mo, text formats also with .gz, or
    hub:REPO[:CONFIG[:SPLIT]]. Text is UTF-8, UTF-16 or UTF-32, or what the file declares.
    What is written is JSONL, gzipped where the name ends in .gz.
    """


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


@command.command("harvest", short_help="Collect pairs from translation catalogues.")
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
            "E211", f"No pair of English and {language.name} was found ({found.summary()}).",
            "Name packages with translations, such as --package pypi:Django.",
        )  # fmt: skip
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


@command.command("stats", short_help="Sources, lengths, scripts, duplicates, odd pairs.")
@reading
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def stats(files: tuple[str, ...], language: str | None, columns: dict[str, str], as_json: bool) -> None:
    """Say what FILEs hold: sources with licences, lengths, scripts, duplicates, and pairs of odd length."""
    from llink.data.stats import describe

    report = describe(read_all(files, language, columns))
    click.echo(json.dumps(report, ensure_ascii=False, indent=2) if as_json else readable(report))


@command.command("dedupe", short_help="Write each pair once.")
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

    write_pairs(out, fresh())
    click.echo(f"{counts.summary(kept)}\nWritten to {out}")


@command.command("split", short_help="Split pairs into train, dev and test.")
@reading
@click.option("--dev", required=True, type=click.IntRange(min=0), metavar="N", help="English strings to hold out.")
@click.option("--test", default=0, type=click.IntRange(min=0), metavar="N", help="As many again, for a test set.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder of the new files.")
@click.option(
    "--against", multiple=True, metavar="FILE", help="A dev set whose English strings are taken out. Repeatable."
)
@click.option("--seed", default=17, show_default=True, metavar="N", help="Another seed holds out other strings.")
def split(
    files: tuple[str, ...], language: str | None, columns: dict[str, str],
    dev: int, test: int, out: Path, against: tuple[str, ...], seed: int,
) -> None:  # fmt: skip
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


@command.command("validate", short_help="List what is left out of files, and why.")
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


@command.command("audit", short_help="Mark a sample of the training pairs by hand.")
@click.argument("code")
@data_option
@click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME_OR_PATH",
    help="The recipe that names the data and the encoder.  [default: cpu, if the language has it]",
)
@click.option(
    "--sample", "count", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="How many pairs."
)
@click.option("--seed", default=17, show_default=True, metavar="N", help="Another seed picks other pairs.")
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The page to write.  [default: audit-CODE.html]",
)
@click.option("--hints/--no-hints", default=True, show_default=True, help="Show what the encoder thinks of each pair.")
@click.option(
    "--marks", type=click.Path(path_type=Path), metavar="FILE", help="Read the marks back that the page saved."
)
@click.option(
    "--bad", type=click.Path(path_type=Path), callback=jsonl, metavar="FILE", help="With --marks: write the bad pairs."
)
@click.option("--json", "as_json", is_flag=True, help="With --marks: as one JSON object.")
def audit(
    code: str, data: Path, recipe_name: str | None, count: int, seed: int, html: Path | None, hints: bool,
    marks: Path | None, bad: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Put a sample of the training pairs of the language CODE on a local page, to mark them good or bad by hand.

    The page is one file, asks nothing of the network and keeps the marks in the browser until they are saved. With
    --marks, say how much of each source is good.
    """
    from llink import plugins

    language = plugins.language(code)
    if marks:
        marked(marks, language, bad, as_json)
        return
    if bad or as_json:
        raise click.UsageError("--bad and --json go with --marks.")

    from llink.cli.inspect import chosen_recipe
    from llink.data import audit as auditing
    from llink.data.pairs import training_pairs
    from llink.home import atomic_write, home

    html = html or Path(f"audit-{language.code}.html")
    refuse_existing(html, "--html")
    recipe = chosen_recipe(language, recipe_name, None, None)
    pairs = training_pairs(recipe.data, data, language.normalise).rows
    rows, opinions = auditing.sample(pairs, count, seed), None
    if hints:
        from llink.features.cache import FeatureCache
        from llink.store.models import load_encoder

        encoder = load_encoder(recipe.encoder.name, **recipe.encoder.options)
        opinions = auditing.hints(FeatureCache(home() / "features", encoder), rows)
    atomic_write(html, auditing.page(language, rows, pairs, opinions))
    click.echo(f"{len(rows)} of {len(pairs)} pairs: {html}")
    click.echo(f"Next: open it in a browser, mark, save, then llink data audit {language.code} --marks FILE")


@command.command("instruct", short_help="Make instruction data out of pairs.")
@click.argument("code")
@data_option
@click.option(
    "--recipe",
    "recipe_name",
    metavar="NAME_OR_PATH",
    help="The recipe that names the pairs, the dev sets and the decoder.  [default: cpu, if the language has it]",
)
@click.option(
    "--model",
    metavar="NAME",
    help="Who answers: a decoder that `llink models` lists, a folder, or http://HOST/v1#MODEL of an "
    "OpenAI-compatible endpoint (its key in LLINK_MODEL_KEY).  [default: the recipe's decoder]",
)
@click.option(
    "--model-licence", metavar="TEXT", help="Licence of the model's answers.  [default: the registry's, else unknown]"
)
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    metavar="N",
    help="How many texts to ask about.",
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK",
    help="summarize, title, keypoints or qa. Repeatable.  [default: all]",
)
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=4),
    metavar="N",
    help="Longer answers are left out.  [default: what the recipe trains on, stage_b.max_target_tokens]",
)
@click.option(
    "--seed", default=17, show_default=True, metavar="N", help="Another seed picks other texts and questions."
)
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="auto, cpu, cuda, cuda:1, mps.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    callback=jsonl,
    metavar="FILE",
    help="A new file.  [default: CODE/instruct.jsonl.gz in the data folder]",
)
def instruct(
    code: str, data: Path, recipe_name: str | None, model: str | None, model_licence: str | None, count: int,
    tasks: tuple[str, ...], max_new_tokens: int | None, seed: int, device: str, out: Path | None,
) -> None:  # fmt: skip
    """Ask a model about the English of training pairs of the language CODE, and write its answers as targets.

    The recipe's own decoder is the usual author: what it says of the English, it shall say of the slots. Answers
    that are cut off, no English, a refusal, a loop or a copy of the text are left out and counted. Each is kept as
    it comes, so that the same line goes on after a kill. A recipe trains on the file with `data.instructions`.
    """
    from llink import plugins
    from llink.cli.inspect import chosen_recipe
    from llink.cli.tables import table
    from llink.data import instruct as making
    from llink.data.pairs import training_pairs
    from llink.home import home

    language = plugins.language(code)
    out = out or data / language.code / "instruct.jsonl.gz"
    refuse_existing(out)
    tasks = tasks or making.DISTILLED_TASKS
    making.check_tasks(tasks)
    recipe = chosen_recipe(language, recipe_name, None, None)
    max_new_tokens = max_new_tokens or recipe.stage_b.max_target_tokens
    pairs = making.chosen(training_pairs(recipe.data, data, language.normalise).rows, count, seed)
    options = {} if model else recipe.decoder.options
    author = making.open_author(model or recipe.decoder.name, model_licence, device, **options)
    made = making.make(author, pairs, home() / "distilled", tasks=tasks, max_new_tokens=max_new_tokens, seed=seed)
    kept = {task: sum(row.task == task for row in made.rows) for task in made.asked}
    rows = [
        [task, str(asked), str(kept[task]), ", ".join(f"{n} {why}" for why, n in made.left_out.get(task, {}).items())]
        for task, asked in made.asked.items()
    ]  # fmt: skip
    click.echo(table(("task", "asked", "kept", "left out"), rows))
    if not made.rows:
        raise LlinkError(
            "E230", f"None of the {len(pairs)} answers of {author.name} is of use.", "Take another --model."
        )
    making.write_instructions(out, made.rows)
    click.echo(f"{len(made.rows)} of {len(pairs)} answers by {author.name} ({author.licence})\nWritten to {out}")
    click.echo(
        f"Next: name it in a recipe, data.instructions: [{out if not out.is_relative_to(data) else out.relative_to(data)}]"
    )


def marked(path: Path, language: Language, bad: Path | None, as_json: bool) -> None:
    """Say what the marks of an audit mean, and write the pairs that are bad."""
    from dataclasses import asdict

    from llink.cli.tables import table
    from llink.data.audit import overall, read_marks, shares
    from llink.data.pairs import write_pairs

    marks = read_marks(path, language)
    found = shares(marks)
    if bad:
        refuse_existing(bad, "--bad")
        write_pairs(bad, marks.bad)
    if as_json:
        click.echo(json.dumps({"good": overall(found), "sources": [asdict(s) for s in found]}, ensure_ascii=False))
        return
    rows = [
        [s.source, str(s.pairs), str(s.marked), str(s.marked - s.good), f"{s.good / s.marked:.2f}",
         f"{s.low:.2f}", f"{s.high:.2f}"]
        for s in found
    ]  # fmt: skip
    click.echo(table(("source", "pairs", "marked", "bad", "good", "low", "high"), rows))
    click.echo(f"About {overall(found):.0%} of the pairs are good (low and high bound 95 % for each source).")
    if bad:
        click.echo(f"{len(marks.bad)} bad pairs written to {bad}")


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
        found.code, found.code3, found.name, found.scripts, package="",
        endonym=found.endonym, sentence_ends=found.sentence_ends, digits=found.digits,
    )  # fmt: skip


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


def clip(text: str, width: int = 40) -> str:
    """One line of at most ``width`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
