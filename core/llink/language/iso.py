"""Languages and scripts by their ISO codes: names, scripts, direction, digits, sentence ends.

Names and likely scripts come from ``langcodes`` (IANA registry and CLDR), what belongs to a script from the Unicode
properties of ``regex``. Spelled out here is only what ISO 15924 calls one script and Unicode calls several, and which
languages CLDR gives a script's second set of digits.
"""

from __future__ import annotations

import difflib
import itertools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from llink.errors import LlinkError

if TYPE_CHECKING:
    import langcodes

ASCII_DIGITS = "0123456789"
SENTENCE_ENDS = ".!?"

# ISO 15924 codes for several scripts, or for a style of one.
_COMPOSITES = {
    "Aran": ("Arab",),
    "Hanb": ("Hani", "Bopo"),
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Hrkt": ("Hira", "Kana"),
    "Jpan": ("Hira", "Kana", "Hani"),
    "Kore": ("Hang", "Hani"),
}

# CLDR 47 (defaultNumberingSystem, or else the native one): where written in Arabic letters, these languages have the
# digits of ``arabext``, U+06F0-06F9.
_EXTENDED_ARABIC_INDIC = frozenset("az bgn fa ks lrc mzn pa ps trw ug ur uz".split())
_EXTENDED_ZERO = "\N{EXTENDED ARABIC-INDIC DIGIT ZERO}"


@dataclass(frozen=True)
class IsoLanguage:
    """What the standards say of a language; the fields are those of ``llink.interfaces.Language``."""

    code: str
    code3: str
    name: str
    endonym: str
    scripts: tuple[str, ...]
    """Empty where neither CLDR nor the code says how the language is written."""
    direction: str
    """``ltr`` or ``rtl``."""
    digits: str
    sentence_ends: str


@dataclass(frozen=True)
class Script:
    """What Unicode says of a script.

    Attributes:
        names: as in ``unicodedata`` character names, upper case; several for a composite such as ``Jpan``.
        direction: ``ltr`` or ``rtl``.
        digits: its sets of ten digits, 0 first; none where it has no digits of its own.
        sentence_ends: its own marks that end a sentence.
    """

    names: tuple[str, ...]
    direction: str
    digits: tuple[str, ...]
    sentence_ends: str


def lookup(code: str) -> IsoLanguage:
    """A language by ISO 639-1 or 639-3 code, with or without a script (``lo``, ``lao``, ``lo-Latn``), or English name.

    Raises:
        LlinkError: E220 when it is no language, or English, or a whole family; E224 for an unknown script in it.
    """
    tag = _tag(code)
    scripts = written_in(code)
    base = _plain(tag)
    return IsoLanguage(
        code=str(tag.language),
        code3=tag.to_alpha3(),
        name=base.display_name(),
        endonym=_endonym(base),
        scripts=tuple(dict.fromkeys(name for s in scripts for name in s.names)),
        direction=scripts[0].direction if scripts else "ltr",
        digits=own_digits(code, scripts),
        sentence_ends=ends(scripts),
    )


@cache
def script(name: str) -> Script:
    """A script by ISO 15924 code, by name, or as its characters are named: ``Hani``, ``Han``, ``CJK``.

    Raises:
        LlinkError: E224 when there is none.
    """
    parts = [part for code in _COMPOSITES.get(name.strip().title(), (name,)) if (part := _single(code))]
    if not parts:
        parts = [part for code in _named_by(name) if (part := _single(code)) and part.names == (name,)]
    if not parts:
        raise _unknown_script(name)
    return Script(
        names=tuple(dict.fromkeys(n for part in parts for n in part.names)),
        direction=parts[0].direction,
        digits=tuple(itertools.chain.from_iterable(part.digits for part in parts)),
        sentence_ends="".join(dict.fromkeys(c for part in parts for c in part.sentence_ends)),
    )


def ends(scripts: Sequence[Script]) -> str:
    """The sentence ends of a language that is written in ``scripts``: theirs and those of ASCII."""
    return "".join(dict.fromkeys(SENTENCE_ENDS + "".join(s.sentence_ends for s in scripts)))


