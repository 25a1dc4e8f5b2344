"""Where LLINK keeps its files, and how it writes them so that no reader sees half of one."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llink import bounded
from llink.errors import LlinkError

DRAFTS = re.compile(
    r"\.probe-[0-9a-f]{32}|\..+\.[0-9a-f]{32}\.tmp|\..+\.(new|old)-\d+|\..+\.safetensors(-\d+|\.new|\.tmp)|\..+-\d+\.index\.tmp"
)
"""What files and folders are called while they are written; a killed process leaves them behind."""
STALE = 24 * 3600.0
"""Seconds after which nobody is still writing a draft."""


def home() -> Path:
    """``$LLINK_HOME``, or ``~/.cache/llink``; the folder need not exist yet.

    Raises:
        LlinkError: E112 where neither ``LLINK_HOME`` nor a home folder is known, as for a user without an entry in
            the password file.
    """
    place = expand(os.environ.get("LLINK_HOME") or os.path.join("~", ".cache", "llink"))
    if place.parts[:1] and place.parts[0].startswith("~"):
        raise LlinkError(
            "E112", "There is no home folder to keep models in.", "Set LLINK_HOME to a folder you may write to."
        )
    return absolute(place)


def expand(path: str | Path) -> Path:
    """A path with ``~`` as the home folder; left as it is where none is known."""
    return Path(os.path.expanduser(path))


def absolute(path: Path) -> Path:
    """A path from the root on; as it is where the folder one stands in was deleted."""
    try:
        return path.absolute()
    except OSError:
        return path


def data_folder() -> Path:
    """Where parallel text is looked for when no ``--data`` says: ``$LLINK_DATA``, or ``data`` in ``home()``."""
    place = os.environ.get("LLINK_DATA")
    return absolute(expand(place)) if place else home() / "data"


def ensure_folder(path: Path) -> Path:
    """``path``, made with its parents and proven writable.

    Raises:
        LlinkError: E112 when it cannot be written to, E113 when the disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        sweep(path)
        probe = path / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise write_error(path, error) from error
    return path


@contextmanager
def drafted(path: Path, draft: Path | None = None) -> Iterator[Path]:
    """A file to write beside ``path``: it takes its place when the block ends without an error, or else is deleted.

    Args:
        draft: where nobody else writes it at the same time, a name of its own.
    """
    draft = draft or path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, path)
    finally:
        if os.path.lexists(draft):
            draft.unlink()


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write text, or bytes as they are, to a file beside ``path`` and rename it into place.

    Raises:
        LlinkError: E112 when the folder cannot be written to, E113 when the disk is full.
    """
    try:
        with drafted(path) as draft:
            draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise write_error(path, error) from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none, or half of one."""
    try:
        return bounded.read_json(path)
    except bounded.Unfit:
        return {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object, to be read by people too; as ``atomic_write``."""
    atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def sweep(folder: Path, age: float = STALE) -> list[Path]:
    """Delete the drafts that killed processes left in a folder ``age`` seconds ago or longer; returns them.

    What was moved aside to be replaced, and was not, gets its name back.
    """
    swept = stale(folder, age)
    for path in swept:
        whole = re.fullmatch(r"\.(.+)\.old-\d+", path.name)
        if whole and not os.path.lexists(path.with_name(whole[1])):
            os.rename(path, path.with_name(whole[1]))  # killed while it was replaced: this is the only one
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return swept


def stale(folder: Path, age: float = STALE) -> list[Path]:
    """What ``sweep`` would delete; empty for a folder that cannot be listed."""
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if DRAFTS.fullmatch(entry.name) and time.time() - entry.stat(follow_symlinks=False).st_mtime >= age:
                    found.append(Path(entry.path))
    except OSError:
        pass
    return sorted(found)


def write_error(path: Path, error: Exception) -> LlinkError:
    """E113 for a full disk, E112 for anything else that stopped a write to ``path``.

    Args:
        error: an OSError, or safetensors' own, which has the number in its text.
    """
    number = getattr(error, "errno", None)
    if number is None and (said := re.search(r"os error (\d+)", str(error))):
        number = int(said[1])
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return LlinkError("E113", f"No space left for {path}.", "Free some disk, or set LLINK_HOME to another one.")
    return LlinkError(
        "E112",
        f"Cannot write to {path}: {os.strerror(number) if number else error}.",
        "Set LLINK_HOME to a folder you may write to.",
    )
