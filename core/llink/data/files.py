"""Opening data files, plain or gzipped, to read them and to write them whole."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from llink.data.encoding import HEAD, encoding_of, fault, one_byte, sound_utf8
from llink.errors import LlinkError
from llink.home import drafted, ensure_folder, write_error
from llink.interfaces import Broken

MAX_LINE = 1 << 20
"""Characters of a line, or of another format's row, from which on it is broken: no sentence is so long."""
MAX_RUN = 1 << 26
"""Characters without a line end from which on a file is no text."""
MAX_WHOLE = 1 << 26
"""Bytes of a file that is read in one piece."""
ARRAY = re.compile(r"[\s\ufeff]*\[\s*[{\]]")
"""How a JSON array of objects begins, and a file of one object a line never does."""


def opened(path: str | Path) -> BinaryIO:
    """A file's bytes, unpacked where its name ends in ``.gz``."""
    return cast("BinaryIO", gzip.open(path, "rb") if str(path).endswith(".gz") else open(path, "rb"))


def read_bounded(path: str | Path, most: int = MAX_WHOLE) -> bytes:
    """All bytes of a file that is read in one piece; ValueError where that are more than ``most``."""
    with opened(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it holds more than {most >> 20} MiB, which no such file needs")
    return data


@contextmanager
def text_of(path: str | Path, declared: Callable[[bytes], str | None] | None = None) -> Iterator[TextIO]:
    """A file as text, line ends as ``\\n``; see ``encoding_of``, which is told what ``declared`` finds in the file's head.

    Bytes that are no UTF-8 are escaped, so that ``fault`` finds them; those of another encoding become U+FFFD.
    """
    with opened(path) as file:
        head = file.read(HEAD)
        file.seek(0)
        encoding = encoding_of(head, declared(head) if declared else None)
        if one_byte(encoding) and sound_utf8(iter(partial(file.read, MAX_LINE), b"")):
            encoding = "utf-8"  # a start in ASCII alone did not show it
        file.seek(0)
        errors = "surrogateescape" if encoding == "utf-8" else "replace"
        with io.TextIOWrapper(file, encoding=encoding, errors=errors) as text:
            yield text


def lines(path: str | Path) -> Iterator[tuple[str, str | Broken]]:
    """The lines of a text file that are not blank, each with its place, ``file:line``; those that are damaged as ``Broken``."""
    for place, line in raw_lines(path):
        if isinstance(line, str) and (why := fault(line)):
            yield place, Broken(why)
        elif isinstance(line, Broken) or line.strip():
            yield place, line


def raw_lines(path: str | Path) -> Iterator[tuple[str, str | Broken]]:
    """Every line of a text file with its place; one of more than ``MAX_LINE`` characters as ``Broken``, never held whole.

    Raises:
        ValueError: when a line goes on beyond ``MAX_RUN`` characters.
    """
    name = Path(path).name
    with text_of(path) as text:
        for number, line in enumerate(iter(partial(text.readline, MAX_LINE + 1), ""), 1):
            place = f"{name}:{number}"
            if len(line) > MAX_LINE and not line.endswith("\n"):
                _skip_line(text, number)
                yield place, Broken(f"longer than {MAX_LINE:,} characters")
            else:
                # Files with a byte order mark, one behind the other, have it where each begins.
                yield place, line.removesuffix("\n").removeprefix("\ufeff")


def _skip_line(text: TextIO, number: int) -> None:
    seen = MAX_LINE
    while (more := text.readline(MAX_LINE)) and not more.endswith("\n"):
        seen += len(more)
        if seen > MAX_RUN:
            raise ValueError(f"line {number} is longer than {MAX_RUN >> 20} million characters")


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A text file, gzipped where its name ends in ``.gz``, that takes its place when the block ends without an error.

    The same text gives the same bytes: a gzip header otherwise holds the time and the name.

    Raises:
        LlinkError: E112 when the folder cannot be written to, E113 when the disk is full.
    """
    try:
        with drafted(path) as draft, open(draft, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, _text(cast("BinaryIO", packed)) as text:
                    yield text
            else:
                with _text(raw) as text:
                    yield text
    except OSError as error:
        raise write_error(path, error) from error


@contextmanager
def added_to(path: Path) -> Iterator[TextIO]:
    """As ``written``, behind all that the file holds already, byte for byte; on a line of its own.

    Raises:
        LlinkError: E218 when the file is no text to which UTF-8 lines can be added, E112 and E113 as ``written``.
    """
    with opened(path) as file:
        head = file.read(HEAD)
    if encoding_of(head) != "utf-8" or ARRAY.match(head.decode("utf-8", "replace")):
        kind = "a JSON array" if encoding_of(head) == "utf-8" else encoding_of(head).upper()
        raise LlinkError("E218", f"{path} exists and is {kind}: no lines can be added.", "Give another --out.")
    with written(path) as text, opened(path) as file:
        into, last = text.buffer, b""
        while block := file.read(MAX_LINE):
            into.write(block)
            last = block
        if last and not last.endswith(b"\n"):
            text.write("\n")
        yield text


@contextmanager
def alone(path: Path, timeout: float = 600.0) -> Iterator[None]:
    """Keep other processes from changing a file at the same time; they wait for each other.

    Raises:
        LlinkError: E107 when another one is at it for longer than ``timeout`` seconds, E112 and E113 when its folder cannot
            be written to.
    """
    from filelock import FileLock, Timeout

    folder = ensure_folder(path.resolve().parent)
    # Beside the file and not in LLINK's home, which another user or job has elsewhere.
    lock = FileLock(folder / f".{path.resolve().name}.lock")
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        raise LlinkError(
            "E107", f"Another process has been changing {path} for {timeout:.0f} s.", "Run again when it has ended."
        ) from None
    except OSError as error:
        raise write_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _text(raw: BinaryIO) -> TextIO:
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="\n")
