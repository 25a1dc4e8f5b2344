"""Texts of any language, each by the rules of its own: a plugin's where there is one, else those of Unicode and CLDR."""

from __future__ import annotations

from functools import lru_cache

from llink import plugins
from llink.adapter.shared import seems_english
from llink.interfaces import Language
from llink.language.generic import generic_language
from llink.language.text import script_counts


class Shared(Language):
    """A language of no script: what it is asked about a text, it asks the language that the text is written in."""

    def normalise(self, text: str) -> str:
        return spoken(text).normalise(text)

    def sentences(self, text: str) -> list[str]:
        return spoken(text).sentences(text)

    def ascii_digits(self, text: str) -> str:
        return spoken(text).ascii_digits(text)

    def likelihood(self, text: str) -> float | None:
        """0 for what seems to be English, which needs no reading."""
        return 0.0 if set(script_counts(text)) == {"LATIN"} and seems_english(text) else None

    def verbatim(self, text: str) -> list[str]:
        return spoken(text).verbatim(text)


def spoken(text: str) -> Language:
    """The language whose rules a text is read by: the first plugin's that has its script, or its script's own."""
    if text.isascii():
        return generic_language(script="LATIN")
    counts = script_counts(text)
    if not counts:
        return generic_language()
    script = max(counts, key=lambda name: (counts[name], name))
    return _written_in(script)


@lru_cache
def _written_in(script: str) -> Language:
    for language in plugins.languages().values():
        if script in language.scripts:
            return language
    from llink.errors import LlinkError

    try:
        return generic_language(script=script)
    except LlinkError:  # the first word of a character's name that is no script: "ROMAN", "KANGXI"
        return generic_language()
