"""Which adapter reads a text: its language's own where there is one, else the shared one, which reads any language."""

from __future__ import annotations

from llink import plugins
from llink.adapter.files import SHARED, find_adapter
from llink.errors import LlinkError
from llink.interfaces import Language
from llink.language.script import detect
from llink.language.text import script_counts
from llink.plugins import Selected

LATIN = "LATIN"
FEW_WORDS = 4
"""Latin text in plain letters that has fewer is not looked at: two words say too little of their language."""


def has_adapter(wanted: Selected, encoder: str, decoder: str) -> bool:
    """Whether an adapter for this pair of models is installed."""
    try:
        find_adapter(wanted.language, encoder, decoder, name=wanted.adapter)
    except LlinkError:
        return False
    return True


def has_shared(encoder: str, decoder: str) -> bool:
    """Whether there is a shared adapter for this pair of models."""
    spoken = plugins.languages().get(SHARED)
    return spoken is not None and has_adapter(Selected(spoken), encoder, decoder)


def language_of(text: str, shared: bool) -> Language:
    """The language that a text is in; ``mul`` where no installed language is its own and ``shared`` may read it.

    Raises:
        LlinkError: E502/E503 as ``llink.language.script.detect``; with ``shared`` only for a text without letters, and for one in
            Latin letters that seems to be English.
    """
    try:
        return detect(text, plugins.languages())
    except LlinkError:
        counts = script_counts(text)
        if not shared or not counts or (set(counts) == {LATIN} and seems_english(text)):
            raise
    return plugins.languages()[SHARED]


def seems_english(text: str) -> bool:
    """Whether text in Latin letters is English, or too short to tell."""
    import py3langid

    if text.isascii() and len(text.split()) < FEW_WORDS:
        return True
    return py3langid.classify(text)[0] == "en"
