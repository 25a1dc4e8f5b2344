"""Text rules that every language shares: normalisation, sentence splitting, scripts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache

import regex

from llink.language.unicode import with_joiners, without_controls, without_invisible

# Quotes and brackets that close after a sentence end and belong to that sentence.
_CLOSERS = r"[\p{Pe}\p{Pf}\"']*"

# First words of character names that say nothing about the script: accents, emoji selectors, superscripts.
_NO_SCRIPT = {"COMBINING", "MODIFIER", "VARIATION"}


def normalise(text: str, joiners: bool = True) -> str:
    """NFC, invisible marks removed, control characters and runs of white space as one space.

    Invisible marks (zero-width space, word joiner, BOM, soft hyphen, direction marks) are typed or not at the writer's
    whim. They go first: an accent behind one can then join its letter. ZWJ and ZWNJ stay within an emoji, and where
    Unicode's rules say that they change how letters are read, see ``llink.language.unicode``.

    Args:
        joiners: whether ZWJ and ZWNJ may be spelling; otherwise they are invisible marks as well.
    """
    text = unicodedata.normalize("NFC", without_controls(without_invisible(text)))
    return " ".join(unicodedata.normalize("NFC", with_joiners(text, joiners)).split())


def close_up(text: str, ends: str) -> str:
    """Without the space that some writers put before a sentence end of their own script ("… ។", "… ።")."""
    own = "".join(end for end in ends if not end.isascii())
    return re.sub(rf" +(?=[{re.escape(own)}])", "", text) if own else text


def split_sentences(text: str, ends: str) -> list[str]:
    """Cut after each run of sentence ends with the quotes that close on it, and at line breaks.

    An ASCII end inside a number, a name or an address ("3.5", "llink.text", "?page=2") stays: it ends a
    sentence only before white space, and "!" and "?" also before a letter of another alphabet. Ends of other scripts
    need no space.
    """
    lines = text.splitlines()
    if not ends:
        return [s for s in map(str.strip, lines) if s]
    run = _run(ends)
    sentences = []
    for line in lines:
        start = 0
        for match in run.finditer(line):
            if _ends(match["marks"], line[match.end() : match.end() + 1]):
                sentences.append(line[start : match.end()].strip())
                start = match.end()
        sentences.append(line[start:].strip())
    return [s for s in sentences if s]


@cache
def _run(ends: str) -> regex.Pattern[str]:
    one = rf"[{re.escape(ends)}]\ufe0f?"  # some are emoji too
    return regex.compile(rf"(?P<marks>{one}(?:\s*{one})*){_CLOSERS}")


def _ends(marks: str, after: str) -> bool:
    """Whether marks that may end a sentence do so before the character ``after``."""
    if not after or after.isspace():
        return True
    # A full stop of full width stands in numbers and addresses of full width, as the ASCII one does in others.
    marks = marks.rstrip("\ufe0f")
    if marks[-1] != "." and unicodedata.normalize("NFKC", marks[-1]) == ".":
        return not unicodedata.normalize("NFKC", after).isascii()
    return not marks.isascii() or not (after.isascii() or marks.endswith("."))


def script_counts(text: str) -> Counter[str]:
    """How many letters of each Unicode script ``text`` has; a script's own marks count with it."""
    counts: Counter[str] = Counter()
    for char in text:
        if unicodedata.category(char)[0] in "LM":
            script = unicodedata.name(char, "UNKNOWN").split(" ")[0]
            if script not in _NO_SCRIPT:
                counts[script] += 1
    return counts
