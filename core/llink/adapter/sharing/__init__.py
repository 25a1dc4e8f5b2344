"""Sharing language adapters: through a hub, as a folder, as a zip. What comes in is checked before it is used."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from llink.errors import LlinkError
from llink.home import expand

HUB = "hub:"


@dataclass(frozen=True)
class Address:
    """Where an adapter is shared: ``hub:ORG/NAME[@REVISION]``, a folder, or a file that ends in ``.zip``.

    Attributes:
        repo: of a hub; empty elsewhere.
        revision: branch, tag or commit of the repository; empty where none is said.
        path: of a folder or zip; None for a hub.
    """

    repo: str = ""
    revision: str = ""
    path: Path | None = None

    @classmethod
    def read(cls, text: str) -> Address:
        """From what a user types; E320 where it is no address."""
        if not text.startswith(HUB):
            return cls(path=expand(text))
        repo, at, revision = text.removeprefix(HUB).partition("@")
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo) or (
            at and not re.fullmatch(r"[\w./-]+", revision)
        ):
            raise LlinkError(
                "E320", f"'{text}' is no address of a hub.", "Write it as hub:ORG/NAME or hub:ORG/NAME@REVISION."
            )
        return cls(repo, revision)

    @property
    def is_zip(self) -> bool:
        """Whether it is an archive, there or to be made."""
        return self.path is not None and self.path.suffix.lower() == ".zip" and not os.path.isdir(self.path)

    def __str__(self) -> str:
        return str(self.path) if self.path else f"{HUB}{self.repo}{'@' if self.revision else ''}{self.revision}"
