"""The models that a server has: ``auto``, each language and named adapter, and the bare decoder."""

from __future__ import annotations

import time
from pathlib import Path

from llink import plugins
from llink.adapter.files import adapter_roots, adapters_in, pair_name
from llink.adapter.shared import SHARED
from llink.errors import LlinkError, unknown_name
from llink.serving.engine import Engine
from llink.serving.reader import AUTO

LOOK = 2.0
"""Seconds between two looks at which adapters are installed."""


def installed(encoder: str, decoder: str) -> list[str]:
    """``CODE`` and ``CODE@NAME`` of the adapters for a pair of models that are installed."""
    pair, found = pair_name(encoder, decoder), []
    for code, language in sorted(plugins.languages().items()):
        for folder in {folder.name for root in adapter_roots(language) for folder in adapters_in(root)}:
            if folder == pair:
                found.append(code)
            elif folder.startswith(f"{pair}@"):
                found.append(f"{code}@{folder.removeprefix(f'{pair}@')}")
    return sorted(found)


class Names:
    """Models by name, as they are now."""

    def __init__(self, engine: Engine, encoder: str) -> None:
        self.engine, self.encoder = engine, encoder
        self._installed: tuple[float, list[str]] = (-LOOK, [])
        self.bare = Path(engine.decoder.name).name

    def all(self) -> list[str]:
        """``auto``, the adapters, and the decoder without any."""
        if time.monotonic() - self._installed[0] >= LOOK:
            self._installed = time.monotonic(), installed(self.encoder, self.engine.decoder.name)
        known = {*self._installed[1], *self.engine.added}
        return [AUTO, *sorted(known), self.bare]

    def languages(self) -> list[str]:
        """Codes of the languages that have an adapter of their own."""
        return sorted({name.partition("@")[0] for name in self.all()[1:-1]} - {SHARED})

    def language(self, model: str, language: str) -> str | None:
        """What the engine is to be asked for; None is the bare decoder.

        Raises:
            LlinkError: E555 unknown model, E556 where model and language are two.
        """
        if model == self.bare:
            return None
        if model == AUTO:
            if language != AUTO:
                plugins.select(language)
            return language
        try:
            chosen = str(plugins.select(model))
        except LlinkError:
            chosen = ""
        names = self.all()
        if chosen not in names:
            raise unknown_name("E555", "model", model, names)
        if language != AUTO and plugins.select(language).language.code != chosen.partition("@")[0]:
            raise LlinkError("E556", f"The model is {model} and the language {language}.", "Give one of them.")
        return chosen

    def scripts(self) -> set[str] | None:
        """Scripts that texts are found by; None for any but Latin, where the shared adapter reads whatever it is."""
        if SHARED in self.all():
            return None
        return {s for language in plugins.languages().values() for s in language.scripts} - {"LATIN"}
