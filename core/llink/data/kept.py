"""Answers kept by key in a file of JSON lines, so that nothing is asked twice and a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping
from pathlib import Path


class Kept(dict[str, str]):
    """Key -> answer, as the file at ``path`` has them; a line that a kill cut off, or of another kind, is passed over.

    Args:
        path: need not exist yet; its folder must.
        name: of the field that holds the answer.
        allowed: the answers that count; None for any.
    """

    def __init__(self, path: Path, name: str = "answer", allowed: Container[str] | None = None) -> None:
        super().__init__()
        self.path, self.name = path, name
        for line in path.read_text(encoding="utf-8").split("\n") if path.exists() else ():
            try:
                row = json.loads(line)
                if allowed is None or row[name] in allowed:
                    self[row["key"]] = row[name]
            except (ValueError, KeyError, TypeError):
                continue

    def keep(self, found: Mapping[str, str], **rest: str) -> None:
        """Take answers in and write them down, each with the fields of ``rest``; they are on the disk when this returns."""
        self |= found
        with self.path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            for key, answer in found.items():
                file.write(json.dumps({"key": key, self.name: answer, **rest}, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
