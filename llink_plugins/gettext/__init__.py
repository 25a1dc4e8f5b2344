"""Readers of gettext catalogues, as text (.po) and compiled (.mo), through polib."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llink.data.encoding import HEAD, decoded
from llink.data.files import MAX_LINE, read_bounded
from llink.hookspecs import hookimpl
from llink.interfaces import Broken, PairReader, Row

if TYPE_CHECKING:
    import polib

TOGETHER = 200
"""Entries that are parsed at once."""
_LINE = re.compile(r'\s*(?:#~\s*)?(?:msg\w+(?:\[\d*\])?\s*)?"(?:[^"\\]|\\.)*"\s*')
LAYOUT = "entries with an English msgid and a translation"


def read_po(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """Translated entries; fuzzy, obsolete and untranslated ones are left out by name."""
    data = read_bounded(where)
    text = decoded(data, _declared(data[:HEAD].decode("latin-1")), errors="replace")
    name = Path(where).name
    for line, entry in _entries(text):
        place = f"{name}:{line}"
        if isinstance(entry, Broken):
            yield place, entry
        elif entry.obsolete:
            yield place, "obsolete"
        elif entry.fuzzy:
            yield place, "fuzzy"
        else:
            for english, foreign in _sides(entry):
                yield place, _row(english, foreign, name)


def read_mo(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """The entries of a compiled catalogue, which holds translated ones only."""
    import polib

    data = read_bounded(where)
    _check_tables(data)
    # Read as Latin-1, which no byte can break; then each text is decoded by itself.
    catalogue = polib.mofile(data, encoding="latin-1")
    charset = _declared(f"Content-Type: {catalogue.metadata.get('Content-Type', '')}")
    name = Path(where).name
    for number, entry in enumerate(catalogue, 1):
        for sides in _sides(entry):
            english, foreign = (decoded(side.encode("latin-1"), charset, errors="replace") for side in sides)
            yield f"{name}:{number}", _row(english, foreign, name)


def _check_tables(data: bytes) -> None:
    """ValueError for tables that name the same bytes again and again, which would unfold to gigabytes."""
    order = "<" if data[:4] == b"\xde\x12\x04\x95" else ">"
    count, *tables = struct.unpack_from(f"{order}3I", data, 8)
    sizes = (struct.unpack_from(f"{order}{2 * count}I", data, table)[::2] for table in tables)
    if sum(map(sum, sizes)) > len(data):
        raise ValueError("its texts are longer than the file")


def _entries(text: str) -> Iterator[tuple[int, polib.POEntry | Broken]]:
    """Entries with their line, a few hundred at a time; where syntax is broken, block by block between blank lines."""
    blocks = _blocks(text)
    while some := list(islice(blocks, TOGETHER)):
        found = _parsed([line for block in some for line in [*block, (0, "")]]) if len(some) > 1 else None
        if found is None or any(isinstance(entry, Broken) for _, entry in found):
            found = [entry for block in some for entry in _parsed(block)]
        yield from found


def _parsed(block: list[tuple[int, str]]) -> list[tuple[int, polib.POEntry | Broken]]:
    """The entries in numbered lines, or one ``Broken`` for all of them."""
    import polib

    # polib takes a text without a line break for the name of a file.
    content = "\n".join(line for _, line in block) + "\n\n"
    if len(content) > MAX_LINE:
        return [(block[0][0], Broken(f"longer than {MAX_LINE:,} characters"))]
    for number, line in block:
        if line and not line.startswith("#,") and not _LINE.fullmatch(line):
            # polib would take the first and the last letter for the marks.
            return [(block[0][0], Broken(f"no text between quotation marks (line {number})"))]
    try:
        entries = list(polib.pofile(content, encoding="utf-8"))
    except (OSError, ValueError, IndexError) as error:
        return [(block[0][0], Broken(_reason(error, block)))]
    return [(block[_inside(entry.linenum, block)][0], entry) for entry in entries]


def _blocks(text: str) -> Iterator[list[tuple[int, str]]]:
    """The lines of each entry with their numbers, without comments, which can be most of a catalogue."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if not line.strip():
            if block:
                yield block
            block = []
        elif not line.startswith("#") or (line.startswith(("#,", "#~")) and not line.startswith("#~|")):
            block.append((number, line))
    if block:
        yield block


def _reason(error: Exception, block: list[tuple[int, str]]) -> str:
    """What polib says of a block, with the line of the catalogue."""
    found = re.search(r"line (\d+)\)(?:: (.+))?$", str(error))
    if not found:
        return "no entry of a catalogue"
    return f"{found[2] or 'syntax error'} (line {block[_inside(int(found[1]), block)][0]})"


def _inside(line: int, block: list[tuple[int, str]]) -> int:
    return min(max(line - 1, 0), len(block) - 1)


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


def _declared(header: str) -> str | None:
    """The character set that a catalogue's header names."""
    named = re.search(r"Content-Type:[^\n]*charset=([\w.:-]+)", header)
    return named[1] if named else None


@hookimpl
def llink_readers() -> list[PairReader]:
    return [
        PairReader("po", read_po, (".po", ".po.gz"), layout=LAYOUT),
        PairReader("mo", read_mo, (".mo", ".mo.gz"), layout=LAYOUT),
    ]
