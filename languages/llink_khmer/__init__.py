"""Khmer (ភាសាខ្មែរ): its spelling, its sentences, its samples and sources."""

from llink.hookspecs import hookimpl
from llink.interfaces import Language
from llink_khmer.samples import SAMPLES
from llink_khmer.sources import SOURCES
from llink_khmer.spelling import DISCOURAGED, ordered


class Khmer(Language):
    def normalise(self, text: str) -> str:
        """As in every language, with the signs of each syllable in one order, and no letter that Unicode discourages."""
        return ordered(super().normalise(text.translate(DISCOURAGED)))

    def sentences(self, text: str) -> list[str]:
        """As in every language, but "។ល។" ("and so on") is one mark, not an end and an "ល"."""
        hidden = text.replace("\0", " ").replace("។ល។", "\0។")
        return [sentence.replace("\0", "។ល") for sentence in super().sentences(hidden)]


@hookimpl
def llink_languages() -> list[Language]:
    names = ("km", "khm", "Khmer", ("KHMER",), __name__, "ភាសាខ្មែរ")
    return [Khmer(*names, samples=SAMPLES, sources=SOURCES, sentence_ends="។៕?!", digits="០១២៣៤៥៦៧៨៩", joiners=False)]
