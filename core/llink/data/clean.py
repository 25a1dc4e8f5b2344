"""Program messages as text: without the marks of keyboard accelerators, and which of them are no translation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache

from llink.language.text import normalise, script_counts

CREDITS = {"translator-credits", "translator_credits", "your names", "your emails", "name of translators"}
_ENTITY = r"(?!#?\w+;)"
_MARKS = {mark: re.compile(rf"(?<!{mark}){mark}(?=[^\W_]){_ENTITY if mark == '&' else ''}") for mark in "_&"}
_APART = {mark: re.compile(rf"\s*[(（]{mark}\w[)）]") for mark in "_&"}
# Format placeholders, variables, tags and addresses, which stay as they stand.
_HELD = re.compile(r"%\([^)]*\)|\$?\{[^{}]*\}|\$\w+|<[^<>]*>|\w+://\S+|\S+@\S+")
_KEY = re.compile(r"\w+([.:_/-]\w+)+|[a-z]+([A-Z][a-z]+)+")


def without_accelerators(english: str, foreign: str) -> tuple[str, str]:
    """Both sides without the mark that makes a letter a keyboard shortcut: ``_File``, ``E&xit``, ``ឯកសារ(_F)``.

    A mark that belongs to the text stays: entities (``&amp;``), names that stand on both sides (``snake_case``,
    ``R&D``), and any mark inside a word where the translation has none.
    """
    for mark in _MARKS:
        places = _own_marks(mark, english, foreign)
        if len(places) != 1:
            continue
        inside = places[0] > 0 and english[places[0] - 1].isalnum()
        if inside and mark not in foreign:
            continue
        bare, removed = _APART[mark].subn("", foreign)
        if not removed and len(own := _own_marks(mark, foreign, english)) == 1:
            bare = _without(foreign, own[0])
        english, foreign = _without(english, places[0]), bare
    return english, foreign


def _own_marks(mark: str, text: str, other: str) -> list[int]:
    """Where ``text`` has the mark before a letter, in no placeholder and in no word that ``other`` has too."""
    held = [match.span() for match in _HELD.finditer(text)]
    places = [match.start() for match in _MARKS[mark].finditer(text)]
    return [p for p in places if not any(a <= p < b for a, b in held) and _word(text, p) not in other]


def _without(text: str, place: int) -> str:
    return text[:place] + text[place + 1 :]


def not_a_translation(english: str, foreign: str, scripts: Sequence[str]) -> str | None:
    """Why these two are no pair to learn from, None where they are one."""
    if english.strip().casefold() in CREDITS:
        return "names of translators"
    if normalise(english) == normalise(foreign):
        return "the same in both languages"
    if not script_counts(english):
        return "without an English letter"
    if scripts and not any(_script(char) in scripts for char in foreign):
        return f"without a {scripts[0].capitalize()} letter"
    return None


def is_english(texts: Iterable[str]) -> bool:
    """Whether the texts of a catalogue can be English: mostly ASCII letters, and no mere keys (``menu.file.open``)."""
    letters = ascii_letters = keys = count = 0
    for text in texts:
        own = [char for char in text if char.isalpha()]
        letters += len(own)
        ascii_letters += sum(char.isascii() for char in own)
        keys += bool(_KEY.fullmatch(text.strip()))
        count += 1
    return ascii_letters >= 0.9 * letters and keys <= 0.5 * count


@cache
def _script(char: str) -> str:
    return next(iter(script_counts(char)), "")


def _word(text: str, at: int) -> str:
    """The run of anything but white space around a place, without the punctuation at its ends."""
    before, after = re.split(r"\s", text[:at])[-1], re.split(r"\s", text[at:])[0]
    return (before + after).strip(".,:;!?()[]\"'“”…")
