"""Errors with a stable code: what was wrong, what is available, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LlinkError(Exception):
    """A problem the user can act on; the CLI prints it on one line and exits with status 1.

    Args:
        code: stable identifier, ``E`` and three digits, listed in ``docs/errors.md``.
        message: what was wrong.
        hint: what to do about it.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        self.code = code
        self.message = message
        self.hint = hint
        super().__init__(f"[{code}] {message}" + (f" {hint}" if hint else ""))


def unknown_name(code: str, kind: str, name: str, available: Iterable[str]) -> LlinkError:
    """An error for a name that does not exist, with "did you mean" and the names that do."""
    names = sorted(available)
    name = name if len(name) <= 200 else name[:200] + "…"  # which a message has no room for
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1, cutoff=0.5)
    meant = next((n for n in names if close and n.lower() == close[0]), None)
    hint = f"Did you mean '{meant}'? " if meant else ""
    return LlinkError(code, f"Unknown {kind} '{name}'.", f"{hint}Available: {', '.join(names) or 'none'}.")
