"""Translation units cut out of the text of a TMX file, so that what is wrong with one stays its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TextIO

from llink.data.files import MAX_LINE
from llink.interfaces import Broken

BLOCK = 1 << 16
_MARK = re.compile(r"<!--|<!\[CDATA\[|<tu(?=[\s>/])|</tu\s*>|</tmx\s*>")
_ENDS = {"<!--": "-->", "<![CDATA[": "]]>"}
LONGEST = 64
"""Characters at the end of a block that may be the beginning of a mark."""


class _Reader:
    """A text read block by block, with the number of its lines; what is passed is let go."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.held, self.at, self.ended = file, "", 0, False
        self.line = 1

    def more(self) -> bool:
        """Take in another block; False at the end."""
        block = self.file.read(BLOCK)
        self.ended = not block
        self.held += block
        return not self.ended

    def move(self, to: int) -> str:
        """Pass over the text up to a place, and return it."""
        passed = self.held[self.at : to]
        self.line += passed.count("\n")
        self.at = to
        if self.at > BLOCK:
            self.held, self.at = self.held[self.at :], 0
        return passed

    def find(self, mark: re.Pattern[str], limit: int) -> tuple[str, re.Match[str] | None]:
        """The text before the next mark, of ``limit`` characters at most, and the mark; it is passed then, text and all."""
        kept: list[str] = []
        room = limit
        while True:
            found = mark.search(self.held, self.at)
            # A mark at the very end may go on.
            if found and (self.ended or found.end() < len(self.held)):
                before = self.move(found.start())
                self.move(self.at + len(found[0]))
                return "".join(kept) + before[:room], found
            before = self.move(max(self.at, len(self.held) - LONGEST) if not self.ended else len(self.held))
            kept.append(before[:room])
            room -= len(kept[-1])
            if self.ended:
                return "".join(kept), None
            self.more()


def units(file: TextIO, head: Callable[[str], None]) -> Iterator[tuple[int, str | Broken]]:
    """Each ``<tu>`` as XML, with its line; one that is cut off by the next, or too long, as ``Broken``.

    Args:
        head: is given what stands before the first one.

    Raises:
        ValueError: when the file ends before ``</tmx>``: part of it is missing.
    """
    text = _Reader(file)
    text.more()
    before: list[str] | None = []
    unit: list[str] | None = None
    start, size, closed = 0, 0, False
    while True:
        passed, found = text.find(_MARK, MAX_LINE + 1)
        mark = found[0] if found else ""
        if mark in _ENDS:
            inside, end = text.find(re.compile(re.escape(_ENDS[mark])), MAX_LINE + 1)
            # A comment is no text, and the one that was cut short neither.
            passed += f"{mark}{inside}{end[0]}" if end and mark != "<!--" else ""
        if before is not None:
            before.append(passed)
        if unit is not None:
            size += len(passed)
            if size <= MAX_LINE:
                unit.append(passed)
        if mark.startswith("<tu"):
            if before is not None:
                head("".join(before))
                before = None
            if unit is not None:
                yield start, Broken("it does not end before the next one begins")
            unit, start, size = ["<tu"], text.line, 0
        elif mark.startswith("</tu") and unit is not None:
            yield start, "".join([*unit, mark]) if size <= MAX_LINE else Broken(f"longer than {MAX_LINE:,} characters")
            unit = None
        elif mark.startswith("</tmx"):
            closed = True
            if unit is not None:
                yield start, Broken("it does not end before the file does")
                unit = None
        elif not found:
            break
    if before is not None:
        head("".join(before))
    if unit is not None or not closed:
        raise ValueError(f"it breaks off in line {start if unit is not None else text.line}: is all of the file here?")