def own_digits(code: str, scripts: Sequence[Script]) -> str:
    """The ten digits of a language that is written in ``scripts``, 0 first; of several sets that which CLDR names."""
    sets = [item for script in scripts for item in script.digits]
    language = str(_tag(code).language)
    # Dari is a kind of Persian, as far as CLDR is concerned.
    if {language, _records()[language].get("Macrolanguage")} & _EXTENDED_ARABIC_INDIC:
        sets.sort(key=lambda item: item[0] != _EXTENDED_ZERO)
    return next(iter(sets), ASCII_DIGITS)


def written_in(code: str) -> list[Script]:
    """The script of a language: that of the code, else the likely one; none where nobody knows. Errors as ``lookup``."""
    return [script(name) for name in _script_codes(_tag(code))]


def country_names(code: str) -> list[tuple[str, str]]:
    """English and own names of the countries, as CLDR has them: a little parallel text in some 200 languages.

    Errors as ``lookup``. A country that CLDR has no name for in the language is left out.
    """
    import langcodes

    language, found = str(_tag(code)), []
    for territory in map("".join, itertools.product(string.ascii_uppercase, repeat=2)):
        tag = langcodes.Language.make(territory=territory)
        english, own = tag.territory_name("en"), tag.territory_name(language)
        if own != english and territory not in english and territory not in own:
            found.append((english, own))
    return found


def _tag(code: str) -> langcodes.Language:
    """The language tag that a code or name stands for, checked."""
    import langcodes

    try:
        tag = langcodes.Language.get(code.strip(), normalize=False)
    except langcodes.LanguageTagError:
        tag = langcodes.Language.make()
    if "Preferred-Value" in _records().get(tag.language or "", {"Preferred-Value": ""}):
        # Not CLDR's replacements first: they make Filipino of Tagalog.
        short = _two_letters().get(tag.language or "")
        tag = langcodes.Language.make(language=short, script=tag.script) if short else langcodes.Language.get(str(tag))
    if tag.language not in _records():
        tag = _by_name(code)
    scope = _records().get(tag.language or "", {}).get("Scope", "")
    if scope in ("collection", "private-use", "special"):
        raise LlinkError(
            "E220", f"'{code}' is no single language: {_plain(tag).display_name()}.", "Give the code of one language."
        )
    if tag.language == "en":
        raise LlinkError("E220", "English is what the decoder reads by itself.", "Give the code of another language.")
    return tag


def _by_name(name: str) -> langcodes.Language:
    """The language of that English name."""
    import langcodes

    wanted = name.strip().casefold()
    names = _names()
    if wanted in names:
        return langcodes.Language.make(language=names[wanted])
    close = difflib.get_close_matches(wanted, names, n=8, cutoff=0.6)
    # Of equally close names, that of the language with more speakers is meant.
    ranked = sorted(close, key=lambda n: (-round(_likeness(wanted, n), 1), -_speakers(names[n])))
    meant = ", ".join(f"{_plain(langcodes.Language.get(names[n])).display_name()} ({names[n]})" for n in ranked[:3])
    raise LlinkError(
        "E220",
        f"Unknown language '{name}'.",
        (f"Did you mean {meant}? " if meant else "")
        + "Give an ISO 639-1 or 639-3 code, such as lo or lao, or an English name.",
    )


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _speakers(code: str) -> int:
    import langcodes

    return langcodes.Language.get(code).speaking_population()


@cache
def _records() -> dict[str, dict[str, Any]]:
    """The language records of the IANA registry by code."""
    from langcodes.registry_parser import parse_registry

    rows: list[dict[str, Any]] = [row for row in parse_registry() if row["Type"] == "language"]
    return {row["Subtag"]: row for row in rows}


@cache
def _two_letters() -> dict[str, str]:
    """ISO 639-3 codes (and the bibliographic ones of 639-2) of languages that have one of 639-1."""
    import langcodes

    short = [code for code, record in _records().items() if len(code) == 2 and "Preferred-Value" not in record]
    return {
        langcodes.Language.make(language=code).to_alpha3(variant=variant): code for variant in "BT" for code in short
    }


@cache
def _names() -> dict[str, str]:
    """Every English name of a language, in lower case, with its code; CLDR's names come first."""
    import langcodes

    usual = {code: langcodes.Language.make(language=code).display_name() for code in _records() if len(code) == 2}
    names = {name.casefold(): code for code, name in usual.items()}
    for code, record in _records().items():
        if "Scope" not in record or record["Scope"] == "macrolanguage":
            for name in record["Description"]:
                names.setdefault(name.casefold(), code)
    return names


