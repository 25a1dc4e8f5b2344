"""Where LLINK keeps its files, and how it writes them so that no reader sees half of one."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llink.errors import LlinkError


def home() -> Path:
    """``$LLINK_HOME``, or ``~/.cache/llink``; the folder need not exist yet."""
    place = os.environ.get("LLINK_HOME")
    return Path(place).expanduser().absolute() if place else Path.home() / ".cache" / "llink"


def data_folder() -> Path:
    """Where parallel text is looked for when no ``--data`` says: ``$LLINK_DATA``, or ``data`` in ``home()``."""
    place = os.environ.get("LLINK_DATA")
    return Path(place).expanduser().absolute() if place else home() / "data"


def ensure_folder(path: Path) -> Path:
    """``path``, made with its parents and proven writable.

    Raises:
        LlinkError: E112 when it cannot be written to, E113 when the disk is full.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".probe-{uuid.uuid4().hex}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise write_error(path, error) from error
    return path


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write text, or bytes as they are, to a file beside ``path`` and rename it into place.

    Raises:
        LlinkError: E112 when the folder cannot be written to, E113 when the disk is full.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
        os.replace(draft, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if os.path.lexists(draft):
            draft.unlink()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none, or half of one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write an object, to be read by people too; as ``atomic_write``."""
    atomic_write(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_error(path: Path, error: OSError) -> LlinkError:
    """E113 for a full disk, E112 for anything else that stopped a write to ``path``."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LlinkError("E113", f"No space left for {path}.", "Free some disk, or set LLINK_HOME to another one.")
    return LlinkError(
        "E112", f"Cannot write to {path}: {error.strerror or error}.", "Set LLINK_HOME to a folder you may write to."
    )
