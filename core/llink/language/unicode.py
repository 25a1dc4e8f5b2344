r"""What Unicode says of characters: which are decimal digits, which end a sentence, which may be left out unseen.

Properties are those of ``regex``, which follows the newest Unicode; ``unicodedata`` is as old as the Python.
"""

from __future__ import annotations

import itertools
import unicodedata
from functools import cache

import regex

JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"

# Letters that join their neighbours (Arabic, Syriac, Mongolian …), and the signs that make two consonants one.
_CURSIVE = r"[\p{Joining_Type=Dual_Joining}\p{Joining_Type=Right_Joining}\p{Joining_Type=Left_Joining}]"
_VIRAMA = r"\p{Canonical_Combining_Class=Virama}"
_EMOJI = r"\p{Extended_Pictographic}"

# A joiner changes what is read beside a letter that joins and beside a virama (as in UAX #31, section 2.3.1, but on
# either side of them, as the eyelash ra of Bengali and the touching letters of Sinhala need it), and within an emoji
# (UAX #29, GB11).
_EMOJI_JOINER = rf"(?<={_EMOJI}[\p{{Mn}}\p{{Emoji_Modifier}}]*)\u200d(?={_EMOJI})"
_SPELT_JOINER = (
    rf"(?<={_CURSIVE}\p{{M}}*)[{JOINERS}]|(?<={_VIRAMA}\p{{M}}*)[{JOINERS}]|"
    rf"(?<=\p{{L}}\p{{M}}*)[{JOINERS}](?={_VIRAMA})|\u200d(?={_CURSIVE})"
)
_JOINERS_KEPT = {
    True: regex.compile(rf"(?P<kept>{_EMOJI_JOINER}|{_SPELT_JOINER})|[{JOINERS}]"),
    False: regex.compile(rf"(?P<kept>{_EMOJI_JOINER})|[{JOINERS}]"),
}
_JOINER_RUN = regex.compile(rf"([{JOINERS}])[{JOINERS}]+")

# Format characters of no script (and of one, where they only set the direction), less the signs that stand over
# digits; tag characters are kept where they make the flag of a region.
_INVISIBLE = regex.compile(
    rf"(?P<kept>{_EMOJI}\ufe0f?[\U000e0030-\U000e0039\U000e0061-\U000e007a]{{3,6}}\U000e007f)|"
    r"[[\p{Cf}&&[\p{Script=Common}\p{Script=Inherited}\p{Bidi_Control}]]--[\p{Prepended_Concatenation_Mark}\u200c\u200d]]",
    flags=regex.V1,
)
_CONTROL = regex.compile(r"[\p{Cc}\p{Cs}]")


@cache
def characters() -> str:
    """Every character of the first two planes; above them there is only more Han."""
    return "".join(map(chr, itertools.chain(range(0xD800), range(0xE000, 0x20000))))


@cache
def having(pattern: str) -> str:
    r"""Every character that a pattern of properties fits, such as ``\p{Nd}``; ``regex.error`` for an unknown one."""
    return "".join(regex.findall(pattern, characters(), flags=regex.V1))


@cache
def _as_ascii() -> dict[int, str]:
    # Unicode promises that decimal digits come in runs of ten, zero first (UTR #44, Numeric_Type=Decimal).
    return dict(zip(map(ord, having(r"\p{Nd}")), itertools.cycle("0123456789"), strict=False))


def ascii_digits(text: str) -> str:
    """``text``, as long as it was, with every decimal digit of Unicode (general category Nd) as 0-9."""
    return text if text.isascii() else text.translate(_as_ascii())


# Marks in numbers that no compatibility mapping makes those of ASCII, by the ends of their names.
_NUMBER_MARKS = {
    "DECIMAL SEPARATOR": ".",
    "THOUSANDS SEPARATOR": ",",
    "PERCENT SIGN": "%",
    "MINUS SIGN": "-",
    "HYPHEN": "-",
    "FIGURE DASH": "-",
    "FRACTION SLASH": "/",
}


@cache
def _number_marks() -> tuple[dict[str, str], regex.Pattern[str]]:
    """ASCII signs of numbers by those that mean the same, and where those do: between digits, before or behind one."""
    marks = {}
    for char in having(r"[[\p{P}\p{S}]--\p{ASCII}]"):
        name, plain = unicodedata.name(char, ""), unicodedata.normalize("NFKC", char)
        named = [mark for end, mark in _NUMBER_MARKS.items() if name.endswith(end)]
        if named or plain in ".,:/+-%$£¥":
            marks[char] = named[0] if named else plain

    def those(of: str) -> str:
        return "[" + "".join(char for char, mark in marks.items() if mark in of) + "]"

    # A comma of full width is more often one of the sentence.
    wide = "".join(char for char in marks if unicodedata.normalize("NFKC", char) == ",")
    return marks, regex.compile(
        rf"(?<=[0-9])(?![{wide}](?![0-9]{{3}}(?![0-9]))){those('.,:/-')}(?=[0-9])|"
        rf"{those('+-$£¥')}(?= ?[0-9])|(?<=[0-9] ?){those('%')}"
    )


def ascii_number_marks(text: str) -> str:
    """``text``, as long as it was, with the signs of ASCII for those that other scripts put between and beside digits.

    Such as the decimal and thousands separator and the percent sign of Arabic, signs of full width, and the minus sign
    of mathematics; the digits themselves are 0-9.
    """
    if text.isascii():
        return text
    marks, beside_digits = _number_marks()
    return beside_digits.sub(lambda match: marks[match[0]], text)


def without_invisible(text: str) -> str:
    """``text`` without format characters that nobody sees, but for joiners and the flags among emoji."""
    return text if text.isascii() else _INVISIBLE.sub(lambda match: match["kept"] or "", text)


def without_controls(text: str) -> str:
    """``text`` with a space for each control character and each surrogate that stands alone."""
    return _CONTROL.sub(" ", text)


def with_joiners(text: str, spelling: bool) -> str:
    """``text`` with the joiners (ZWJ, ZWNJ) that hold an emoji together, and where ``spelling`` those that letters need.

    Of several in a row the first counts.
    """
    if text.isascii():
        return text
    return _JOINERS_KEPT[spelling].sub(lambda match: match["kept"] or "", _JOINER_RUN.sub(r"\1", text))


@cache
def sentence_ends() -> str:
    """The marks of all scripts that end a sentence (Sentence_Terminal)."""
    return having(r"\p{Sentence_Terminal}")
