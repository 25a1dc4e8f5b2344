"""Rows of JSON that is not one object a line: an array of objects, or objects that go over several lines; one at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from llink.data.encoding import fault
from llink.data.files import ARRAY, MAX_LINE, text_of
from llink.interfaces import Broken, Row

BLOCK = 1 << 16
TOO_LONG = f"longer than {MAX_LINE:,} characters"
_SPREAD = re.compile(r"[\s\ufeff]*\{[ \t]*\n")
"""An object whose first line holds its brace alone."""
_BETWEEN = re.compile(r"[\s,\[\]\ufeff]*")
_NEXT = re.compile(r"\n[\s,\[]*(?=\{)|\}\s*,?\s*(?=\{)")
"""Where another object begins, as far as can be told behind a broken one."""


def is_spread(head: str) -> bool:
    """Whether a file that begins so has rows that are not one a line."""
    return bool(ARRAY.match(head) or _SPREAD.match(head))


def spread_rows(where: str) -> Iterator[Row]:
    """The objects of an array, or one behind the other; a broken one is left out alone, and so is an end that is missing."""
    name = Path(where).name
    with text_of(where) as file:
        text = _Window(file)
        text.fill()
        closed = not ARRAY.match(text.held)
        while True:
            between = _BETWEEN.match(text.held, text.at)
            assert between is not None  # it matches nothing too
            closed = closed or "]" in between[0]
            text.at = between.end()
            if text.at == len(text.held):
                if text.fill():
                    continue
                break
            place = f"{name}:{text.line()}"
            row, end = text.value()
            yield place, row
            text.at = end
        if not closed:
            yield f"{name}:{text.line()}", Broken("the array does not end: is all of the file here?")


class _Window:
    """The part of a text that is at hand, and how far it has been read."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.held, self.at = file, "", 0
        self._passed = 0
        self._decoder = json.JSONDecoder()

    def fill(self) -> bool:
        """Let go of what is read and take in more; whether there was more."""
        more = self.file.read(max(BLOCK, len(self.held) - self.at))
        if more:
            self._passed += self.held.count("\n", 0, self.at)
            self.held, self.at = self.held[self.at :] + more, 0
        return bool(more)

    def line(self) -> int:
        """The number of the line that is being read."""
        return 1 + self._passed + self.held.count("\n", 0, self.at)

    def value(self) -> tuple[dict[str, Any] | Broken, int]:
        """The value here, and where it ends; of a broken one, where the next object may begin."""
        while True:
            wrong = len(self.held)
            try:
                found, end = self._decoder.raw_decode(self.held, self.at)
                return self._sound(found, end), end
            except json.JSONDecodeError as error:
                wrong, why = error.pos, f"not JSON: {error.msg}"
                # Broken, or only not all here yet?
                if (wrong >= len(self.held) - 8 or error.msg.startswith("Unterminated")) and self._more():
                    continue
            except (ValueError, RecursionError):
                wrong, why = self.at, "not JSON: a number or a nesting without end"
            if len(self.held) - self.at > MAX_LINE:
                why = TOO_LONG
            return Broken(why), self._next(wrong)

    def _sound(self, found: Any, end: int) -> dict[str, Any] | Broken:
        if end - self.at > MAX_LINE:
            return Broken(TOO_LONG)
        if why := fault(self.held[self.at : end]):
            return Broken(why)
        return found if isinstance(found, dict) else Broken(f"no JSON object but {type(found).__name__}")

    def _more(self) -> bool:
        return len(self.held) - self.at <= MAX_LINE and self.fill()

    def _next(self, wrong: int) -> int:
        """Where the next object begins behind an error; the end of the text where none does."""
        start = max(self.at + 1, len(self.held[:wrong].rstrip(" \t\r\n,[")))
        while not (found := _NEXT.search(self.held, start)):
            # What may be the beginning of such a place stays.
            self.at = max(start, len(self.held.rstrip(" \t\r\n,[}")))
            if not self.fill():
                return len(self.held)
            start = self.at
        return found.end()
