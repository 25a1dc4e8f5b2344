"""What needs no reading: blank text, numbers and marks, emoji, addresses, and text in Latin letters.

A decoder that is asked for the meaning of "2024-05-01" or of an emoji makes one up. Such a text is its own translation:
it passes through, and only the digits of another script become 0-9.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from llink.interfaces import Language

BLANK, ADDRESS, NO_LETTERS, LATIN = "blank", "address", "no letters", "Latin letters"
# White space and what is not seen: zero-width marks, lone surrogates, fillers, the blank of Braille.
_BLANK = regex.compile(r"[\p{Z}\p{Cc}\p{Cf}\p{Cs}\p{Default_Ignorable_Code_Point}\u2800]*")
_SCHEME = regex.compile(r"[a-z][a-z0-9+.-]*+://|www\.|mailto:", regex.IGNORECASE)
_EMAIL = regex.compile(r"[\w.%+-]++@[\w-]++(?:\.[\w-]++)++", regex.ASCII)
_LETTER = regex.compile(r"\p{L}")
_OTHER_LETTER = regex.compile(r"(?V1)[[\p{L}\p{M}]--[\p{Latin}\p{Common}\p{Inherited}]]")
_MARKS = regex.compile(r"\p{P}{1,3}")


@dataclass(frozen=True)
class Unread:
    """What stands for the answer of a text that needs no reading, and why: one of the words above."""

    output: str
    note: str


def unread(text: str, languages: Iterable[Language]) -> Unread | None:
    """What stands for the answer, or None for a text that is to be read.

    Args:
        languages: those that the text may be in. Where one is written in Latin letters and does not deny the text by its
            ``likelihood``, Latin letters are read too.
    """
    if _BLANK.fullmatch(text):
        return Unread(text, BLANK)
    if _is_address(text.strip()):
        return Unread(text, ADDRESS)
    if not text.isascii() and _OTHER_LETTER.search(text):
        return None
    if not _LETTER.search(text):
        return Unread(text if text.isascii() else "".join(map(_ascii_digit, text)), NO_LETTERS)
    for language in languages:
        if "LATIN" in language.scripts or not language.scripts:  # of no script: of any
            likelihood = language.likelihood(text)
            if likelihood is None or likelihood >= 0.5:
                return None
    return Unread(text, LATIN)


def _is_address(text: str) -> bool:
    """Whether a text is an address and nothing else; its path may be in any script, its host in ASCII."""
    scheme = _SCHEME.match(text)
    if not scheme:
        return _EMAIL.fullmatch(text) is not None
    host, *path = regex.split("[/?#]", text[scheme.end() :], maxsplit=1)
    return bool(host) and host.isascii() and not regex.search(r"\s", "".join((host, *path)))


def _ascii_digit(char: str) -> str:
    return char if char.isascii() else str(unicodedata.decimal(char, char))


def with_marks(parts: Sequence[str]) -> list[str]:
    """Parts of a text; a quote or the like that stands alone goes behind the one before, or the first before the next."""
    joined: list[str] = []
    for part in parts:
        if joined and (_MARKS.fullmatch(part) or _MARKS.fullmatch(joined[-1])):
            joined[-1] += f" {part}"
        else:
            joined.append(part)
    return joined
