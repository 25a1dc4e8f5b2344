"""Readers of gettext catalogues, as text (.po) and compiled (.mo), through polib."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llink.data.files import opened
from llink.hookspecs import hookimpl
from llink.interfaces import PairReader, Row

if TYPE_CHECKING:
    import polib

LAYOUT = "entries with an English msgid and a translation"


def read_po(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """Translated entries; fuzzy, obsolete and untranslated ones are left out by name."""
    with opened(where) as file:
        data = file.read()
    text = data.decode(_charset(data.decode("latin-1")), errors="replace").removeprefix("\ufeff")
    name = Path(where).name
    for line, entry in _entries(text):
        place = f"{name}:{line}"
        if entry is None:
            yield place, None
        elif entry.obsolete:
            yield place, "obsolete"
        elif entry.fuzzy:
            yield place, "fuzzy"
        else:
            for english, foreign in _sides(entry):
                broken = "\ufffd" in english + foreign
                yield place, None if broken else _row(english, foreign, name)


def read_mo(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """The entries of a compiled catalogue, which holds translated ones only."""
    import polib

    with opened(where) as file:
        data = file.read()
    # Read as Latin-1, which no byte can break; then each text is decoded by itself.
    catalogue = polib.mofile(data, encoding="latin-1")
    charset = _charset(f"Content-Type: {catalogue.metadata.get('Content-Type', '')}")
    name = Path(where).name
    for number, entry in enumerate(catalogue, 1):
        for english, foreign in _sides(entry):
            try:
                english, foreign = (side.encode("latin-1").decode(charset) for side in (english, foreign))
                yield f"{name}:{number}", _row(english, foreign, name)
            except UnicodeDecodeError:
                yield f"{name}:{number}", None


def _entries(text: str) -> Iterator[tuple[int, polib.POEntry | None]]:
    """Entries with their line; where the syntax of the catalogue is broken, None for each broken block of it."""
    import polib

    # polib takes a text without a line break for the name of a file.
    text += "\n\n"
    try:
        yield from [(entry.linenum or 1, entry) for entry in polib.pofile(text)]
        return
    except (OSError, ValueError, IndexError):
        pass
    start = 1
    for block in re.split(r"(?<=\n)[ \t\r]*\n", text):
        try:
            yield from [(start + max(entry.linenum - 1, 0), entry) for entry in polib.pofile(block + "\n\n")]
        except (OSError, ValueError, IndexError):
            yield start, None
        start += block.count("\n") + 1


def _sides(entry: polib.POEntry | polib.MOEntry) -> Iterator[tuple[str, str]]:
    """English and foreign; of an entry with a plural, the forms that say the same."""
    if not entry.msgid_plural:
        yield entry.msgid, entry.msgstr
        return
    forms = [form for _, form in sorted(entry.msgstr_plural.items())]
    if len(forms) > 1:
        yield entry.msgid, forms[0]
    # A language with one form says it for any number, as the English plural does.
    yield entry.msgid_plural, forms[-1] if forms else ""


def _row(english: str, foreign: str, name: str) -> Mapping[str, Any] | str:
    return {"english": english, "foreign": foreign, "source": name} if foreign.strip() else "untranslated"


def _charset(header: str) -> str:
    """The character set that a catalogue's header names, UTF-8 where it names none or one that is not there."""
    named = re.search(r"Content-Type:[^\n]*charset=([\w-]+)", header)
    try:
        return codecs.lookup(named[1] if named else "utf-8").name
    except LookupError:
        return "utf-8"


@hookimpl
def llink_readers() -> list[PairReader]:
    return [
        PairReader("po", read_po, (".po", ".po.gz"), layout=LAYOUT),
        PairReader("mo", read_mo, (".mo", ".mo.gz"), layout=LAYOUT),
    ]
