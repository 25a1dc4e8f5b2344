"""What must not be paraphrased: numbers, units, dates, addresses, codes, placeholders and names, as English writes them.

The verbatim channel of a prompt carries these as ordinary tokens beside the slots, see ``llink.adapter.prompt.channel``. Names are
those in Latin letters and those that a language's package lists with their English in ``names.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import regex
import yaml

from llink.errors import LlinkError
from llink.language.text import script_counts
from llink.language.unicode import ascii_number_marks

if TYPE_CHECKING:
    from llink.interfaces import Language

NAMES = "names.yaml"
# Signs that make the letter behind them part of the one before.
_STACKERS = r"[\p{Indic_Syllabic_Category=Invisible_Stacker}\p{Indic_Syllabic_Category=Virama}]"
UNITS = (
    "kg|mg|µg|g|km/h|km²|km|cm|mm|m²|m³|m|ha|ml|mL|l|L|kWh|MWh|kW|MW|GW|W|kB|KB|MB|GB|TB|KiB|MiB|GiB|Kbps|Mbps|kbit/s|Mbit/s|"
    "kHz|MHz|GHz|Hz|mAh|mA|A|mV|kV|V|hPa|dpi|px|pt|fps|ms|°C|°F|°|%|USD|KHR|EUR|GBP"
)
_LETTER = "A-Za-zÀ-ÖØ-öø-ɏ"
# The digits of a language itself stand here as noncharacters of Unicode, so that they end an address: no address has
# them, and some languages put no space behind one.
_OWN = "".join(map(chr, range(0xFDD0, 0xFDDA)))
_AS_ASCII = str.maketrans(_OWN, "0123456789")
_D = f"[0-9{_OWN}]"
_W = f"A-Za-z_0-9{_OWN}"
# In the order in which they take their characters: a number in an address is not a number. A letter of another
# script may stand right before or behind; Khmer and Burmese write no spaces.
_KINDS = {
    "url": r"(?:[a-z][a-z0-9+.-]*://|www\.|mailto:)[\w\-.~:/?#@!$&*+,;=%]*[\w/=#~-]",
    "email": r"(?<![\w.])[\w.%+-]+@[\w-]+(?:\.[\w-]+)+",
    "placeholder": (
        r"%\(\w+\)[sd]|%(?:\d+\$)?[-+#0]*\d*(?:\.\d+)?(?:hh|h|ll|l|z)?[sdiufgxXc@](?![A-Za-z])|%\d(?!\d)|%[A-Z][A-Z_]+%?|"
        r"\$\{\w+\}|\$[A-Za-z_]\w*|\$\(\w+\)|\{\{?[\w.]+\}?\}|&[a-z]+;|</?[A-Za-z][^<>]{0,40}>"
    ),
    "option": r"(?<![^\s(\"'“])--?[A-Za-z][\w-]*",
    "path": r"(?<![\w.])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+-]*\w){2,}/?|(?<![\w.])~/[\w./-]*\w",
    "file": r"(?<![\w.-])[\w-]+(?:\.[\w-]+)*\.[a-z][a-z0-9]{1,4}(?![\w-]|\.\w)",
    # And fractions, of which neither half stands for itself.
    "date": (
        rf"(?<![{_W}/.-])(?<!{_D},)(?:{_D}{{4}}-{_D}{{1,2}}-{_D}{{1,2}}(?:T{_D}{_D}:{_D}{_D}(?::{_D}{_D})?)?|"
        rf"{_D}{{4}}/{_D}{{1,2}}/{_D}{{1,2}}|{_D}{{1,2}}/{_D}{{1,2}}/{_D}{{2,4}}|{_D}{{1,4}}/{_D}{{1,4}}(?![.,]{_D})|"
        rf"{_D}{{4}}\.{_D}{{1,2}}\.{_D}{{1,2}}|{_D}{{1,2}}\.{_D}{{1,2}}\.{_D}{{4}}|{_D}{{1,2}}-{_D}{{1,2}}-{_D}{{4}}|"
        rf"{_D}{{1,2}}:{_D}{_D}(?::{_D}{_D})?(?: ?[AaPp][Mm]\b)?)(?![{_W}/])"
    ),
    # Groups of three may stand apart. A number behind letters is part of a code, but for one in other digits that ends
    # an address.
    "number": (
        rf"(?:(?<![{_W}.,/])|(?<=[A-Za-z])(?=[{_OWN}]))(?:[$€£¥] ?)?(?:(?<![{_W})-])[-+])?"
        rf"(?:{_D}{{1,3}}(?: {_D}{{3}})+(?!{_D})|{_D}+)(?:[.,]{_D}+)*"
        rf"(?: ?(?:{UNITS})(?![A-Za-z0-9]))?(?![{_W}]|-[A-Z])"
    ),
    "code": rf"(?<![{_W}.-])(?=[{_W}.-]*[A-Za-z])(?=[{_W}.-]*[0-9_{_OWN}])[{_W}]+(?:[-.][{_W}]+)*",
}
_FIXED = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _KINDS.items()), re.ASCII)
_DIGIT_THEN_UNIT = re.compile(rf"(?<=\d) ?(?={UNITS})")
_WORD = rf"[{_LETTER}](?:[{_LETTER}\d'’&+#-]*[{_LETTER}\d+#])?"
_RUN = re.compile(rf"(?<![{_LETTER}\d]){_WORD}(?: {_WORD})*")
# In a text that is in Latin letters itself, names are told by their capitals.
_CAPITAL = rf"[A-ZÀ-ÖØ-Þ](?:[{_LETTER}\d'’&+#-]*[{_LETTER}\d+#])?"
_NAME = re.compile(rf"(?<![{_LETTER}\d'’-]){_CAPITAL}(?: {_CAPITAL})*")
_INNER_CAPITAL = re.compile(rf"[{_LETTER}]+[A-ZÀ-ÖØ-Þ]")
_SENTENCE_START = re.compile(r"(?:^|[.!?:…]\s*)[\"'“‘(\[\s*•-]*$")
_FUNCTION_WORDS = frozenset(
    "A An And Any Are As At But By Can Did Do Does Each For From Has Have He Her His How I If I'd I'll I'm I've In Is It "
    "Its It's Let My No Not Of On Or Our Please She So That The Their Then There These They This Those To We What When "
    "Where Which While Who Why Will With You Your".split()
)


def find(text: str, language: Language) -> list[str]:
    """The values in ``text`` in order of appearance, each once; E531 where the language's ``names.yaml`` is broken.

    Args:
        text: normalised, in any script; where no letter is of the language's own script it is taken for text in
            Latin letters, of which only capitalised words within a sentence count as names.
    """
    text = _own_digits_marked(text, language)
    found = [
        (match.start(), _spelled(match[0].translate(_AS_ASCII), str(match.lastgroup)))
        for match in _FIXED.finditer(text)
    ]
    left = _FIXED.sub(lambda match: "\0" * len(match[0]), text).translate(_AS_ASCII)
    known, pattern = names(language.package)
    if known:
        found += [(match.start(), known[match[0]]) for match in pattern.finditer(left)]
    own = set(language.scripts) - {"LATIN"}
    if own & script_counts(left).keys():
        found += [(match.start(), match[0]) for match in _RUN.finditer(left)]
    else:
        found += _names(left)
    return list(dict.fromkeys(value for _, value in sorted(found)))


def _own_digits_marked(text: str, language: Language) -> str:
    """``text`` with signs of numbers as in English, and digits that are not 0-9 as the characters of ``_OWN``."""
    text = text.translate(dict.fromkeys(map(ord, _OWN), "\0"))
    plain = ascii_number_marks(language.ascii_digits(text))
    if len(plain) != len(text):  # numerals that are no digits, one for one
        return plain
    return "".join(
        _OWN[int(new)] if new != old and new in "0123456789" else new for old, new in zip(text, plain, strict=True)
    )


@cache
def names(package: str) -> tuple[dict[str, str], Any]:
    """English by own spelling, out of ``names.yaml`` of a language's package, and the pattern that finds the spellings.

    The longest name counts, and none whose last letter a sign of the script changes or that begins within a cluster.

    Raises:
        LlinkError: E531.
    """
    from llink.interfaces import package_folder

    path = package_folder(package, NAMES)
    if not path.is_file():
        return {}, None
    try:
        known = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(known, dict) or not all(isinstance(text, str) for text in (*known, *known.values())):
            raise ValueError("it is no mapping of names to their English")
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise LlinkError("E531", f"{path} cannot be read: {reason}", "Write it like that of Khmer.") from error
    listed = "|".join(map(regex.escape, sorted(known, key=len, reverse=True)))
    return known, regex.compile(rf"(?<!{_STACKERS})(?:{listed})(?!\p{{M}})")


def kind(value: str) -> str:
    """What sort of value it is: a key of the patterns above, or ``name``."""
    match = _FIXED.fullmatch(value)
    return str(match.lastgroup) if match else "name"


@cache
def bounded(value: str) -> re.Pattern[str]:
    """Finds ``value`` where it is not a piece of a longer one; the space before a unit does not matter."""
    spelled = (
        re.sub(r"(?<=\d)\\? ?(?=[A-Za-zµ°%])", r"\\s?", re.escape(value))
        if kind(value) == "number"
        else re.escape(value)
    )
    return re.compile(
        rf"(?<![{_LETTER}0-9_])(?<![0-9][.,:/-])(?<![A-Za-z0-9][./_]){spelled}(?![{_LETTER}0-9_]|[.,:/-][0-9]|[/._][A-Za-z])"
    )


def _spelled(value: str, of: str) -> str:
    """One space before a unit, none before % and °, none behind a sign of money."""
    if of != "number":
        return value
    value = re.sub(r"(?<=[$€£¥]) ", "", value)
    return _DIGIT_THEN_UNIT.sub(lambda match: "" if value[match.end()] in "%°" else " ", value)


def _names(text: str) -> Iterator[tuple[int, str]]:
    """Names in a text in Latin letters, with where they begin."""
    words = [word for word in re.findall(_WORD, text) if len(word) > 3]
    shouted = len(words) > 1 and all(word[0].isupper() for word in words)
    for match in _NAME.finditer(text):
        name, start = match[0].split(" "), match.start()
        if _SENTENCE_START.search(text[:start]) and (len(name) == 1 or name[0] in _FUNCTION_WORDS):
            first = name.pop(0)
            if len(first) > 1 and _INNER_CAPITAL.match(first) and first not in _FUNCTION_WORDS:
                name.insert(0, first)
        if shouted:
            # A title or a button: its capitals say nothing, unless they are within a word.
            name = [word for word in name if _INNER_CAPITAL.match(word)]
        while name and name[0] in _FUNCTION_WORDS:
            name.pop(0)
        if name:
            yield start, " ".join(name)
