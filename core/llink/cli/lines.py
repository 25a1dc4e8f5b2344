"""Texts one a line, from an argument, a file or stdin, read as they are needed."""

from __future__ import annotations

import io
import queue
import re
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import click

from llink.bounded import Unfit, read_text
from llink.data.encoding import HEAD, encoding_of
from llink.data.files import MAX_RUN
from llink.errors import LlinkError

MAX_DOCUMENT = 1 << 26
"""Bytes of a file that is read in one piece."""
LONGEST = 100_000
"""Characters of a line that are held; a longer one is refused, and what is over that is skipped."""
AHEAD = 512
"""Lines that are read ahead of the answers."""
_PEEK = 1000
"""Blank lines at the beginning that are waited out before it is clear that there is a text."""
_UNDECODED = re.compile("[\udc80-\udcff]")

Line = str | LlinkError
"""A text, or what is wrong with the line that it was to stand on."""


def lines_of(text: str | None, file: Path | None) -> Iterator[Line]:
    """The texts in order, blank ones too; a bad line is an error in its place.

    Raises:
        LlinkError: E505 when there is no text, E508 when the file cannot be read or is no UTF-8 from its beginning.
    """
    if text is not None and file is not None:
        raise click.UsageError("Give TEXT or --file, not both.")
    if text is not None:
        found: Iterator[Line] = iter(_split(text))
    elif file is None and (sys.stdin is None or sys.stdin.isatty()):
        found = iter(())
    else:
        found = _read(file)
    first: list[Line] = []
    for line in found:
        first.append(line)
        if isinstance(line, LlinkError) or line.strip() or len(first) == _PEEK:
            return chain(first, found)
    raise LlinkError("E505", "There is no text.", "Give it as an argument, with --file FILE, or on stdin.")


def read_whole(file: Path) -> str:
    """All of a UTF-8 file; E508 where that cannot be had."""
    try:
        return read_text(file, MAX_DOCUMENT)
    except Unfit as error:
        hint = "" if "cannot be read" in str(error) else "Convert it to UTF-8, or cut it in parts."
        raise LlinkError("E508", f"{file} {error}.", error.hint or hint) from None


def count(file: Path | None) -> int | None:
    """How many lines a file has; None where that is not known before it is read."""
    try:
        if file is None or str(file) == "-" or not stat.S_ISREG(file.stat().st_mode):
            return None
        with file.open("rb") as source:
            return sum(part.count(b"\n") for part in iter(lambda: source.read(1 << 20), b""))
    except OSError:
        return None


def _split(text: str) -> list[str]:
    lines = re.split(r"\r\n|\r|\n", text)
    return lines[:-1] if not lines[-1] else lines


def _read(file: Path | None) -> Iterator[Line]:
    stdin = file is None or str(file) == "-"
    name = "stdin" if stdin else str(file)
    try:
        binary: Any = _stdin() if file is None or stdin else file.open("rb")
        binary = binary if isinstance(binary, io.BufferedReader) else io.BufferedReader(binary)
        encoding = encoding_of(binary.peek(HEAD)[:HEAD])
        utf8 = encoding == "utf-8"
        with io.TextIOWrapper(
            binary, "utf-8-sig" if utf8 else encoding, errors="surrogateescape" if utf8 else "strict", newline=None
        ) as source:
            lines = _each(source)
            first = next(lines, "")
            if isinstance(first, str):
                first = first.removeprefix("\ufeff")
                if "\0" in first:
                    raise LlinkError("E508", f"{name} has zero bytes: it is no text.", "Convert it to UTF-8.")
            if _undecoded(first):
                second = next(lines, first)
                if isinstance(first, LlinkError) and _undecoded(second):
                    raise LlinkError("E508", f"{name} is {first.message[0].lower()}{first.message[1:]}", first.hint)
                lines = chain((second,), lines)
            yield first
            yield from lines
    except UnicodeDecodeError as error:  # what is UTF-8 tells its bad lines one by one
        raise LlinkError(
            "E508", f"{name} is not {error.encoding.upper()}.", "Convert it, with iconv for one."
        ) from None
    except OSError as error:
        raise LlinkError("E508", f"{name} cannot be read: {error.strerror}.") from None


def _stdin() -> Any:
    """stdin anew: Python's own must not be in use in another thread when the interpreter ends."""
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (OSError, ValueError):
        return sys.stdin.buffer


def _each(source: io.TextIOBase) -> Iterator[Line]:
    """Each line without its end; what is over ``LONGEST`` is read, and not held."""
    while line := source.readline(LONGEST + 1):
        problem, seen = None, len(line)
        if wrong := _UNDECODED.search(line):
            place = len(line[: wrong.start()].encode())
            problem = LlinkError("E508", f"Not UTF-8 (byte {place}).", "Convert it, with iconv for one.")
        whole = line.endswith("\n")
        while not whole and len(line) > LONGEST:
            problem = problem or LlinkError(
                "E511", f"The line has over {LONGEST:,} characters.", "Pass it sentence by sentence, one a line."
            )
            rest = source.readline(LONGEST + 1)
            whole = not rest or rest.endswith("\n")
            seen += len(rest)
            if seen > MAX_RUN:
                raise LlinkError(
                    "E508", f"A line has over {MAX_RUN:,} characters: this is no text.", "Convert it to UTF-8."
                )
        yield problem or line.removesuffix("\n")


def _undecoded(line: Line) -> bool:
    return isinstance(line, LlinkError) and line.code == "E508"


def in_chunks(lines: Iterable[Line], sizes: Iterable[int]) -> Iterator[list[Line]]:
    """Lines in lists of at most the sizes in turn, and no longer than what is there already: nobody waits for a full one.

    They are read in a thread of their own, at most ``AHEAD`` of what is taken.
    """
    waiting: queue.Queue[Line | BaseException | None] = queue.Queue(AHEAD)

    def read() -> None:
        try:
            for line in lines:
                waiting.put(line)
            waiting.put(None)
        except BaseException as error:
            waiting.put(_Failed(error))

    threading.Thread(target=read, name="llink-lines", daemon=True).start()
    ended = False
    for size in sizes:
        chunk: list[Line] = []
        while not ended and len(chunk) < size:
            try:
                item = waiting.get(block=not chunk)
            except queue.Empty:
                break
            if isinstance(item, _Failed):
                if chunk:
                    yield chunk
                raise item.error
            ended = item is None
            if isinstance(item, (str, LlinkError)):
                chunk.append(item)
        if chunk:
            yield chunk
        if ended:
            return


class _Failed(Exception):
    """What ended the reading; errors of single lines come as they are."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error
