"""Reader of TMX, the exchange format of translation memories: one translation unit at a time, entities refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from xml.parsers import expat

from llink.data.files import opened
from llink.hookspecs import hookimpl
from llink.interfaces import PairReader, Row

BLOCK = 1 << 16
# What stands in these is another program's markup, not text.
CODES = {"bpt", "ept", "it", "ph", "ut"}


class _Units:
    """Handlers of an XML parser that gather translation units: ``(line, {language: text})``."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._entity
        self.done: list[tuple[int, dict[str, str]]] = []
        self.line = 0
        self.language = ""
        self.sides: dict[str, str] = {}
        self.text: list[str] | None = None
        self.codes = 0

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self.line, self.sides = self.parser.CurrentLineNumber, {}
        elif name == "tuv":
            self.language = primary(attributes.get("xml:lang") or attributes.get("lang") or "")
        elif name == "seg":
            self.text = []
        elif name in CODES:
            self.codes += 1

    def _end(self, name: str) -> None:
        if name == "tu":
            self.done.append((self.line, self.sides))
        elif name == "seg" and self.text is not None:
            self.sides.setdefault(self.language, "".join(self.text))
            self.text = None
        elif name in CODES:
            self.codes -= 1

    def _text(self, text: str) -> None:
        if self.text is not None and not self.codes:
            self.text.append(text)

    def _entity(self, name: str, *_: Any) -> None:
        # A few of these can unfold to gigabytes, or name files of this machine; no translation memory needs them.
        raise ValueError(f"it declares the entity '{name}', which is not read")


def read_tmx(where: str, language: str | None, columns: Mapping[str, str]) -> Iterator[Row]:
    """Units with English and the language; without a language, units of English and one other."""
    units, name = _Units(), Path(where).name
    wanted = primary(language) if language else None
    with opened(where) as file:
        while True:
            block = file.read(BLOCK)
            units.parser.Parse(block, not block)
            for line, sides in units.done:
                yield f"{name}:{line}", _row(sides, wanted, name)
            units.done.clear()
            if not block:
                return


def _row(sides: dict[str, str], wanted: str | None, name: str) -> Mapping[str, Any] | str | None:
    english = sides.pop("en", None)
    if english is None or not sides:
        return None
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
