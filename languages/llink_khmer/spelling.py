"""Khmer spelling: the signs of a syllable in one order, and one encoding for vowels that look the same.

The order is that of the Unicode Standard (chapter 16.4, Khmer, "Ordering of Syllable Components"), refined by the Khmer
Encoding Structure of SIL International (github.com/sillsdev/khmer-character-specification): robat, subscripts with a
subscript ro last, register shifter, vowel signs from left over below and above to right, other signs, final signs. The
Standard writes a shifter before the subscripts; what is written by hand and keyboard has it behind them, and so has SIL.
"""

from functools import lru_cache

import regex

_LETTER = "[\u1780-\u17b3\u25cc]"  # consonants, independent vowels, and the circle that stands for any
_ORDER = (
    "\u17cc",  # robat
    "\u17d2",  # coeng, with the letter that it puts below
    "\u17c9\u17ca",  # register shifters
    "\u17be\u17bf\u17c0\u17c1\u17c2\u17c3\u17c4\u17c5",  # vowels with a part on the left
    "\u17bb\u17bc\u17bd",  # below
    "\u17b7\u17b8\u17b9\u17ba",  # above
    "\u17b6",  # right
    "\u17c6\u17cb\u17cd\u17ce\u17cf\u17d0\u17d1\u17d3\u17dd",  # other signs, most of them above
    "\u17c7\u17c8",  # final signs, on the right
)
_RANK = {sign: rank for rank, signs in enumerate(_ORDER) for sign in signs}
_RO = "\u17d2\u179a"

_SIGN = rf"\u17d2{_LETTER}|[{''.join(_ORDER).replace(chr(0x17D2), '')}]"
_SYLLABLE = regex.compile(rf"({_LETTER})((?:{_SIGN}){{2,}})")
_SIGNS = regex.compile(_SIGN)

# Two vowel signs that together look like a third.
_WHOLE = (
    (regex.compile("\u17c1([\u17bb-\u17bd]?)\u17b8"), "\u17be\\1"),
    (regex.compile("\u17c1([\u17bb-\u17bd]?)\u17b6"), "\u17c4\\1"),
)
# Under a vowel or sign above, a register shifter looks like the vowel u and is often typed as that.
_U_FOR_SHIFTER = regex.compile("\u17bb(?=[\u17b7-\u17ba\u17d0\u17dd]|\u17b6\u17c6)|(?<=\u17be)\u17bb")
_TRIISAP, _MUUSIKATOAN, _BA = "\u17ca", "\u17c9", "\u1794"
# Consonants that triisap makes ones of the second series; the others, and ba, take muusikatoan.
_FIRST_SERIES = regex.compile("[\u1780-\u1783\u1785-\u1788\u178a-\u178d\u178f-\u1792\u1795-\u1797\u179e-\u17a0\u17a2]")


DISCOURAGED = {0x17A3: "\u17a2", 0x17A4: "\u17a2\u17b6", 0x17B4: "", 0x17B5: "", 0x17D8: "\u17d4\u179b\u17d4"}
"""Characters whose use Unicode discourages, and what its chart has in their place: nothing for two vowels that nobody sees."""


def ordered(text: str) -> str:
    """``text`` with the signs of each syllable in the one order and encoding."""
    return _SYLLABLE.sub(lambda match: match[1] + _signs(match[1], match[2]), text)


@lru_cache(maxsize=2**16)
def _signs(letter: str, written: str) -> str:
    signs = "".join(_sorted(written))
    for pair, whole in _WHOLE:
        signs = pair.sub(whole, signs)
    letters = letter + signs
    shifter = _TRIISAP if _FIRST_SERIES.search(letters) and _BA not in letters else _MUUSIKATOAN
    return "".join(_sorted(_U_FOR_SHIFTER.sub(shifter, signs)))


def _sorted(signs: str) -> list[str]:
    return sorted(_SIGNS.findall(signs), key=lambda sign: (_RANK[sign[0]], sign == _RO))
