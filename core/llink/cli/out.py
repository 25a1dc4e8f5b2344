"""Where answers go: to stdout, or to a file that a run which was killed goes on with.

Beside the file, a record of what is in it for good is replaced after every write: how many lines, their end in the file,
and a digest of the texts. What stands behind that end was written by a run that died, and is written again. The record
stays, so that a finished run may be asked to go on too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from llink.errors import LlinkError
from llink.home import read_json, write_error, write_json

VERSION = 1


class Stdout:
    """Answers as lines on stdout, out at once."""

    done = 0
    counts: Mapping[str, int] = {}

    def write(self, texts: Sequence[str], rows: Sequence[str], counts: Mapping[str, int]) -> None:
        """A row for each text; ``counts`` are those of the whole run so far."""
        try:
            for row in rows:
                click.echo(row)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise write_error(Path("stdout"), error) from error

    def skip(self, texts: Iterable[str]) -> None:
        """Nothing was answered before."""


class OutFile:
    """Answers as lines of a file, on the disk with every write, of one run at a time. Use ``opened``."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, dict(settings)
        self.record = path.with_name(f".{path.name}.llink.json")
        self.done, self.end, self.counts = 0, 0, dict[str, int]()
        self._digest = hashlib.sha256()
        self._wanted = ""

    def begin(self, resume: bool) -> None:
        """Make the file, or take up what an earlier run left of it.

        Raises:
            LlinkError: E218 where it exists and is not to be gone on with, E540 where it cannot be.
        """
        if not resume or not self.path.exists():
            if self.path.exists():
                raise LlinkError(
                    "E218", f"{self.path} exists.", "Give another --out, delete it, or go on with it by --resume."
                )
            self._keep()
            self.path.touch()
            return
        found = read_json(self.record)
        if not found:
            raise self._refused("nothing beside it says how far it came, so another program made it")
        if found.get("version") != VERSION:
            raise self._refused("another version of LLINK wrote it")
        before = found.get("settings")
        before = before if isinstance(before, dict) else {}
        if changed := sorted(k for k in {**before, **self.settings} if before.get(k) != self.settings.get(k)):
            raise self._refused(f"it was begun with another {' and '.join(changed)}")
        try:
            self.done, self.end, self._wanted = int(found["lines"]), int(found["end"]), str(found["texts"])
            self.counts = {str(name): int(count) for name, count in found["counts"].items()}
            if min(self.done, self.end) < 0:
                raise ValueError("less than nothing")
        except (LookupError, TypeError, ValueError, AttributeError):
            raise self._refused(f"{self.record.name} beside it is damaged") from None
        if self.path.stat().st_size < self.end:
            raise self._refused("it is shorter than it was")
        with self.path.open("r+b") as file:
            file.truncate(self.end)

    def skip(self, texts: Iterable[str]) -> None:
        """The texts that were answered before, to see that they are the same; E540 where they are not."""
        count = 0
        for text in texts:
            self._take(text)
            count += 1
        if count < self.done or (self.done and self._digest.hexdigest() != self._wanted):
            raise self._refused(f"its {self.done:,} lines were made of other texts")

    def write(self, texts: Sequence[str], rows: Sequence[str], counts: Mapping[str, int]) -> None:
        """A row for each text; ``counts`` are those of the whole run so far."""
        data = "".join(f"{row}\n" for row in rows).encode("utf-8", "backslashreplace")
        try:
            with self.path.open("r+b") as file:
                file.seek(self.end)
                file.write(data)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.path, error) from error
        for text in texts:
            self._take(text)
        self.done, self.end, self.counts = self.done + len(rows), self.end + len(data), dict(counts)
        self._keep()

    def _take(self, text: str) -> None:
        self._digest.update(text.encode("utf-8", "surrogatepass") + b"\n")

    def _keep(self) -> None:
        rest = {"lines": self.done, "end": self.end, "texts": self._digest.hexdigest(), "counts": self.counts}
        write_json(self.record, {"version": VERSION, "settings": self.settings, **rest})

    def _refused(self, why: str) -> LlinkError:
        return LlinkError("E540", f"{self.path} cannot be gone on with: {why}.", "Give another --out, or delete it.")


@contextmanager
def opened(path: Path | None, resume: bool, settings: Mapping[str, Any]) -> Iterator[Stdout | OutFile]:
    """Where the answers go.

    Raises:
        LlinkError: E112/E113 where it cannot be written, E218 and E540 as ``OutFile.begin``.
    """
    from filelock import FileLock, Timeout

    if path is None:
        yield Stdout()
    elif path.exists() and not path.is_file() and not path.is_dir():
        yield _Device(path)  # keeps nothing that one could go on with
    else:
        lock = FileLock(path.with_name(f".{path.name}.llink.lock"))
        out = OutFile(path, settings)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise LlinkError("E540", f"Another run writes {path}.", "Wait for it, or give another --out.") from None
        except OSError as error:
            raise write_error(path, error) from error
        try:
            try:
                out.begin(resume)
            except OSError as error:
                raise write_error(path, error) from error
            yield out
        finally:
            with suppress(OSError):  # some systems delete no open file
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


class _Device(Stdout):
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, texts: Sequence[str], rows: Sequence[str], counts: Mapping[str, int]) -> None:
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(f"{row}\n" for row in rows)
        except OSError as error:
            raise write_error(self.path, error) from error
