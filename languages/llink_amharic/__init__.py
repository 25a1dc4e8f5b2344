"""Amharic (አማርኛ): its letters, numerals and punctuation, and how it is told from Tigrinya."""

from llink.hookspecs import hookimpl
from llink.interfaces import Language
from llink_amharic import ethiopic
from llink_amharic.samples import SAMPLES
from llink_amharic.sources import SOURCES


class Amharic(Language):
    def normalise(self, text: str) -> str:
        """As in every language, after one letter a sound, one full stop, and numerals as 0-9."""
        # What nobody sees goes first: within a numeral it would make two of it.
        seen = ethiopic.one_letter_a_sound(ethiopic.punctuate(super().normalise(text)))
        return super().normalise(ethiopic.ascii_numerals(seen))

    def ascii_digits(self, text: str) -> str:
        """As in every language, and Ethiopic numerals as the numbers they stand for."""
        return ethiopic.ascii_numerals(super().ascii_digits(text))

    def likelihood(self, text: str) -> float:
        """By the small words of Amharic and of Tigrinya, and the letters that only Tigrinya needs."""
        return ethiopic.amharic_share(text)


@hookimpl
def llink_languages() -> list[Language]:
    names = ("am", "amh", "Amharic", ("ETHIOPIC",), __name__, "አማርኛ")
    return [Amharic(*names, samples=SAMPLES, sources=SOURCES, sentence_ends="።፧?!")]
