"""``llink add-language``: make, register and check the package of a new language."""

from __future__ import annotations

import shlex
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llink.cli.data import columns_of
from llink.errors import LlinkError

if TYPE_CHECKING:
    from llink.data.pairs import Pair
    from llink.interfaces import Language
    from llink.language.iso import IsoLanguage, Script
    from llink.new_language.prepare import Origin, Prepared
    from llink.new_language.scaffold import Models, Place
    from llink.store.registry import Role

CHECKED_TEXTS = 200
"""How many texts the tokens are counted on."""
IN_SCRIPT = 0.9
"""Share of texts in the language's script below which the report says so."""


@click.command("add-language", short_help="Add a language: make its package and register it.")
@click.argument("code")
@click.option("--name", help="English name.  [default: that of the code]")
@click.option("--endonym", help="The language's own name.  [default: CLDR's]")
@click.option(
    "--script",
    "scripts",
    multiple=True,
    metavar="SCRIPT",
    help="How it is written, such as Laoo or Lao. Repeatable.  [default: CLDR's likely script]",
)
@click.option(
    "--sentence-ends", metavar="CHARS", help="Characters that end a sentence.  [default: the script's and .!?]"
)
@click.option("--digits", metavar="CHARS", help="Its ten digits, 0 first.  [default: the script's]")
@click.option(
    "--data",
    "sources",
    multiple=True,
    metavar="FILE_OR_SOURCE",
    help="Pairs to train on: a file in any format that LLINK reads, or hub:REPO. Repeatable."
    "  [default: what the data folder holds]",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="SIDE=NAME",
    callback=columns_of,
    help="Where the english or the foreign text of --data stands, such as english=translation.en. Repeatable.",
)
@click.option("--dev", metavar="FILE", help="Pairs to measure on.  [default: held out of --data]")
@click.option(
    "--dev-size",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    metavar="N",
    help="How many English strings of --data are held out, a tenth at most.",
)
@click.option("--source", default="", metavar="NAME", help="Name of the data where its rows state none.")
@click.option("--licence", default="", metavar="TEXT", help="Licence of the data where its rows state none.")
@click.option("--encoder", default="", metavar="NAME", help="The recipes' encoder.  [default: the registry's]")
@click.option("--decoder", default="", metavar="NAME", help="The recipes' decoder.  [default: the registry's]")
@click.option(
    "--into",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder to make the package in.  [default: languages/ in a checkout of LLINK, else the current folder]",
)
@click.option("--dry-run", is_flag=True, help="Say what would be made, and make nothing.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
def command(
    code: str,
    name: str | None,
    endonym: str | None,
    scripts: tuple[str, ...],
    sentence_ends: str | None,
    digits: str | None,
    sources: tuple[str, ...],
    columns: dict[str, str],
    dev: str | None,
    dev_size: int,
    source: str,
    licence: str,
    encoder: str,
    decoder: str,
    into: Path | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Add the language CODE: any ISO 639-1 or 639-3 code, or an English name.

    Names, script, direction and digits come from CLDR and Unicode. In a checkout of LLINK the package becomes part of
    it; anywhere else it is a project of its own that `pip install` takes and that can be published. Either way
    `llink train CODE` works at once.
    """
    from llink.home import data_folder
    from llink.language.iso import lookup
    from llink.new_language import scaffold
    from llink.new_language.prepare import Origin

    asks = sys.stdin.isatty() and not yes
    iso = lookup(code)
    scaffold.check_free(iso.code, iso.code3)
    known = _scripts(code, iso.name, scripts, asks)
    language = _language(iso, known, name, endonym, sentence_ends, digits)
    where = scaffold.place(language.name, language.code, into)
    language = replace(language, package=where.package)
    finished = scaffold.check_place(where, language.code)
    models = _models(encoder, decoder)
    direction = known[0].direction

    folder = data_folder() / language.code
    prepared = _data(language, sources, dev, dev_size, Origin(columns, source, licence), folder, asks)
    if prepared:
        language = _completed(language, known, prepared, keep_digits=digits is not None)
        if sources:
            # Before anything is written, and once more when it is.
            _saved(prepared, folder, dry_run=True)
    texts = scaffold.render(language, where, direction, prepared, models)
    if not dry_run:
        with scaffold.alone(language.code):
            scaffold.reload()
            scaffold.check_free(iso.code, iso.code3)
            if prepared and sources:
                _saved(prepared, folder)
            if not finished:
                scaffold.write(where, texts)
            scaffold.register(language.code, where)
        scaffold.reload()
    _report(language, direction, where, texts, prepared, bool(sources), folder, finished, dry_run)
    if prepared:
        _checks(language, prepared, models, dry_run)
    _next(language, where, prepared, folder, dry_run)


def _scripts(code: str, name: str, given: Sequence[str], asks: bool) -> list[Script]:
    """The scripts that were named, else the known one, else those that the user tells."""
    from llink.language.iso import script, written_in

    known = [script(item) for item in given] or written_in(code)
    if known:
        return known
    question = f"Script that {name} is written in (such as Latn; CLDR does not know)"
    return [script(item) for item in _ask(question, "--script", asks).replace(",", " ").split()]


def _ask(question: str, flag: str, asks: bool, default: str | None = None) -> str:
    """An answer from the terminal; without one E223, which names the flag that gives it."""
    if not asks:
        raise LlinkError("E223", f"{question}: there is nobody to ask.", f"Say it with {flag}.")
    answer: str = click.prompt(question, default=default, err=True)
    return answer


def _language(
    iso: IsoLanguage,
    scripts: Sequence[Script],
    name: str | None,
    endonym: str | None,
    sentence_ends: str | None,
    digits: str | None,
) -> Language:
    """The language as far as it is known without its data; E224 for a value that cannot be."""
    from llink.interfaces import Language
    from llink.language.iso import ends, own_digits

    if digits is not None and (len(digits) != 10 or len(set(digits)) != 10):
        raise LlinkError("E224", f"--digits takes ten different characters, 0 first; got {len(digits)}.")
    if sentence_ends is not None and any(c.isalnum() or c.isspace() for c in sentence_ends):
        raise LlinkError("E224", "--sentence-ends takes punctuation marks, one after the other, without spaces.")
    return Language(
        code=iso.code,
        code3=iso.code3,
        name=_name("--name", iso.name if name is None else name),
        endonym=_name("--endonym", endonym) if endonym else iso.endonym if endonym is None else "",
        scripts=tuple(dict.fromkeys(item for script in scripts for item in script.names)),
        package="",
        sentence_ends=ends(scripts) if sentence_ends is None else sentence_ends,
        digits=digits or own_digits(iso.code, scripts),
    )


def _name(flag: str, text: str) -> str:
    """A name that may stand in code, tables and file headers."""
    name = " ".join(text.split())
    if not name or len(name) > 80 or any(c in '"\\|<>{}`' or unicodedata.category(c)[0] == "C" for c in name):
        raise LlinkError("E224", f"{flag} '{text}' is no name.", "Letters, spaces, hyphens and brackets will do.")
    return name


def _models(encoder: str, decoder: str) -> Models:
    """The models that the recipes name, empty where they are the default ones; E101 or E103 for a wrong name."""
    from llink.new_language.scaffold import Models
    from llink.store.registry import load_registry

    registry = load_registry()

    def checked(name: str, role: Role, default: str) -> str:
        if not name or name == default:
            return ""
        if Path(name).expanduser().is_dir():
            return str(Path(name).expanduser().absolute())
        registry.get(name, role)
        return name

    return Models(
        checked(encoder, "encoder", registry.default.encoder), checked(decoder, "decoder", registry.default.decoder)
    )


def _data(
    language: Language,
    sources: Sequence[str],
    dev: str | None,
    dev_size: int,
    origin: Origin,
    folder: Path,
    asks: bool,
) -> Prepared | None:
    """The pairs that were named, else those that the data folder holds, else None."""
    from llink.new_language.prepare import UNKNOWN, prepare, present, state

    if not sources:
        if dev:
            raise LlinkError("E224", "--dev without --data.", "Name the pairs to train on with --data.")
        return present(folder, language)
    prepared = prepare(sources, dev, dev_size, language, origin)
    if asks and any(pair.licence == UNKNOWN for pair in prepared.rows):
        stated = _ask("Licence of the data (it states none)", "--licence", asks, default=UNKNOWN)
        prepared.train, prepared.dev = state(prepared.train, stated), state(prepared.dev, stated)
    return prepared


def _completed(language: Language, scripts: Sequence[Script], prepared: Prepared, keep_digits: bool) -> Language:
    """The language with what its data tells: samples, sources, and which of several sets of digits it uses."""
    from llink.new_language.prepare import data_sources, pick_samples, used_digits
    from llink.new_language.scaffold import LISTED_SOURCES

    digits = language.digits
    # Those that CLDR names come first: they stay where the data have none.
    sets = list(dict.fromkeys([digits, *(item for script in scripts for item in script.digits)]))
    if len(sets) > 1 and not keep_digits:
        digits = used_digits([pair.foreign for pair in prepared.rows], sets)
    return replace(
        language,
        digits=digits,
        samples=pick_samples(prepared.train, language),
        sources=data_sources(prepared, LISTED_SOURCES),
    )


def _saved(prepared: Prepared, folder: Path, dry_run: bool = False) -> None:
    from llink.new_language.prepare import check_saved, save

    (check_saved if dry_run else save)(prepared, folder)


def _report(
    language: Language,
    direction: str,
    where: Place,
    texts: dict[str, str],
    prepared: Prepared | None,
    brought: bool,
    folder: Path,
    finished: bool,
    dry_run: bool,
) -> None:
    """What the language is and what was made, or would be."""
    from llink.new_language.prepare import UNKNOWN

    endonym = f" ({language.endonym})" if language.endonym else ""
    codes = ", ".join(dict.fromkeys((language.code, language.code3)))
    scripts = ", ".join(script.title() for script in language.scripts)
    _line("Language", f"{language.name}{endonym}: {codes}")
    _line("Written", f"in {scripts}, {'right to left' if direction == 'rtl' else 'left to right'}")
    _line("Marks", f"sentence ends {' '.join(language.sentence_ends) or 'none'}, digits {language.digits}")
    if prepared:
        _line("Data", prepared.summary())
        _line("", f"{_would(dry_run, 'written to' if brought else 'found in')} {folder}")
        if any(pair.licence == UNKNOWN for pair in prepared.rows):
            _line("", "licence unknown: say it with --licence before you pass an adapter on")
    else:
        _line("Data", f"none in {folder} yet")
    if finished:
        _line("Package", f"{where.folder}, there already and left as it is")
    else:
        _line("Package", f"{where.folder}{_would(dry_run, ', written')}: {len(texts)} files")
        if dry_run:
            for name in sorted(texts):
                _line("", name)
    _line("Registry", f"{where.registry}{_would(dry_run, ', entry added')}")


def _would(dry_run: bool, done: str) -> str:
    if not dry_run or done == "found in":
        return done
    return {"written to": "would be written to", ", written": ", not written", ", entry added": ", not changed"}[done]


def _line(label: str, text: str) -> None:
    click.echo(f"{label:9} {text}")


def _checks(language: Language, prepared: Prepared, models: Models, dry_run: bool) -> None:
    """Say how the data and the two tokenizers suit the language; nothing here stops anything."""
    from llink.new_language.prepare import odd_end, script_shares

    foreign = [pair.foreign for pair in prepared.rows]
    shares = script_shares(foreign)
    inside = sum(share for script, share in shares if script in language.scripts)
    others = [f"{script.title()} {share:.0%}" for script, share in shares if script not in language.scripts][:3]
    hint = f"; {', '.join(others)}: add --script if they belong to it" if others and inside < IN_SCRIPT else ""
    _line("Checks", f"{inside:.0%} of the texts are mostly in its script{hint}")
    odd = odd_end(foreign, language.sentence_ends)
    if odd:
        _line("", f"{odd[1]:.0%} of the texts end in '{odd[0]}', which is no sentence end here: see --sentence-ends")
    if not language.samples:
        _line("", "no short sentence in the data that could be a sample; write some into samples.py")
    if not dry_run:
        _tokens(language, (prepared.dev or prepared.train)[:CHECKED_TEXTS], models)


def _tokens(language: Language, pairs: Sequence[Pair], models: Models) -> None:
    """How finely the tokenizers cut the language up, and whether the encoder knows its script at all."""
    from llink.new_language.inspection import LOST, fragmentation, stored_tokenizer
    from llink.store.registry import load_registry

    default = load_registry().default
    texts = [(pair.foreign, pair.english) for pair in pairs]
    roles: list[tuple[Role, str]] = [
        ("encoder", models.encoder or default.encoder),
        ("decoder", models.decoder or default.decoder),
    ]
    for role, name in roles:
        tokenizer = stored_tokenizer(name, role)
        if tokenizer is None:
            _line("", f"{role} {name} is not fetched yet: `llink inspect {language.code}` will tell how it reads this")
            continue
        found = fragmentation(texts, tokenizer.count, tokenizer.unreadable)
        _line(
            "",
            f"{role} {name}: {found.tokens:.0f} tokens a text, {found.english_tokens:.0f} in English"
            f" ({found.ratio:.1f} times as many)",
        )
        if role == "encoder" and found.unreadable is not None and found.unreadable >= LOST:
            _line(
                "",
                f"{name} does not know this script: {found.unreadable:.0%} of its tokens are unknown or pieces of"
                " characters. Try another one with --encoder",
            )


def _next(language: Language, where: Place, prepared: Prepared | None, folder: Path, dry_run: bool) -> None:
    """The commands that go on from here."""
    if dry_run:
        _line("Next", "the same command without --dry-run")
        return
    code = language.code
    steps = [f"llink inspect {code}", f"llink train {code} && llink eval {code} && {_translate(language)}"]
    if prepared is None:
        harvest = shlex.quote(str(folder / "harvest.jsonl.gz"))
        split = f"llink data split {harvest} --dev 200 --out {shlex.quote(str(folder))}"
        steps = [f"llink data harvest {code}", split, *steps]
    if not where.in_checkout:
        steps.append(f"pip install -e {shlex.quote(str(where.folder))}   (not needed here; how others get it)")
    for number, step in enumerate(steps):
        _line("" if number else "Next", step)


def _translate(language: Language) -> str:
    """The command that translates a sample, with ``--language`` where its script does not tell the language."""
    from llink.language.script import detect
    from llink.plugins import languages

    text = language.samples[0].foreign if language.samples else "TEXT"
    try:
        plain = bool(language.samples) and detect(text, languages()).code == language.code
    except LlinkError:
        plain = False
    return f"llink translate {'' if plain else f'--language {language.code} '}{shlex.quote(text)}"
