"""Plain tables for the terminal: columns in line, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """``rows`` under ``head``, two spaces between the columns; a column of numbers stands to the right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [len(column) > 1 and all(map(is_number, column[1:])) for column in columns]
    lines = []
    for row in (head, *rows):
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def is_number(cell: str) -> bool:
    """Whether ``cell`` reads as a number; an empty cell or a dash stands for a missing one."""
    try:
        return cell in ("", "-") or float(cell) is not None
    except ValueError:
        return False


def size(count: int) -> str:
    """Bytes as ``98 MB`` or ``1.1 GB``; ``unknown`` for 0."""
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    return f"{max(count / 1e6, 1):.0f} MB" if count else "unknown"
