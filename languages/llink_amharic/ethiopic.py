"""Ethiopic spelling: homophone letters, word space and full stop, numerals, Amharic against Tigrinya."""

import re
import unicodedata

# Letters that sound alike in today's Amharic and are written one for the other; the first of each pair stands
# for both. The first and fourth order of the h and glottal series fell together as well.
_SAME_SOUND = {
    "ሀሁሂሀሄህሆ": ("ሐሑሒሓሔሕሖ", "ኀኁኂኃኄኅኆ", "ሀሁሂሃሄህሆ"),
    "ሰሱሲሳሴስሶሷ": ("ሠሡሢሣሤሥሦሧ",),
    "አኡኢአኤእኦ": ("ዐዑዒዓዔዕዖ", "አኡኢኣኤእኦ"),
    "ጸጹጺጻጼጽጾ": ("ፀፁፂፃፄፅፆ",),
}
_HOMOPHONES = str.maketrans(
    {a: b for kept, rows in _SAME_SOUND.items() for row in rows for a, b in zip(row, kept, strict=False)}
)

# A full stop is typed as two word spaces or two colons where a keyboard has no "።".
_FULL_STOP = re.compile(r"፡ ?፡|(?<=[ሀ-ፚ]) ?::")
_NUMERAL = re.compile(r"(?<!\d)[፩-፼]+(?!\d)")
_BEHIND_NUMBER = re.compile(r"[\d፩-፼] $")
_BEFORE_GROUP = re.compile(r" \d{3}(?!\d)")
# Tens and ones before and behind a ፻, and such groups before and behind each ፼.
_PAIR = "(?:[፲-፺][፩-፱]?|[፩-፱])"
_GROUP = f"(?:{_PAIR}?፻{_PAIR}?|{_PAIR})"
_WELL_FORMED = re.compile(f"{_GROUP}|{_GROUP}?(?:፼{_GROUP}?)+")
# A year without its ፻, as it is said in two parts: nineteen, eighty-two.
_YEAR = re.compile("([፲፳][፩-፱]?)([፲-፺][፩-፱]?)")

# Small words that only one of the two languages has.
_AMHARIC = frozenset(
    "ነው ናቸው ነበር እና ወደ ላይ ውስጥ ጋር ይህ ይህን ያለ ሲሆን ግን ብቻ እንደ ሁሉም አለ የለም አይደለም እባክዎ እኔ አንተ እሱ እሷ ምን ወይም ከዚህ በጣም ነኝ ነህ".split()
)
_TIGRINYA = frozenset(
    "እዩ እያ እዮም ኣብ ኣብዚ ኣብቲ ካብ ናብ ናይ ምስ እቲ እታ እቶም እዚ እዛ ድማ ከኣ ግና ወይ ኣሎ ኣላ የለን ኣይኮነን ኣነ ንስኻ ንሱ ንሳ እንታይ ብዙሕ ከም ነቲ ነዚ ዝኾነ እየ ኢኻ ከመይ".split()
)
_WORD = re.compile("[ሀ-ፚ]+")
# ቐ-series, and the endings "-ኻ", "-ኹም" with their k made h, are Tigrinya; so is "ኣ" where Amharic writes "አ".
_TIGRINYA_LETTERS = re.compile("[ቐ-ቝኸ-ዅ]|(?<![ሀ-ፚ])ኣ")
# Amharic plurals and the definite "-ው", "-ዋ" behind a consonant are everywhere in Amharic and nowhere in Tigrinya.
_AMHARIC_ENDING = re.compile("(?:ዎች|ኦች|ዎቹ|ቻቸው|ውን)(?![ሀ-ፚ])")


def one_letter_a_sound(text: str) -> str:
    """``text`` with homophone letters unified: ሐ ኀ as ሀ, ሠ as ሰ, ዐ as አ, ፀ as ጸ."""
    return text.translate(_HOMOPHONES)


def punctuate(text: str) -> str:
    """``text`` with "።" for its typed forms, and a space for the old word space "፡"."""
    return _FULL_STOP.sub("።", text).replace("፡", " ")


def ascii_numerals(text: str) -> str:
    """``text`` with each Ethiopic numeral as the number it stands for: ፳፻፲፭ is 2015, and so is the year ፳፲፭.

    The numerals have no zero and no place value. A run that is neither a number nor such a year is left as it is, and so
    is one that would look like the thousands, or their last three digits, of a number beside it.
    """
    return _NUMERAL.sub(lambda match: _beside(match, text), text)


def _beside(match: re.Match[str], text: str) -> str:
    read = _read(match[0])
    group = len(read) == 3 and _BEHIND_NUMBER.search(text, max(0, match.start() - 2), match.start())
    return match[0] if group or _BEFORE_GROUP.match(text, match.end()) else read


def _read(numeral: str) -> str:
    if _WELL_FORMED.fullmatch(numeral):
        return str(_value(numeral))
    year = _YEAR.fullmatch(numeral)
    return f"{_value(year[1])}{_value(year[2])}" if year else numeral


def _value(numeral: str) -> int:
    """Tens and ones, times ፻ or ፼ where those follow; a ፻ or ፼ with nothing before it counts once."""
    total = hundreds = ones = 0
    for digit in numeral:
        worth = int(unicodedata.numeric(digit))
        if worth == 10_000:
            total = (total + hundreds + ones or 1) * worth
            hundreds = ones = 0
        elif worth == 100:
            hundreds, ones = (ones or 1) * worth, 0
        else:
            ones += worth
    return total + hundreds + ones


def amharic_share(text: str) -> float:
    """Share of Amharic among the signs of either language in ``text``; 0.5 where there is none."""
    words = _WORD.findall(text)
    amharic = sum(w in _AMHARIC for w in words) + len(_AMHARIC_ENDING.findall(text))
    tigrinya = sum(w in _TIGRINYA for w in words) + len(_TIGRINYA_LETTERS.findall(text))
    return amharic / (amharic + tigrinya) if amharic + tigrinya else 0.5
