"""Cells of tab-separated text: the quoting of spreadsheets is undone, quotation marks that are text stay.

A spreadsheet quotes a cell that has a quotation mark, a tab or a line break in it, and doubles the marks inside (RFC 4180, with
tabs); other programs write text as it is, and a sentence may begin and end with a mark. What a file does is read off all of it
before its first row is given out.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from llink.data.encoding import fault
from llink.data.files import MAX_LINE, raw_lines
from llink.interfaces import Broken

MAX_LINES = 1000
"""Of one cell."""
FEW = 3
"""Cells with a comma and in quotation marks, and none without, from which on that is no chance."""
_TEXT = r'([^"]*(?:""[^"]*)*)'
_QUOTED = re.compile(f'"{_TEXT}"(?=\\t|$)')
_OPEN = re.compile(f'"{_TEXT}$')
_SHUT = re.compile(f'{_TEXT}"(?=\\t|$)')
_INSIDE = re.compile(f"{_TEXT}$")
_WORD = re.compile(r"[^\W\d_]")
_NOTHING = {"NA", "NaN", "NULL", "None", "null", "nan"}
"""What programs write, without marks, where there is no text."""

Line = tuple[str, str | Broken]


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell as it stands, and without quoting where that would be sound."""

    raw: str
    inner: str | None = None

    @property
    def certain(self) -> bool:
        """Whether no one writes so but to quote."""
        # A tab and a line break in one cell are as likely two rows between two marks.
        return self.inner is not None and ('"' in self.inner or ("\n" in self.inner) != ("\t" in self.inner))

    @property
    def literal(self) -> bool:
        """Whether no one who quotes writes so."""
        return self.inner is None and '"' in self.raw


@dataclass
class Habits:
    """What a file does with quotation marks.

    Attributes:
        width: the usual number of cells.
        sheet: whether all of it reads as a spreadsheet's, and something in it as nothing else.
        certain, literal: cells that only quoting explains, and that only text explains.
        quoted, bare: cells in quotation marks, and others with words.
        commas: cells with a comma, quoted and bare; ``idle`` are quoted without any need.
    """

    width: int = 2
    sheet: bool = False
    certain: int = 0
    literal: int = 0
    quoted: int = 0
    bare: int = 0
    commas: Counter[bool] = field(default_factory=Counter)
    idle: int = 0

    def see(self, cells: list[Cell], first: bool) -> None:
        """Take a row into account; the ``first`` may be names of columns, which need no marks."""
        for cell in cells:
            self.certain += cell.certain
            self.literal += cell.literal
            text = cell.raw if cell.inner is None else cell.inner
            if cell.inner is None:
                self.bare += not first and bool(_WORD.search(cell.raw)) and cell.raw not in _NOTHING
            else:
                self.quoted += 1
                self.idle += not cell.certain and "," not in text
            self.commas[cell.inner is not None] += "," in text

    def undoes(self) -> bool:
        """Whether marks around a cell are quoting where the cell itself does not tell."""
        if self.certain:
            return self.certain >= self.literal
        if self.literal:
            return False
        # All of it: a program that quotes whatever is text. Else a spreadsheet that quotes each comma, and no more.
        whole = self.quoted > 1 and not self.bare
        return whole or (self.commas[True] >= FEW and not self.commas[False] and not self.idle)


def cell_rows(where: str) -> Iterator[tuple[str, list[str] | Broken]]:
    """The cells of each row that is not blank, with its place, that of its first line.

    Raises:
        ValueError: for a line without end, see ``raw_lines``.
    """
    habits = survey(where)
    undo = habits.undoes()
    found = _strict(raw_lines(where)) if habits.sheet else _loose(raw_lines(where), habits.width)
    for place, cells in found:
        if isinstance(cells, Broken):
            yield place, cells
            continue
        texts = [c.inner if c.inner is not None and (undo or c.certain) else c.raw for c in cells]
        if why := next(filter(None, map(fault, texts)), None):
            yield place, Broken(why)
        elif any(map(str.strip, texts)):
            yield place, texts


def survey(where: str) -> Habits:
    """Read all of a file for what it does with quotation marks; most have none at the start of a cell, and are done soon."""
    widths: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}
    marked = False
    for _, line in raw_lines(where):
        if isinstance(line, str) and line.strip():
            begins = _marked(line)
            marked = marked or begins
            if tabs := line.count("\t"):
                widths[begins][tabs + 1] += 1
    if not marked:
        return Habits()
    if (sheet := _sheet(where)) and sheet.undoes():
        return sheet
    # Lines without marks say it best: what is a cell in the others is the question.
    known = widths[False] or widths[True]
    habits = Habits(known.most_common(1)[0][0] if known else 2)
    for number, (_, cells) in enumerate(_loose(raw_lines(where), habits.width)):
        if not isinstance(cells, Broken):
            habits.see(cells, first=number == 0)
    return habits


