"""Burmese (မြန်မာဘာသာ): one encoding, one order of its signs, its samples and sources."""

from llink.hookspecs import hookimpl
from llink.interfaces import Language
from llink_burmese.samples import SAMPLES
from llink_burmese.sources import SOURCES
from llink_burmese.spelling import PASSES, letters, ordered, to_unicode


class Burmese(Language):
    def normalise(self, text: str) -> str:
        """As in every language, in Unicode (Zawgyi is converted), signs in their standard order."""
        for _ in range(PASSES):
            # What nobody sees goes first: a sign behind it counts as well.
            text = super().normalise(ordered(letters(super().normalise(to_unicode(text)))))
            if to_unicode(text) == text:
                break
        return text


@hookimpl
def llink_languages() -> list[Language]:
    names = ("my", "mya", "Burmese", ("MYANMAR",), __name__, "မြန်မာဘာသာ")
    return [Burmese(*names, samples=SAMPLES, sources=SOURCES, sentence_ends="။?!", digits="၀၁၂၃၄၅၆၇၈၉", joiners=False)]
