"""Burmese spelling: Zawgyi to Unicode, digits typed for letters, and the order of signs around a consonant."""

import contextlib
import io
import re
from functools import cache
from typing import Any

ZAWGYI = 0.95
"""Probability from which a text counts as Zawgyi, as myanmar-tools recommends."""
PASSES = 4
"""Signs in disorder, once in order, may look like Zawgyi: they are read so until nothing changes."""

# Digit zero and seven look like the letters wa and ra; a vowel sign or asat never follows a digit.
_LOOKALIKES = {"၀": "ဝ", "၇": "ရ"}
_DIGIT_FOR_LETTER = re.compile("[၀၇](?=[\u102b-\u1032\u1036-\u103e])")

# The order that the Unicode Standard gives (chapter 16.3, Myanmar): medials, vowel signs, anusvara. The dot below
# and asat are left where NFC puts them: a medial may stand behind an asat (ယောက်ျား).
_ORDER = {
    sign: n for n, sign in enumerate("\u103b\u103c\u103d\u103e\u1031\u102d\u102e\u1032\u102f\u1030\u102b\u102c\u1036")
}
_SIGNS = re.compile(f"[{''.join(_ORDER)}]{{2,}}")


@cache
def _detector() -> Any:
    from myanmartools import ZawgyiDetector

    return ZawgyiDetector()


def to_unicode(text: str) -> str:
    """``text`` in Unicode; one that is in Zawgyi, line by line, is converted."""
    if not re.search("[\u1000-\u109f]", text):
        return text
    return "\n".join(_line_to_unicode(line) for line in text.split("\n"))


def _line_to_unicode(line: str) -> str:
    if _detector().get_zawgyi_probability(line) < ZAWGYI:
        return line
    from myanmar.converter import convert

    # The converter prints to stdout what its table lacks, and leaves that out.
    with contextlib.redirect_stdout(io.StringIO()):
        converted = str(convert(line, "zawgyi", "unicode"))
    # What still looks so is signs in any order, in neither encoding.
    return line if _detector().get_zawgyi_probability(converted) >= ZAWGYI else converted


def letters(text: str) -> str:
    """``text`` with ဝ and ရ where the look-alike digit was typed for them."""
    return _DIGIT_FOR_LETTER.sub(lambda match: _LOOKALIKES[match[0]], text)


def ordered(text: str) -> str:
    """``text`` with the signs of each consonant in the standard order."""
    return _SIGNS.sub(lambda match: "".join(sorted(match[0], key=_ORDER.__getitem__)), text)
