"""Reader of TMX, the exchange format of translation memories: one translation unit at a time, entities refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

from llink.data.encoding import fault
from llink.data.files import text_of
from llink.hookspecs import hookimpl
from llink.interfaces import Broken, PairReader, Row
from llink_plugins.tmx.units import units

# What stands in these is another program's markup, not text.
CODES = {"bpt", "ept", "it", "ph", "ut"}
_DECLARED = re.compile(rb"""^[^<]*<\?xml[^>]*encoding\s*=\s*["']([\w.:-]+)""")


class _Unit:
    """Handlers of an XML parser that gather the sides of one translation unit: ``{language: text}``."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.language = ""
        self.sides: dict[str, str] = {}
        self.text: list[str] | None = None
        self.codes = 0

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tuv":
            self.language = primary(attributes.get("xml:lang") or attributes.get("lang") or "")
        elif name == "seg":
            self.text = []
        elif name in CODES:
            self.codes += 1

    def _end(self, name: str) -> None:
        if name == "seg" and self.text is not None:
            self.sides.setdefault(self.language, "".join(self.text))
            self.text = None
        elif name in CODES:
            self.codes -= 1

    def _text(self, text: str) -> None:
        if self.text is not None and not self.codes:
            self.text.append(text)


def read_tmx(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """Units with English and the language; without a language, units of English and one other. A broken unit costs itself."""
    name = Path(where).name
    wanted = primary(language) if language else None
    with text_of(where, _declared) as text:
        for line, unit in units(text, _check_head):
            yield f"{name}:{line}", unit if isinstance(unit, Broken) else _row(unit, wanted, name)


def _declared(head: bytes) -> str | None:
    """The encoding that an XML declaration names."""
    found = _DECLARED.match(head)
    return found[1].decode("ascii") if found else None


def _check_head(text: str) -> None:
    """Refuse what stands before the first unit where it declares an entity; other faults of it cost no unit."""
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = _entity
    try:
        parser.Parse(text, False)
    except (expat.ExpatError, UnicodeEncodeError):
        if found := re.search(r"<!ENTITY\s+(?:%\s+)?([^\s>]+)", text):
            _entity(found[1])


def _entity(name: str, *_: Any) -> None:
    # A few of these can unfold to gigabytes, or name files of this machine; no translation memory needs them.
    raise ValueError(f"it declares the entity '{name}', which is not read")


def _row(xml: str, wanted: str | None, name: str) -> Mapping[str, Any] | str | Broken:
    if why := fault(xml):
        return Broken(why)
    unit = _Unit()
    try:
        unit.parser.Parse(xml, True)
    except expat.ExpatError as error:
        return Broken(expat.ErrorString(error.code))
    except UnicodeEncodeError:
        return Broken("half a character")
    sides = unit.sides
    english = sides.pop("en", None)
    if english is None:
        return Broken("no English")
    if not sides:
        return Broken("no language beside English")
    if wanted is None and len(sides) > 1:
        return "in several languages, none of them asked for"
    if wanted is not None and wanted not in sides:
        return "in another language"
    return {"english": english, "foreign": sides[wanted or next(iter(sides))], "source": name}


@cache
def primary(tag: str) -> str:
    """The language of a tag, by its shortest code: ``khm-KH`` and ``km_KH`` are ``km``."""
    import langcodes

    try:
        return langcodes.get(tag).language or ""
    except langcodes.LanguageTagError:
        return tag.casefold()


@hookimpl
def llink_readers() -> list[PairReader]:
    return [
        PairReader("tmx", read_tmx, (".tmx", ".tmx.gz"), layout="<tu> with a <tuv> in English and one in the language")
    ]
