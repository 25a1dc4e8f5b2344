"""Pairs out of gettext catalogues: of this machine, and of named Debian and PyPI packages."""

from __future__ import annotations

import re
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from llink.data import packages as package_files
from llink.data.clean import is_english, not_a_translation, without_accelerators
from llink.data.files import added_to, alone
from llink.data.pairs import BROKEN, Pair, Pairs, pair_line, rows, write_pairs
from llink.errors import LlinkError
from llink.interfaces import Language
from llink.language.text import normalise
from llink.progress import track

SUFFIXES = (".po", ".mo")


@dataclass(frozen=True)
class Catalogue:
    """A file of translated messages, what it belongs to and under which licence."""

    path: Path
    source: str
    licence: str = package_files.UNKNOWN


@dataclass
class Harvest(Pairs):
    """What was collected; ``failures`` says which packages could not be had, or unpacked, and why."""

    failures: list[LlinkError] = field(default_factory=list)


@dataclass(frozen=True)
class Added:
    """What a file of pairs was before, and what it was given.

    Attributes:
        before: how many pairs it had.
        new: those that it was given.
        kept: what in it is no pair, and stays as it stands.
    """

    before: int
    new: list[Pair]
    kept: Pairs


def harvest(
    language: Language, packages: Sequence[str] = (), *, installed: bool = True, roots: Sequence[Path] | None = None
) -> Harvest:
    """The pairs of a language's catalogues, each once, with source and licence; what is left out is counted.

    A package that cannot be had costs no other one's pairs.

    Args:
        packages: ``pypi:NAME``, ``pypi:NAME==VERSION``, ``debian:NAME``, or with the file of an archive as name.
        installed: whether the catalogues below ``roots`` are read as well.
        roots: folders in place of those where this machine keeps its catalogues.

    Raises:
        LlinkError: E215 for a package that is no name; E216 or E217 where one cannot be had or is no sound archive, and
            there is nothing else.
    """
    for spec in packages:
        package_files.parse(spec)  # all names before the first download
    pairs = Harvest()
    seen: set[tuple[str, str]] = set()
    for spec in packages:
        try:
            _take_package(spec, language, pairs, seen)
        except LlinkError as error:
            if error.code not in ("E216", "E217"):
                raise
            pairs.failures.append(LlinkError(error.code, f"{spec}: {error.message}", error.hint))
    for root in (usual_folders() if roots is None else roots) if installed else ():
        _take(catalogues_below(root, language), language, pairs, seen)
    if pairs.failures and not pairs.rows:
        raise pairs.failures[0]
    return pairs


def add_to(path: Path, found: Pairs, language: Language) -> Added:
    """Add to a file of pairs those that it has not, behind all that it holds, which stays as it is; several may do so at once.

    Pairs that it has are counted in ``found`` as duplicates.

    Raises:
        LlinkError: E107 while another process is at it, E212 when the file is damaged, E218 when no lines can be added to
            it, E112 and E113 when it cannot be written.
    """
    with alone(path):
        kept, known, before = Pairs(), set[tuple[str, str]](), 0
        exists = path.is_file()
        for place, row in rows(path.name, path.parent) if exists else ():
            if isinstance(row, Pair):
                before += 1
                known.add(_key(language, row))
            else:
                kept.skip(row.reason, place)
        new = [pair for pair in found.rows if _key(language, pair) not in known]
        for _ in range(len(found.rows) - len(new)):
            found.skip("duplicates")
        if exists and new:
            with added_to(path) as out:
                out.writelines(map(pair_line, new))
        elif new:
            write_pairs(path, new)
    return Added(before, new, kept)


def usual_folders() -> list[Path]:
    """Where this machine and this Python keep catalogues."""
    paths = sysconfig.get_paths()
    usual = [
        Path("/usr/share/locale"),
        Path("/usr/share/locale-langpack"),
        Path(paths["data"]) / "share" / "locale",
        Path(paths["purelib"]),
        Path(paths["platlib"]),
    ]
    return [path for path in dict.fromkeys(path.resolve() for path in usual) if path.is_dir()]


def catalogues_below(root: Path, language: Language) -> list[Catalogue]:
    """The language's catalogues in a folder and below it, with the packages they belong to where that is known."""
    root = root.absolute()
    found = _one_each((path for path in root.rglob("*.[mp]o") if path.is_file()), language)
    owners = package_files.owners(found, root)
    return [Catalogue(path, *owners.get(path, (f"installed:{path.name}",))) for path in found]


def belongs(path: PurePath, language: Language) -> bool:
    """Whether a path is that of a catalogue of the language: ``km/LC_MESSAGES/x.mo``, ``po/km_KH.po``."""
    if path.suffix not in SUFFIXES:
        return False
    name = path.parent.parent.name if path.parent.name == "LC_MESSAGES" else path.stem
    return re.split(r"[_.@-]", name)[0].lower() in (language.code, language.code3)


def _one_each(paths: Iterable[Path], language: Language) -> list[Path]:
    """Of a catalogue as text and the same compiled, the text."""
    texts = {path.with_suffix(""): path for path in sorted(paths) if belongs(path, language)}
    return list(texts.values())


def _take_package(spec: str, language: Language, pairs: Pairs, seen: set[tuple[str, str]]) -> None:
    archive = package_files.fetch(spec)
    with tempfile.TemporaryDirectory(prefix="llink-") as folder:
        files = package_files.unpack(
            archive, Path(folder), lambda path: belongs(path, language) or package_files.describes(path)
        )
        source, licence = package_files.describe(spec, archive, files)
        found = [Catalogue(path, source, licence) for path in _one_each(files, language)]
        if not found:
            pairs.skip(f"packages without a {language.name} catalogue", spec)
        _take(found, language, pairs, seen)


def _take(catalogues: list[Catalogue], language: Language, pairs: Pairs, seen: set[tuple[str, str]]) -> None:
    with track(f"Reading {language.name} catalogues", total=len(catalogues), unit="file") as bar:
        for catalogue in catalogues:
            _take_one(catalogue, language, pairs, seen)
            bar(1)


def _take_one(catalogue: Catalogue, language: Language, pairs: Pairs, seen: set[tuple[str, str]]) -> None:
    found: list[Pair] = []
    try:
        for place, row in rows(catalogue.path.name, catalogue.path.parent, language=language.code):
            if isinstance(row, Pair):
                found.append(row)
            else:
                pairs.skip(row.reason, f"{catalogue.source} {place}" if row.reason == BROKEN else "")
    except LlinkError as error:
        if error.code != "E212":
            raise
        pairs.skip("damaged catalogues", f"{catalogue.source} {catalogue.path.name}")
    english = is_english(pair.english for pair in found)
    for raw in found:
        sides = without_accelerators(raw.english.strip(), raw.foreign.strip())
        pair = Pair(*sides, catalogue.source, catalogue.licence)
        reason = (
            not_a_translation(*sides, language.scripts) if english else "in a catalogue whose msgids are not English"
        )
        if reason is None and _key(language, pair) in seen:
            reason = "duplicates"
        if reason:
            pairs.skip(reason)
        else:
            seen.add(_key(language, pair))
            pairs.rows.append(pair)


def _key(language: Language, pair: Pair) -> tuple[str, str]:
    return normalise(pair.english), language.normalise(pair.foreign)