def _sheet(where: str) -> Habits | None:
    """The habits of a file as a spreadsheet's; None where it cannot be read as one, of rows of one width."""
    habits, sizes = Habits(sheet=True), Counter[int]()
    for number, (_, cells) in enumerate(_strict(raw_lines(where))):
        if isinstance(cells, Broken):
            return None
        if cells != [Cell("")]:
            sizes[len(cells)] += 1
            habits.see(cells, first=number == 0)
    habits.width = next(iter(sizes), 0)
    return habits if len(sizes) == 1 and habits.width > 1 else None


def _marked(line: str) -> bool:
    return line.startswith('"') or '\t"' in line


def _split(line: str) -> list[Cell]:
    """Cells of a line by its tabs alone."""
    cells = []
    for raw in line.split("\t"):
        whole = _QUOTED.fullmatch(raw) if raw.startswith('"') else None
        cells.append(Cell(raw, whole[1].replace('""', '"') if whole else None))
    return cells


class _Row:
    """A row under way: lines are fed until no cell is open. ``sound`` is False where the quoting of it is not."""

    def __init__(self) -> None:
        self.cells: list[Cell] = []
        self.open: str | None = None
        self.sound = True

    def feed(self, line: str) -> None:
        """Take in one more line."""
        at = 0
        if self.open is not None:
            if shut := _SHUT.match(line):
                self._take(f"{self.open}\n{shut[1]}")
                self.open, at = None, shut.end()
            else:
                self.open += "\n" + line
                self.sound = bool(_INSIDE.match(line))
                return
            if at == len(line):
                return
            at += 1
        while self.sound:
            if line.startswith('"', at):
                if whole := _QUOTED.match(line, at):
                    self._take(whole[1])
                    at = whole.end()
                elif begun := _OPEN.match(line, at):
                    self.open = begun[1]
                    return
                else:
                    self.sound = False
                    return
            else:
                end = line.find("\t", at)
                raw = line[at : end if end >= 0 else len(line)]
                self.sound = '"' not in raw
                self.cells.append(Cell(raw))
                at += len(raw)
            if at >= len(line):
                return
            at += 1

    def _take(self, inner: str) -> None:
        self.cells.append(Cell(f'"{inner}"', inner.replace('""', '"')))


def _strict(lines: Iterator[Line]) -> Iterator[tuple[str, list[Cell] | Broken]]:
    """Rows by the rules of quoting alone, ended by a ``Broken`` where they do not hold."""
    row, first, count = _Row(), "", 0
    for place, line in lines:
        if isinstance(line, Broken):
            yield place, line
            continue
        if row.open is None:
            row, first, count = _Row(), place, 0
        row.feed(line)
        count += 1
        if not row.sound or (row.open is not None and (count > MAX_LINES or len(row.open) > MAX_LINE)):
            yield first, Broken("quotation marks that do not close")
            return
        if row.open is None:
            yield first, row.cells
    if row.open is not None:
        yield first, Broken("quotation marks that do not close")


def _loose(lines: Iterator[Line], width: int) -> Iterator[tuple[str, list[Cell] | Broken]]:
    """Rows of lines, but where quoting alone makes ``width`` cells: of a tab inside a cell, or of several lines."""
    ahead: deque[Line] = deque()

    def following() -> Iterator[Line]:
        """The lines behind this one, which stay to be read."""
        yield from list(ahead)
        for line in lines:
            ahead.append(line)
            yield line

    while ahead or (one := next(lines, None)) is not None:
        place, line = ahead.popleft() if ahead else one  # type: ignore[misc]
        if isinstance(line, Broken) or not _marked(line):
            yield place, line if isinstance(line, Broken) else _split(line)
            continue
        plain, row = _split(line), _Row()
        row.feed(line)
        if not row.sound:
            yield place, plain
        elif row.open is None:
            if len(row.cells) == width or len(row.cells) == len(plain):
                yield place, row.cells
            elif len(plain) == width:
                yield place, plain
            else:
                yield (
                    place,
                    Broken(f"quotation marks across tabs, {len(plain)} or {len(row.cells)} cells and not {width}"),
                )
        elif "\t" not in row.open and (taken := _closed(row, following(), width)):
            for _ in range(taken):
                ahead.popleft()
            yield place, row.cells
        else:
            yield place, plain


def _closed(row: _Row, following: Iterator[Line], width: int) -> int:
    """How many more lines a row takes until its open cell is closed, 0 where it is not, or not as a spreadsheet does it."""
    for count, (_, line) in enumerate(following, 1):
        # Text of a spreadsheet's cell has line breaks now and then, but next to never a tab.
        if isinstance(line, Broken) or row.open is None or count > MAX_LINES or len(row.open) > MAX_LINE:
            return 0
        if "\t" in line.partition('"')[0]:
            return 0
        row.feed(line)
        if not row.sound:
            return 0
        if row.open is None:
            return count if len(row.cells) == width else 0
    return 0
