"""Answers kept by key in a file of JSON lines, so that nothing is asked twice and a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from llink.bounded import parse_json
from llink.progress import track

Item = TypeVar("Item")


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
        for line in path.read_bytes().split(b"\n") if path.exists() else ():
            try:
                row = parse_json(line)
                if isinstance(row[name], str) and (allowed is None or row[name] in allowed):
                    self[str(row["key"])] = row[name]
            except (ValueError, KeyError, TypeError):
                continue

    def ask(
        self,
        items: Mapping[str, Item],
        answer: Callable[[list[Item]], Sequence[str]],
        *,
        size: Callable[[Item], int],
        batch: int,
        label: str,
        **rest: str,
    ) -> None:
        """Have answered what is not kept yet, the shortest first; a run that breaks off loses a batch at most.

        Args:
            items: what is asked, by key.
            size: of an item: those of like size share a batch.
            rest: as for ``keep``.
        """
        missing = sorted((key for key in items if key not in self), key=lambda key: size(items[key]))
        with track(label, total=len(missing)) as bar:
            for start in range(0, len(missing), batch):
                keys = missing[start : start + batch]
                self.keep(dict(zip(keys, answer([items[key] for key in keys]), strict=True)), **rest)
                bar(len(keys))

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
