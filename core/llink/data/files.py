"""Opening data files, plain or gzipped, to read them and to write them whole."""

from __future__ import annotations

import gzip
import io
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from llink.home import write_error


def opened(path: str | Path) -> BinaryIO:
    """A file's bytes, unpacked where its name ends in ``.gz``."""
    return cast("BinaryIO", gzip.open(path, "rb") if str(path).endswith(".gz") else open(path, "rb"))


def lines(path: str | Path) -> Iterator[tuple[str, str]]:
    """The lines of a text file that are not blank, each with its place, ``file:line``; bytes that are no UTF-8 as U+FFFD."""
    name = Path(path).name
    opener = gzip.open if name.endswith(".gz") else open
    with cast("TextIO", opener(path, "rt", encoding="utf-8-sig", errors="replace")) as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield f"{name}:{number}", line.rstrip("\n")


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A text file, gzipped where its name ends in ``.gz``, that takes its place when the block ends without an error.

    The same text gives the same bytes: a gzip header otherwise holds the time and the name.

    Raises:
        LlinkError: E112 when the folder cannot be written to, E113 when the disk is full.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, _text(cast("BinaryIO", packed)) as text:
                    yield text
            else:
                with _text(raw) as text:
                    yield text
        os.replace(draft, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if os.path.lexists(draft):
            draft.unlink()


def _text(raw: BinaryIO) -> TextIO:
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", newline="\n")