def _plain(tag: langcodes.Language) -> langcodes.Language:
    """The tag's language without script and country."""
    import langcodes

    return langcodes.Language.make(language=tag.language)


def _endonym(tag: langcodes.Language) -> str:
    """The language's own name, empty where CLDR has only the English one."""
    name = tag.autonym()
    return "" if name == tag.display_name() else name


def _script_codes(tag: langcodes.Language) -> list[str]:
    """The script that a tag states, else the likely one of its language, or of the macrolanguage that it belongs to."""
    from langcodes.data_dicts import LIKELY_SUBTAGS

    if tag.script:
        return [tag.script]
    for code in (tag.language, _records()[str(tag.language)].get("Macrolanguage")):
        # langcodes takes Latin for a language that it knows nothing of: a guess is no answer.
        if code in LIKELY_SUBTAGS:
            return [LIKELY_SUBTAGS[code].split("-")[1]]
    return []


@cache
def _single(name: str) -> Script | None:
    """A script that Unicode has as one, with letters; None where there is none of that name."""
    import regex

    from llink.language.unicode import having

    # What is no name at all must not become part of a pattern.
    plain = "".join(c for c in name.strip() if c.isalnum() or c in " _-")
    try:
        letters = having(rf"[\p{{Script={plain}}}&&\p{{L}}]")
    except regex.error:
        letters = ""
    # The first hundred, for later ones may be from a set apart: hentaigana, half-width forms.
    words = Counter(unicodedata.name(c, "").split(" ")[0] for c in letters[:100])
    words.pop("", None)
    if not words or plain.casefold() in ("", "zyyy", "common", "zinh", "inherited", "qaai"):
        return None
    word = words.most_common(1)[0][0]
    digits = having(rf"[\p{{Script_Extensions={plain}}}&&\p{{Nd}}]")
    # Some scripts borrow digits of others beside their own.
    sets = sorted(re.findall(".{10}", digits), key=lambda item: not unicodedata.name(item[0], "").startswith(word))
    marks = having(rf"[\p{{Script_Extensions={plain}}}&&\p{{Sentence_Break=STerm}}]")
    # Scripts of wide letters take the wide forms of "!" and "?", which Unicode gives to no script.
    wide = "！？" if unicodedata.east_asian_width(letters[0]) == "W" else ""
    return Script(
        names=(word,),
        direction="rtl" if unicodedata.bidirectional(letters[0]) in ("R", "AL") else "ltr",
        digits=tuple(sets),
        sentence_ends=marks + wide + _question_mark(word),
    )


def _question_mark(word: str) -> str:
    """A script's question mark that NFC makes one of all scripts, in both forms: the Greek one is a semicolon."""
    try:
        mark = unicodedata.lookup(f"{word} QUESTION MARK")
    except KeyError:
        return ""
    common = unicodedata.normalize("NFC", mark)
    return mark + common if common != mark else ""


@cache
def _named_by(word: str) -> tuple[str, ...]:
    """ISO 15924 codes of the scripts whose letters have names that begin with ``word``; several for ``TAI``."""
    import regex
    from langcodes.data_dicts import ALL_SCRIPTS

    from llink.language.unicode import having

    letters = "".join(c for c in having(r"\p{L}") if unicodedata.name(c, "").startswith(f"{word} "))
    found = []
    for code in sorted(ALL_SCRIPTS) if letters else ():
        try:
            if regex.search(rf"\p{{Script={code}}}", letters):
                found.append(code)
        except regex.error:
            pass  # one that Unicode does not have
    return tuple(found)


def _unknown_script(name: str) -> LlinkError:
    import langcodes
    from langcodes.data_dicts import ALL_SCRIPTS

    names = {
        langcodes.Language.make(script=code).script_name().casefold(): code
        for code in sorted(ALL_SCRIPTS)
        if code < "Zi"
    }
    known = {**names, **{code.casefold(): code for code in names.values()}}
    close = difflib.get_close_matches(name.strip().casefold(), known, n=1, cutoff=0.5)
    # One that is there but has no letters, such as SignWriting, is no help.
    meant = f"Did you mean '{known[close[0]]}'? " if close and known[close[0]] != name else ""
    return LlinkError("E224", f"Unknown script '{name}'.", f"{meant}Give an ISO 15924 code such as Laoo, or a name.")
