"""Whatever a text has of numbers, dates and digits: its values are what a reader of the language finds in it, no others."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llink import plugins
from llink.interfaces import Language
from llink.language.generic import generic_language
from llink.language.unicode import ascii_digits, having
from llink_amharic.ethiopic import ascii_numerals

# The word for year.
WORDS = {
    "km": "ឆ្នាំ", "my": "နှစ်", "am": "አመት", "fa": "سال", "ur": "سال", "ar": "سنة", "hi": "साल", "bn": "বছর",
    "zh": "年", "ru": "год", "th": "ปี", "lo": "ປີ",
}  # fmt: skip
# Decimal and thousands separators where CLDR's are not those of English.
SIGNS = {"fa": "٫٬", "ar": "٫٬"}
ETHIOPIC_ONES, ETHIOPIC_TENS = "፩፪፫፬፭፮፯፰፱", "፲፳፴፵፶፷፸፹፺"

quick = settings(max_examples=60, deadline=None, derandomize=True, database=None)
languages = st.sampled_from(sorted(WORDS))


def language_of(code: str) -> Language:
    return plugins.language(code) if code in ("km", "my", "am") else generic_language(code)


def values(code: str, written: str) -> list[str]:
    """Of a text that has ``written`` in the digits of its language, between two words."""
    language, word = language_of(code), WORDS[code]
    text = language.normalise(f"{word} {written.translate(str.maketrans('0123456789', language.digits))} {word}")
    return language.verbatim(text)


@quick
@given(languages, st.integers(0, 10**9), st.integers(0, 999) | st.none(), st.booleans(), st.booleans())
def test_numbers(code: str, whole: int, rest: int | None, grouped: bool, percent: bool) -> None:
    english = (
        (f"{whole:,}" if grouped else f"{whole}") + ("" if rest is None else f".{rest}") + ("%" if percent else "")
    )
    marks = str.maketrans(".,", SIGNS.get(code, ".,"))
    assert values(code, english.translate(marks)) == [english]


@quick
@given(languages, st.dates(), st.sampled_from(["%Y-%m-%d", "%d/%m/%Y", "%Y/%m/%d", "%d.%m.%Y", "%d-%m-%Y", "%m/%Y"]))
def test_dates(code: str, date: object, form: str) -> None:
    written = format(date, form)
    # Some systems write years before 1000 without zeros.
    if len(written.replace("-", "/").replace(".", "/").split("/")[0 if form[1] == "Y" else -1]) == 4:
        assert values(code, written) == [written]


@quick
@given(languages, st.times())
def test_times(code: str, time: object) -> None:
    assert values(code, format(time, "%H:%M")) == [format(time, "%H:%M")]


@quick
@given(languages, st.integers(0, len(having(r"\p{Nd}")) // 10 - 1), st.text("0123456789", min_size=1, max_size=8))
def test_digits_of_any_script(code: str, number: int, digits: str) -> None:
    own = having(r"\p{Nd}")[10 * number :][:10]
    language = language_of(code)
    written = digits.translate(str.maketrans("0123456789", own))
    assert language.ascii_digits(written) == digits
    assert language.verbatim(f"{WORDS[code]} {written} {WORDS[code]}") == [digits]


def ethiopic(number: int) -> str:
    """A number in Ethiopic numerals, by CLDR's rule: pairs of digits, after them ፻ and ፼ in turn."""
    pairs, written = [], ""
    while number:
        number, pair = divmod(number, 100)
        pairs.append(pair)
    for place, pair in reversed(list(enumerate(pairs))):
        tens, ones = divmod(pair, 10)
        signs = ("" if not tens else ETHIOPIC_TENS[tens - 1]) + ("" if not ones else ETHIOPIC_ONES[ones - 1])
        unsaid = pair == 1 and (place % 2 == 1 or (place and place == len(pairs) - 1))
        mark = "" if place == 0 else "፼" if place % 2 == 0 else "፻" if pair else ""
        written += ("" if unsaid else signs) + mark
    return written


@quick
@given(st.integers(1, 10**9))
def test_ethiopic_numerals(number: int) -> None:
    amharic = plugins.language("am")
    assert amharic.verbatim(amharic.normalise(f"አመት {ethiopic(number)} አመት")) == [str(number)]


@quick
@given(st.text(ETHIOPIC_ONES + ETHIOPIC_TENS + "፻", min_size=1, max_size=6))
def test_ethiopic_signs_in_any_order(signs: str) -> None:
    """A number only where the signs are how it is written, or a year of which ፻ was left out; else as it was."""
    read = ascii_numerals(signs)
    if read != signs:
        assert signs.replace("፩፻", "፻") in (ethiopic(int(read)), ethiopic(int(read)).replace("፻", ""))


letters = "កែ្រ៊ាំះ។ នှစ် အမတ် سالی می ශ්ර ন্য क् a É e\u0301 ー 年 👩💻❤️"
odd = "\u200b\u200c\u200d\u200e\u00ad\u2060\ufeff\u180e\x00\t\n .,:;/-+%$()؟۔।！？٫٬٪−－，．"
texts = st.text(st.sampled_from(letters + odd) | st.sampled_from(having(r"\p{Nd}")), max_size=24)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(languages, texts)
def test_any_text(code: str, text: str) -> None:
    language = language_of(code)
    once = language.normalise(text)
    assert language.normalise(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert "".join("".join(language.sentences(once)).split()) == "".join(once.split())
    # Every run of digits of a value is one of the text, whole.
    runs = set("".join(c if c in "0123456789" else " " for c in ascii_digits(once)).split())
    found = "".join(c if c in "0123456789" else " " for c in " ".join(language.verbatim(once))).split()
    assert set(found) <= runs


@pytest.mark.parametrize("code", sorted(WORDS))
def test_what_is_no_number(code: str) -> None:
    assert values(code, WORDS[code]) == []
