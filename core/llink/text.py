"""Text rules that every language shares: normalisation, sentence splitting, scripts."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

# Quotes and brackets that close after a sentence end and belong to that sentence.
_CLOSERS = "\"'”’»)]"

# First words of character names that say nothing about the script: accents, emoji selectors, superscripts.
_NO_SCRIPT = {"COMBINING", "MODIFIER", "VARIATION"}


def normalise(text: str) -> str:
    """NFC, invisible marks removed, control characters and runs of white space as one space.

    Invisible marks (zero-width space and joiners, word joiner, BOM, soft hyphen, direction marks) are typed
    or not at the writer's whim. They go first: an accent behind one can then join its letter.
    """
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return " ".join(unicodedata.normalize("NFC", text).split())


def close_up(text: str, ends: str) -> str:
    """Without the space that some writers put before a sentence end of their own script ("… ។", "… ።")."""
    own = "".join(end for end in ends if not end.isascii())
    return re.sub(rf" +(?=[{re.escape(own)}])", "", text) if own else text


def split_sentences(text: str, ends: str) -> list[str]:
    """Cut after each run of sentence ends with the quotes that close on it, and at line breaks.

    An ASCII end inside a number, a name or an address ("3.5", "llink.text", "?page=2") stays: it ends a
    sentence only before white space, and "!" and "?" also before a letter of another alphabet.
    """
    lines = text.splitlines()
    if not ends:
        return [s for s in map(str.strip, lines) if s]
    one = f"[{re.escape(ends)}]"
    run = re.compile(rf"{one}(?:\s*{one})*[{re.escape(_CLOSERS)}]*")
    sentences = []
    for line in lines:
        start = 0
        for match in run.finditer(line):
            after = line[match.end() : match.end() + 1]
            mark = match[0].rstrip(_CLOSERS)
            if not mark.isascii() or after.isspace() or not (after.isascii() or mark.endswith(".")):
                sentences.append(line[start : match.end()].strip())
                start = match.end()
        sentences.append(line[start:].strip())
    return [s for s in sentences if s]


def script_counts(text: str) -> Counter[str]:
    """How many letters of each Unicode script ``text`` has; a script's own marks count with it."""
    counts: Counter[str] = Counter()
    for char in text:
        if unicodedata.category(char)[0] in "LM":
            script = unicodedata.name(char, "UNKNOWN").split(" ")[0]
            if script not in _NO_SCRIPT:
                counts[script] += 1
    return counts
