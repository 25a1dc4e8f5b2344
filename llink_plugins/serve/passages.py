"""Which parts of an English message are foreign: runs of another script than Latin, with what belongs to them."""

from __future__ import annotations

from collections.abc import Iterable

import regex

from llink.language.text import script_counts
from llink.serving.chat import Foreign

LETTERS = 2
"""Letters of a run that make it a text; one alone is a symbol, as π is."""
BETWEEN = 2
"""Words in Latin letters that may stand within a foreign text, as brands and names do."""
# A script's own digits and sentence ends belong to its text, and so does any digit or end that touches it.
_OWN = r"[[\p{L}\p{M}\p{N}\p{P}]--[\p{Latin}\p{Common}\p{Inherited}]]"
_RUN = regex.compile(rf"(?V1)\p{{Nd}}*{_OWN}(?:{_OWN}|[\p{{Inherited}}\p{{Cf}}])*[.!?…%\p{{Nd}}\u3001\u3002]*")
_LATIN_WORD = regex.compile(r"[\p{Latin}]+")


def parts(text: str, language: str, scripts: Iterable[str] | None) -> list[str | Foreign]:
    """The parts of a message in order; only English where nothing in it is foreign.

    Args:
        language: what every foreign part is in; ``auto`` lets each be found.
        scripts: those that are read, as ``Language.scripts`` names them; None for all but Latin.
    """
    spans: list[tuple[int, int]] = []
    for match in _RUN.finditer(text):
        start, end = match.span()
        if spans and _belong(text, spans[-1], (start, end)):
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    found: list[str | Foreign] = []
    done = 0
    for start, end in spans:
        if _is_text(text[start:end], scripts):
            found += [*_english(text[done:start]), Foreign(text[start:end], language)]
            done = end
    return [*found, *_english(text[done:])] if found else [text]


def _belong(text: str, before: tuple[int, int], after: tuple[int, int]) -> bool:
    gap = text[before[1] : after[0]]
    if "\n\n" in gap or len(_LATIN_WORD.findall(gap)) > BETWEEN:
        return False
    return bool(set(_scripts(text[slice(*before)])) & set(_scripts(text[slice(*after)]))) or not gap.strip()


def _scripts(text: str) -> list[str]:
    return [script for script in script_counts(text) if script != "LATIN"]


def _is_text(text: str, scripts: Iterable[str] | None) -> bool:
    counts = script_counts(text)
    own = [s for s in counts if s != "LATIN"] if scripts is None else scripts
    return sum(counts[script] for script in own) >= LETTERS


def _english(text: str) -> list[str]:
    """What stands between foreign texts, unless it is mere marks; parts stand on lines of their own anyway."""
    return [text.strip()] if any(char.isalnum() for char in text) else []
